"""COCO panoptic files: a JSON list of segments and an RGB PNG of ids per picture (cocodataset.org/#format-results)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stages import files

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Entry:
    """One picture of a panoptic set."""

    image_id: int
    image: str
    """File name of the picture."""
    png: Path
    segments: list[dict[str, Any]]
    """segments_info: id, category_id, iscrowd."""


@dataclass(frozen=True)
class PanopticSet:
    """A panoptic JSON with its folder of PNGs."""

    categories: list[dict[str, Any]]
    entries: list[Entry]

    @property
    def num_things(self) -> int:
        """Number of thing classes: the categories list things first."""
        return sum(c["isthing"] for c in self.categories)


def read(folder: Path) -> PanopticSet:
    """Read folder/panoptic.json; the PNGs are in folder/panoptic. Raises ValueError for a picture without entry."""
    content = files.read_json(folder / "panoptic.json")
    by_image = {a["image_id"]: a for a in content["annotations"]}
    missing = [i["file_name"] for i in content["images"] if i["id"] not in by_image]
    if missing:
        raise ValueError(f"{folder}/panoptic.json: no annotation for {missing[:3]}; write the set again")
    entries = []
    for image in content["images"]:
        found = by_image[image["id"]]
        png = folder / "panoptic" / found["file_name"]
        entries.append(Entry(image["id"], image["file_name"], png, found["segments_info"]))
    return PanopticSet(content["categories"], entries)


def read_ids(png: Path) -> Ids:
    """Ids of a panoptic PNG: int32 [H, W], id = R + 256 G + 65536 B, 0 is void. Raises ValueError if it can't."""
    bgr = cv2.imread(str(png), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError(f"{png}: can't be read as a picture; restore the file")
    b, g, r = cv2.split(bgr.astype(np.int32))
    return np.asarray(r + 256 * g + 65536 * b, dtype=np.int32)


def write_ids(png: Path, ids: npt.NDArray[Any]) -> None:
    """Write ids [H, W], 0 to 2^24 - 1, as an RGB PNG."""
    bgr = np.stack([(ids >> shift) & 255 for shift in (16, 8, 0)], axis=-1).astype(np.uint8)
    if not cv2.imwrite(str(png), bgr):
        raise OSError(f"{png}: can't be written; check the disk")


def write_predictions(folder: Path, truth: PanopticSet, predictions: "list[tuple[Ids, dict[int, int]]]") -> None:
    """Write predicted maps, (ids, segment id -> category_id) in the order of truth.entries, as a panoptic set."""
    (folder / "panoptic").mkdir(parents=True)
    images, annotations = [], []
    for entry, (ids, category_ids) in zip(truth.entries, predictions, strict=True):
        name = f"{Path(entry.image).stem}.png"
        write_ids(folder / "panoptic" / name, ids)
        images.append({"id": entry.image_id, "file_name": entry.image, "height": ids.shape[0], "width": ids.shape[1]})
        segments = [{"id": i, "category_id": c, "iscrowd": 0} for i, c in category_ids.items()]
        annotations.append({"image_id": entry.image_id, "file_name": name, "segments_info": segments})
    content = {"images": images, "annotations": annotations, "categories": truth.categories}
    files.write_json(folder / "panoptic.json", content)


def class_map(ids: Ids, segments: list[dict[str, Any]]) -> npt.NDArray[np.uint8]:
    """category_id of each pixel, uint8 [H, W]; 0 for void and for crowds, whose single objects are not drawn."""
    result = np.zeros(ids.shape, np.uint8)
    for segment in segments:
        if not segment["iscrowd"]:
            result[ids == segment["id"]] = segment["category_id"]
    return result
