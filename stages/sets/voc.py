"""Pascal VOC 2012: JPEGImages, SegmentationClass, SegmentationObject and ImageSets/Segmentation/{train,val}.txt.

The masks are palette PNGs whose indices are the values: class 0 to 20 and 255 for borders and difficult objects; the
number of the object, from 1, and 255. Background, 0, is "none of the 20 classes", so it is void unless a table says
otherwise. SegmentationClassAug of other authors is grey, without borders and objects, and is not read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from stages import config
from stages.foundation import files, text
from stages.sets import classes, pairs, pngs
from stages.sets.raw_set import Problem, Raster, Scene
from stages.vistas.labels import Label

_CLASSES: Final = classes.load("voc")
_NUM_LABELS: Final = len(_CLASSES.labels)
_BORDER: Final = 255


@dataclass(frozen=True)
class Voc:
    """The set in a folder VOC2012."""

    root: Path
    format = config.Format.voc
    version = config.Format.voc.value
    source = "Pascal VOC"

    @property
    def labels(self) -> tuple[Label, ...]:
        """Background and the 20 classes."""
        return _CLASSES.labels

    def scenes(self, split: str = "") -> Iterator[Scene | Problem]:
        """Yield the pictures that the split's list names, or those of train and val."""
        names = set[str]()
        for name in [split] if split else ["train", "val"]:
            path = self.root / f"ImageSets/Segmentation/{name}.txt"
            if not path.is_file():
                raise FileNotFoundError(f"{path} not found; unpack the set as a whole, or set data.splits in conf/data")
            names.update(line.strip() for line in text.read(path).splitlines() if line.strip())
        pairs.require(names, self.root, split)
        images = {name: [self.root / f"JPEGImages/{name}.jpg"] for name in names}
        masks = {
            kind: {name: [self.root / f"{kind}/{name}.png"] for name in names}
            for kind in ("SegmentationClass", "SegmentationObject")
        }
        yield from pairs.scenes(self.root, images, masks)

    def raster(self, scene: Scene) -> Raster:
        """Decode the class mask and the object mask."""
        path, (objects_path,) = scene.annotation, scene.others
        fix = "use the palette PNGs of VOCtrainval_11-May-2012.tar"
        kinds = pngs.read(path, 8, pngs.PALETTE, fix)
        numbers = pngs.read(objects_path, 8, pngs.PALETTE, fix)
        pngs.require_size(objects_path, numbers.shape, path, kinds.shape)
        known = np.arange(256) < _NUM_LABELS
        known[_BORDER] = True
        pngs.require_known(path, kinds, known, "expected 0 to 20, and 255 for borders; restore the file")
        runs = pngs.numbered(path, numbers.astype(np.uint16) << 8 | kinds)
        kind, number = (runs.codes & 255).astype(np.int32), (runs.codes >> 8).astype(np.int32)
        inside = (kind != _BORDER) & (kind > 0) & (number != _BORDER) & (number > 0)
        if len(twice := number[inside][:-1][np.diff(number[inside]) == 0]):
            found = f"object {twice[0]} has several classes in {files.printable(path)}, expected one"
            raise ValueError(f"{files.printable(objects_path)}: {found}; restore both files")
        # Values below 256 are classes without an object; the object n is 255 + n.
        values = runs.painted(np.where(inside, number + 255, kind))
        labels = np.full(512, -1, np.int32)
        labels[:_NUM_LABELS] = np.arange(_NUM_LABELS)
        labels[number[inside] + 255] = kind[inside]
        crowds = np.zeros(512, np.bool_)
        crowds[:_NUM_LABELS] = _CLASSES.things
        return Raster(values, labels, crowds)


def open_set(folder: Path, source: config.Source, key: str) -> Voc:
    """Open the set in a folder."""
    return Voc(folder)
