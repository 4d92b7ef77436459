"""Reads and writes data sets in COCO's panoptic format: a JSON file of segments, and an RGB PNG of ids per picture.

Format: cocodataset.org/#format-data and #format-results, "Panoptic Segmentation". A set is a folder with
panoptic.json and the PNGs in panoptic/.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import cv2
import numpy as np
import numpy.typing as npt

from stages.foundation import files, json_shapes, panoptic_ids, picture_files
from stages.foundation.coco_types import Annotation, Category, SegmentInfo

Ids = npt.NDArray[np.int32]
"""Segment ids of a picture, int32 [H, W]."""


@dataclass(frozen=True)
class Entry:
    """One picture of a panoptic set."""

    image_id: int
    image: Path
    """File of the picture."""
    png: Path
    """File of the segment ids."""
    segments: list[SegmentInfo]
    source: str = ""
    """Name of the source in data.sources; empty in the sets that predictions are written to."""
    key: str = ""
    """File name in the source's set, without suffix."""

    @property
    def semantic(self) -> Path:
        """File of the classes, 8-bit grey, 0 for void. Only in sets that convert wrote."""
        return self.png.parent.parent / "semantic" / self.png.name


@dataclass(frozen=True)
class Labelled:
    """What a source labels, as category_ids."""

    format: str
    """Value of config.Format."""
    everywhere: frozenset[int]
    """Classes that it labels wherever they are."""
    partly: frozenset[int]
    """Classes that another label of the source also covers, together with other classes: its pixels are void."""


@dataclass(frozen=True)
class PanopticSet:
    """A panoptic.json with its folder of PNGs."""

    categories: list[Category]
    entries: list[Entry]

    @property
    def num_things(self) -> int:
        """Number of thing classes. The categories list things first."""
        return sum(category["isthing"] for category in self.categories)


class _ImageBase(TypedDict):
    id: int
    file_name: str


class _Image(_ImageBase, total=False):
    source: str
    key: str


class _Labels(TypedDict):
    format: str
    category_ids_everywhere: list[int]
    category_ids_partly: list[int]


class _ContentBase(TypedDict):
    images: list[_Image]
    annotations: list[Annotation]
    categories: list[Category]


class _Content(_ContentBase, total=False):
    info: dict[str, object]


IMAGES = {"image_folder": "images"}
"""`info` of a COCO file with bare file names: the folder beside the file that holds the pictures."""


def read(folder: Path) -> PanopticSet:
    """Read folder/panoptic.json. The file names of pictures are relative to `folder`, or to `image_folder` of `info`.

    Raises FileNotFoundError if the file is missing, and ValueError if it has another content or a picture has no
    annotation.
    """
    content: _Content = json_shapes.read(folder / "panoptic.json", _Content, "run the stage that writes the set")
    by_image = {a["image_id"]: a for a in content["annotations"]}
    missing = [i["file_name"] for i in content["images"] if i["id"] not in by_image]
    if missing:
        raise ValueError(f"{folder}/panoptic.json: no annotation for {missing[:3]}; run the stage that writes the set")
    images = folder / str(content.get("info", {}).get("image_folder", ""))
    entries = []
    for image in content["images"]:
        found = by_image[image["id"]]
        png = folder / "panoptic" / found["file_name"]
        source, key = image.get("source", ""), image.get("key", "")
        entries.append(Entry(image["id"], images / image["file_name"], png, found["segments_info"], source, key))
    return PanopticSet(content["categories"], entries)


def read_labelled(folder: Path, truth: PanopticSet) -> dict[str, Labelled]:
    """Read folder/sources.json: source -> what it labels.

    Raises FileNotFoundError if it is missing, and ValueError if it has another content or lacks the source of a picture
    of `truth`.
    """
    path = folder / "sources.json"
    content: dict[str, _Labels] = json_shapes.read(path, dict[str, _Labels], "run `dvc repro convert`")
    found = {
        name: Labelled(one["format"], frozenset(one["category_ids_everywhere"]), frozenset(one["category_ids_partly"]))
        for name, one in content.items()
    }
    if strange := sorted({entry.source for entry in truth.entries} - found.keys()):
        raise ValueError(f"{path}: no source {strange[0]!r}, which panoptic.json names; run `dvc repro convert`")
    return found


def unlabelled(labelled: Labelled, categories: Sequence[Category]) -> frozenset[int]:
    """Return the category_ids that a source never labels."""
    return frozenset(c["id"] for c in categories) - labelled.everywhere - labelled.partly


def without(ids: Ids, category_ids: dict[int, int], left_out: Collection[int]) -> tuple[Ids, dict[int, int]]:
    """Return a predicted map, int32 [H, W], with void in place of the segments whose classes are in `left_out`.

    `category_ids` maps segment id to category_id; those of the segments that stay are returned.
    """
    gone = [segment_id for segment_id, category_id in category_ids.items() if category_id in left_out]
    if not gone:
        return ids, category_ids
    kept = {segment_id: c for segment_id, c in category_ids.items() if c not in left_out}
    return np.where(np.isin(ids, gone), np.int32(panoptic_ids.VOID_ID), ids).astype(np.int32), kept


def read_ids(png: Path) -> Ids:
    """Read the ids of a panoptic PNG, int32 [H, W]; VOID_ID marks no segment. Raises ValueError for a broken file."""
    return panoptic_ids.decode(picture_files.read_rgb(png))


def write_ids(png: Path, ids: npt.NDArray[np.integer]) -> None:
    """Write ids [H, W], 0 to 2^24 - 1, as an RGB PNG."""
    _, content = cv2.imencode(".png", np.ascontiguousarray(panoptic_ids.encode(ids)[..., ::-1]))
    png.write_bytes(content.tobytes())


class Writer:
    """Writes predicted maps as a panoptic set, one picture at a time."""

    def __init__(self, folder: Path, categories: list[Category]) -> None:
        """Create `folder`, which must not exist."""
        self.folder = folder
        self._categories = categories
        self._images: list[dict[str, int | str]] = []
        self._annotations: list[Annotation] = []
        (folder / "panoptic").mkdir(parents=True)

    def add(self, entry: Entry, ids: Ids, category_ids: dict[int, int]) -> None:
        """Write the ids of the picture of `entry`, int32 [H, W]; category_ids maps each segment id to its class."""
        name = entry.png.name
        write_ids(self.folder / "panoptic" / name, ids)
        height, width = ids.shape
        segments: list[SegmentInfo] = [{"id": i, "category_id": c, "iscrowd": 0} for i, c in category_ids.items()]
        self._images.append({"id": entry.image_id, "file_name": entry.image.name, "height": height, "width": width})
        self._annotations.append({"image_id": entry.image_id, "file_name": name, "segments_info": segments})

    def close(self) -> None:
        """Write the JSON file."""
        content = {"images": self._images, "annotations": self._annotations, "categories": self._categories}
        files.write_json(self.folder / "panoptic.json", content)
