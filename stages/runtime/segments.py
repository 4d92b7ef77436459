"""What an engine returns, as maps of segments: the host's half of the deployed graph, with NumPy and OpenCV.

In every mode a picture's answer is one map of segments, so that checkpoint and engines, and modes, are compared
alike. Masks of instances overlap: those with a score above deploy.object_mask_threshold are drawn, the best on top.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stages import config

VOID = 255
"""Query id of a pixel without a segment in the fused graph's map."""


@dataclass(frozen=True)
class Segments:
    """A map of the segments of one picture."""

    ids: npt.NDArray[np.int32]
    """int32 [H, W]: segment id from 1, 0 where nothing was found."""
    category_ids: dict[int, int]
    """Segment id -> category_id, 1 to C."""


Outputs = dict[str, npt.NDArray[Any]]
"""A graph's outputs of one batch, by name; docs/outputs.md."""


def decode(outputs: Outputs, index: int, cfg: config.Deploy, num_things: int) -> Segments:
    """The map of frame `index` of a batch, at the frame's size, or at the network's input for the graph `tao`."""
    one = {name: array[index] for name, array in outputs.items()}
    if cfg.mode is config.Mode.panoptic:
        if cfg.graph is config.GraphKind.tao:
            return _merge(one, cfg, num_things)
        return _panoptic(one["query_ids"], one["areas"], one["category_ids"])
    if cfg.mode is config.Mode.semantic:
        if cfg.graph is config.GraphKind.tao:
            return semantic(one["pred_masks"].argmax(0).astype(np.uint8) + 1)
        return semantic(one["class_ids"])
    if cfg.graph is config.GraphKind.tao:
        return instances(one["pred_masks"] > 0, one["pred_scores"], one["pred_classes"] + 1, cfg)
    masks = np.unpackbits(one["mask_bits"], axis=-1, count=cfg.frame_width_px).astype(bool)
    return instances(masks, one["scores"], one["category_ids"], cfg)


def _panoptic(
    query_ids: npt.NDArray[np.uint8], areas: npt.NDArray[np.int32], category_ids: npt.NDArray[np.int32]
) -> Segments:
    segment_of = np.zeros(VOID + 1, np.int32)
    found = np.flatnonzero(areas)
    segment_of[found] = np.arange(1, len(found) + 1)
    # OpenCV's look-up is several times faster than NumPy's index.
    ids = cv2.LUT(query_ids, segment_of).astype(np.int32, copy=False)
    return Segments(ids, {int(segment_of[q]): int(category_ids[q]) for q in found})


def semantic(class_ids: npt.NDArray[np.uint8]) -> Segments:
    """A class map uint8 [H, W], category_ids from 1, as segments: one for each class."""
    present = np.unique(class_ids)
    return Segments(class_ids.astype(np.int32), {int(c): int(c) for c in present})


def instances(
    masks: npt.NDArray[np.bool_], scores: npt.NDArray[Any], category_ids: npt.NDArray[Any], cfg: config.Deploy
) -> Segments:
    """Masks bool [K, H, W] drawn on one map, from the lowest score above the threshold to the best."""
    ids = np.zeros(masks.shape[1:], np.int32)
    order = [k for k in np.argsort(scores, kind="stable") if scores[k] > cfg.object_mask_threshold]
    categories = {}
    for number, k in enumerate(reversed(order), start=1):
        categories[number] = int(category_ids[k])
    for number, k in zip(range(len(order), 0, -1), order, strict=True):
        ids[masks[k]] = number
    visible = set(np.unique(ids).tolist()) - {0}
    return Segments(ids, {number: c for number, c in categories.items() if number in visible})


def _merge(one: Outputs, cfg: config.Deploy, num_things: int) -> Segments:
    """The panoptic merge of TAO's exported graph on the host (Mask2Former, arXiv:2112.01527, appendix).

    prob_masks and pred_masks: float32 [Q, H, W], mask probabilities with and without the class score. pred_scores and
    pred_classes: [Q], classes from 0.
    """
    kept = np.flatnonzero(one["pred_scores"] > cfg.object_mask_threshold)
    ids = np.zeros(one["pred_masks"].shape[1:], np.int32)
    category_ids: dict[int, int] = {}
    if not kept.size:
        return Segments(ids, category_ids)
    winner = one["prob_masks"][kept].argmax(0)
    stuff: dict[int, int] = {}
    for k, q in enumerate(kept):
        won, inside = winner == k, one["pred_masks"][q] >= 0.5
        here = won & inside
        if not here.any() or won.sum() / inside.sum() < cfg.overlap_threshold:
            continue
        category_id = int(one["pred_classes"][q]) + 1
        is_thing = category_id <= num_things
        segment_id = stuff.get(category_id, 0)
        if is_thing or not segment_id:
            segment_id = len(category_ids) + 1
            category_ids[segment_id] = category_id
            if not is_thing:
                stuff[category_id] = segment_id
        ids[here] = segment_id
    return Segments(ids, category_ids)
