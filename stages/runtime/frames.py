"""Pictures into network input and network output into panoptic maps, with NumPy and OpenCV alone.

The same steps as TAO's evaluation: resize to fit, pad at the bottom and the right, and the panoptic merge of
Mask2Former (arXiv:2112.01527, appendix), so that a checkpoint and its engines are measured alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from stages import config

Frame = npt.NDArray[np.uint8]
"""uint8 [H, W, 3], RGB."""
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Panoptic:
    """A panoptic map of one picture."""

    ids: npt.NDArray[np.int32]
    """int32 [H, W]: segment id from 1, 0 where nothing was found."""
    category_ids: dict[int, int]
    """Segment id -> category_id, 1 to C."""


def read_rgb(path: Path) -> Frame:
    """Read a picture as it is stored, without turning it by EXIF, as masks aren't. Raises ValueError if it can't."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None:
        raise ValueError(f"{path}: can't be read as a picture; restore the file")
    return np.ascontiguousarray(bgr[..., ::-1])


def fit(frame: Frame, height_px: int, width_px: int) -> tuple[Frame, tuple[int, int]]:
    """Scale a picture to fit into the network's input and pad it with 0 at the bottom and the right.

    Returns uint8 [height_px, width_px, 3] and the (height, width) that the picture takes in it.
    """
    h, w = frame.shape[:2]
    scale = min(height_px / h, width_px / w)
    new_h, new_w = min(int(h * scale + 0.5), height_px), min(int(w * scale + 0.5), width_px)
    padded = np.zeros((height_px, width_px, 3), np.uint8)
    padded[:new_h, :new_w] = cv2.resize(frame, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    return padded, (new_h, new_w)


def merge(
    class_logits: Floats,
    mask_logits: Floats,
    *,
    input_size: tuple[int, int],
    used: tuple[int, int],
    output_size: tuple[int, int],
    num_things: int,
    object_mask_threshold: float,
    overlap_threshold: float,
) -> Panoptic:
    """Panoptic map of the network's output for one picture.

    class_logits: [Q, 1 + C], no-object at 0. mask_logits: [Q, h, w]. input_size, used and output_size are (height,
    width) of the network's input, of the picture inside it, and of the picture. Classes 1 to num_things are things.
    """
    exp = np.exp(class_logits - class_logits.max(-1, keepdims=True))
    probabilities = (exp / exp.sum(-1, keepdims=True))[:, 1:]
    classes = probabilities.argmax(-1)
    scores = probabilities.max(-1)
    kept = np.flatnonzero(scores > object_mask_threshold)
    ids = np.zeros(output_size, np.int32)
    category_ids: dict[int, int] = {}
    if not kept.size:
        return Panoptic(ids, category_ids)

    masks = np.stack([_probability(mask_logits[q], input_size, used, output_size) for q in kept])
    winner = (masks * scores[kept, None, None]).argmax(0)
    stuff: dict[int, int] = {}
    for k, q in enumerate(kept):
        won, inside = winner == k, masks[k] >= 0.5
        here = won & inside
        if not here.any() or won.sum() / inside.sum() < overlap_threshold:
            continue
        category_id = int(classes[q]) + 1
        is_thing = category_id <= num_things
        segment_id = stuff.get(category_id, 0)
        if is_thing or not segment_id:
            segment_id = len(category_ids) + 1
            category_ids[segment_id] = category_id
            if not is_thing:
                stuff[category_id] = segment_id
        ids[here] = segment_id
    return Panoptic(ids, category_ids)


def _probability(
    logits: Floats, input_size: tuple[int, int], used: tuple[int, int], output_size: tuple[int, int]
) -> Floats:
    """Mask probability at the picture's size, by the two bilinear steps of TAO: to the input, to the picture."""
    full = cv2.resize(logits, input_size[::-1], interpolation=cv2.INTER_LINEAR)[: used[0], : used[1]]
    sized = cv2.resize(full, output_size[::-1], interpolation=cv2.INTER_LINEAR)
    with np.errstate(over="ignore"):  # exp to infinity is probability 0
        return np.asarray(1 / (1 + np.exp(-sized)), dtype=np.float32)


def panoptic(
    infer: Callable[[Frame], tuple[Floats, Floats]], picture: Frame, num_things: int, deploy: config.Deploy
) -> Panoptic:
    """Panoptic map of a picture by an engine's `infer`: fit, run, merge."""
    size = (deploy.height_px, deploy.width_px)
    frame, used = fit(picture, *size)
    class_logits, mask_logits = infer(frame[None])
    return merge(
        class_logits[0],
        mask_logits[0],
        input_size=size,
        used=used,
        output_size=(picture.shape[0], picture.shape[1]),
        num_things=num_things,
        object_mask_threshold=deploy.object_mask_threshold,
        overlap_threshold=deploy.overlap_threshold,
    )
