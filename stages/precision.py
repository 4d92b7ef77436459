"""precision@VARIANT-PRECISION: the deployed graph in float32 -> the same in lower precision, some parts in float32.

The ONNX file has the types of the lower precision, so that precision is part of a hashed artifact and strongly typed
builders can compile it. int8 is fp16 with the products of weights of backbone and encoder in int8
(stages/onnx_graph/int8.py). Inputs and outputs keep their types. The result is compared with TAO's predictions, in ONNX
Runtime. Cost: seconds; a minute for int8. Deterministic.
"""

import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages import config
from stages.foundation import command_line, files
from stages.inference import description

if TYPE_CHECKING:
    import onnx

    from stages.reference import comparison

log = logging.getLogger(__name__)


def build(
    graph: Path,
    reference_file: Path,
    out: Path,
    metrics: Path,
    precision: config.Precision,
    cfg: config.Deploy,
    calibration: Path | None = None,
) -> None:
    """Convert graph/graph.onnx to `precision` into the folder `out`; write differences to `metrics`.

    calibration: a split that convert wrote, needed for int8. Raises ValueError if it is missing or an entry of
    deploy.keep_float32 matches no node, and RuntimeError, after writing `metrics`, if probabilities differ from TAO's
    by more than deploy.max_score_difference.
    """
    import onnx

    from stages.onnx_graph import artifact, fp16
    from stages.reference import comparison

    about = replace(description.read(graph), precision=precision.value)
    model = onnx.load(graph / description.ONNX)
    kept = fp16.kept_names(model, cfg.keep_float32)
    if precision is config.Precision.int8:
        model = to_int8(model, kept, calibration, about, cfg)
    lowered = fp16.convert(model, kept)
    with files.atomic_write(out) as draft:
        draft.mkdir()
        artifact.save(lowered, draft, about)
        result: comparison.Metrics = {
            "nodes": len(lowered.graph.node),
            "bytes": (draft / description.ONNX).stat().st_size,
        }
        result |= comparison.check(lowered, reference_file, about, differences)
        files.write_json(metrics, result)
        log.info("%s: %s", out, result)
        require_close(result, cfg)


def to_int8(
    model: "onnx.ModelProto",
    kept: Collection[str],
    calibration: Path | None,
    about: description.Description,
    cfg: config.Deploy,
) -> "onnx.ModelProto":
    """Return a copy of a model with int8 where stages/onnx_graph/int8.py puts it.

    Raises ValueError without `calibration`, or if ONNX Runtime can't run the graph.
    """
    from stages.onnx_graph import fp16, int8
    from stages.reference import comparison

    if not calibration:
        raise ValueError("int8 needs real pictures for calibration, found none; give their split by --coco")
    if not comparison.runs(about):
        raise ValueError(
            f"int8 is calibrated in ONNX Runtime: found variant {about.variant}, which it does not have, expected onnx "
            "or onnx_gather; set one of them for targets with precision int8"
        )
    shape = replace(about.config, calibration_pictures=cfg.calibration_pictures)
    inputs = int8.calibration_input(calibration, shape)
    return int8.quantize(model, fp16.places(model.graph), kept, inputs)


def differences(expected: "comparison.Reference", found: "comparison.Answer") -> "comparison.Metrics":
    """Return the agreement of the maps in percent, and differences of class and mask probabilities, in [0, 1]."""
    from scipy.special import expit, softmax

    from stages.reference import comparison

    classes = np.abs(softmax(found.class_logits, -1) - softmax(expected["class_logits"], -1))
    masks = np.abs(expit(found.mask_logits) - expit(expected["mask_logits"]))
    return {
        "pixel_agreement_pct": comparison.agreement_pct(expected, found.segments),
        "class_probability_difference_p999": float(np.quantile(classes, 0.999)),
        "mask_probability_difference_p999": float(np.quantile(masks, 0.999)),
        "class_probability_difference_max": float(classes.max()),
        "mask_probability_difference_max": float(masks.max()),
    }


def require_close(found: "comparison.Metrics", cfg: config.Deploy) -> None:
    """Raise RuntimeError, naming the parameter, unless `differences` are within deploy's limit. NaN is not."""
    if "compared" in found:
        return
    # NumPy's max propagates NaN, Python's does not.
    worst = np.max([float(found[f"{name}_probability_difference_p999"]) for name in ("class", "mask")])
    if not worst <= cfg.max_score_difference:
        raise RuntimeError(
            f"lower precision changes probabilities by {worst:.4f} (99.9th percentile), expected at most "
            f"deploy.max_score_difference {cfg.max_score_difference}; add to deploy.keep_float32 the nodes that "
            "`make bench-precision` finds sensitive"
        )


def main() -> None:
    """Command line of the stage."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--graph", type=Path, required=True, help="folder that simplify wrote")
    parser.add_argument("--reference", type=Path, required=True, help="reference.npz that export wrote")
    parser.add_argument("--precision", type=config.Precision, required=True, help="precision to convert to")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for the differences")
    parser.add_argument("--coco", type=Path, help="for int8: split that convert wrote, such as data/coco/val")
    args = parser.parse_args()
    build(args.graph, args.reference, args.out, args.metrics, args.precision, config.load().deploy, args.coco)


if __name__ == "__main__":
    command_line.run(main)
