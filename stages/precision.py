"""precision: simplified ONNX -> the same graph in half precision, with some operators kept in float32.

Precision is baked into the ONNX file, so that it is a hashed artifact and serves strongly typed builders. By
onnxconverter-common; the outputs stay float32. Checked in ONNX Runtime against float32. Cost: seconds. Deterministic.
"""

import argparse
import logging
import warnings
from pathlib import Path

import numpy as np

from stages import config, files
from stages.graph import reference

log = logging.getLogger(__name__)


def build(onnx_file: Path, reference_file: Path, out: Path, metrics: Path, cfg: config.Deploy) -> None:
    """Convert `onnx_file` to half precision into `out`; write differences to `metrics`.

    Raises ValueError for an operator in deploy.keep_float32 that the graph does not hold, and RuntimeError when
    probabilities differ by more than deploy.max_score_difference; `metrics` is written all the same.
    """
    import onnx
    from onnxconverter_common import float16
    from scipy.special import expit, softmax

    model = onnx.load(onnx_file)
    operators = {node.op_type for node in model.graph.node}
    if unknown := sorted(set(cfg.keep_float32) - operators):
        raise ValueError(f"deploy.keep_float32: {unknown} are not in the graph, which holds {sorted(operators)}")
    blocked = [*float16.DEFAULT_OP_BLOCK_LIST, *cfg.keep_float32]
    # The converter leaves a Cast's target type alone, so its output must stay what it was. By name: as an operator
    # in the list, it would find the Casts that it adds itself, without end.
    casts = [node.name for node in model.graph.node if node.op_type == "Cast"]
    with warnings.catch_warnings():
        # It warns once for each constant below half precision's smallest number.
        warnings.simplefilter("ignore")
        half = float16.convert_float_to_float16(model, keep_io_types=True, op_block_list=blocked, node_block_list=casts)

    frames = np.load(reference_file)["frames"]
    with files.aside(out) as draft:
        onnx.save(half, draft)
        found, expected = reference.run(draft, frames), reference.run(onnx_file, frames)
    classes = np.abs(softmax(found[0], -1) - softmax(expected[0], -1))
    masks = np.abs(expit(found[1]) - expit(expected[1]))
    result = {
        "nodes": len(half.graph.node),
        "bytes": out.stat().st_size,
        "class_probability_difference_p999": float(np.quantile(classes, 0.999)),
        "mask_probability_difference_p999": float(np.quantile(masks, 0.999)),
        "class_probability_difference_max": float(classes.max()),
        "mask_probability_difference_max": float(masks.max()),
    }
    files.write_json(metrics, result)
    log.info("%s: %s", out, result)
    # NumPy's max and not Python's, which loses NaN; and NaN must fail.
    worst = np.max([result["class_probability_difference_p999"], result["mask_probability_difference_p999"]])
    if not worst <= cfg.max_score_difference:
        raise RuntimeError(
            f"half precision moves probabilities by {worst:.4f} (99.9th percentile), allowed: "
            f"deploy.max_score_difference {cfg.max_score_difference}; add operators to deploy.keep_float32, "
            "LayerNormalization or Softmax first"
        )


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onnx", type=Path, required=True, help="simplified float32 ONNX file")
    parser.add_argument("--reference", type=Path, required=True, help="reference that export wrote")
    parser.add_argument("--out", type=Path, required=True, help="ONNX file to write")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for the differences")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(args.onnx, args.reference, args.out, args.metrics, config.load().deploy)


if __name__ == "__main__":
    main()
