"""Types of the records in COCO's JSON files (cocodataset.org/#format-data), and the reader of label maps."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from stages.foundation import files, json_shapes


class _CategoryBase(TypedDict):
    id: int
    """category_id, from 1."""
    name: str
    isthing: int
    """1 for a thing, whose objects are separate segments; 0 for stuff."""


class Category(_CategoryBase, total=False):
    """A class of a data set. Label maps have no supercategory."""

    supercategory: str
    color: list[int]
    """RGB, 0 to 255."""


def check_categories(categories: Sequence[Category]) -> None:
    """Raise ValueError for the first class of a list with a wrong value. Ids need not be in order."""
    for place, category in enumerate(categories):
        found = ""
        if category["id"] < 1:
            found = f"id {category['id']}, expected 1 or more"
        elif category["isthing"] not in (0, 1):
            found = f"isthing {category['isthing']}, expected 0 or 1"
        elif "color" in category and (len(category["color"]) != 3 or not all(0 <= c <= 255 for c in category["color"])):
            found = f"color {category['color'][:4]}, expected three numbers from 0 to 255"
        if found:
            raise ValueError(f"[{place}]: found {found}")
    if len({category["id"] for category in categories}) < len(categories):
        raise ValueError("an id occurs twice")


def read_label_map(path: Path) -> list[Category]:
    """Read a label_map.json. Raises FileNotFoundError if it is missing, and ValueError for another content."""
    fix = "give the label_map.json that convert wrote"
    found: list[Category] = json_shapes.read(path, list[Category], fix)
    try:
        if lacking := next((category["name"] for category in found if "color" not in category), None):
            raise ValueError(f"class {files.printable(lacking)} has no color")
        check_categories(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {fix}") from error
    return found


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
