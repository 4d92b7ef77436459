"""Compares the maps of two sets by picture, finds the pictures that differ most, and draws where they differ."""

import functools
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from stages.coco import panoptic
from stages.foundation import parallel
from stages.foundation.panoptic_ids import VOID_ID
from stages.inference import frames
from stages.metrics import agreement

SAME, OTHER_CLASS, OTHER_SEGMENT, MISSED, NOT_COMPARED = range(5)
"""Values of a difference map."""

KINDS = {
    OTHER_CLASS: ("another class", (213, 94, 0)),
    OTHER_SEGMENT: ("same class, another segment", (0, 114, 178)),
    MISSED: ("a segment in one map alone", (28, 33, 39)),
}
"""Name and colour, RGB, of what a map shows beside a faint picture: dark, and hues that all eyes tell apart."""

FEW, ENLARGED_PX = 0.002, 11
"""Where a smaller share of the pixels differs, each is drawn as a square of this side, else it could not be seen."""

Differences = npt.NDArray[np.uint8]
"""A difference map: uint8 [H, W]."""


@dataclass(frozen=True)
class Comparison:
    """Two maps of one picture. Those of the truth come first."""

    first: panoptic.Entry
    second: panoptic.Entry
    agreement_pct: float
    """Share of the compared pixels that are in the same segment in both maps."""


def compare(
    first: panoptic.PanopticSet, second: panoptic.PanopticSet, classes: frozenset[int] | None, workers: int
) -> list[Comparison]:
    """Compare the maps of the pictures that both sets have; the picture that agrees least is first.

    Where the first set is the truth, `classes` are the category_ids of its segments that the second can have. Other
    pixels are left out: those without an annotation and those of crowds. None compares all pixels, void with void.
    `workers` is data.workers. Costs 0.2 s of a core for a picture of two megapixels.
    """
    by_image = {entry.image_id: entry for entry in second.entries}
    pairs = [(entry, by_image[entry.image_id]) for entry in first.entries if entry.image_id in by_image]
    share = functools.partial(_agreement_pct, classes=classes)
    found = list(parallel.ordered(share, pairs, parallel.count(workers, len(pairs)), "report"))
    order = sorted(range(len(pairs)), key=lambda index: found[index])
    return [Comparison(*pairs[index], found[index]) for index in order]


def _agreement_pct(pair: tuple[panoptic.Entry, panoptic.Entry], classes: frozenset[int] | None) -> float:
    found = difference(*pair, classes)
    compared = np.count_nonzero(found != NOT_COMPARED)
    return 100 * np.count_nonzero(found == SAME) / compared if compared else 100.0


def difference(first: panoptic.Entry, second: panoptic.Entry, classes: frozenset[int] | None) -> Differences:
    """Return where the maps of two entries differ; `classes` as for `compare`. Raises ValueError for unequal sizes."""
    ids, others = panoptic.read_ids(first.png), panoptic.read_ids(second.png)
    if ids.shape != others.shape:
        raise ValueError(f"{second.png}: found {others.shape}, expected {ids.shape} as {first.png}; run `make all`")
    left_out: set[int] = set()
    if classes is not None:
        unknown = (s["id"] for s in first.segments if s["iscrowd"] or s["category_id"] not in classes)
        left_out = {VOID_ID, *unknown}
    own, other = ({s["id"]: s["category_id"] for s in entry.segments} for entry in (first, second))
    values, places, counts = np.unique((ids.astype(np.int64) << 32) | others, return_inverse=True, return_counts=True)
    pairs = [(int(value >> 32), int(value & 0xFFFFFFFF)) for value in values]
    overlap = dict(zip(pairs, counts.tolist(), strict=True))
    same = {(VOID_ID, VOID_ID), *agreement.pairs(overlap, own, other)}

    def kind(a: int, b: int) -> int:
        if a in left_out:
            return NOT_COMPARED
        if (a, b) in same:
            return SAME
        if VOID_ID in (a, b):
            return MISSED
        return OTHER_SEGMENT if own[a] == other[b] else OTHER_CLASS

    kinds: Differences = np.array([kind(a, b) for a, b in pairs], np.uint8)
    return np.asarray(kinds[places.reshape(ids.shape)])


def shrink(found: Differences, width: int, height: int) -> Differences:
    """Return a difference map of a smaller size, in which each place shows the rarest kind that it has.

    So a difference of one pixel stays visible.
    """
    kinds = [NOT_COMPARED, SAME, *sorted(KINDS, key=lambda kind: -np.count_nonzero(found == kind))]
    result = np.full((height, width), SAME, np.uint8)
    for kind in kinds:
        share = cv2.resize((found == kind).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        result[share > (0 if kind in KINDS else 0.5)] = kind
    return result


def draw(picture: frames.Frame, found: Differences) -> frames.Frame:
    """Draw a difference map over a faint grey picture, both of the same size; the result is uint8 [H, W, 3], RGB."""
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    result = np.asarray(cv2.addWeighted(grey, 0.3, np.full_like(grey, 255), 0.7, 0), np.uint8)
    result[found == NOT_COMPARED] = 255
    few = np.isin(found, list(KINDS)).mean() < FEW
    for kind, (_, color) in KINDS.items():
        place = (found == kind).astype(np.uint8)
        result[(cv2.dilate(place, np.ones((ENLARGED_PX, ENLARGED_PX), np.uint8)) if few else place) > 0] = color
    return result
