"""int8 by NVIDIA Model Optimizer: QuantizeLinear and DequantizeLinear around products with weights.

Ranges are the largest values on real frames, a scale for each channel of weights; weights are stored in 8 bits. The
sums of residual paths, norms, softmax and the merge are left alone: they lose most (docs/benchmarks.md).
"""

import re
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from stages import config
from stages.coco import panoptic
from stages.foundation import picture_files
from stages.inference import frames

OPERATORS = ["Conv", "Gemm"]
"""Products with weights; onnxsim makes a Gemm of each linear layer."""
PLACES = ("/network/backbone/layers.", "/network/pixel_decoder/input_proj", "/network/pixel_decoder/transformer/")
"""Where in the network they are quantised. Patch embedding, FPN and decoder would cost 0.2 to 0.4 % of pixels each."""


def calibration_input(coco: Path, cfg: config.Deploy) -> Any:
    """The graph's input for the first deploy.calibration_pictures of the split at `coco`, whole batches of it."""
    entries = panoptic.read(coco).entries[: cfg.calibration_pictures]
    pictures = [frames.fit(picture_files.read_rgb(entry.image), cfg)[0] for entry in entries]
    pictures += pictures[-1:] * (-len(pictures) % cfg.batch_size)
    batch = np.stack(pictures)
    if cfg.graph is config.GraphKind.tao:
        return frames.network_input(batch, cfg)
    return batch


def quantize(model: Any, places: dict[str, str], kept: Collection[str], inputs: Any) -> Any:
    """An onnx.ModelProto with int8 around the nodes of OPERATORS in PLACES that are not named in `kept`.

    `places` is where each node is, `inputs` what the graph's one input is calibrated with. The opset becomes 19.
    """
    import onnx
    from modelopt.onnx import quantization

    chosen = [
        f"{re.escape(node.name)}$"
        for node in model.graph.node
        if node.op_type in OPERATORS and node.name not in kept and places[node.name].startswith(PLACES)
    ]
    if not chosen:
        raise ValueError(f"int8: the graph has no {OPERATORS} outside deploy.keep_float32 in {PLACES}")
    with tempfile.TemporaryDirectory() as name:
        # Model Optimizer rewrites its input file too.
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
