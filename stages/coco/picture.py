"""One annotated picture -> its panoptic and semantic PNG, and what the JSON files say of it.

Segments follow COCO's panoptic rules: a thing's objects are a segment each, stuff is one for each class, and ids are
unique in a picture. Things are also run-length masks for the instance file. Cost: decoding one PNG and encoding two.
"""

import functools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stages import config
from stages.coco import rle
from stages.coco.taxonomy import Target
from stages.vistas import reader

JPEG_QUALITY = 95
PNG_RUN_LENGTHS, PNG_FILTER_UP = 3, 32
"""libpng's Z_RLE and PNG_FILTER_UP."""
_TRANSPOSING = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
_STEPS = {1: (1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
"""Down and to the right through a picture, after it was transposed, to see it as it is shown (EXIF 2.32, 4.6.4)."""


@dataclass(frozen=True)
class Limits:
    """data.max_edge_px, data.min_segment_px and data.small_segments."""

    max_edge_px: int
    min_segment_px: int
    small_segments: config.SmallSegments


@dataclass(frozen=True)
class Task:
    """A picture to convert."""

    scene: reader.Scene
    source: str
    name: str
    """Of its files, without suffix; unique in the split."""
    targets: tuple[Target, ...]
    """By label id."""
    things: frozenset[int]
    """category_ids."""
    folder: Path
    """Of the split, to write to."""
    final: Path
    """Of the split, where the files will lie."""
    limits: Limits


class EmptyError(ValueError):
    """A picture without a segment of any class."""


@dataclass
class _Found:
    """Segments of a raster."""

    infos: list[dict[str, Any]]
    """Entries of segments_info; of things with `segmentation`."""
    pixels: list[tuple[int, int]]
    """Row and column of a pixel of each."""
    ids: npt.NDArray[np.int32]
    """Segment id of each value of the raster, 0 for void; int32 [65536]."""
    classes: npt.NDArray[np.uint8]
    """category_id of each value, 0 for void and crowds; uint8 [65536]."""
    dropped: int = 0
    small: int = 0


def convert(task: Task) -> dict[str, Any]:
    """Write a picture's files; return its record: image, segments, and counts of what was left out.

    `segments` are entries of segments_info; things have `segmentation` too. Raises ValueError, naming the file, for a
    picture or a raster that is not as expected, and EmptyError for one without segments.
    """
    scene, limits = task.scene, task.limits
    raster, orientation, turned = _read(scene, len(task.targets))
    merged, ids = _merged(task.targets, task.things), _ids(task.targets, task.things)
    height, width = _scaled(raster.shape, limits.max_edge_px)
    scaled, lost = (height, width) != raster.shape, 0
    if scaled:
        there = np.flatnonzero(np.bincount(raster.ravel(), minlength=1 << 16))
        _check_instances(scene.instances, there)
        raster = np.asarray(cv2.resize(raster, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint16)
    segments = rle.encode(raster)
    values = np.array([segment.value for segment in segments])
    if scaled:
        lost = len({*ids[there].tolist()} - {*ids[values].tolist(), 0})
    else:
        _check_instances(scene.instances, values)
    if np.any(merged[values] != values):
        raster = merged[raster]
        segments = rle.encode(raster)
    found = _find(task, segments)
    if not found.infos:
        raise EmptyError(f"{scene.instances}: no segment of any class; it is left out")

    image = scene.image
    # Rasters are never turned, and TAO turns every picture.
    if scaled or orientation != 1:
        out = task.folder / "images" / f"{task.name}.jpg"
        _write_picture(image, out, (height, width), orientation if turned else 1)
        image = task.final / "images" / out.name
    png, own = task.folder / "panoptic" / f"{task.name}.png", None
    if scene.panoptic is not None and not scaled:
        own = _own_ids(scene.panoptic, raster, found)
    if own is None or scene.panoptic is None:
        _write_png(png, _coloured(found.ids, raster))
    else:
        shutil.copyfile(scene.panoptic, png)
        for info, segment_id in zip(found.infos, own, strict=True):
            info["id"] = segment_id
    _write_png(task.folder / "semantic" / png.name, np.take(found.classes, raster))

    # Folders may be links, and `..` goes to where they lead; files may be DVC's links to its cache.
    path = Path(os.path.relpath(image.parent.resolve() / image.name, task.final.resolve())).as_posix()
    return {
        "image": {"file_name": path, "height": height, "width": width, "source": task.source, "key": scene.key},
        "name": png.name,
        "segments": found.infos,
        "dropped": found.dropped,
        "small": found.small,
        "lost": lost,
        "turned": int(orientation != 1),
    }


def _read(scene: reader.Scene, num_labels: int) -> tuple[npt.NDArray[np.uint16], int, bool]:
    """Raster, the picture's EXIF orientation, and whether the raster lies as the picture is shown, not as stored."""
    raster = reader.instances(scene.instances, num_labels)
    size, orientation = reader.picture_size(scene.image)
    # Masks lie as pixels are stored, unless the sizes say that they were turned with the picture.
    turned = orientation in _TRANSPOSING and size[0] != size[1] and size[::-1] == raster.shape
    if not turned and size != raster.shape:
        found = f"{size[1]}x{size[0]}, but its mask is {raster.shape[1]}x{raster.shape[0]}"
        raise ValueError(f"{scene.image}: {found}; restore the pair")
    return raster, orientation, turned


def _find(task: Task, segments: list[rle.Segment]) -> _Found:
    """What is written of a raster's segments."""
    found = _Found([], [], _ids(task.targets, task.things).copy(), _classes(task.targets).copy())
    for segment in segments:
        target, value = task.targets[segment.value >> 8], segment.value
        found.dropped += target.dropped
        if not target.category_id:
            continue
        info = {
            "id": int(found.ids[value]),
            "category_id": target.category_id,
            "iscrowd": int(target.iscrowd),
            "area": segment.area,
            "bbox": segment.bbox,
        }
        if target.category_id in task.things:
            if segment.area < task.limits.min_segment_px and not target.iscrowd:
                found.small += 1
                if task.limits.small_segments is not config.SmallSegments.keep:
                    found.classes[value] = 0
                if task.limits.small_segments is config.SmallSegments.void:
                    found.ids[value] = 0
                    continue
                info["iscrowd"] = int(task.limits.small_segments is config.SmallSegments.crowd)
            info["segmentation"] = segment.rle
        found.infos.append(info)
        found.pixels.append(segment.pixel)
    return found


def _check_instances(path: Path, values: npt.NDArray[Any]) -> None:
    """Raise ValueError where a label has as many objects as the format holds."""
    per_label = np.bincount(values >> 8)
    if per_label.max() == reader.INSTANCES_PER_LABEL:
        label = int(per_label.argmax())
        raise ValueError(
            f"{path}: 256 objects of label {label}, all that 8 bits hold, so that more of them may have run over into "
            f"label {label + 1}; mark some as a group, or cut the picture"
        )


def _scaled(shape: tuple[int, ...], max_edge_px: int) -> tuple[int, int]:
    scale = min(1.0, max_edge_px / max(shape)) if max_edge_px else 1.0
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


@functools.cache
def _merged(targets: tuple[Target, ...], things: frozenset[int]) -> npt.NDArray[np.uint16]:
    """What a value of a raster becomes so that stuff is one segment for each class; uint16 [65536]."""
    result = np.arange(1 << 16, dtype=np.uint16)
    first: dict[int, int] = {}
    for label, target in enumerate(targets):
        if target.category_id and target.category_id not in things:
            result[256 * label : 256 * (label + 1)] = 256 * first.setdefault(target.category_id, label)
    return result


@functools.cache
def _ids(targets: tuple[Target, ...], things: frozenset[int]) -> npt.NDArray[np.int32]:
    """Segment id of each value of a raster, 0 for void; int32 [65536]."""
    kept = np.zeros(1 << 16, np.bool_)
    kept[: 256 * len(targets)] = np.repeat([target.category_id > 0 for target in targets], 256)
    return np.where(kept, _merged(targets, things).astype(np.int32) + 1, 0)


@functools.cache
def _classes(targets: tuple[Target, ...]) -> npt.NDArray[np.uint8]:
    """category_id of each value of a raster, 0 for void and crowds; uint8 [65536]."""
    result = np.zeros(1 << 16, np.uint8)
    of_label = [0 if target.iscrowd else target.category_id for target in targets]
    result[: 256 * len(targets)] = np.repeat(of_label, 256)
    return result


def _own_ids(png: Path, raster: npt.NDArray[np.uint16], segments: _Found) -> list[int] | None:
    """Ids of the segments in the set's own panoptic PNG; None where that has other segments."""
    import imagecodecs

    try:
        rgb = imagecodecs.png_decode(png.read_bytes())
    except (imagecodecs.PngError, ValueError):
        return None
    if rgb.shape != (*raster.shape, 3) or rgb.dtype != np.uint8:
        return None
    found = [int(rgb[pixel].astype(np.int64) @ (1, 256, 65536)) for pixel in segments.pixels]
    if 0 in found or len(set(found)) < len(found):
        return None
    renamed = np.zeros(int(segments.ids.max()) + 1, np.int32)
    renamed[[info["id"] for info in segments.infos]] = found
    return found if np.array_equal(_coloured(renamed[segments.ids], raster), rgb) else None


def _coloured(ids: npt.NDArray[np.int32], raster: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """Pixels of a panoptic PNG, uint8 [H, W, 3] RGB, from the ids of a raster's values."""
    # Four bytes are taken at once, twice as fast as three.
    pixels = np.take(ids.astype("<u4"), raster).view(np.uint8).reshape(*raster.shape, 4)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB), np.uint8)


def _write_png(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """Write uint8 [H, W] or RGB [H, W, 3]. Where rows are alike, these settings are fast and small."""
    import imagecodecs

    path.write_bytes(imagecodecs.png_encode(pixels, level=1, strategy=PNG_RUN_LENGTHS, filter=PNG_FILTER_UP))


def _write_picture(image: Path, out: Path, size: tuple[int, int], orientation: int) -> None:
    """Write a picture, turned as an EXIF orientation says, as a JPEG of (height, width) that says nothing of it."""
    bgr = cv2.imread(str(image), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None:
        raise ValueError(f"{image}: can't be read as a picture; restore the file")
    if orientation in _TRANSPOSING:
        bgr = bgr.transpose(1, 0, 2)
    down, right = _STEPS[orientation]
    bgr = np.ascontiguousarray(bgr[::down, ::right])
    scaled = bgr if bgr.shape[:2] == size else cv2.resize(bgr, size[::-1], interpolation=cv2.INTER_AREA)
    out.parent.mkdir(exist_ok=True)
    _, content = cv2.imencode(".jpg", scaled, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    out.write_bytes(content.tobytes())
