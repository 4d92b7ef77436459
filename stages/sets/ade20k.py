"""ADE20K SceneParsing (ADEChallengeData2016), 150 classes, with or without the objects of annotations_instance.

images/{training,validation}/ADE_*.jpg; annotations/ the same names as 8-bit grey PNGs, 0 void and classes 1 to 150;
annotations_instance/ (ADEChallengeData2017) as RGB: R is a class of the instance benchmark, 1 to 100, G the number of
the object in the picture, 0 for none, B unused. Objects lie over the class map, as the benchmark's own preparation does
it. Pixels of a thing class outside of all objects are a crowd.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from stages import config
from stages.foundation import files
from stages.sets import classes, pairs, pngs
from stages.sets.raw_set import Problem, Raster, Scene
from stages.vistas.labels import Label
from stages.vistas.reader import SPLITS

_CLASSES: Final = classes.load("ade20k")
_NUM_CLASSES: Final = 150
_THING_IDS: Final = np.flatnonzero(_CLASSES.things) + 1
"""Class of the instance benchmark, from 0 -> class of SceneParsing: its things, in their order."""
_OBJECTS: Final = _NUM_CLASSES + 1
"""First value of the raster that is an object's; values below are classes."""
_KNOWN: Final = np.arange(256) <= _NUM_CLASSES
_LABELS: Final = np.concatenate([[-1], np.arange(_NUM_CLASSES), np.full(256, -1)]).astype(np.int32)
"""Value of the raster -> label, of a picture without objects."""
_CROWDS: Final = np.concatenate([[False], _CLASSES.things, np.zeros(256, np.bool_)])


@dataclass(frozen=True)
class Ade20k:
    """The set in a folder."""

    root: Path
    format = config.Format.ade20k
    version = config.Format.ade20k.value
    source = "ADE20K SceneParsing"

    @property
    def labels(self) -> tuple[Label, ...]:
        """The 150 classes."""
        return _CLASSES.labels

    def scenes(self, split: str = "") -> Iterator[Scene | Problem]:
        """Yield the pictures of a split. With a folder annotations_instance each picture needs a file there."""
        places = [SPLITS[split]] if split else list(SPLITS.values())
        kinds = {"mask": "annotations"}
        if (self.root / "annotations_instance").is_dir():
            kinds["instance mask"] = "annotations_instance"
        images = pairs.by_key(
            (p for at in places for p in (self.root / "images" / at).glob("*")), pairs.ending(".jpg", ".jpeg", ".png")
        )
        pairs.require(images, self.root / "images", split)
        masks = {
            kind: pairs.by_key((p for at in places for p in (self.root / folder / at).glob("*")), pairs.ending(".png"))
            for kind, folder in kinds.items()
        }
        yield from pairs.scenes(self.root, images, masks)

    def raster(self, scene: Scene) -> Raster:
        """Decode the masks of a picture."""
        path = scene.annotation
        fix = "use the PNGs of annotations in ADEChallengeData2016, not colour pictures"
        read = pngs.read(path, 8, pngs.GREY, fix)
        rule = "expected 0 for void and 1 to 150; use the PNGs of the download, whose ids no tool has shifted"
        pngs.require_known(path, read, _KNOWN, rule)
        values = read.astype(np.uint16)
        labels = _LABELS.copy()
        if scene.others:
            _add_objects(scene.others[0], path, values, labels)
        return Raster(values, labels, _CROWDS)


def _add_objects(path: Path, classes_path: Path, values: pngs.Uint16, labels: pngs.Int32) -> None:
    """Write the objects of an instance mask over `values`, and their labels into `labels`."""
    rgb = pngs.read(path, 8, pngs.RGB, "use the PNGs of annotations_instance in ADEChallengeData2017")
    pngs.require_size(path, rgb.shape, classes_path, values.shape)
    runs = pngs.colors(path, rgb)
    number_of = runs.codes >> 8 & 255
    codes = np.unique(runs.codes[number_of > 0] & 0xFFFF).astype(np.int32)
    numbers, kinds = codes >> 8, codes & 255
    name = files.printable(path)
    if len(strange := kinds[(kinds < 1) | (kinds > len(_THING_IDS))]):
        rule = "expected 1 to 100 in the red channel where green is not 0; restore the file"
        raise ValueError(f"{name}: found class {strange[0]}, {rule}")
    if len(twice := numbers[:-1][np.diff(numbers) == 0]):
        raise ValueError(f"{name}: object {twice[0]} has several classes, expected one; restore the file")
    labels[_OBJECTS + numbers - 1] = _THING_IDS[kinds - 1] - 1
    over = runs.painted(np.where(number_of > 0, number_of + (_OBJECTS - 1), 0))
    # Every object's value is above those of the classes.
    np.maximum(values, over, out=values)


def open_set(folder: Path, source: config.Source, key: str) -> Ade20k:
    """Open the set in a folder."""
    return Ade20k(folder)
