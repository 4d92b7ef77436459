"""Label Studio's export "JSON": lists of tasks in annotations/*.json, and the pictures in images.

A task has `data` and `annotations`, of which one is read: the only one, or the one that is marked as ground truth.
Its `result` lists regions: brushes (stages/sets/brush_rle.py) and polygons, whose corners are percent of the picture's
width and height. label_map.json says which classes are stuff. No region is a crowd. The picture's name is
`data.picture`, which `make prelabels` writes, or else the last part of the address in `data.image`. Label Studio puts a
code before the names of pictures that are uploaded by hand.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import numpy.typing as npt

from stages import config
from stages.foundation import files, names, picture_limit
from stages.sets import brush_rle, coco_masks, json_index, label_maps, painting, pairs
from stages.sets.raw_set import Problem, Raster, Scene
from stages.vistas.labels import Label

_KINDS = {"brushlabels": "rle", "polygonlabels": "points"}
"""Type of a region -> the key of its `value` that holds its shape."""
_MAX_EDGE_PX = 1 << 15


@dataclass(frozen=True)
class LabelStudio:
    """A set that was labelled in Label Studio."""

    root: Path
    labels: tuple[Label, ...]
    source: str
    format = config.Format.label_studio
    version = config.Format.label_studio.value

    def scenes(self, split: str = "") -> Iterator[Scene | Problem]:
        """Yield the pictures that the tasks name. Those of a split are in files whose names begin with it."""
        found = dict[str, Scene | Problem]()
        paths = sorted((self.root / "annotations").glob("*.json"))
        for path in (path for path in paths if path.stem.lower().startswith(split)):
            for place, (task, begin, length) in enumerate(json_index.elements(path)):
                one = self._scene(path, task, begin, length, f"task {place}")
                if one.key in found:
                    message = f"{files.printable(path)}: picture {files.printable(one.key)} is in two tasks; delete one"
                    one = Problem(one.key, message)
                found[one.key] = one
        pairs.require(found, self.root, split)
        for key in sorted(found):
            yield found[key]

    def _scene(self, path: Path, task: files.Json, begin: int, length: int, key: str) -> Scene | Problem:
        """Return the scene of a task; `key` is that of a Problem whose picture is not known."""
        name = files.printable(path)
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict) or "annotations" not in task:
            found = f"{key} has no data or no annotations"
            return Problem(key, f"{name}: {found}; export the project in the format JSON, not JSON-MIN")
        picture = _picture(task["data"])
        key = Path(picture).stem or key
        if not picture or Path(picture).name != picture or not names.is_plain(picture):
            found = f"{key}: no name of a picture in data.picture or data.image"
            return Problem(key, f"{name}: {found}; put the name of the file in images in data.picture")
        try:
            _result(task)
        except ValueError as error:
            return Problem(key, f"{name}: {files.printable(picture)}: {error}")
        kinds = {"JSON": {key: [path]}}
        (scene,) = pairs.scenes(self.root, {key: [self.root / "images" / picture]}, kinds)
        if isinstance(scene, Problem):
            return scene
        return Scene(key, scene.image, path, detail=json.dumps([begin, length]), upright=True)

    def raster(self, scene: Scene) -> Raster:
        """Decode the annotation of a task."""
        (task,) = json_index.entries(scene.annotation, json.loads(scene.detail))
        objects = []
        try:
            result = _result(task)
            regions = [region for region in result if isinstance(region, dict) and region.get("type") != "choices"]
            height, width = _size(scene.image, regions)
            if len(regions) > painting.MAX_OBJECTS:
                raise ValueError(f"{len(regions)} regions, expected at most {painting.MAX_OBJECTS}")
            for region in regions:
                objects.append(self._object(scene, region, height, width))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            where = f"{files.printable(scene.annotation)}: {files.printable(scene.image.name)}"
            raise ValueError(f"{where}: {error}; correct it in Label Studio and export again") from error
        return painting.paint(objects, height, width)

    def _object(self, scene: Scene, region: files.Json, height: int, width: int) -> painting.Object:
        kind, value = region.get("type"), region["value"]
        if kind not in _KINDS or _KINDS[kind] not in value:
            expected = "a brush or a polygon with a label"
            raise ValueError(f"region {region.get('id')!r} is of the type {kind!r}, expected {expected}")
        if len(value[kind]) != 1:
            raise ValueError(f"region {region.get('id')!r} has the labels {value[kind]!r}, expected one")
        label = label_maps.find(self.labels, value[kind][0], self.source)
        if kind == "brushlabels":
            mask = brush_rle.decode(value["rle"], height, width)
            return painting.Object(label, mask, _box(mask))
        corners = np.array(value["points"], np.float64) * (width / 100, height / 100)
        entry = {"id": region.get("id"), "segmentation": [corners.ravel().tolist()]}
        return painting.Object(label, *coco_masks.decode(scene.annotation, entry, height, width))


def _picture(data: dict[str, files.Json]) -> str:
    """Return the name of a task's picture, or "" if it has none."""
    if isinstance(data.get("picture"), str):
        return str(data["picture"])
    if not isinstance(data.get("image"), str):
        return ""
    address = urlsplit(data["image"])
    path = parse_qs(address.query).get("d", [unquote(address.path)])[0]
    return path.rpartition("/")[2]


def _result(task: files.Json) -> list[files.Json]:
    """Return the regions of the annotation of a task. Raises ValueError unless there is one annotation."""
    given = [one for one in task["annotations"] if isinstance(one, dict) and not one.get("was_cancelled")]
    chosen = [one for one in given if one.get("ground_truth")] if len(given) > 1 else given
    if len(chosen) != 1:
        found = f"{len(given)} annotations, {len(chosen)} of them ground truth" if given else "no annotation"
        raise ValueError(f"{found}, expected one; delete the others or mark one as ground truth, or leave the task out")
    result = chosen[0].get("result")
    if not isinstance(result, list):
        raise ValueError("an annotation without a list of results; restore the file")
    return result


def _size(picture: Path, regions: list[files.Json]) -> tuple[int, int]:
    """Return height and width of the annotated picture, as all regions state them. Raises ValueError if they differ."""
    sizes = {(region.get("original_height"), region.get("original_width")) for region in regions}
    if not regions:
        found = picture_limit.size(picture_limit.read(picture))
        if found is None:
            raise ValueError("no region, and the picture's size can't be read")
        sizes = {(found[1], found[0])}
    if any(region.get("image_rotation") for region in regions):
        raise ValueError("the picture was turned in Label Studio, expected image_rotation 0")
    height, width = sizes.pop()
    if sizes or not all(type(edge) is int and 0 < edge <= _MAX_EDGE_PX for edge in (height, width)):
        raise ValueError(f"original_height and original_width {height!r}, {width!r}, expected one size for all regions")
    picture_limit.require(width, height)
    return height, width


def _box(mask: npt.NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def open_set(folder: Path, source: config.Source, key: str) -> LabelStudio:
    """Open the export in a folder."""
    path, labels = label_maps.read(folder)
    return LabelStudio(folder, labels, str(path))
