"""Writes a set in the layout of Mapillary Vistas v2.0, from one map of segments per picture.

SPLIT/images/KEY.jpg              picture, RGB
SPLIT/v2.0/instances/KEY.png      uint16 grey, label * 256 + instance; instances start at 0 in each label
SPLIT/v2.0/labels/KEY.png         palette PNG, label id
SPLIT/v2.0/panoptic/KEY.png       RGB, segment ids (stages/foundation/panoptic_ids.py)
SPLIT/v2.0/panoptic/panoptic_2020.json   COCO panoptic JSON
SPLIT/v2.0/polygons/KEY.json      outer contours, far to near
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from stages.foundation import panoptic_ids
from stages.foundation.coco_types import Annotation, Category, SegmentInfo
from stages.vistas.labels import CROWD_OF, LABELS, UNLABELED

VERSION: Final = "v2.0"
CONTENTS: Final = ("instances", "labels", "panoptic", "polygons")
PANOPTIC_JSON: Final = "panoptic_2020.json"
MAX_INSTANCES: Final = 256
"""Objects of one label in a picture that the lower 8 bits of a mask's values can hold."""
JPEG_QUALITY: Final = 92
PNG_COMPRESSION: Final = 6


@dataclass
class PaintedScene:
    """One annotated picture before encoding."""

    image: npt.NDArray[np.uint8]
    """(H, W, 3) uint8 RGB."""
    segments: npt.NDArray[np.uint16]
    """(H, W) uint16, indices into `labels`. Later segments are nearer to the camera."""
    labels: list[int]
    """Label id of each segment, 0 to 123. A stuff label occurs at most once."""


def key(seed: int, split: str, index: int) -> str:
    """Return an image key in Mapillary's form: 22 URL-safe base64 characters. It depends only on the arguments."""
    digest = hashlib.sha256(f"{seed}/{split}/{index}".encode()).digest()
    return base64.urlsafe_b64encode(digest[:16]).decode().rstrip("=")


def encode_instances(scene: PaintedScene) -> npt.NDArray[np.uint16]:
    """Return the Vistas instance map, (H, W) uint16, label * 256 + instance.

    Visible segments of a label with instances are numbered from 0, far to near. Other labels have instance 0. Raises
    ValueError if a label has more than 256 visible instances, which the format can't hold.
    """
    counts = np.bincount(scene.segments.ravel(), minlength=len(scene.labels))
    table = np.zeros(len(scene.labels), np.uint16)
    used: dict[int, int] = {}
    for segment, label in enumerate(scene.labels):
        if counts[segment] == 0:
            continue
        instance = used.get(label, 0) if LABELS[label].instances else 0
        used[label] = instance + 1
        if instance >= MAX_INSTANCES:
            raise ValueError(
                f"{LABELS[label].name}: more than {MAX_INSTANCES} instances in one picture, expected at most "
                f"{MAX_INSTANCES}, as 8 bits hold; paint fewer of them, or paint a group"
            )
        table[segment] = label * 256 + instance
    return table[scene.segments]


def panoptic(instances: npt.NDArray[np.uint16]) -> tuple[npt.NDArray[np.uint8], list[SegmentInfo]]:
    """Return the colours of the COCO panoptic PNG, (H, W, 3) uint8 RGB, and its segments, from a Vistas instance map.

    The id of a segment is its instance value + 1. A group becomes a crowd of its base class. Every other label that is
    not evaluated becomes void.
    """
    values, inverse = np.unique(instances, return_inverse=True)
    inverse = inverse.reshape(instances.shape)
    ids = np.zeros(len(values), np.uint32)
    info: list[SegmentInfo] = []
    for i, value in enumerate(values.tolist()):
        label = value // 256
        if not (LABELS[label].evaluate or label in CROWD_OF):
            continue
        ids[i] = value + 1
        mask = (inverse == i).astype(np.uint8)
        x, y, w, h = cv2.boundingRect(mask)
        info.append(
            {
                "id": value + 1,
                "category_id": CROWD_OF.get(label, label) + 1,
                "area": int(cv2.countNonZero(mask)),
                "bbox": [x, y, w, h],
                "iscrowd": int(label in CROWD_OF),
            }
        )
    return panoptic_ids.encode(ids[inverse]), info


def categories() -> list[Category]:
    """Return the evaluated labels as COCO categories; category_id is the label id + 1."""
    return [
        {
            "id": label.id + 1,
            "name": label.name,
            "supercategory": label.name.rpartition("--")[0],
            "isthing": int(label.instances),
            "color": list(label.color),
        }
        for label in LABELS
        if label.evaluate
    ]


def polygons(scene: PaintedScene) -> dict[str, object]:
    """Return the outer contours of every visible part of every segment, far to near, in pixels, without holes."""
    height, width = scene.segments.shape
    objects: list[dict[str, object]] = []
    for segment in np.unique(scene.segments).tolist():
        label = scene.labels[segment]
        if label == UNLABELED:
            continue
        # Contours are searched in the segment's bounding box, which is much smaller than the picture.
        mask = (scene.segments == segment).astype(np.uint8)
        x0, y0, w, h = cv2.boundingRect(mask)
        part = np.ascontiguousarray(mask[y0 : y0 + h, x0 : x0 + w])
        for contour in cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]:
            points = contour.reshape(-1, 2) + np.array([x0, y0])
            if len(points) < 3:  # A pixel or a straight line of pixels: its centres form no polygon, its outline does.
                (left, top), (right, bottom) = points.min(0), points.max(0) + 1
                points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
            objects.append({"id": len(objects), "label": LABELS[label].name, "polygon": points.tolist()})
    return {"width": width, "height": height, "objects": objects}


def make_folders(split: Path) -> None:
    """Make the folders of a split, such as OUT/training, which must not exist."""
    (split / "images").mkdir(parents=True)
    for content in CONTENTS:
        (split / VERSION / content).mkdir(parents=True)


def write_scene(split: Path, name: str, scene: PaintedScene) -> Annotation:
    """Write all files of a scene into the folder of a split, and return its annotation for the panoptic JSON."""
    instances = encode_instances(scene)
    ids, info = panoptic(instances)
    folder = split / VERSION
    png = [cv2.IMWRITE_PNG_COMPRESSION, PNG_COMPRESSION]
    _write(split / "images" / f"{name}.jpg", scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    _write(folder / "instances" / f"{name}.png", instances, png)
    _write(folder / "panoptic" / f"{name}.png", ids[..., ::-1], png)
    indexed = Image.fromarray((instances >> 8).astype(np.uint8), mode="P")
    indexed.putpalette([channel for label in LABELS for channel in label.color])
    indexed.save(folder / "labels" / f"{name}.png", compress_level=PNG_COMPRESSION)
    write_json(folder / "polygons" / f"{name}.json", polygons(scene))
    return {"image_id": name, "file_name": f"{name}.png", "segments_info": info}


def write_panoptic_json(split: Path, annotations: Sequence[Annotation], height: int, width: int) -> None:
    """Write the panoptic JSON of a split whose pictures all have height x width pixels."""
    images = [
        {"id": a["image_id"], "file_name": f"{a['image_id']}.jpg", "width": width, "height": height}
        for a in annotations
    ]
    content = {"images": images, "annotations": annotations, "categories": categories()}
    write_json(split / VERSION / "panoptic" / PANOPTIC_JSON, content)


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write compact JSON. Keys keep their order."""
    path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")


def _write(path: Path, image: npt.NDArray[np.integer], flags: list[int]) -> None:
    done, data = cv2.imencode(path.suffix, np.ascontiguousarray(image), flags)
    if not done:
        raise OSError(f"{path}: OpenCV can't encode an array {image.shape} {image.dtype}")
    path.write_bytes(data.tobytes())
