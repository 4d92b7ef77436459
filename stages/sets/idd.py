"""IDD: leftImg8bit/SPLIT/DRIVE/*_leftImg8bit.{png,jpg} and gtFine/SPLIT/DRIVE/*_gtFine_polygons.json, without masks.

Polygons are drawn in the file's order by Pillow, as the set's own tools do it, so later ones cover earlier ones.
`deleted` marks a polygon that is not drawn. A name that ends with `group` is a crowd of the thing before it. What no
polygon covers is unlabeled.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from stages import config
from stages.foundation import files, picture_limit, text
from stages.sets import classes, pairs
from stages.sets.raw_set import Problem, Raster, Scene
from stages.vistas.labels import Label

_CLASSES: Final = classes.load("idd")
_BY_NAME: Final = {label.name: label for label in _CLASSES.labels}
_GROUP: Final = "group"
_MAX_OBJECTS: Final = (1 << 16) - 1
_MAX_PLACE_PX: Final = 1 << 20
"""Of a corner, which may lie outside of the picture."""
_RESTORE: Final = "restore the file"


@dataclass(frozen=True)
class Idd:
    """The set in a folder."""

    root: Path
    format = config.Format.idd
    version = config.Format.idd.value
    source = "IDD"

    @property
    def labels(self) -> tuple[Label, ...]:
        """The 40 labels."""
        return _CLASSES.labels

    def scenes(self, split: str = "") -> Iterator[Scene | Problem]:
        """Yield the pictures of a split, or of train and val. A key is DRIVE_NAME, since drives share names."""
        places = [split] if split else ["train", "val"]
        ends = ("_leftImg8bit.png", "_leftImg8bit.jpg")
        images = pairs.by_key(
            (p for at in places for p in (self.root / "leftImg8bit" / at).glob("*/*")), pairs.ending(*ends, joined=True)
        )
        pairs.require(images, self.root / "leftImg8bit", split)
        polygons = pairs.by_key(
            (p for at in places for p in (self.root / "gtFine" / at).glob("*/*")),
            pairs.ending("_gtFine_polygons.json", joined=True),
        )
        yield from pairs.scenes(self.root, images, {"file gtFine_polygons.json": polygons})

    def raster(self, scene: Scene) -> Raster:
        """Draw the polygons of a picture."""
        path = scene.annotation
        name = files.printable(path)
        content: files.Json = text.read_json(path)
        try:
            width, height = int(content["imgWidth"]), int(content["imgHeight"])
            objects = [
                (str(entry["label"]), _corners(entry["polygon"]))
                for entry in content["objects"]
                if not entry.get("deleted")
            ]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            expected = "expected imgWidth, imgHeight and objects with label and polygon"
            raise ValueError(f"{name}: not IDD's polygons ({type(error).__name__}: {error}), {expected}") from error
        if not (0 < width <= 1 << 15 and 0 < height <= 1 << 15 and len(objects) <= _MAX_OBJECTS):
            raise ValueError(f"{name}: {width}x{height} with {len(objects)} objects, expected a picture; {_RESTORE}")
        try:
            picture_limit.require(width, height)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        labels, crowds = [_BY_NAME["unlabeled"].id], [False]
        canvas = Image.new("I", (width, height), 0)
        pen = ImageDraw.Draw(canvas)
        for number, (label, polygon) in enumerate(objects, 1):
            known, crowd = _label(name, label)
            labels.append(known)
            crowds.append(crowd)
            if len(polygon) < 2:
                raise ValueError(f"{name}: a polygon of {label!r} has {len(polygon)} points, expected 3; {_RESTORE}")
            pen.polygon(polygon.ravel().tolist(), fill=number)
        return Raster(np.asarray(canvas).astype(np.uint16), np.array(labels, np.int32), np.array(crowds, np.bool_))


def _corners(polygon: files.Json) -> npt.NDArray[np.float64]:
    """Return the corners of a polygon, float64 [N, 2].

    Raises ValueError, TypeError or OverflowError for what is no list of pairs of numbers, and for numbers that are no
    place near a picture, among them infinity and NaN, which JSON readers accept.
    """
    corners = np.array(polygon, np.float64)
    if corners.ndim != 2 or corners.shape[1] != 2:
        raise ValueError(f"polygon of shape {corners.shape}")
    # Pillow's coordinates have 32 bits.
    if (strange := corners[~(np.abs(corners) < _MAX_PLACE_PX)]).size:
        raise ValueError(f"coordinate {strange[0]}")
    return corners


def _label(name: str, written: str) -> tuple[int, bool]:
    """Return the label of a polygon and whether it is a crowd. Raises ValueError for an unknown one."""
    if label := _BY_NAME.get(written):
        return label.id, False
    base = _BY_NAME.get(written.removesuffix(_GROUP))
    if written.endswith(_GROUP) and base is not None and base.instances:
        return base.id, True
    raise ValueError(f"{name}: label {written!r}, expected one of IDD's 40 or a group of a thing; correct the label")


def open_set(folder: Path, source: config.Source, key: str) -> Idd:
    """Open the set in a folder."""
    return Idd(folder)
