"""Lists the segments of a map with class, score, area and box: the key `segments` of docs/outputs.md."""

from collections.abc import Mapping
from typing import TypedDict

import numpy as np

from stages.foundation.coco_types import Category
from stages.inference.segments import Segments


class _RowBase(TypedDict):
    id: int
    category_id: int
    category: str
    isthing: int
    score: float | None
    """0 to 1, rounded to 4 digits; None where the map has no scores."""
    area_px: int
    bbox: list[int]
    """Smallest box around its pixels, in pixels: left, top, width and height, as in COCO."""


class Row(_RowBase, total=False):
    """One segment."""

    track_id: int
    """Number of the object in the whole video, from 1. Only where objects are tracked."""


def rows(found: Segments, categories: Mapping[int, Category], track_ids: Mapping[int, int] | None = None) -> list[Row]:
    """List the segments of a map in the order of `category_ids`. Segments without a pixel are left out.

    `categories` are by category_id, `track_ids` by segment id.
    """
    boxes = _boxes(found)
    result: list[Row] = [
        {
            "id": segment,
            "category_id": category_id,
            "category": categories[category_id]["name"],
            "isthing": categories[category_id]["isthing"],
            "score": round(found.scores[segment], 4) if segment in found.scores else None,
            "area_px": boxes[segment][0],
            "bbox": boxes[segment][1],
        }
        for segment, category_id in found.category_ids.items()
        if segment in boxes
    ]
    if track_ids is not None:
        for row in result:
            row["track_id"] = track_ids[row["id"]]
    return result


def _boxes(found: Segments) -> dict[int, tuple[int, list[int]]]:
    """Return area and box of each segment id that has a pixel.

    Works on the runs of equal ids in a row, which are far fewer than pixels.
    """
    height, width = found.ids.shape
    starts_run = np.ones((height, width), np.bool_)
    np.not_equal(found.ids[:, 1:], found.ids[:, :-1], out=starts_run[:, 1:])
    starts = np.flatnonzero(starts_run)
    ids, lengths = found.ids.ravel()[starts], np.diff(starts, append=height * width)
    count = int(ids.max(initial=0)) + 1
    areas = np.bincount(ids, lengths, minlength=count)
    row, left = np.divmod(starts, width)
    low = np.full((2, count), max(height, width))
    high = np.zeros((2, count), np.int64)
    for axis, (first, end) in enumerate(((left, left + lengths), (row, row + 1))):
        np.minimum.at(low[axis], ids, first)
        np.maximum.at(high[axis], ids, end)
    boxes = np.concatenate([low, high - low]).T
    return {int(i): (int(areas[i]), boxes[i].tolist()) for i in np.flatnonzero(areas)}
