"""COCO panoptic files: a JSON list of segments and an RGB PNG of ids per picture (cocodataset.org/#format-results)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stages.foundation import files, panoptic_ids
from stages.inference import frames

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Entry:
    """One picture of a panoptic set."""

    image_id: int
    image: Path
    """The picture."""
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
    """Read folder/panoptic.json; the PNGs are in folder/panoptic, and pictures' file names are relative to `folder`.

    Raises ValueError for a picture without entry.
    """
    content = files.read_json(folder / "panoptic.json")
    by_image = {a["image_id"]: a for a in content["annotations"]}
    missing = [i["file_name"] for i in content["images"] if i["id"] not in by_image]
    if missing:
        raise ValueError(f"{folder}/panoptic.json: no annotation for {missing[:3]}; write the set again")
    entries = []
    for image in content["images"]:
        found = by_image[image["id"]]
        png = folder / "panoptic" / found["file_name"]
        entries.append(Entry(image["id"], folder / image["file_name"], png, found["segments_info"]))
    return PanopticSet(content["categories"], entries)


def read_ids(png: Path) -> Ids:
    """Ids of a panoptic PNG: int32 [H, W], id = R + 256 G + 65536 B, 0 is void. Raises ValueError if it can't."""
    return panoptic_ids.decode(frames.read_rgb(png))


def write_ids(png: Path, ids: npt.NDArray[Any]) -> None:
    """Write ids [H, W], 0 to 2^24 - 1, as an RGB PNG. Raises OSError if it can't."""
    _, content = cv2.imencode(".png", np.ascontiguousarray(panoptic_ids.encode(ids)[..., ::-1]))
    png.write_bytes(content.tobytes())


class Writer:
    """Writes predicted maps as a panoptic set, one picture at a time."""

    def __init__(self, folder: Path, categories: list[dict[str, Any]]) -> None:
        """Make `folder`, which must not exist."""
        self.folder = folder
        self._content: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
        (folder / "panoptic").mkdir(parents=True)

    def add(self, entry: Entry, ids: Ids, category_ids: dict[int, int]) -> None:
        """Write the map of the picture of `entry`: int32 [H, W] ids with segment id -> category_id."""
        name = entry.png.name
        write_ids(self.folder / "panoptic" / name, ids)
        height, width = ids.shape
        image = {"id": entry.image_id, "file_name": entry.image.name, "height": height, "width": width}
        segments = [{"id": i, "category_id": c, "iscrowd": 0} for i, c in category_ids.items()]
        self._content["images"].append(image)
        self._content["annotations"].append({"image_id": entry.image_id, "file_name": name, "segments_info": segments})

    def close(self) -> None:
        """Write the JSON."""
        files.write_json(self.folder / "panoptic.json", self._content)


def class_map(ids: Ids, segments: list[dict[str, Any]]) -> npt.NDArray[np.uint8]:
    """category_id of each pixel, uint8 [H, W]; 0 for void and for crowds, whose single objects are not drawn."""
    result = np.zeros(ids.shape, np.uint8)
    for segment in segments:
        if not segment["iscrowd"]:
            result[ids == segment["id"]] = segment["category_id"]
    return result
