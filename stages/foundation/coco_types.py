"""Types of the records in COCO's JSON files (cocodataset.org/#format-data)."""

from typing import TypedDict


class Category(TypedDict):
    """A class of a data set."""

    id: int
    """category_id, from 1."""
    name: str
    supercategory: str
    isthing: int
    """1 for a thing, whose objects are separate segments; 0 for stuff."""
    color: list[int]
    """RGB, 0 to 255."""


class _SegmentBase(TypedDict):
    id: int
    """Unique in its picture, from 1. Encoded as the colour of its pixels (stages/foundation/panoptic_ids.py)."""
    category_id: int
    iscrowd: int
    """1 for a group of objects that are not separated."""


class SegmentInfo(_SegmentBase, total=False):
    """A segment of a picture. Predictions have no area and no bbox."""

    area: int
    """Pixels."""
    bbox: list[int]
    """x, y, width, height in pixels."""


class Annotation(TypedDict):
    """The segments of one picture."""

    image_id: int | str
    """A number in the sets that convert writes; the picture's key in Vistas' own files."""
    file_name: str
    """File name of the PNG, relative to the folder of PNGs."""
    segments_info: list[SegmentInfo]


class Rle(TypedDict):
    """A mask as compressed run lengths (stages/coco/rle.py)."""

    size: list[int]
    """Height and width in pixels."""
    counts: str
    """ASCII."""
