"""Inputs of kernels that the tests on the GPU and those on the CPU share: attributes and NumPy arrays."""

from typing import Any

import numpy as np

from stages.inference.normalization import PIXEL_MEAN, PIXEL_STD

Case = tuple[dict[str, Any], list[Any]]

PATCHES = [
    # Frame, input, used, channels, batch, LayerNorm: unscaled with padding; scaled; other channels; no tile is full.
    ((720, 1280), (736, 1280), (720, 1280), 96, 1, True),
    ((256, 384), (192, 288), (192, 288), 24, 2, True),
    ((100, 190), (96, 160), (84, 160), 128, 1, False),
    ((45, 61), (64, 96), (64, 87), 192, 2, True),
]
MERGED = [
    # Frame, input, used, queries, classes, batch: padded below; scaled; a width that fills no byte; many classes.
    ((90, 160), (96, 160), (90, 160), 100, 65, 1),
    ((150, 203), (96, 160), (96, 130), 20, 116, 2),
    ((31, 45), (32, 64), (32, 46), 7, 3, 2),
    ((40, 70), (64, 96), (55, 96), 33, 255, 1),
]


def patches(
    frame: tuple[int, int],
    size: tuple[int, int],
    used: tuple[int, int],
    channels: int,
    batch: int,
    norm: bool,
    dtype: str,
) -> Case:
    """Frames and weights of PatchEmbedding."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (batch, *frame, 3), dtype=np.uint8)
    weight, bias = rng.standard_normal((48, channels)) / 7, rng.standard_normal(channels)
    more = [1 + 0.3 * rng.standard_normal(channels), rng.standard_normal(channels)] if norm else []
    colours = {name: [255 * v for v in values] for name, values in (("mean", PIXEL_MEAN), ("std", PIXEL_STD))}
    attributes = {"input_size": [*size], "used_size": [*used], **colours, "patch": 4, "epsilon": 1e-5}
    return attributes, [frames, *(array.astype(dtype) for array in (weight, bias, *more))]


def merged(
    frame: tuple[int, int],
    size: tuple[int, int],
    used: tuple[int, int],
    queries: int,
    classes: int,
    batch: int,
    dtype: str,
) -> Case:
    """Class and mask logits of a merge: queries that are sure and unsure, with round masks that overlap."""
    rng, low = np.random.default_rng(1), (size[0] // 4, size[1] // 4)
    class_logits = rng.standard_normal((batch, queries, 1 + classes))
    rows = np.arange(queries)
    class_logits[:, rows, 1 + rows // 2 % classes] += np.where(rows % 3, 9, 0)
    y, x = np.mgrid[: low[0], : low[1]]
    centres = rng.random((batch, queries, 2)) * low
    distance = np.hypot(y - centres[..., :1, None], x - centres[..., 1:, None])
    mask_logits = low[0] / 4 - distance + rng.standard_normal((batch, queries, *low))
    sizes = {"mask_size": [*low], "input_size": [*size], "used_size": [*used], "frame_size": [*frame]}
    return sizes, [class_logits.astype(dtype), mask_logits.astype(dtype).reshape(batch, queries, -1)]
