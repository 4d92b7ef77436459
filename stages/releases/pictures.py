"""Pictures of a release: validation pictures beside the maps of annotation, checkpoint and engine, as JPEG files."""

from pathlib import Path

import cv2
import numpy as np

from stages.coco import panoptic
from stages.foundation import picture_files
from stages.inference import frames
from stages.inference.segments import Segments
from stages.media import drawing

MAX_WIDTH_PX = 480
"""Width of one map; a file has up to four beside each other."""
JPEG_QUALITY = 88


def write(out: Path, sets: dict[str, Path], count: int) -> list[str]:
    """Write 1.jpg, 2.jpg, ... to the folder `out`: at most `count` pictures, spread evenly over the set.

    `sets` are folders of COCO panoptic sets by their names in the caption; the first one is the annotation, which has
    the pictures. Returns the columns' names: picture, and those of `sets`. A set without a map of a picture shows the
    picture alone. Raises ValueError for a file that can't be read.
    """
    maps = {name: panoptic.read(folder) for name, folder in sets.items()}
    truth = next(iter(maps.values()))
    by_image = [{entry.image_id: entry for entry in found.entries} for found in maps.values()]
    painter = drawing.Painter(truth.categories, drawing.REPORT_STYLE)
    count = min(count, len(truth.entries))
    for number in range(count):
        first = truth.entries[(2 * number + 1) * len(truth.entries) // (2 * count)]
        picture = _shrink(picture_files.read_rgb(first.image))
        cells = [picture] + [_overlay(picture, found.get(first.image_id), painter) for found in by_image]
        _write_jpeg(out / f"{number + 1}.jpg", np.concatenate(cells, axis=1))
    return ["picture", *sets]


def _overlay(picture: frames.Frame, entry: panoptic.Entry | None, painter: drawing.Painter) -> frames.Frame:
    if entry is None:
        return picture
    height, width = picture.shape[:2]
    ids = cv2.resize(panoptic.read_ids(entry.png), (width, height), interpolation=cv2.INTER_NEAREST).astype(np.int32)
    category_ids = {segment["id"]: segment["category_id"] for segment in entry.segments}
    return painter.overlay(picture, Segments(ids, drawing.from_left_to_right(ids, category_ids)))


def _shrink(picture: frames.Frame) -> frames.Frame:
    height, width = picture.shape[:2]
    if width <= MAX_WIDTH_PX:
        return picture
    size = (MAX_WIDTH_PX, max(1, round(height * MAX_WIDTH_PX / width)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _write_jpeg(path: Path, picture: frames.Frame) -> None:
    ok, content = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not ok:
        raise ValueError(f"a picture of shape {picture.shape} can't be encoded as JPEG")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.tobytes())
