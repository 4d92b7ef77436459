"""Quantises products with weights to int8, with NVIDIA Model Optimizer.

It inserts QuantizeLinear and DequantizeLinear. An activation's range is its largest absolute value on real frames;
weights have a scale per channel and are stored in 8 bits. Residual sums, norms, softmax and the merge keep their type,
because they lose the most accuracy (docs/benchmarks.md).
"""

import re
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stages import config
from stages.coco import panoptic
from stages.foundation import picture_files
from stages.inference import frames

if TYPE_CHECKING:
    import onnx

Inputs = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
"""Frames for the fused graph, or the network's input for the graph `tao`."""
OPERATORS = ["Conv", "Gemm"]
"""Products with weights. onnxsim turns each linear layer into a Gemm."""
PLACES = ("/network/backbone/layers.", "/network/pixel_decoder/input_proj", "/network/pixel_decoder/transformer/")
"""Places where OPERATORS are quantised. Patch embedding, FPN and decoder would change 0.2 to 0.4 % of pixels each."""


def calibration_input(coco: Path, cfg: config.Deploy) -> Inputs:
    """Return the graph's input for the first deploy.calibration_pictures of the split at `coco`, in whole batches.

    uint8 [N, H, W, 3] frames, or float32 [N, 3, h, w] for the graph `tao`.
    """
    entries = panoptic.read(coco).entries[: cfg.calibration_pictures]
    pictures = [frames.fit(picture_files.read_rgb(entry.image), cfg)[0] for entry in entries]
    pictures += pictures[-1:] * (-len(pictures) % cfg.batch_size)
    batch = np.stack(pictures)
    if cfg.graph is config.GraphKind.tao:
        return frames.network_input(batch, cfg)
    return batch


def quantize(
    model: "onnx.ModelProto", places: dict[str, str], kept: Collection[str], inputs: Inputs
) -> "onnx.ModelProto":
    """Return a copy of a model in which the nodes of OPERATORS in PLACES compute in int8, unless named in `kept`.

    places: node -> place, from fp16.places. inputs: values of the graph's only input, for calibration. The result has
    opset 19. Raises ValueError if there is no node to quantise.
    """
    import onnx
    from modelopt.onnx import quantization

    chosen = [
        f"{re.escape(node.name)}$"
        for node in model.graph.node
        if node.op_type in OPERATORS and node.name not in kept and places[node.name].startswith(PLACES)
    ]
    if not chosen:
        raise ValueError(
            f"int8: found no {OPERATORS} in {PLACES} that deploy.keep_float32 does not exclude; shorten that list"
        )
    with tempfile.TemporaryDirectory() as name:
        # Model Optimizer also writes to its input file, so it gets a copy.
        folder = Path(name)
        onnx.save(model, folder / "float.onnx")
        quantization.quantize(
            str(folder / "float.onnx"),
            quantize_mode="int8",
            calibration_data={model.graph.input[0].name: inputs},
            calibration_method="max",
            calibration_eps=["cpu"],
            op_types_to_quantize=OPERATORS,
            nodes_to_quantize=chosen,
            high_precision_dtype="fp32",
            dq_only=True,
            output_path=str(folder / "int8.onnx"),
            log_level="ERROR",
        )
        return onnx.load(folder / "int8.onnx")
