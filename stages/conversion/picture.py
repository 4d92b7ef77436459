"""One annotated picture -> its panoptic and semantic PNG, and what the JSON files say of it.

Segments follow COCO's panoptic rules: a thing's objects are a segment each, stuff is one for each class, and ids are
unique in a picture. Things are also run-length masks for the instance file. Cost: decoding one PNG and encoding two.
"""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stages import config
from stages.coco import png, rle
from stages.conversion.taxonomy import Target
from stages.vistas import reader

JPEG_QUALITY = 95
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
class Labels:
    """What the values of a source's rasters become."""

    targets: tuple[Target, ...]
    """By label id."""
    merged: npt.NDArray[np.uint16] = field(repr=False)
    """The value that stands for each, so that stuff is one segment for each class; uint16 [65536]."""
    ids: npt.NDArray[np.int32] = field(repr=False)
    """Segment id of each value, 0 for void; int32 [65536]."""
    classes: npt.NDArray[np.uint8] = field(repr=False)
    """category_id of each value, 0 for void and crowds; uint8 [65536]."""


@dataclass(frozen=True)
class Plan:
    """How the pictures of a split are converted."""

    labels: dict[str, Labels]
    """By source."""
    things: frozenset[int]
    """category_ids."""
    folder: Path
    """Of the split, to write to."""
    final: Path
    """Of the split, where the files will lie."""
    limits: Limits


@dataclass(frozen=True)
class Task:
    """A picture to convert."""

    scene: reader.Scene
    source: str
    name: str
    """Of its files, without suffix; unique in the split."""


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


def labels(targets: tuple[Target, ...], things: frozenset[int]) -> Labels:
    """What label * 256 + instance becomes, from what the labels become."""
    merged, first = np.arange(1 << 16, dtype=np.uint16), dict[int, int]()
    for label, target in enumerate(targets):
        if target.category_id and target.category_id not in things:
            merged[256 * label : 256 * (label + 1)] = 256 * first.setdefault(target.category_id, label)
    kept, classes = np.zeros(1 << 16, np.bool_), np.zeros(1 << 16, np.uint8)
    kept[: 256 * len(targets)] = np.repeat([target.category_id > 0 for target in targets], 256)
    classes[: 256 * len(targets)] = np.repeat([0 if target.iscrowd else target.category_id for target in targets], 256)
    return Labels(targets, merged, np.where(kept, merged.astype(np.int32) + 1, 0), classes)


def convert(task: Task, plan: Plan) -> dict[str, Any]:
    """Write a picture's files; return its record: image, segments, and counts of what was left out.

    `segments` are entries of segments_info; things have `segmentation` too. Raises ValueError, naming the file, for a
    picture or a raster that is not as expected, and EmptyError for one without segments.
    """
    scene, source = task.scene, plan.labels[task.source]
    raster, orientation, turned = _read(scene, len(source.targets))
    height, width = _scaled(raster.shape, plan.limits.max_edge_px)
    scaled, lost = (height, width) != raster.shape, 0
    if scaled:
        there = np.flatnonzero(np.bincount(raster.ravel(), minlength=1 << 16))
        _check_instances(scene.instances, there)
        raster = np.asarray(cv2.resize(raster, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint16)
    runs = rle.runs(raster)
    values = np.unique(runs.values)
    if scaled:
        lost = len({*source.ids[there].tolist()} - {*source.ids[values].tolist(), 0})
    else:
        _check_instances(scene.instances, values)
    segments = rle.encode(runs.renamed(source.merged))
    found = _find(segments, source, plan)
    if not found.infos:
        raise EmptyError(f"{scene.instances}: no segment of any class; it is left out")

    image = scene.image
    # Rasters are never turned, and TAO turns every picture.
    if scaled or orientation != 1:
        out = plan.folder / "images" / f"{task.name}.jpg"
        _write_picture(image, out, (height, width), orientation if turned else 1)
        image = plan.final / "images" / out.name
    file_name, colours = f"{task.name}.png", _colours(found.ids)
    panoptic, own = plan.folder / "panoptic" / file_name, None
    if scene.panoptic is not None and not scaled:
        own = _own_ids(scene.panoptic, raster, runs, found)
    if own is None or scene.panoptic is None:
        panoptic.write_bytes(png.encode(colours, raster, runs.below))
    else:
        shutil.copyfile(scene.panoptic, panoptic)
        for info, segment_id in zip(found.infos, own, strict=True):
            info["id"] = segment_id
    semantic = png.encode(found.classes[:, None], raster, runs.below)
    (plan.folder / "semantic" / file_name).write_bytes(semantic)

    # Folders may be links, and `..` goes to where they lead; files may be DVC's links to its cache.
    path = Path(os.path.relpath(image.parent.resolve() / image.name, plan.final.resolve())).as_posix()
    return {
        "image": {"file_name": path, "height": height, "width": width, "source": task.source, "key": scene.key},
        "name": file_name,
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


def _find(segments: list[rle.Segment], labels: Labels, plan: Plan) -> _Found:
    """What is written of a raster's segments."""
    found = _Found([], [], labels.ids.copy(), labels.classes.copy())
    for segment in segments:
        target, value = labels.targets[segment.value >> 8], segment.value
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
        if target.category_id in plan.things:
            if segment.area < plan.limits.min_segment_px and not target.iscrowd:
                found.small += 1
                if plan.limits.small_segments is not config.SmallSegments.keep:
                    found.classes[value] = 0
                if plan.limits.small_segments is config.SmallSegments.void:
                    found.ids[value] = 0
                    continue
                info["iscrowd"] = int(plan.limits.small_segments is config.SmallSegments.crowd)
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


def _own_ids(path: Path, raster: npt.NDArray[np.uint16], runs: rle.Runs, segments: _Found) -> list[int] | None:
    """Ids of the segments in the set's own panoptic PNG; None where that has other segments."""
    import imagecodecs

    try:
        rgb = imagecodecs.png_decode(path.read_bytes())
    except (imagecodecs.PngError, ValueError):
        return None
    if rgb.shape != (*raster.shape, 3) or rgb.dtype != np.uint8:
        return None
    found = [int(rgb[pixel].astype(np.int64) @ (1, 256, 65536)) for pixel in segments.pixels]
    if 0 in found or len(set(found)) < len(found):
        return None
    renamed = np.zeros(int(segments.ids.max()) + 1, np.int32)
    renamed[[info["id"] for info in segments.infos]] = found
    expected = png.filtered(_colours(renamed[segments.ids]), raster, runs.below)[:, 1:]
    rows = rgb.reshape(len(rgb), -1)
    alike = np.array_equal(rows[0], expected[0]) and np.array_equal(rows[1:] - rows[:-1], expected[1:])
    return found if alike else None


def _colours(ids: npt.NDArray[np.int32]) -> npt.NDArray[np.uint8]:
    """The colour of each id in a panoptic PNG: uint8 [N, 3], R + 256 G + 65536 B."""
    return ids.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3]


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
