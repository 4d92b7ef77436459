"""Encodes the masks of all segments of a raster as COCO run lengths, without building a mask for each segment.

COCO's run-length encoding goes down the columns and alternates background and foreground, background first. In
compressed form each count after the third is stored as its difference from the count two places before, in groups of
five bits, the lowest first, one ASCII character each (cocodataset.org/#format-data; maskApi.c of pycocotools).

A run ends where two neighbouring values differ. Finding these places once and grouping the runs by value takes one pass
over the raster, whatever the number of segments.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stages.foundation.coco_types import Rle

_Int64 = npt.NDArray[np.int64]
_MAX_CHARACTERS = 7
"""Characters of five bits of a run length or a difference."""


@dataclass(frozen=True)
class Segment:
    """All pixels of a raster that have one value."""

    value: int
    area: int
    """Pixels."""
    bbox: list[int]
    """x, y, width, height in pixels."""
    pixel: tuple[int, int]
    """Row and column of one of its pixels."""
    rle: Rle


@dataclass(frozen=True)
class Runs:
    """Runs of equal pixels of a raster, in column-major order."""

    shape: tuple[int, int]
    """Height and width."""
    starts: _Int64
    """Index of the first pixel of each run, in column-major order."""
    values: npt.NDArray[np.uint16]
    """Value of each run."""
    below: _Int64
    """Indices, in row-major order, of the pixels that differ from the pixel below them."""

    def pixels(self) -> _Int64:
        """Return the number of pixels of each value, int64 [65536]."""
        height, width = self.shape
        lengths = np.diff(self.starts, append=height * width)
        return np.bincount(self.values, lengths, 1 << 16).astype(np.int64)

    def renamed(self, table: npt.NDArray[np.uint16]) -> "Runs":
        """Return the runs of table[raster]. `below` stays that of the raster."""
        values = table[self.values]
        first = np.append(True, values[1:] != values[:-1])
        return replace(self, starts=self.starts[first], values=values[first])


def runs(raster: npt.NDArray[np.uint16]) -> Runs:
    """Return the runs of a raster, uint16 [H, W]."""
    height, width = raster.shape
    # Compared in row-major order, as in memory: transposing the raster would take longer than everything else.
    below = np.flatnonzero(raster[1:] != raster[:-1])
    rows, columns = np.divmod(below, width)
    tops = np.flatnonzero(raster[0, 1:] != raster[-1, :-1]) + 1
    starts = np.concatenate([[0], columns * height + rows + 1, tops * height])
    starts.sort()
    return Runs((height, width), starts, raster[starts % height, starts // height], below)


def encode(found: Runs) -> list[Segment]:
    """Return the segments of a raster, one for each value, ascending."""
    height, width = found.shape
    order = np.argsort(found.values, kind="stable")
    starts, ends = found.starts[order], np.append(found.starts[1:], height * width)[order]
    values, first = np.unique(found.values[order], return_index=True)

    left, right = starts // height, (ends - 1) // height
    # A run that continues in the next column touches the bottom edge and then the top edge.
    inside = left == right
    top, bottom = np.where(inside, starts % height, 0), np.where(inside, (ends - 1) % height, height - 1)
    areas = np.add.reduceat(ends - starts, first)
    x0, x1 = np.minimum.reduceat(left, first), np.maximum.reduceat(right, first)
    y0, y1 = np.minimum.reduceat(top, first), np.maximum.reduceat(bottom, first)
    boxes = np.stack([x0, y0, x1 - x0 + 1, y1 - y0 + 1], axis=1).tolist()
    pixels = np.stack([starts[first] % height, left[first]], axis=1).tolist()
    texts = _compressed(starts, ends, first, height * width)
    return [
        Segment(value, area, box, (row, column), {"size": [height, width], "counts": text})
        for value, area, box, (row, column), text in zip(
            values.tolist(), areas.tolist(), boxes, pixels, texts, strict=True
        )
    ]


def counts(text: str) -> _Int64:
    """Return the run lengths of a compressed mask, int64 [N].

    Raises ValueError for a text that no encoder writes. The sum may be any: compare it with the picture.
    """
    codes = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("counts that are no compressed run lengths")
    ends = np.flatnonzero(codes < 32)
    used = np.diff(ends, prepend=-1)
    if used.max() > _MAX_CHARACTERS:
        raise ValueError("counts with a run of more than 2^34 pixels")
    character = np.arange(codes.size) - np.repeat(ends - used + 1, used)
    parts = (codes & 31) << (5 * character)
    numbers = np.add.reduceat(parts, ends - used + 1)
    numbers -= np.where(codes[ends] & 16, 1 << (5 * used), 0)
    # From the third on, each is the difference from the one two places before.
    for start in (1, 2):
        numbers[start::2] = np.cumsum(numbers[start::2])
    return numbers


def _compressed(starts: _Int64, ends: _Int64, first: npt.NDArray[np.intp], pixels: int) -> list[str]:
    """Return the compressed counts of each group of runs; group g begins at run first[g]."""
    last = np.append(first[1:], starts.size) - 1
    before = np.concatenate([[0], ends[:-1]])
    before[first] = 0
    counts = np.stack([starts - before, ends - starts], axis=1).ravel()
    # The background after a group's last run is left out where it is empty, as pycocotools does.
    counts = np.insert(counts, 2 * last + 2, pixels - ends[last])
    kept = np.ones(counts.size, bool)
    stops = 2 * last + 3 + np.arange(last.size)
    kept[stops - 1] = counts[stops - 1] > 0
    lengths = np.diff(stops, prepend=0) - ~kept[stops - 1]
    counts = counts[kept]

    begins = np.cumsum(lengths) - lengths
    place = np.arange(counts.size) - np.repeat(begins, lengths)
    numbers = counts.copy()
    later = place > 2
    numbers[later] -= counts[np.flatnonzero(later) - 2]

    # Five bits per character, including the sign bit. frexp returns the number of bits of a number.
    bits = np.frexp(np.where(numbers < 0, ~numbers, numbers).astype(np.float64))[1]
    used = bits // 5 + 1
    character = np.arange(used.sum()) - np.repeat(np.cumsum(used) - used, used)
    groups = (np.repeat(numbers, used) >> (5 * character)) & 31
    more = character < np.repeat(used, used) - 1
    text = (groups + 32 * more + 48).astype(np.uint8).tobytes().decode("ascii")
    edges = np.cumsum(used)
    ends_of = edges[begins + lengths - 1].tolist()
    return [text[begin:end] for begin, end in zip([0, *ends_of[:-1]], ends_of, strict=True)]
