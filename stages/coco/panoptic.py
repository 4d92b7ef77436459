"""Reads and writes data sets in COCO's panoptic format: a JSON file of segments, and an RGB PNG of ids per picture.

Format: cocodataset.org/#format-data and #format-results, "Panoptic Segmentation". A set is a folder with
panoptic.json and the PNGs in panoptic/.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from stages.foundation import files, panoptic_ids, picture_files
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


@dataclass(frozen=True)
class PanopticSet:
    """A panoptic.json with its folder of PNGs."""

    categories: list[Category]
    entries: list[Entry]

    @property
    def num_things(self) -> int:
        """Number of thing classes. The categories list things first."""
        return sum(category["isthing"] for category in self.categories)


IMAGES = {"image_folder": "images"}
"""`info` of a COCO file with bare file names: the folder beside the file that holds the pictures."""


def read(folder: Path) -> PanopticSet:
    """Read folder/panoptic.json. The file names of pictures are relative to `folder`, or to `image_folder` of `info`.

    Raises FileNotFoundError if the file is missing, and ValueError if it is not JSON or a picture has no annotation.
    """
    content = files.read_json(folder / "panoptic.json")
    by_image = {a["image_id"]: a for a in content["annotations"]}
    missing = [i["file_name"] for i in content["images"] if i["id"] not in by_image]
    if missing:
        raise ValueError(f"{folder}/panoptic.json: no annotation for {missing[:3]}; run the stage that writes the set")
    images = folder / content.get("info", {}).get("image_folder", "")
    entries = []
    for image in content["images"]:
        found = by_image[image["id"]]
        png = folder / "panoptic" / found["file_name"]
        entries.append(Entry(image["id"], images / image["file_name"], png, found["segments_info"]))
    return PanopticSet(content["categories"], entries)


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


def class_map(ids: Ids, segments: Sequence[SegmentInfo]) -> npt.NDArray[np.uint8]:
    """Return the category_id of each pixel, uint8 [H, W]; 0 for void and for crowds."""
    result = np.zeros(ids.shape, np.uint8)
    for segment in segments:
        if not segment["iscrowd"]:
            result[ids == segment["id"]] = segment["category_id"]
    return result
