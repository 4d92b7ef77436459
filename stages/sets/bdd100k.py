"""BDD100K panoptic: images/10k/{train,val}/*.jpg and labels/pan_seg/bitmasks/{train,val}/*.png.

A bitmask is an RGBA PNG whose channels are data, A too: R is the class, 1 to 40 (0: unlabeled); G is truncated << 3 |
occluded << 2 | crowd << 1 | ignore; the object is (B << 8) + A. A crowd, a part to be ignored and a thing without a
number are crowds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from stages import config
from stages.foundation import files
from stages.sets import classes, pairs, pngs
from stages.sets.raw_set import VOID, Problem, Raster, Scene
from stages.vistas.labels import Label

_CLASSES: Final = classes.load("bdd100k")
_NUM_CLASSES: Final = len(_CLASSES.labels)
_CROWD_OR_IGNORE: Final = 0b11


@dataclass(frozen=True)
class Bdd100k:
    """The set in a folder."""

    root: Path
    format = config.Format.bdd100k
    version = config.Format.bdd100k.value
    source = "BDD100K"

    @property
    def labels(self) -> tuple[Label, ...]:
        """The 40 classes of panoptic segmentation."""
        return _CLASSES.labels

    def scenes(self, split: str = "") -> Iterator[Scene | Problem]:
        """Yield the pictures of a split, or of train and val; test has no annotations."""
        places = [split] if split else ["train", "val"]
        images = pairs.by_key(
            (p for at in places for p in (self.root / "images/10k" / at).glob("*")), pairs.ending(".jpg")
        )
        pairs.require(images, self.root / "images/10k", split)
        masks = pairs.by_key(
            (p for at in places for p in (self.root / "labels/pan_seg/bitmasks" / at).glob("*")), pairs.ending(".png")
        )
        yield from pairs.scenes(self.root, images, {"bitmask": masks})

    def raster(self, scene: Scene) -> Raster:
        """Decode a bitmask."""
        path = scene.annotation
        fix = "use labels/pan_seg/bitmasks; its alpha channel is data, and no tool may drop it"
        rgba = np.ascontiguousarray(pngs.read(path, 8, pngs.RGBA, fix), np.uint8)
        runs = pngs.numbered(path, rgba.view("<u4")[..., 0])
        codes = runs.codes
        kinds, flags = (codes & 255).astype(np.int32), codes >> 8 & 255
        numbers = (codes >> 16 & 255).astype(np.int32) * 256 + (codes >> 24).astype(np.int32)
        name = files.printable(path)
        if (top := int(kinds.max())) > _NUM_CLASSES:
            raise ValueError(f"{name}: class {top}, expected 0 to {_NUM_CLASSES}; {fix}")
        of_class = kinds > 0
        objects = np.sort(numbers[of_class & (numbers > 0)])
        if len(twice := objects[:-1][np.diff(objects) == 0]):
            found = f"object {twice[0]} has several classes or attributes, expected one of each"
            raise ValueError(f"{name}: {found}; restore the file")
        labels = np.where(of_class, kinds - 1, VOID).astype(np.int32)
        things = np.append(_CLASSES.things, False)[labels]
        ignored = flags & _CROWD_OR_IGNORE > 0
        # Stuff to be ignored has no crowds to become one, so it is void.
        labels[(flags & 1 > 0) & ~things] = VOID
        crowds = things & (ignored | (numbers == 0))
        return Raster(runs.painted(), labels, np.asarray(crowds, np.bool_))


def open_set(folder: Path, source: config.Source, key: str) -> Bdd100k:
    """Open the set in a folder."""
    return Bdd100k(folder)
