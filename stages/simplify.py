"""simplify: exported ONNX -> simplified ONNX in float32, by onnxsim with its own check.

Constants are folded and redundant operators removed; the result computes the same. Cost: seconds; minutes for the
large networks. Deterministic.
"""

import argparse
import logging
from pathlib import Path

import numpy as np

from stages import files
from stages.graph import reference

log = logging.getLogger(__name__)

CHECK_ATOL = 1e-3
"""Largest absolute difference of logits in onnxsim's check: at most 0.00025 of a probability. Its default of 1e-5 is
below the rounding of float32 where mask logits reach a hundred."""


def build(onnx_file: Path, reference_file: Path, out: Path, metrics: Path) -> None:
    """Simplify `onnx_file` into `out`; write node counts and the difference to TAO to `metrics`.

    Raises RuntimeError when onnxsim's check finds that the simplified graph computes something else.
    """
    import onnx
    import onnxsim

    model = onnx.load(onnx_file)
    # A real frame: onnxsim's own random input is noise in [0, 1), which is black in uint8.
    frame = {reference.INPUT: np.load(reference_file)["frames"][:1]}
    simplified, equal = onnxsim.simplify(model, check_n=1, input_data=frame, check_atol=CHECK_ATOL)
    if not equal:
        raise RuntimeError(
            f"onnxsim's check failed on {onnx_file}: the simplified graph differs by more than {CHECK_ATOL} in a logit "
            "(both outputs are above); pin another onnx-simplifier in pyproject.toml"
        )
    with files.aside(out) as draft:
        onnx.save(simplified, draft)
        difference = reference.largest_difference(draft, reference_file)
    result = {
        "nodes_before": len(model.graph.node),
        "nodes": len(simplified.graph.node),
        "bytes": out.stat().st_size,
        "max_difference_to_tao": difference,
    }
    files.write_json(metrics, result)
    log.info("%s: %s", out, result)


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onnx", type=Path, required=True, help="ONNX file that export wrote")
    parser.add_argument("--reference", type=Path, required=True, help="reference that export wrote")
    parser.add_argument("--out", type=Path, required=True, help="ONNX file to write")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for node counts and differences")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(args.onnx, args.reference, args.out, args.metrics)


if __name__ == "__main__":
    main()
