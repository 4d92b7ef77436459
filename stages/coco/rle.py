"""COCO run-length masks of every segment of a raster at once, without a mask per segment.

COCO's RLE runs down the columns and alternates background and foreground, background first
(cocodataset.org/#format-data; pycocotools' maskApi). Where neighbouring labels differ, one run ends: finding these
places once and grouping the runs by label costs one pass over the raster, however many segments there are.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Segment:
    """One value of a raster."""

    value: int
    area: int
    """Pixels."""
    bbox: list[int]
    """x, y, width, height in pixels."""
    rle: dict[str, Any]
    """size [H, W] and counts, compressed to ASCII, as in a COCO JSON."""


def encode(raster: npt.NDArray[np.uint16]) -> list[Segment]:
    """The segments of a raster [H, W], one for each value in it, by rising value."""
    from pycocotools import mask

    height, width = raster.shape
    columns = np.ascontiguousarray(raster.T).ravel()
    starts = np.concatenate([[0], np.flatnonzero(columns[1:] != columns[:-1]) + 1])
    ends = np.append(starts[1:], columns.size)
    order = np.argsort(columns[starts], kind="stable")
    starts, ends = starts[order], ends[order]
    values, first = np.unique(columns[starts], return_index=True)

    left, right = starts // height, (ends - 1) // height
    # A run that goes on into the next column touches the bottom edge and then the top one.
    inside = left == right
    top, bottom = np.where(inside, starts % height, 0), np.where(inside, (ends - 1) % height, height - 1)
    areas = np.add.reduceat(ends - starts, first)
    x0, x1 = np.minimum.reduceat(left, first), np.maximum.reduceat(right, first)
    y0, y1 = np.minimum.reduceat(top, first), np.maximum.reduceat(bottom, first)

    segments = []
    for i, (begin, end) in enumerate(zip(first, np.append(first[1:], starts.size), strict=True)):
        edges = np.stack([starts[begin:end], ends[begin:end]], axis=1).ravel()
        counts = np.diff(edges, prepend=0, append=columns.size)
        # The last run of background is left out where it is empty, as pycocotools does.
        counts = counts if counts[-1] else counts[:-1]
        (rle,) = mask.frPyObjects([{"size": [height, width], "counts": counts.tolist()}], height, width)
        bbox = [int(x0[i]), int(y0[i]), int(x1[i] - x0[i] + 1), int(y1[i] - y0[i] + 1)]
        text = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
        segments.append(Segment(int(values[i]), int(areas[i]), bbox, text))
    return segments
