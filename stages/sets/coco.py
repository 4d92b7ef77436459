"""COCO: panoptic segments, objects, and stuff (cocodataset.org/#format-data).

coco_panoptic   annotations/panoptic_SPLIT.json and PNGs in annotations/panoptic_SPLIT/ or panoptic_SPLIT/; a segment's
                id is R + 256 G + 65536 B, 0 is void; category ids have gaps
coco_instances  annotations/instances_SPLIT.json. Objects may overlap, but a pixel has one segment here: the smaller
                object lies on top, crowds lie at the bottom, and what is lost is counted
coco_stuff      stuffthingmaps/SPLIT/*.png, 8-bit, category id - 1 and 255 for void. Objects are not separate, so things
                are crowds

Pictures lie in SPLIT/ or images/SPLIT/. SPLIT begins with train or val, such as val2017.
"""

import filecmp
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import numpy as np

from stages import config
from stages.foundation import files, names, picture_limit
from stages.sets import classes, coco_masks, json_index, painting, pairs, pngs
from stages.sets.raw_set import VOID, Problem, Raster, Scene
from stages.vistas.labels import Label

_STUFF: Final = classes.load("coco_stuff")
_STUFF_TABLE: Final = np.append(_STUFF.table(256)[1:], VOID).astype(np.int32)
"""Value of a map, category id - 1 -> label; 255 is void, -2 in none."""
_STUFF_LABELS: Final = np.where(_STUFF_TABLE < 0, VOID, _STUFF_TABLE).astype(np.int32)
_STUFF_CROWDS: Final = np.append(_STUFF.things, False)[_STUFF_LABELS]
_JSON: Final = {config.Format.coco_panoptic: "panoptic", config.Format.coco_instances: "instances"}
_ANNOTATION: Final = {config.Format.coco_panoptic: "segments_info", config.Format.coco_instances: "segmentation"}
"""Key that each annotation of a format has."""
_OTHER: Final = {
    config.Format.coco_panoptic: config.Format.coco_instances,
    config.Format.coco_instances: config.Format.coco_panoptic,
}
_SPLITS: Final = ("train", "val")
_MAX_EDGE_PX: Final = 1 << 15


@dataclass(frozen=True)
class CocoJson:
    """A set with a JSON file for each split."""

    root: Path
    format: config.Format
    labels: tuple[Label, ...]
    label_of: dict[int, int]
    """Category id -> label."""
    source: str
    crowds: ClassVar[bool] = True
    """Whether iscrowd marks a group of objects."""
    upright: ClassVar[bool] = False
    """As Scene.upright."""

    @property
    def version(self) -> str:
        """The format's name."""
        return self.format.value

    def scenes(self, split: str = "") -> Iterator[Scene | Problem]:
        """Yield the pictures of a split. A picture without an annotation has no segments, as COCO has some."""
        found = dict[str, Scene | Problem]()
        for path in self.jsons(split):
            for one in self._of_file(path):
                if (other := found.get(one.key)) is not None:
                    first = other.message if isinstance(other, Problem) else files.printable(other.image)
                    found[one.key] = Problem(
                        one.key, f"{files.printable(path)}: {files.printable(one.key)} is also in {first}"
                    )
                else:
                    found[one.key] = one
        pairs.require(found, self.root, split)
        for key in sorted(found):
            yield found[key]

    def jsons(self, split: str = "") -> list[Path]:
        """Return the files of a split, or all."""
        names = [split] if split else list(_SPLITS)
        folder, start = self.root / "annotations", _JSON[self.format]
        return [path for name in names for path in sorted(folder.glob(f"{start}_{name}*.json"))]

    def picture_folders(self, suffix: str) -> list[Path]:
        """Return where the pictures of a file named KIND_SUFFIX.json may be; the first that is there holds them."""
        return [self.root / suffix, self.root / "images" / suffix]

    def labels_of(self, path: Path, categories: list[files.Json]) -> tuple[tuple[Label, ...], dict[int, int]]:
        """Return the labels of a file's categories, and category id -> label. Raises ValueError for their faults."""
        return _labels(path, self.format, categories)

    def _of_file(self, path: Path) -> Iterator[Scene | Problem]:
        index, name = read_json(path, self.format), files.printable(path)
        if different := self._differences(*self.labels_of(path, index.categories)):
            raise ValueError(f"{name}: category {different[0]} is not as in {self.source}; use files of one release")
        suffix = path.stem.partition("_")[2]
        if strange := sorted(index.places.keys() - index.images.keys(), key=str)[:3]:
            raise ValueError(f"{name}: annotations of images {strange}, which the file does not list; restore the file")
        folders = self.picture_folders(suffix)
        pictures = next((folder for folder in folders if folder.is_dir()), folders[0])
        masks = next((f for f in (path.with_suffix(""), self.root / path.stem) if f.is_dir()), path.with_suffix(""))
        for image_id, image in index.images.items():
            if not isinstance(image["file_name"], str):
                raise ValueError(f"{name}: image {image_id} has no file_name; restore the file")
            file_name = Path(image["file_name"])
            key = file_name.stem
            if not names.is_plain(image["file_name"]) or key in ("", "..") or file_name.name != image["file_name"]:
                yield Problem(key, f"{name}: file_name {image['file_name']!r}, expected a bare name; correct the file")
                continue
            places = list(index.places.get(image_id, ()))
            size = (image["height"], image["width"])
            if not all(type(edge) is int and 0 < edge <= _MAX_EDGE_PX for edge in size):
                yield Problem(key, f"{name}: image {image_id} has height and width {size}; correct them")
                continue
            try:
                picture_limit.require(size[1], size[0])
            except ValueError as error:
                yield Problem(key, f"{name}: image {image_id}: {error}")
                continue
            if self.format is config.Format.coco_panoptic:
                if len(places) != 2:
                    found = f"{len(places) // 2} annotations of image {image_id}"
                    yield Problem(key, f"{name}: {found}, expected one; restore the file")
                    continue
                mask = masks / f"{key}.png"
                kinds = {"mask": {key: [mask]}, "JSON": {key: [path]}}
            else:
                kinds = {"JSON": {key: [path]}}
            for scene in pairs.scenes(self.root, {key: [pictures / file_name]}, kinds):
                if isinstance(scene, Problem):
                    yield scene
                else:
                    detail = json.dumps([*size, *places])
                    yield Scene(key, scene.image, scene.annotation, scene.others, detail=detail, upright=self.upright)

    def raster(self, scene: Scene) -> Raster:
        """Decode the annotations of a picture."""
        height, width, *places = json.loads(scene.detail)
        if self.format is config.Format.coco_panoptic:
            (entry,) = json_index.entries(scene.others[0], places)
            return self._segments(scene, entry)
        return self._objects(scene, json_index.entries(scene.annotation, places), height, width)

    def _differences(self, labels: tuple[Label, ...], label_of: dict[int, int]) -> list[int]:
        """Return the ids of the categories that another file names or divides into things and stuff differently."""
        own = {i: (self.labels[label].name, self.labels[label].instances) for i, label in self.label_of.items()}
        other = {i: (labels[label].name, labels[label].instances) for i, label in label_of.items()}
        return sorted(i for i in own.keys() | other.keys() if own.get(i) != other.get(i))

    def _label(self, path: Path, category: object) -> int:
        label = self.label_of.get(category) if type(category) is int else None
        if label is None:
            name = files.printable(path)
            raise ValueError(f"{name}: category {category!r}, which the file does not list; restore the file")
        return label

    def _segments(self, scene: Scene, entry: files.Json) -> Raster:
        path, json_path = scene.annotation, scene.others[0]
        rgb = pngs.read(path, 8, pngs.RGB, "use the PNGs of panoptic_SPLIT.zip")
        runs = pngs.colors(path, rgb)
        ids = runs.codes
        if entry.get("file_name") != path.name:
            found = f"file_name {entry.get('file_name')!r}, expected {path.name!r}"
            raise ValueError(f"{files.printable(json_path)}: {found}; restore the file")
        try:
            infos = {_whole(s["id"]): (s["category_id"], _iscrowd(s)) for s in entry["segments_info"]}
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            found = f"segments_info of {path.name} can't be read ({type(error).__name__}: {error})"
            raise ValueError(f"{files.printable(json_path)}: {found}; restore the file") from error
        if len(infos) < len(entry["segments_info"]):
            found = f"segments_info of {path.name} has an id twice"
            raise ValueError(f"{files.printable(json_path)}: {found}; restore the file")
        present = set(ids.tolist()) - {0}
        if present != infos.keys():
            only = (
                f"ids {sorted(present - infos.keys())[:3]} only in the PNG, {sorted(infos.keys() - present)[:3]} only"
            )
            found = f"{only} in {files.printable(json_path)}"
            raise ValueError(f"{files.printable(path)}: {found}; restore both files of the same release")
        pairs_of = [infos.get(i, (None, False)) for i in ids.tolist()]
        labels = [VOID if category is None else self._label(json_path, category) for category, _ in pairs_of]
        crowds = [crowd for _, crowd in pairs_of]
        places = {i: place for place, i in enumerate(ids.tolist())}
        order = tuple(places[i] for i in infos)
        return Raster(runs.painted(), np.array(labels, np.int32), np.array(crowds, np.bool_), order=order)

    def _objects(self, scene: Scene, entries: list[files.Json], height: int, width: int) -> Raster:
        """Decode and paint the objects of a picture."""
        path = scene.annotation
        if len(entries) > painting.MAX_OBJECTS:
            found = f"{len(entries)} objects in {scene.image.name}, expected at most {painting.MAX_OBJECTS}"
            raise ValueError(f"{files.printable(path)}: {found}; restore the file")
        objects = []
        for entry in entries:
            mask, box = coco_masks.decode(path, entry, height, width)
            try:
                crowd = _iscrowd(entry)
            except ValueError as error:
                found = f"annotation {entry.get('id')!r} has {error}"
                raise ValueError(f"{files.printable(path)}: {found}; restore the file") from error
            if self.crowds and crowd and "occluded" in (entry.get("attributes") or {}):
                raise ValueError(
                    f"{files.printable(path)}: annotation {entry.get('id')!r} is a mask of CVAT, whose iscrowd 1 does "
                    "not mean a group; set data.sources.NAME.format to cvat (docs/labels.md)"
                )
            label = self._label(path, entry.get("category_id"))
            objects.append(painting.Object(label, mask, box, crowd and self.crowds))
        return painting.paint(objects, height, width)


def _whole(content: files.Json) -> int:
    number = int(content)
    if isinstance(content, float) and number != content:
        raise ValueError(f"id {content}")
    return number


def _iscrowd(entry: files.Json) -> bool:
    if (found := entry.get("iscrowd")) not in (0, 1, None):
        raise ValueError(f"iscrowd {found!r}")
    return bool(found)


@dataclass(frozen=True)
class CocoStuff:
    """A set with stuffthingmaps."""

    root: Path
    format = config.Format.coco_stuff
    version = config.Format.coco_stuff.value
    source = "COCO stuff"

    @property
    def labels(self) -> tuple[Label, ...]:
        """80 things and 91 kinds of stuff."""
        return _STUFF.labels

    def scenes(self, split: str = "") -> Iterator[Scene | Problem]:
        """Yield the pictures of a split."""
        names = [split] if split else list(_SPLITS)
        maps = [f for name in names for f in sorted((self.root / "stuffthingmaps").glob(f"{name}*")) if f.is_dir()]
        folders = [self.root / place / one.name for one in maps for place in (".", "images")]
        images = pairs.by_key((p for folder in folders for p in folder.glob("*")), pairs.ending(".jpg"))
        pairs.require(images, self.root, split)
        masks = pairs.by_key((p for folder in maps for p in folder.glob("*")), pairs.ending(".png"))
        yield from pairs.scenes(self.root, images, {"mask in stuffthingmaps": masks})

    def raster(self, scene: Scene) -> Raster:
        """Decode a map of stuff and things."""
        path = scene.annotation
        values = pngs.read(path, 8, pngs.GREY, "use the PNGs of stuffthingmaps_trainval2017.zip")
        rule = "expected category ids - 1, and 255 for void; use the PNGs of stuffthingmaps_trainval2017.zip"
        pngs.require_known(path, values, _STUFF_TABLE > -2, rule)
        return Raster(values.astype(np.uint16), _STUFF_LABELS, _STUFF_CROWDS)


def _open(chosen: config.Format, folder: Path) -> CocoJson:
    empty = CocoJson(folder, chosen, (), {}, "")
    paths = empty.jsons()
    if not paths:
        start = _JSON[chosen]
        expected = f"annotations/{start}_trainNAME.json or {start}_valNAME.json"
        raise FileNotFoundError(f"{folder}/{expected} not found; name the files as COCO does")
    for one, other in itertools.combinations(paths, 2):
        if filecmp.cmp(one, other, shallow=False):
            raise ValueError(
                f"{files.printable(other)} is the same file as {files.printable(one)}, expected those of two splits; "
                "restore it, or delete it and set data.splits in conf/data to file or fraction"
            )
    # All splits must list the same categories; the smallest file tells them soonest.
    path = min(paths, key=lambda p: p.stat().st_size)
    labels, label_of = _labels(path, chosen, read_json(path, chosen).categories)
    return CocoJson(folder, chosen, labels, label_of, str(path))


def read_json(path: Path, chosen: config.Format) -> json_index.Index:
    """Read a JSON file of a split. Raises ValueError for one of the other kind: both have images and categories."""
    index = json_index.read(path)
    if chosen not in _OTHER:
        return index
    wanted, other = _ANNOTATION[chosen], _ANNOTATION[_OTHER[chosen]]
    if index.annotation_keys and wanted not in index.annotation_keys and other in index.annotation_keys:
        start = _JSON[chosen]
        raise ValueError(
            f"{files.printable(path)}: its annotations have {other}, expected {wanted}: it is a file "
            f"{_JSON[_OTHER[chosen]]}_SPLIT.json under another name; put the file {start}_SPLIT.json of the download "
            f"there, or set data.sources.NAME.format to {_OTHER[chosen].value}"
        )
    return index


def _labels(path: Path, chosen: config.Format, found: list[files.Json]) -> tuple[tuple[Label, ...], dict[int, int]]:
    """Return the labels of a file's categories, and category id -> label. Raises ValueError for a category's fault."""
    if strange := [c for c in found if not isinstance(c, dict) or not isinstance(c.get("name", ""), str)]:
        raise ValueError(
            f"{path}: category {strange[0]!r}, expected an object with id and name; correct the categories"
        )
    problems = [f"categories[{i}] lacks {key}" for i, c in enumerate(found) for key in _keys(chosen) if key not in c]
    ids = [category.get("id") for category in found]
    problems += ["category ids are not unique"] if len({*map(str, ids)}) < len(ids) else []
    problems += [f"category id {i!r} is not a number" for i in ids if type(i) is not int]
    problems += [f"isthing is {c['isthing']!r}" for c in found if c.get("isthing", 1) not in (0, 1)]
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems[:3])}; correct the categories")
    labels = tuple(
        classes.label(i, c["name"], bool(c.get("isthing", 1)), color=_color(c.get("color")), number=c["id"])
        for i, c in enumerate(found)
    )
    return labels, {c["id"]: i for i, c in enumerate(found)}


def _keys(chosen: config.Format) -> tuple[str, ...]:
    return ("id", "name", "isthing") if chosen is config.Format.coco_panoptic else ("id", "name")


def _color(color: files.Json) -> str:
    good = isinstance(color, list) and len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color)
    return "#" + bytes(color).hex() if good else ""


def open_panoptic(folder: Path, source: config.Source, key: str) -> CocoJson:
    """Open the panoptic set in a folder. Raises ValueError where a category lacks isthing."""
    return _open(config.Format.coco_panoptic, folder)


def open_instances(folder: Path, source: config.Source, key: str) -> CocoJson:
    """Open the set of objects in a folder."""
    return _open(config.Format.coco_instances, folder)


def open_stuff(folder: Path, source: config.Source, key: str) -> CocoStuff:
    """Open the set of stuff in a folder."""
    return CocoStuff(folder)
