"""simplify: exported ONNX -> simplified ONNX in float32, by onnxsim with its own check.

Constants are folded and redundant operators removed; the result computes the same. Cost: seconds; minutes for the
large networks. Deterministic.
"""

import argparse
import logging
from pathlib import Path

import numpy as np

from stages import config, files
from stages.graph import reference

log = logging.getLogger(__name__)


def build(onnx_file: Path, reference_file: Path, out: Path, metrics: Path, cfg: config.Deploy) -> None:
    """Simplify `onnx_file` into `out`; write node counts and the difference to TAO to `metrics`.

    Raises RuntimeError when onnxsim's check, or the comparison with TAO's network, finds a logit that differs by more
    than deploy.max_logit_difference.
    """
    import onnx
    import onnxsim

    model = onnx.load(onnx_file)
    # A real frame: onnxsim's own random input is noise in [0, 1), which is black in uint8.
    frame = {reference.INPUT: np.load(reference_file)["frames"][:1]}
    limit = cfg.max_logit_difference
    simplified, equal = onnxsim.simplify(model, check_n=1, input_data=frame, check_atol=limit)
    if not equal:
        raise RuntimeError(
            f"onnxsim's check failed on {onnx_file}: a logit differs by more than deploy.max_logit_difference {limit} "
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
    reference.require_equal(out, difference, limit)


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onnx", type=Path, required=True, help="ONNX file that export wrote")
    parser.add_argument("--reference", type=Path, required=True, help="reference that export wrote")
    parser.add_argument("--out", type=Path, required=True, help="ONNX file to write")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for node counts and differences")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(args.onnx, args.reference, args.out, args.metrics, config.load().deploy)


if __name__ == "__main__":
    main()
