"""export@VARIANT: TAO checkpoint -> ONNX of the deployed graph, in one variant.

Uses PyTorch's TorchScript exporter, as TAO does. docs/outputs.md describes inputs and outputs; the exported graph also
outputs the network's logits, which the next stages compare. Fails if the graph holds an operator whose output shape
depends on data, or if its predictions differ from those of TAO's network with TAO's post-processing. Cost: seconds.
Deterministic.
"""

import io
import logging
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from stages import config
from stages.coco import panoptic
from stages.foundation import command_line, files, json_shapes, picture_files, signals
from stages.inference import description, frames

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from stages.reference.tao_model import Checkpoint

log = logging.getLogger(__name__)

DATA_DEPENDENT = {"NonZero", "ScatterND", "Compress", "Unique", "NonMaxSuppression"}
"""Operators whose output shapes depend on data, and ScatterND, which PyTorch exports with NonZero.

Builders of static engines can't take them.
"""


def build(checkpoint: Path, coco: Path, out: Path, metrics: Path, variant: config.Variant, cfg: config.Deploy) -> None:
    """Export checkpoint/model.pth to the folder `out`; write node counts and differences to `metrics`.

    Writes out/graph.onnx, out/graph.json and out/reference.npz, TAO's predictions on the first pictures of the split
    at `coco`. Raises RuntimeError if the graph holds a data-dependent operator, naming it, or if its predictions differ
    from TAO's by more than deploy allows.
    """
    from stages.onnx_graph import artifact
    from stages.reference import comparison
    from stages.reference.tao_model import Checkpoint

    truth = panoptic.read(coco)
    provenance = json_shapes.read(checkpoint / "provenance.json", dict[str, str], "run `dvc repro train`")
    about = description.Description(config.plain(cfg), variant.value, truth.categories, provenance)
    tao = Checkpoint(checkpoint, truth.num_things, cfg)
    paths = [entry.image for entry in truth.entries[: cfg.reference_frames]]
    with files.atomic_write(out) as draft:
        draft.mkdir()
        reference_file = draft / "reference.npz"
        save_reference(tao, paths, reference_file)
        model = trace(tao.net, variant, truth.num_things, cfg)
        operators = Counter(node.op_type for node in model.graph.node)
        if found := sorted(DATA_DEPENDENT & operators.keys()):
            raise RuntimeError(
                f"the exported graph holds {found}, expected no operator whose shape depends on data; change "
                "the module in stages/network that it comes from"
            )
        artifact.save(model, draft, about, cut=False)
        result: comparison.Metrics = {
            "nodes": sum(operators.values()),
            "bytes": (draft / description.ONNX).stat().st_size,
        }
        if variant is config.Variant.cuda:
            # Partitioning needs the shapes of all tensors, which are known after simplification only.
            result["compared"] = "not yet: by simplify@cuda"
        else:
            result |= comparison.check(model, reference_file, about, comparison.differences)
        files.write_json(metrics, result)
        log.info("%s: %s", out, result)
        comparison.require_equal(out, result, cfg)


def save_reference(tao: "Checkpoint", paths: list[Path], out: Path) -> None:
    """Write the predictions of a tao_model.Checkpoint on pictures to the reference file `out`; see comparison.py."""
    import numpy as np

    from stages.reference import comparison

    shown = [frames.fit(picture_files.read_rgb(path), tao.deploy)[0] for path in paths]
    found = [tao.predict(frame) for frame in shown]
    class_logits, mask_logits = (
        np.stack([getattr(one, name).numpy() for one in found]) for name in ("class_logits", "mask_logits")
    )
    maps = [one.segments[tao.deploy.mode] for one in found]
    comparison.save(out, np.stack(shown), class_logits, mask_logits, maps)


def trace(tao: "nn.Module", variant: config.Variant, num_things: int, cfg: config.Deploy) -> "onnx.ModelProto":
    """Export the graph of deploy.graph (network.Fused or TaoShaped) in float32, from TAO's MaskFormerModel `tao`."""
    import onnx
    import torch

    from stages.network import deformable, network
    from stages.onnx_graph import passes

    deployed = network.GRAPHS[cfg.graph](tao, variant, num_things, cfg).eval()
    if cfg.graph is config.GraphKind.tao:
        example = torch.zeros(cfg.batch_size, 3, *frames.input_size(cfg))
    else:
        example = torch.zeros(cfg.batch_size, *frames.frame_size(cfg), 3, dtype=torch.uint8)
    file = io.BytesIO()
    # A signal's exception would pass through PyTorch's C++ code, which calls the network, and abort the process.
    with signals.deferred(), torch.inference_mode(), warnings.catch_warnings():
        # The tracer warns about each shape that it makes a constant. Here all shapes are meant to be constants.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            deployed,
            (example,),
            file,  # type: ignore[arg-type]  # Any binary file works.
            input_names=[deployed.input_name],
            output_names=list(deployed.output_names),
            opset_version=cfg.opset,
            do_constant_folding=True,
            custom_opsets=deformable.CUSTOM_OPSETS.get(variant),
            dynamo=False,
        )
    signals.stop_if_received()
    model = onnx.load_from_string(file.getvalue())
    passes.float64_to_float32(model.graph)
    return model


def main() -> None:
    """Command line of the stage."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that train wrote")
    parser.add_argument("--coco", type=Path, required=True, help="split that convert wrote, such as data/coco/val")
    parser.add_argument("--variant", type=config.Variant, required=True, help="variant of the graph")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for node counts and differences")
    args = parser.parse_args()
    build(args.checkpoint, args.coco, args.out, args.metrics, args.variant, config.load().deploy)


if __name__ == "__main__":
    command_line.run(main)
