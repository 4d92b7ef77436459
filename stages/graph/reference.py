"""What TAO's own network answers on a few real frames: the yardstick of every graph made from it.

A .npz file: frames uint8 [N, H, W, 3], class_logits float32 [N, Q, 1 + C], mask_logits float32 [N, Q, H/4, W/4].
"""

from pathlib import Path
from typing import Any

import numpy as np

INPUT, OUTPUTS = "frame", ("class_logits", "mask_logits")
"""Names of the deployed graph's input and outputs."""

PROVENANCE = "provenance"
"""Key of the ONNX metadata that holds, as JSON, the hashes of data, spec and checkpoint that a graph came from."""


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
    # NumPy's max and not Python's, which loses NaN.
    return float(np.max([np.abs(found - expected[name]).max() for name, found in zip(OUTPUTS, outputs, strict=True)]))


def require_equal(onnx_file: Path, difference: float, limit: float) -> None:
    """Raise RuntimeError naming the key unless a difference of logits is within its limit; NaN is not."""
    if not difference <= limit:
        raise RuntimeError(
            f"{onnx_file} differs from TAO's network by {difference} in a logit, allowed: deploy.max_logit_difference "
            f"{limit}; another version of torch, onnx-simplifier or onnxruntime may compute something else"
        )
