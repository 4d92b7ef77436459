"""export: TAO checkpoint -> ONNX of the deployed network.

One input, `frame` uint8 [1, H, W, 3] RGB; outputs `class_logits` [1, Q, 1 + C] and `mask_logits` [1, Q, H/4, W/4].
By PyTorch's TorchScript exporter, as TAO's own. Fails when the graph holds an operator whose output shape depends
on data. Cost: seconds. Deterministic.
"""

import argparse
import logging
import warnings
from collections import Counter
from pathlib import Path

from stages import config, files
from stages.runtime import frames
from stages.vistas import reader

log = logging.getLogger(__name__)

DATA_DEPENDENT = {"NonZero", "ScatterND", "Compress", "Unique", "NonMaxSuppression"}


def build(checkpoint: Path, root: Path, out: Path, reference_file: Path, metrics: Path, cfg: config.Config) -> None:
    """Export checkpoint/model.pth to the ONNX file `out`; write node counts and differences to `metrics`.

    TAO's answer on the first validation pictures of the set at `root` is kept in `reference_file`. Raises
    RuntimeError when the graph holds a data-dependent operator, naming it.
    """
    import numpy as np
    import onnx
    import torch

    from stages.graph import network, passes, reference
    from stages.tao import wheel

    tao = wheel.load_model(checkpoint, cfg.model.backbone)
    deployed = network.Deployed(tao).eval()
    height, width = cfg.deploy.height_px, cfg.deploy.width_px
    scenes = reader.scenes(root, cfg.data.version, "val")[: cfg.deploy.reference_frames]
    pictures = np.stack([frames.fit(frames.read_rgb(scene.image), height, width)[0] for scene in scenes])
    with torch.inference_mode():
        outputs = [tao(deployed.normalise(torch.from_numpy(picture[None]))) for picture in pictures]
    class_logits, mask_logits = (torch.cat([o[k] for o in outputs]).numpy() for k in ("pred_logits", "pred_masks"))
    with files.aside(reference_file) as draft, draft.open("wb") as file:
        np.savez(file, frames=pictures, class_logits=class_logits, mask_logits=mask_logits)

    with files.aside(out) as draft:
        with torch.inference_mode(), warnings.catch_warnings():
            # Shapes are fixed on purpose; the tracer warns wherever it makes one constant.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                deployed,
                (torch.from_numpy(pictures[:1]),),
                str(draft),
                input_names=[reference.INPUT],
                output_names=list(reference.OUTPUTS),
                opset_version=cfg.deploy.opset,
                do_constant_folding=True,
                dynamo=False,
            )
        model = onnx.load(draft)
        passes.float64_to_float32(model.graph)
        operators = Counter(node.op_type for node in model.graph.node)
        if found := sorted(DATA_DEPENDENT & operators.keys()):
            raise RuntimeError(
                f"the exported graph holds {found}, whose shapes depend on data; see stages/graph/network.py"
            )
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, draft)
        difference = reference.largest_difference(draft, reference_file)
    result = {"nodes": sum(operators.values()), "bytes": out.stat().st_size, "max_difference_to_tao": difference}
    files.write_json(metrics, result)
    log.info("%s: %s", out, result)


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that train wrote")
    parser.add_argument("--root", type=Path, required=True, help="folder of the set in Vistas layout")
    parser.add_argument("--reference", type=Path, required=True, help="file for TAO's answer on real frames")
    parser.add_argument("--out", type=Path, required=True, help="ONNX file to write")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for node counts and differences")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(args.checkpoint, args.root, args.out, args.reference, args.metrics, config.load())


if __name__ == "__main__":
    main()
