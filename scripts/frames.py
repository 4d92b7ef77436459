"""Frames for Polygraphy's --data-loader-script: the first that export kept TAO's answer for, by the input's name."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np


def load_data() -> Iterator[dict[str, np.ndarray]]:
    """One frame of the fused graph, uint8 [1, H, W, 3], from the first variant of the graph that was exported."""
    answers = sorted(Path("data/onnx").glob("*/exported/reference.npz"))
    if not answers:
        raise FileNotFoundError("data/onnx/*/exported/reference.npz not found; run `dvc repro export`")
    yield {"frame": np.load(answers[0])["frames"][:1]}
