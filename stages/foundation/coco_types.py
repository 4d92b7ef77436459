"""Records of COCO's panoptic JSON (cocodataset.org/#format-data), as type checkers see them."""

from typing import TypedDict


class Category(TypedDict):
    """A class of a data set."""

    id: int
    """category_id, from 1."""
    name: str
    supercategory: str
    isthing: int
    """1 for a thing, whose objects are single segments; 0 for stuff."""
    color: list[int]
    """RGB, 0 to 255."""


class _Segment(TypedDict):
    id: int
    """Unique in its picture, from 1; the colour of its pixels in the PNG (stages/foundation/panoptic_ids.py)."""
    category_id: int
    iscrowd: int
    """1 for a group of objects that nobody told apart."""


class SegmentInfo(_Segment, total=False):
    """A segment of a picture. Predictions have no area and no box."""

    area: int
    """Pixels."""
    bbox: list[int]
    """x, y, width, height in pixels."""


class Annotation(TypedDict):
    """The segments of one picture."""

    image_id: int | str
    """A number in the sets that convert writes, the picture's key in Vistas' own."""
    file_name: str
    """Of the PNG, relative to the folder of PNGs."""
    segments_info: list[SegmentInfo]
