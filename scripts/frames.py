"""Frames for Polygraphy's --data-loader-script: the first frame of export's reference.npz, by the input's name."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np


def load_data() -> Iterator[dict[str, np.ndarray]]:
    """One frame of the fused graph, uint8 [1, H, W, 3], from the first variant of the graph that was exported."""
    references = sorted(Path("data/onnx").glob("*/exported/reference.npz"))
    if not references:
        raise FileNotFoundError("data/onnx/*/exported/reference.npz not found; run `dvc repro export`")
    yield {"frame": np.load(references[0])["frames"][:1]}
