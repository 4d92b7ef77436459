"""simplify@VARIANT: exported ONNX -> the deployed graph in float32, by onnxsim.

onnxsim folds constants and removes redundant operators. The result is compared with TAO's predictions on real frames;
onnxsim's own check is not used, because it feeds noise in [0, 1), which is black in uint8. The logits, which export
outputs for comparisons, are removed from the outputs. Cost: seconds; minutes for large networks. Deterministic.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from stages import config
from stages.foundation import command_line, files
from stages.inference import description

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)


def build(exported: Path, out: Path, metrics: Path, cfg: config.Deploy) -> None:
    """Simplify exported/graph.onnx into the folder `out`; write node counts and differences to `metrics`.

    Raises RuntimeError if the result's predictions differ from TAO's by more than deploy allows.
    """
    import onnx

    from stages.onnx_graph import artifact
    from stages.reference import comparison

    about = description.read(exported)
    model = onnx.load(exported / description.ONNX)
    simplified = simplify(model, cfg)
    with files.atomic_write(out) as draft:
        draft.mkdir()
        artifact.save(simplified, draft, about)
        result: comparison.Metrics = {
            "nodes_before": len(model.graph.node),
            "nodes": len(simplified.graph.node),
            "bytes": (draft / description.ONNX).stat().st_size,
            **comparison.check(simplified, exported / "reference.npz", about, comparison.differences),
        }
        files.write_json(metrics, result)
        log.info("%s: %s", out, result)
        comparison.require_equal(out, result, cfg)


def simplify(model: "onnx.ModelProto", cfg: config.Deploy) -> "onnx.ModelProto":
    """Return the deployed graph of an exported graph, which is not changed."""
    import onnx
    import onnxsim

    from stages.inference import segments
    from stages.onnx_graph import passes

    simplified: onnx.ModelProto
    simplified, _ = onnxsim.simplify(model, check_n=0)
    passes.remove_outputs(simplified.graph, segments.LOGITS)
    if cfg.expand_instance_normalization:
        simplified = onnx.shape_inference.infer_shapes(simplified)
        passes.expand_instance_normalization(simplified)
    return simplified


def main() -> None:
    """Command line of the stage."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--exported", type=Path, required=True, help="folder that export wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for node counts and differences")
    args = parser.parse_args()
    build(args.exported, args.out, args.metrics, config.load().deploy)


if __name__ == "__main__":
    command_line.run(main)
