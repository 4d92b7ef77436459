"""Converts one annotated picture: writes its panoptic and semantic PNG, and returns its record for the JSON files.

Segments follow COCO's panoptic format: each object of a thing class is a segment, each stuff class is one segment, and
ids are unique within a picture. Things also get run-length masks for instances.json. Cost: decoding the mask, encoding
two PNGs, and decoding the picture twice, once by each library that will read it.

A raster is the decoded annotation of a picture: uint16 [H, W], a number for each segment. The numbers index all tables
here, which are made for each picture from what the set's reader says about them (stages/sets/raw_set.py).
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from stages import config
from stages.coco import png, rle
from stages.conversion import picture_decoding
from stages.conversion.records import MaskRecord, Record, SegmentRecord
from stages.conversion.taxonomy import LabelMapping
from stages.foundation import files, panoptic_ids, picture_files
from stages.sets.raw_set import VOID, Problem, Raster, RawSet, Scene

MAX_NAME_BYTES = 255
"""Longest file name that Linux allows (NAME_MAX)."""
JPEG_QUALITY = 95
_TRANSPOSING = (5, 6, 7, 8)
"""EXIF orientations that swap width and height (EXIF 2.32, 4.6.4)."""
_STEPS = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
"""Orientation -> steps over rows and columns, -1 to flip, that turn a picture upright. Transposing comes first."""


@dataclass(frozen=True)
class Limits:
    """The parameters data.max_edge_px, data.min_segment_px and data.small_segments."""

    max_edge_px: int
    min_segment_px: int
    small_segments: config.SmallSegments


@dataclass(frozen=True)
class ValueTables:
    """Meanings of the N values of a raster."""

    categories: npt.NDArray[np.int32]
    """Value -> category_id, 0 for void; int32 [N]."""
    crowds: npt.NDArray[np.bool_]
    """Value -> whether its segment is a crowd; bool [N]."""
    dropped: npt.NDArray[np.bool_]
    """Value -> whether its label is `drop` in the taxonomy; bool [N]."""
    unions: npt.NDArray[np.bool_]
    """Value -> whether its label covers several classes in the taxonomy, and is void; bool [N]."""
    merged: npt.NDArray[np.uint16]
    """Value -> the value of its segment, which all values of a stuff class share; uint16 [N]."""
    ids: npt.NDArray[np.int32]
    """Value -> segment id, 0 for void; int32 [N]."""
    classes: npt.NDArray[np.uint8]
    """Value -> category_id, 0 for void and for labels that mark groups; uint8 [N]."""


@dataclass(frozen=True)
class Source:
    """A set, and what its labels become."""

    raw: RawSet
    mappings: tuple[LabelMapping, ...]
    """By label id."""


@dataclass(frozen=True)
class Settings:
    """Settings for the conversion of a split's pictures."""

    sources: dict[str, Source]
    """By name."""
    things: frozenset[int]
    """category_ids of the thing classes."""
    folder: Path
    """The split's folder in the draft, to write to."""
    final: Path
    """The split's folder after the stage. File names are relative to it."""
    limits: Limits
    bare_file_names: bool = False
    """data.bare_file_names."""


@dataclass(frozen=True)
class Task:
    """A picture to convert."""

    scene: Scene
    source: str
    name: str
    """Name of its output files, without suffix; unique in the split."""


Work = Task | Problem
"""A picture to convert, or the reason why it can't be converted."""


class EmptyError(ValueError):
    """A picture has no segment of any class."""

    def __init__(self, message: str, mask: MaskRecord) -> None:
        super().__init__(message)
        self.mask = mask


@dataclass
class _Segments:
    """The segments of a raster that are written."""

    infos: list[SegmentRecord]
    pixels: list[tuple[int, int]]
    """Row and column of one pixel of each segment."""
    ids: npt.NDArray[np.int32]
    """Value of the raster -> segment id, 0 for void; int32 [N]."""
    classes: npt.NDArray[np.uint8]
    """Value of the raster -> category_id, 0 for void and groups; uint8 [N]."""
    dropped: int = 0
    """Number of segments whose label is `drop` in the taxonomy."""
    union_px: int = 0
    """Pixels whose label covers several classes in the taxonomy and is void."""
    small: int = 0
    """Number of objects below data.min_segment_px."""


def value_tables(mappings: tuple[LabelMapping, ...], things: frozenset[int], raster: Raster) -> ValueTables:
    """Return the tables of a raster from the mappings of its set's labels, in id order.

    A crowd of the set, such as KITTI's object 0, has a known class, so its pixels keep it in the semantic PNG. A label
    that marks groups by the taxonomy is void there, as in Vistas' own evaluation.
    """
    # The last element stands for VOID, which is -1.
    categories = np.array([m.category_id for m in mappings] + [0], np.int32)[raster.labels]
    groups = np.array([m.iscrowd for m in mappings] + [False], np.bool_)[raster.labels]
    dropped = np.array([m.dropped for m in mappings] + [False], np.bool_)[raster.labels]
    unions = np.array([m.union for m in mappings] + [False], np.bool_)[raster.labels]
    is_thing = np.isin(categories, list(things))
    merged = np.arange(len(categories), dtype=np.uint16)
    stuff = np.flatnonzero((categories > 0) & ~is_thing)
    first = np.zeros(int(categories.max()) + 1, np.uint16)
    first[categories[stuff[::-1]]] = stuff[::-1]
    merged[stuff] = first[categories[stuff]]
    ids = np.where(categories > 0, merged.astype(np.int32) + 1, 0)
    classes = np.where(groups, 0, categories).astype(np.uint8)
    return ValueTables(categories, groups | (raster.crowds & is_thing), dropped, unions, merged, ids, classes)


def convert(task: Task, settings: Settings) -> Record:
    """Write the files of a picture into the split's folder, and return its record.

    Raises ValueError, naming the file, for a picture or a mask that can't be used, and EmptyError for a picture without
    segments.
    """
    scene, source = task.scene, settings.sources[task.source]
    file_name = f"{task.name}.png"
    if (length := len(file_name.encode())) > MAX_NAME_BYTES:
        found = f"the names of its masks would have {length} bytes, expected at most {MAX_NAME_BYTES}"
        raise ValueError(f"{files.printable(scene.image)}: {found}; shorten its name")
    annotation, decoded, upright = _read(scene, source.raw)
    raster, tables = annotation.values, value_tables(source.mappings, settings.things, annotation)
    height, width = _scaled(raster.shape, settings.limits.max_edge_px)
    scaled, lost = (height, width) != raster.shape, 0
    runs = rle.runs(raster)
    pixels = runs.pixels()
    values = np.flatnonzero(pixels)
    mask: MaskRecord = {
        "source": task.source,
        "file": str(scene.annotation),
        "values": values.tolist(),
        "pixels": pixels[values].tolist(),
    }
    _check_objects(scene.annotation, annotation, values)
    if scaled:
        raster = np.asarray(cv2.resize(raster, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint16)
        runs = rle.runs(raster)
        lost = len({*tables.ids[values].tolist()} - {*tables.ids[np.unique(runs.values)].tolist(), 0})
    segments = _select(rle.encode(runs.renamed(tables.merged)), tables, settings)
    if not segments.infos:
        raise EmptyError(f"{files.printable(scene.annotation)}: no segment of any class; the picture is left out", mask)

    image = scene.image
    # TAO turns a picture by its EXIF orientation but never its masks, so a turned picture is written upright.
    rewritten = scaled or decoded.orientation != 1 or not decoded.alike
    if rewritten:
        # PNG where only the encoding changes: training then sees exactly what an engine decodes from the original.
        suffix = ".jpg" if scaled or decoded.orientation != 1 else ".png"
        out = settings.folder / "images" / f"{task.name}{suffix}"
        _write_picture(decoded.rgb, out, (height, width), decoded.orientation if upright else 1)
        image = settings.final / "images" / out.name
    elif settings.bare_file_names:
        out = settings.folder / "images" / f"{task.name}{image.suffix}"
        out.parent.mkdir(exist_ok=True)
        shutil.copyfile(image, out)
        image = settings.final / "images" / out.name
    panoptic = None
    if scene.panoptic is not None and not scaled:
        panoptic = _own_panoptic(scene.panoptic, raster, runs, segments)
    if panoptic is None:
        panoptic = png.encode(panoptic_ids.encode(segments.ids), raster, runs.below)
    (settings.folder / "panoptic" / file_name).write_bytes(panoptic)
    semantic = png.encode(segments.classes[:, None], raster, runs.below)
    (settings.folder / "semantic" / file_name).write_bytes(semantic)

    # The folder is resolved, since `..` after a link goes up from the link's target. The file is not: in a set that
    # DVC tracks it may be a link into DVC's cache.
    path = Path(os.path.relpath(image.parent.resolve() / image.name, settings.final.resolve())).as_posix()
    if not files.is_utf8(path):
        raise ValueError(f"{files.printable(path)}: a folder's name is not UTF-8, which JSON needs; rename the folder")
    return {
        "mask": mask,
        "image": {
            "file_name": image.name if settings.bare_file_names else path,
            "height": height,
            "width": width,
            "source": task.source,
            "key": scene.key,
        },
        "name": file_name,
        "segments": segments.infos,
        "counts": {
            "dropped": segments.dropped,
            "union_px": segments.union_px,
            "small": segments.small,
            "lost": lost,
            "turned": int(decoded.orientation != 1),
            "rewritten": int(rewritten),
            **annotation.counts,
        },
    }


def _read(scene: Scene, raw: RawSet) -> tuple[Raster, picture_decoding.Decoded, bool]:
    """Return the raster, the picture, and whether the raster matches the upright picture and not the stored one."""
    annotation = raw.raster(scene)
    raster = annotation.values
    decoded = picture_decoding.read(scene.image)
    size = decoded.rgb.shape[:2]
    # A mask matches the pixels as they are stored, unless the format says or the sizes show that it was turned with the
    # picture.
    transposed = decoded.orientation in _TRANSPOSING
    if scene.upright:
        upright = decoded.orientation != 1 and raster.shape == (size[::-1] if transposed else size)
    else:
        upright = transposed and size[0] != size[1] and size[::-1] == raster.shape
    if not upright and size != raster.shape:
        found = f"{size[1]}x{size[0]}, but its mask is {raster.shape[1]}x{raster.shape[0]}"
        raise ValueError(f"{files.printable(scene.image)}: {found}; restore picture and mask of the same size")
    return annotation, decoded, upright


def _select(segments: list[rle.Segment], tables: ValueTables, settings: Settings) -> _Segments:
    """Return the segments that have a class, with small objects treated as data.small_segments says."""
    result = _Segments([], [], tables.ids.copy(), tables.classes.copy())
    for segment in segments:
        value = segment.value
        category_id, iscrowd = int(tables.categories[value]), bool(tables.crowds[value])
        result.dropped += int(tables.dropped[value])
        result.union_px += segment.area * int(tables.unions[value])
        if not category_id:
            continue
        info: SegmentRecord = {
            "id": int(result.ids[value]),
            "category_id": category_id,
            "iscrowd": int(iscrowd),
            "area": segment.area,
            "bbox": segment.bbox,
        }
        if category_id in settings.things:
            if segment.area < settings.limits.min_segment_px and not iscrowd:
                result.small += 1
                if settings.limits.small_segments is not config.SmallSegments.keep:
                    result.classes[value] = 0
                if settings.limits.small_segments is config.SmallSegments.void:
                    result.ids[value] = 0
                    continue
                info["iscrowd"] = int(settings.limits.small_segments is config.SmallSegments.crowd)
            info["segmentation"] = segment.rle
        result.infos.append(info)
        result.pixels.append(segment.pixel)
    return result


def _check_objects(path: Path, annotation: Raster, values: npt.NDArray[np.integer]) -> None:
    """Raise ValueError where a label has as many objects as the coding can number: more may have changed the label."""
    labels = annotation.labels[values]
    per_label = np.bincount(labels[labels != VOID], minlength=1)
    if annotation.max_objects and per_label.max() >= annotation.max_objects:
        label = int(per_label.argmax())
        raise ValueError(
            f"{files.printable(path)}: {annotation.max_objects} objects of label {label}, the most that 8 bits hold, "
            f"so further objects may have overflowed into label {label + 1}; mark some of them as a group, or crop the "
            "picture"
        )


def _scaled(shape: tuple[int, ...], max_edge_px: int) -> tuple[int, int]:
    """Return height and width, scaled down so that no edge is longer than max_edge_px; 0 is no limit."""
    scale = min(1.0, max_edge_px / max(shape)) if max_edge_px else 1.0
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _own_panoptic(path: Path, raster: npt.NDArray[np.uint16], runs: rle.Runs, segments: _Segments) -> bytes | None:
    """Return the set's own panoptic PNG, and give the segments its ids.

    Returns None, and changes nothing, where the file is broken or its segments differ from the raster's.
    """
    import imagecodecs

    try:
        content = png.critical(path.read_bytes())
        rgb = imagecodecs.png_decode(content)
    except (imagecodecs.PngError, ValueError):
        return None
    if rgb.shape != (*raster.shape, 3) or rgb.dtype != np.uint8:
        return None
    found = [int(panoptic_ids.decode(rgb[pixel])) for pixel in segments.pixels]
    if 0 in found or len(set(found)) < len(found):
        return None
    renamed = np.zeros(int(segments.ids.max()) + 1, np.int32)
    renamed[[info["id"] for info in segments.infos]] = found
    expected = png.filtered(panoptic_ids.encode(renamed[segments.ids]), raster, runs.below)[:, 1:]
    rows = rgb.reshape(len(rgb), -1)
    alike = np.array_equal(rows[0], expected[0]) and np.array_equal(rows[1:] - rows[:-1], expected[1:])
    if not alike:
        return None
    for info, segment_id in zip(segments.infos, found, strict=True):
        info["id"] = segment_id
    return content


def _write_picture(rgb: picture_files.Rgb, out: Path, size: tuple[int, int], orientation: int) -> None:
    """Turn a picture upright by its EXIF orientation, scale it to (height, width) and write it without EXIF."""
    if orientation in _TRANSPOSING:
        rgb = rgb.transpose(1, 0, 2)
    down, right = _STEPS[orientation]
    upright = np.ascontiguousarray(rgb[::down, ::right])
    scaled = upright if upright.shape[:2] == size else cv2.resize(upright, size[::-1], interpolation=cv2.INTER_AREA)
    out.parent.mkdir(exist_ok=True)
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if out.suffix == ".jpg" else []
    _, content = cv2.imencode(out.suffix, cv2.cvtColor(scaled, cv2.COLOR_RGB2BGR), options)
    out.write_bytes(content.tobytes())
