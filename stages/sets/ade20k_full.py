"""ADE20K full, release 2021_17_01: images/ADE/SPLIT/THEME/SCENE/NAME.jpg with NAME_seg.png and NAME.json beside it.

A pixel's class is (R // 10) * 256 + G, 0 for none, and B tells the objects of a picture apart. The JSON files are in
Latin-1 and give names to the classes (name_ndx is the class). There are thousands of classes, so a table has to choose
some and say which are things; parts are not read.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages import config
from stages.foundation import files
from stages.sets import classes, pairs, pngs
from stages.sets.raw_set import VOID, Problem, Raster, Scene
from stages.vistas.labels import Label
from stages.vistas.reader import SPLITS


@dataclass(frozen=True)
class Ade20kFull:
    """The set in a folder."""

    root: Path
    labels: tuple[Label, ...]
    label_of: dict[int, int]
    """Class of the pixels -> label."""
    format = config.Format.ade20k_full
    version = config.Format.ade20k_full.value
    source = "ADE20K (full)"

    def scenes(self, split: str = "") -> Iterator[Scene | Problem]:
        """Yield the pictures of a split."""
        places = [SPLITS[split]] if split else list(SPLITS.values())
        paths = [p for at in places for p in (self.root / "images/ADE" / at).glob("*/*/*") if p.is_file()]
        images = pairs.by_key(paths, pairs.ending(".jpg"))
        pairs.require(images, self.root / "images/ADE", split)
        masks, texts = pairs.by_key(paths, pairs.ending("_seg.png")), pairs.by_key(paths, pairs.ending(".json"))
        yield from pairs.scenes(self.root, images, {"mask _seg.png": masks, "JSON": texts})

    def raster(self, scene: Scene) -> Raster:
        """Decode a mask."""
        path = scene.annotation
        name = files.printable(path)
        rgb = pngs.read(path, 8, pngs.RGB, "use NAME_seg.png of the release 2021_17_01")
        runs = pngs.colors(path, rgb)
        red, green, blue = runs.codes & 255, runs.codes >> 8 & 255, runs.codes >> 16
        # The last digit of R says nothing, so colors that differ only in it are one object.
        codes, places = np.unique(red // 10 << 16 | green << 8 | blue, return_inverse=True)
        present = codes >> 8
        if strange := [kind for kind in present.tolist() if kind and kind not in self.label_of]:
            raise ValueError(f"{name}: class {strange[0]}, which no JSON of the set names; restore the set's files")
        labels = np.array([self.label_of[kind] if kind else VOID for kind in present.tolist()], np.int32)
        return Raster(runs.painted(places), labels, np.zeros(len(labels), np.bool_))


def open_set(folder: Path, source: config.Source, key: str) -> Ade20kFull:
    """Open the set in a folder. Reads the JSON of every picture, since only these name the classes.

    Raises ValueError, naming the file, for a JSON that is no description, or where two files name a class differently.
    """
    names = dict[int, str]()
    for path in sorted((folder / "images/ADE").glob("*/*/*/*.json")):
        where = files.printable(path)
        try:
            objects = json.loads(path.read_bytes().decode("latin-1"))["annotation"]["object"]
            found = [(int(entry["name_ndx"]), str(entry["name"])) for entry in objects]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            found_text = f"not a description of 2021 ({type(error).__name__}: {error})"
            raise ValueError(f"{where}: {found_text}, expected annotation.object[].name_ndx; restore it") from error
        for number, name in found:
            if names.setdefault(number, name) != name:
                other = f"class {number} is {name!r} here and {names[number]!r} in another file"
                raise ValueError(f"{where}: {other}; use the files of one release")
    given = list(names.values())
    labels, label_of = list[Label](), dict[int, int]()
    for number in sorted(names):
        name = names[number]
        # Several classes share a name, such as `screen`.
        unique = name if given.count(name) == 1 else f"{name} #{number}"
        label_of[number] = len(labels)
        labels.append(classes.label(len(labels), unique, False, number=number))
    return Ade20kFull(folder, tuple(labels), label_of)
