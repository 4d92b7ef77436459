"""Decodes the outputs of an engine into maps of segments, with NumPy and OpenCV only.

The result for a picture is one map of segments in every mode, so that one function compares checkpoint, engines and
modes. Instance masks may overlap: those with a score above deploy.object_mask_threshold are drawn, the one with
the best score on top.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from stages import config
from stages.inference import frames

VOID_QUERY = 255
"""Value of a pixel without a segment in the fused graph's map of query ids."""


@dataclass(frozen=True)
class Segments:
    """A map of the segments of one picture."""

    ids: npt.NDArray[np.int32]
    """int32 [H, W]: segment id from 1, 0 where nothing was found."""
    category_ids: dict[int, int]
    """Segment id -> category_id, 1 to C."""
    scores: dict[int, float] = field(default_factory=dict)
    """Segment id -> score, 0 to 1 (docs/outputs.md). Empty in the mode semantic and for other sources of maps."""


Outputs = dict[str, npt.NDArray[np.generic]]
"""Outputs of a graph for one batch, by name (docs/outputs.md)."""
LOGITS = ("class_logits", "mask_logits")
"""Tensors inside each graph. CPU engines return them instead of the panoptic map; see `merges_on_host`."""
Floats = npt.NDArray[np.float32]
Logits = npt.NDArray[np.float16] | Floats


class _MergeInput(NamedTuple):
    """Input of the merge on the host."""

    scores: Floats
    """float32 [Q]."""
    classes: npt.NDArray[np.integer]
    """int [Q], from 0."""
    size: frames.Size
    mask: Callable[[int], tuple[Floats, npt.NDArray[np.bool_]]]
    """Returns the mask probability of a query, float32 [H, W], and where it is 0.5 or more, bool [H, W]."""


def merges_on_host(outputs: Collection[str], tensors: Collection[str]) -> bool:
    """Return whether a CPU engine of a graph with these outputs and inner tensors leaves the merge to `decode`.

    That is faster, because the host skips queries below the score threshold and a graph of fixed shapes can't.
    """
    return "query_ids" in outputs and all(name in tensors for name in LOGITS)


def decode(outputs: Outputs, index: int, cfg: config.Deploy, num_things: int) -> Segments:
    """Decode frame `index` of a batch into a map of the frame's size, or of the network input's for the graph `tao`."""
    one = {name: array[index] for name, array in outputs.items()}
    if cfg.mode is config.Mode.panoptic:
        if cfg.graph is config.GraphKind.tao:
            masks, size = one["pred_masks"], one["pred_masks"].shape[1:]
            queries = _MergeInput(one["pred_scores"], one["pred_classes"], size, lambda q: (masks[q], masks[q] >= 0.5))
            return _merge(queries, cfg, num_things)
        if "query_ids" not in one:
            return _merge(_merge_logits(one["class_logits"], one["mask_logits"], cfg), cfg, num_things)
        return _panoptic(one["query_ids"], one["areas"], one["category_ids"], one["scores"])
    if cfg.mode is config.Mode.semantic:
        if cfg.graph is config.GraphKind.tao:
            return semantic(one["pred_masks"].argmax(0).astype(np.uint8) + 1)
        return semantic(one["class_ids"])
    if cfg.graph is config.GraphKind.tao:
        return instances(one["pred_masks"] > 0, one["pred_scores"], one["pred_classes"] + 1, cfg)
    masks = np.unpackbits(one["mask_bits"], axis=-1, count=cfg.frame_width_px).astype(bool)
    return instances(masks, one["scores"], one["category_ids"], cfg)


def _panoptic(
    query_ids: npt.NDArray[np.uint8],
    areas: npt.NDArray[np.int32],
    category_ids: npt.NDArray[np.int32],
    scores: Floats,
) -> Segments:
    """Number the segments of the fused graph's map: query_ids [H, W]; areas, category_ids and scores [Q] of queries."""
    segment_of = np.zeros(VOID_QUERY + 1, np.int32)
    found = np.flatnonzero(areas)
    segment_of[found] = np.arange(1, len(found) + 1)
    ids = _look_up(segment_of, query_ids)
    return Segments(
        ids,
        {int(segment_of[q]): int(category_ids[q]) for q in found},
        {int(segment_of[q]): float(scores[q]) for q in found},
    )


def semantic(class_ids: npt.NDArray[np.uint8]) -> Segments:
    """Turn a class map, uint8 [H, W] of category_ids from 1, into segments: one per class."""
    present = np.unique(class_ids)
    return Segments(class_ids.astype(np.int32), {int(c): int(c) for c in present})


def instances(
    masks: npt.NDArray[np.bool_],
    scores: npt.NDArray[np.floating],
    category_ids: npt.NDArray[np.integer],
    cfg: config.Deploy,
) -> Segments:
    """Draw masks, bool [K, H, W], on one map, from the lowest score above the threshold to the best."""
    ids = np.zeros(masks.shape[1:], np.int32)
    order = [k for k in np.argsort(scores, kind="stable") if scores[k] > cfg.object_mask_threshold]
    best_first = dict(enumerate(reversed(order), start=1))
    for number, k in zip(range(len(order), 0, -1), order, strict=True):
        ids[masks[k]] = number
    visible = set(np.unique(ids).tolist())
    shown = {number: k for number, k in best_first.items() if number in visible}
    return Segments(
        ids,
        {number: int(category_ids[k]) for number, k in shown.items()},
        {number: float(scores[k]) for number, k in shown.items()},
    )


def _merge_logits(class_logits: Logits, mask_logits: Logits, cfg: config.Deploy) -> _MergeInput:
    """Turn class logits [Q, 1 + C], no-object at 0, and mask logits [Q, h, w] into `_merge`'s input, as TAO does."""
    shifted = class_logits.astype(np.float32) - class_logits.max(-1, keepdims=True)
    probabilities: Floats = np.exp(shifted)
    probabilities = probabilities[:, 1:] / probabilities.sum(-1, keepdims=True)
    used = frames.frame_in_input(cfg)

    def mask(query: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
        low = mask_logits[query].astype(np.float32, copy=False)
        logits = cv2.resize(low, frames.input_size(cfg)[::-1], interpolation=cv2.INTER_LINEAR)[: used[0], : used[1]]
        if used != frames.frame_size(cfg):
            logits = cv2.resize(logits, frames.frame_size(cfg)[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(1 / (1 + cv2.exp(-logits)), np.float32), logits >= 0

    return _MergeInput(probabilities.max(-1), probabilities.argmax(-1), frames.frame_size(cfg), mask)


def _merge(queries: _MergeInput, cfg: config.Deploy, num_things: int) -> Segments:
    """Merge the masks of all queries above the score threshold (Mask2Former, arXiv:2112.01527, appendix)."""
    kept = np.flatnonzero(queries.scores > cfg.object_mask_threshold)
    best = np.full(queries.size, -1, np.float32)
    winner = np.zeros(queries.size, np.uint8)
    holds = np.zeros(queries.size, np.bool_)
    covered = []
    for k, q in enumerate(kept):
        probability, inside = queries.mask(int(q))
        weighted = probability * queries.scores[q]
        better = weighted > best
        for target, value in ((best, weighted), (winner, k), (holds, inside)):
            np.copyto(target, value, where=better)
        covered.append(np.count_nonzero(inside))
    won = np.bincount(winner.ravel(), minlength=len(kept))
    held = np.bincount(winner[holds], minlength=len(kept))
    segment_of = np.zeros(VOID_QUERY + 1, np.int32)
    category_ids: dict[int, int] = {}
    scores: dict[int, float] = {}
    stuff: dict[int, int] = {}
    for k, q in enumerate(kept):
        if not held[k] or won[k] / covered[k] < cfg.overlap_threshold:
            continue
        category_id = int(queries.classes[q]) + 1
        segment_id = 0 if category_id <= num_things else stuff.get(category_id, 0)
        if not segment_id:
            segment_id = len(category_ids) + 1
            category_ids[segment_id], scores[segment_id] = category_id, float(queries.scores[q])
            if category_id > num_things:
                stuff[category_id] = segment_id
        segment_of[k] = segment_id
    winner[~holds] = VOID_QUERY
    return Segments(_look_up(segment_of, winner), category_ids, scores)


def _look_up(segment_of: npt.NDArray[np.int32], ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    # OpenCV's LUT is several times faster than indexing in NumPy.
    return cv2.LUT(ids, segment_of).astype(np.int32, copy=False)
