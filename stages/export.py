"""export: TAO checkpoint -> ONNX of the deployed network.

One input, `frame` uint8 [1, H, W, 3] RGB; outputs `class_logits` [1, Q, 1 + C] and `mask_logits` [1, Q, H/4, W/4].
By PyTorch's TorchScript exporter, as TAO's own. Fails when the graph holds an operator whose output shape depends
on data. Cost: seconds. Deterministic.
"""

import argparse
import json
import logging
import warnings
from collections import Counter
from pathlib import Path

from stages import config, files
from stages.runtime import frames

log = logging.getLogger(__name__)

DATA_DEPENDENT = {"NonZero", "ScatterND", "Compress", "Unique", "NonMaxSuppression"}


def build(checkpoint: Path, images: Path, out: Path, reference_file: Path, metrics: Path, cfg: config.Deploy) -> None:
    """Export checkpoint/model.pth to the ONNX file `out`; write node counts and differences to `metrics`.

    TAO's answer on the first pictures of the folder `images` is kept in `reference_file`. Where it came from is
    written into the file's metadata. Raises RuntimeError when the graph holds a data-dependent operator, naming it,
    or differs from TAO's network by more than deploy.max_logit_difference.
    """
    import numpy as np
    import onnx
    import torch

    from stages.graph import network, passes, reference
    from stages.tao import wheel

    provenance = files.read_json(checkpoint / "provenance.json")
    tao = wheel.load_model(checkpoint)
    deployed = network.Deployed(tao).eval()
    paths = sorted(images.glob("*.jpg"))[: cfg.reference_frames]
    pictures = np.stack([frames.fit(frames.read_rgb(path), cfg.height_px, cfg.width_px)[0] for path in paths])
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
                opset_version=cfg.opset,
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
        onnx.helper.set_model_props(model, {reference.PROVENANCE: json.dumps(provenance)})
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, draft)
        difference = reference.largest_difference(draft, reference_file)
    result = {"nodes": sum(operators.values()), "bytes": out.stat().st_size, "max_difference_to_tao": difference}
    files.write_json(metrics, result)
    log.info("%s: %s", out, result)
    reference.require_equal(out, difference, cfg.max_logit_difference)


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that train wrote")
    parser.add_argument("--images", type=Path, required=True, help="folder of the validation pictures")
    parser.add_argument("--reference", type=Path, required=True, help="file for TAO's answer on real frames")
    parser.add_argument("--out", type=Path, required=True, help="ONNX file to write")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for node counts and differences")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(args.checkpoint, args.images, args.out, args.reference, args.metrics, config.load().deploy)


if __name__ == "__main__":
    main()
