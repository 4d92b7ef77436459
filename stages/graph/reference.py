"""What TAO's own network answers on a few real frames: the yardstick of every graph made from it.

A .npz file: frames uint8 [N, H, W, 3], class_logits float32 [N, Q, 1 + C], mask_logits float32 [N, Q, H/4, W/4].
"""

from pathlib import Path
from typing import Any

import numpy as np

INPUT, OUTPUTS = "frame", ("class_logits", "mask_logits")
"""Names of the deployed graph's input and outputs."""


def run(onnx_file: Path, frames: Any) -> list[Any]:
    """ONNX Runtime's class_logits and mask_logits on frames uint8 [N, H, W, 3], one at a time; as in the .npz."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(onnx_file), options, providers=["CPUExecutionProvider"])
    results = [session.run(list(OUTPUTS), {INPUT: frame[None]}) for frame in frames]
    return [np.concatenate(output) for output in zip(*results, strict=True)]


def largest_difference(onnx_file: Path, reference_file: Path) -> float:
    """Largest absolute difference of a graph's logits to the reference, over all frames and both outputs."""
    expected = np.load(reference_file)
    outputs = run(onnx_file, expected["frames"])
    return max(float(np.abs(found - expected[name]).max()) for name, found in zip(OUTPUTS, outputs, strict=True))
