"""One annotated picture -> its panoptic and semantic PNG, and what the JSON files say of it.

Segments follow COCO's panoptic rules: a thing's objects are a segment each, stuff is one for each class, and ids are
unique in a picture. Things are also run-length masks for the instance file. Cost: decoding the mask, encoding two PNGs,
and decoding the picture twice, by each library that will read it.
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
from stages.conversion import readers
from stages.conversion.taxonomy import Target
from stages.foundation import files, panoptic_ids, picture_files
from stages.vistas import reader

NAME_BYTES = 255
"""Of a file's name, at most (Linux' NAME_MAX)."""
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
    bare_file_names: bool = False
    """data.bare_file_names."""


@dataclass(frozen=True)
class Task:
    """A picture to convert."""

    scene: reader.Scene
    source: str
    name: str
    """Of its files, without suffix; unique in the split."""


class EmptyError(ValueError):
    """A picture without a segment of any class."""

    def __init__(self, message: str, values: list[list[int]]) -> None:
        """`values` are the mask's, each once, and the pixels of each."""
        super().__init__(message)
        self.values = values


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

    `segments` are entries of segments_info; things have `segmentation` too. `values` are the mask's, each once, and the
    pixels of each, before it is scaled. Raises ValueError, naming the file, for a picture or a raster that is not as
    expected, and EmptyError for one without segments.
    """
    scene, source = task.scene, plan.labels[task.source]
    file_name = f"{task.name}.png"
    if (length := len(file_name.encode())) > NAME_BYTES:
        name = files.printable(scene.image)
        raise ValueError(f"{name}: its masks' names would be {length} bytes, at most {NAME_BYTES}; shorten its name")
    raster, seen, turned = _read(scene, len(source.targets))
    height, width = _scaled(raster.shape, plan.limits.max_edge_px)
    scaled, lost = (height, width) != raster.shape, 0
    runs = rle.runs(raster)
    pixels = runs.pixels()
    there = np.flatnonzero(pixels)
    values = [there.tolist(), pixels[there].tolist()]
    _check_instances(scene.instances, there)
    if scaled:
        raster = np.asarray(cv2.resize(raster, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint16)
        runs = rle.runs(raster)
        lost = len({*source.ids[there].tolist()} - {*source.ids[np.unique(runs.values)].tolist(), 0})
    segments = rle.encode(runs.renamed(source.merged))
    found = _find(segments, source, plan)
    if not found.infos:
        raise EmptyError(f"{files.printable(scene.instances)}: no segment of any class; it is left out", values)

    image = scene.image
    # Rasters are never turned, and TAO turns every picture.
    rewritten = scaled or seen.orientation != 1 or not seen.alike
    if rewritten:
        # Without loss where nothing but the coding changes, so that training sees what an engine reads of the original.
        suffix = ".jpg" if scaled or seen.orientation != 1 else ".png"
        out = plan.folder / "images" / f"{task.name}{suffix}"
        _write_picture(seen.rgb, out, (height, width), seen.orientation if turned else 1)
        image = plan.final / "images" / out.name
    elif plan.bare_file_names:
        out = plan.folder / "images" / f"{task.name}{image.suffix}"
        out.parent.mkdir(exist_ok=True)
        shutil.copyfile(image, out)
        image = plan.final / "images" / out.name
    panoptic = None
    if scene.panoptic is not None and not scaled:
        panoptic = _own(scene.panoptic, raster, runs, found)
    if panoptic is None:
        panoptic = png.encode(panoptic_ids.encode(found.ids), raster, runs.below)
    (plan.folder / "panoptic" / file_name).write_bytes(panoptic)
    semantic = png.encode(found.classes[:, None], raster, runs.below)
    (plan.folder / "semantic" / file_name).write_bytes(semantic)

    # Folders may be links, and `..` goes to where they lead; files may be DVC's links to its cache.
    path = Path(os.path.relpath(image.parent.resolve() / image.name, plan.final.resolve())).as_posix()
    if not files.is_utf8(path):
        raise ValueError(f"{files.printable(path)}: a folder's name is not UTF-8, as JSON files are; rename it")
    return {
        "image": {
            "file_name": image.name if plan.bare_file_names else path,
            "height": height,
            "width": width,
            "source": task.source,
            "key": scene.key,
        },
        "name": file_name,
        "segments": found.infos,
        "dropped": found.dropped,
        "small": found.small,
        "lost": lost,
        "turned": int(seen.orientation != 1),
        "rewritten": int(rewritten),
        "values": values,
    }


def _read(scene: reader.Scene, num_labels: int) -> tuple[npt.NDArray[np.uint16], readers.Seen, bool]:
    """Raster, the picture, and whether the raster lies as the picture is shown, not as stored."""
    raster = reader.instances(scene.instances, num_labels)
    seen = readers.see(scene.image)
    size = seen.rgb.shape[:2]
    # Masks lie as pixels are stored, unless the sizes say that they were turned with the picture.
    turned = seen.orientation in _TRANSPOSING and size[0] != size[1] and size[::-1] == raster.shape
    if not turned and size != raster.shape:
        found = f"{size[1]}x{size[0]}, but its mask is {raster.shape[1]}x{raster.shape[0]}"
        raise ValueError(f"{files.printable(scene.image)}: {found}; restore the pair")
    return raster, seen, turned


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
            f"{files.printable(path)}: 256 objects of label {label}, all that 8 bits hold, so that more of them may "
            f"have run over into label {label + 1}; mark some as a group, or cut the picture"
        )


def _scaled(shape: tuple[int, ...], max_edge_px: int) -> tuple[int, int]:
    scale = min(1.0, max_edge_px / max(shape)) if max_edge_px else 1.0
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _own(path: Path, raster: npt.NDArray[np.uint16], runs: rle.Runs, segments: _Found) -> bytes | None:
    """The set's own panoptic PNG, whose ids the segments then have; None where it is broken or has other segments."""
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
    """Write a picture, turned as an EXIF orientation says, as one of (height, width) that says nothing of it."""
    if orientation in _TRANSPOSING:
        rgb = rgb.transpose(1, 0, 2)
    down, right = _STEPS[orientation]
    shown = np.ascontiguousarray(rgb[::down, ::right])
    scaled = shown if shown.shape[:2] == size else cv2.resize(shown, size[::-1], interpolation=cv2.INTER_AREA)
    out.parent.mkdir(exist_ok=True)
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if out.suffix == ".jpg" else []
    _, content = cv2.imencode(out.suffix, cv2.cvtColor(scaled, cv2.COLOR_RGB2BGR), options)
    out.write_bytes(content.tobytes())
