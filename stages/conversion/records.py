"""Results of converting one picture, as a worker process returns them and the journal stores them: JSON objects."""

from typing import TypedDict

from stages.foundation.coco_types import Rle, SegmentInfo


class ImageRecord(TypedDict):
    """A picture's entry in the COCO files, without its id."""

    file_name: str
    """Relative to the split's folder, or the bare name with data.bare_file_names."""
    height: int
    width: int
    source: str
    """Name of the source in data.sources."""
    key: str
    """File name in the source's set, without suffix."""


class SegmentRecord(SegmentInfo, total=False):
    """An entry of segments_info."""

    segmentation: Rle
    """The mask. Things only; it goes to instances.json."""


class MaskRecord(TypedDict):
    """The content of one mask, for the plausibility check."""

    source: str
    file: str
    """Path of the mask, for messages."""
    values: list[int]
    """The distinct values of the mask before it is scaled, ascending."""
    pixels: list[int]
    """Number of pixels of each value."""


class Record(TypedDict, total=False):
    """The result of one picture: `skipped`, or `mask` with either `empty` or all other keys."""

    skipped: str
    """Why the picture can't be converted: one line."""
    mask: MaskRecord
    empty: str
    """Message that the picture has no segment of any class and is left out."""
    image: ImageRecord
    name: str
    """File name of both PNGs."""
    segments: list[SegmentRecord]
    counts: dict[str, int]
    """Counts for stages/conversion/statistics.py: dropped, union_px, small, lost, turned and rewritten, and the set's
    own."""
