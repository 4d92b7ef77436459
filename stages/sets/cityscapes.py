"""Cityscapes with fine annotations, and KITTI's semantics, which have the same labels in another coding.

Cityscapes: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and gtFine/SPLIT/CITY/*_gtFine_instanceIds.png, 16-bit grey. A
value below 1000 is a label: stuff, or a group of a thing class, which is a crowd. Others are label * 1000 + object.
The split test has no annotations. KITTI: training/{image_2,semantic,instance}/*.png; instance is 16-bit,
label * 256 + object, where object 0 of a thing class is a crowd; semantic is 8-bit, the label alone. The licence plate,
-1, is void; it reads as 255 in 8 bits and as 65535 in 16.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from stages import config
from stages.foundation import files
from stages.sets import classes, pairs, pngs
from stages.sets.raw_set import VOID, Problem, Raster, Scene
from stages.vistas.labels import Label

_CLASSES: Final = classes.load("cityscapes")
_NUM_LABELS: Final = len(_CLASSES.labels)
_VALUE: Final = np.arange(1 << 16)
_PLATE_8, _PLATE_16 = 255, 65535
_PICTURE = "_leftImg8bit"
_MASK = "_gtFine_instanceIds.png"


@dataclass(frozen=True)
class _Coding:
    """What each 16-bit value of a mask means."""

    known: npt.NDArray[np.bool_]
    """Whether a mask may have the value, bool [65536]."""
    labels: npt.NDArray[np.int32]
    """Label, or VOID; int32 [65536]."""
    crowds: npt.NDArray[np.bool_]
    """Whether it is a crowd, bool [65536]."""


def _coding(label: npt.NDArray[np.int64], single: npt.NDArray[np.bool_], plate: int) -> _Coding:
    """Return a coding from the label of each value, whether it is a single object, and the licence plate's value."""
    things = np.append(_CLASSES.things, False)[np.minimum(label, _NUM_LABELS)]
    inside = label < _NUM_LABELS
    known = inside & (things | ~single)
    labels = np.where(known, label, VOID).astype(np.int32)
    known[plate] = True
    return _Coding(known, labels, things & ~single)


@cache
def _cityscapes() -> _Coding:
    return _coding(np.where(_VALUE < 1000, _VALUE, _VALUE // 1000), _VALUE >= 1000, _PLATE_16)


@cache
def _kitti(whole: bool) -> _Coding:
    """Return the coding of training/instance, or of training/semantic."""
    if not whole:
        return _coding(_VALUE, np.zeros(len(_VALUE), np.bool_), _PLATE_8)
    # Stuff may have numbers.
    label = _VALUE >> 8
    things = np.append(_CLASSES.things, False)[np.minimum(label, _NUM_LABELS)]
    return _coding(label, things & (_VALUE & 255 > 0), _PLATE_16)


@dataclass(frozen=True)
class Cityscapes:
    """The set in a folder."""

    root: Path
    format = config.Format.cityscapes
    version = config.Format.cityscapes.value
    source = "Cityscapes"

    @property
    def labels(self) -> tuple[Label, ...]:
        """The labels 0 to 33."""
        return _CLASSES.labels

    def scenes(self, split: str = "") -> Iterator[Scene | Problem]:
        """Yield the pictures of a split, or of train and val."""
        places = [split] if split else ["train", "val"]
        images = pairs.by_key(
            (p for at in places for p in (self.root / "leftImg8bit" / at).glob("*/*")),
            pairs.ending(f"{_PICTURE}.png", f"{_PICTURE}.jpg"),
        )
        pairs.require(images, self.root / "leftImg8bit", split)
        masks = pairs.by_key((p for at in places for p in (self.root / "gtFine" / at).glob("*/*")), pairs.ending(_MASK))
        yield from pairs.scenes(self.root, images, {"mask gtFine_instanceIds.png": masks})

    def raster(self, scene: Scene) -> Raster:
        """Decode an instance mask."""
        path = scene.annotation
        fix = "use the instanceIds of gtFine_trainvaltest.zip; 8 bits can't hold label * 1000 + object"
        values = np.asarray(pngs.read(path, 16, pngs.GREY, fix), np.uint16)
        coding = _cityscapes()
        rule = (
            "expected labels 0 to 33, and label * 1000 + object for labels 24 to 33; are they train ids, use the files "
            "instanceIds of the download"
        )
        pngs.require_known(path, values, coding.known, rule)
        return Raster(values, coding.labels, coding.crowds)


@dataclass(frozen=True)
class Kitti:
    """KITTI's semantics in a folder. The set has no validation split."""

    root: Path
    format = config.Format.kitti
    version = config.Format.kitti.value
    source = "KITTI's semantics"

    @property
    def labels(self) -> tuple[Label, ...]:
        """The labels of Cityscapes."""
        return _CLASSES.labels

    def scenes(self, split: str = "") -> Iterator[Scene | Problem]:
        """Yield the pictures of the training set. `testing` has no annotations, and there is no split val."""
        if split == "val":
            pairs.require({}, self.root, split)
        images = pairs.by_key((self.root / "training/image_2").glob("*"), pairs.ending(".png"))
        pairs.require(images, self.root / "training/image_2", split)
        kind = "instance" if (self.root / "training/instance").is_dir() else "semantic"
        masks = pairs.by_key((self.root / "training" / kind).glob("*"), pairs.ending(".png"))
        yield from pairs.scenes(self.root, images, {f"mask in training/{kind}": masks})

    def raster(self, scene: Scene) -> Raster:
        """Decode a mask of training/instance, or of training/semantic if the set has only these."""
        path = scene.annotation
        whole = path.parent.name == "instance"
        fix = "use the files of data_semantics.zip"
        values = np.asarray(pngs.read(path, 16 if whole else 8, pngs.GREY, fix), np.uint16)
        coding = _kitti(whole)
        expected = "label * 256 + object" if whole else "labels"
        rule = f"expected {expected} with labels 0 to 33; KITTI-360 and Cityscapes have another coding"
        pngs.require_known(path, values, coding.known, rule)
        if whole and int(values.max()) < 256 and int(values.max()) > 0:
            found = f"no value above {int(values.max())}, so that every pixel would be label 0"
            raise ValueError(f"{files.printable(path)}: {found}; these are labels, put them in training/semantic")
        return Raster(values, coding.labels, coding.crowds, max_objects=256 if whole else 0)


def open_cityscapes(folder: Path, source: config.Source, key: str) -> Cityscapes:
    """Open the set in a folder."""
    return Cityscapes(folder)


def open_kitti(folder: Path, source: config.Source, key: str) -> Kitti:
    """Open the set in a folder."""
    return Kitti(folder)
