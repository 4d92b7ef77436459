"""Panoptic overlays beside their pictures, as data URIs."""

import base64
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stages.coco import panoptic
from stages.foundation import picture_files
from stages.inference import frames
from stages.report_page.sources import Sources

MAX_WIDTH_PX = 480
"""Stored width of a picture: sharp in a quarter of the page on a dense display, and small."""
JPEG_QUALITY = 88
COLOR_WEIGHT = 0.68
"""Of the class colour over the picture."""
VOID_WEIGHT = 0.2
"""Of the picture where there is no segment."""
SHADES = (0.0, -0.3, 0.3, -0.15, 0.45, -0.42, 0.15)
"""Shift of a thing's colour towards black (below 0) or white, in turn over the things of a class."""


@dataclass(frozen=True)
class Row:
    """One validation picture: its file name and a data URI per column, empty where there is no map."""

    name: str
    width: int
    height: int
    cells: list[str]


def columns(sources: Sources) -> list[tuple[str, str]]:
    """Header and explanation of each column."""
    found = [("image", "validation picture"), ("truth", "annotation")]
    if sources.checkpoint:
        found.append(("checkpoint", "TAO network, PyTorch"))
    for name in sources.measured:
        target = sources.cfg.targets[name]
        found.append((f"engine {name}", f"{target.builder.value}, {target.precision.value}"))
    return found


def rows(sources: Sources) -> tuple[list[Row], list[dict[str, Any]]]:
    """Rows spread evenly over the validation set, and the classes that they show, in the order of their ids."""
    entries = sources.truth.entries
    chosen = spread(len(entries), sources.cfg.report.pictures)
    sets = [s for s in (sources.truth, sources.checkpoint, *sources.measured.values()) if s]
    by_image = [{entry.image_id: entry for entry in s.entries} for s in sets]
    colors = {i: (c["color"][0], c["color"][1], c["color"][2]) for i, c in sources.classes.items()}
    things = {i for i, c in sources.classes.items() if c["isthing"]}
    result, shown = [], set()
    for index in chosen:
        picture = _shrink(picture_files.read_rgb(entries[index].image), cv2.INTER_AREA)
        height, width = picture.shape[:2]
        cells = [data_uri(picture)]
        for maps in by_image:
            entry = maps.get(entries[index].image_id)
            if entry is None:
                cells.append("")
                continue
            ids = cv2.resize(panoptic.read_ids(entry.png), (width, height), interpolation=cv2.INTER_NEAREST)
            cells.append(data_uri(overlay(picture, np.asarray(ids, np.int32), entry.segments, colors, things)))
            shown |= {s["category_id"] for s in entry.segments}
        result.append(Row(entries[index].image.name, width, height, cells))
    return result, [sources.classes[i] for i in sorted(shown) if i in sources.classes]


def spread(count: int, wanted: int) -> list[int]:
    """Indices of at most `wanted` of `count` items, the centres of as many equal parts."""
    wanted = min(count, wanted)
    return [(2 * k + 1) * count // (2 * wanted) for k in range(wanted)]


def overlay(
    picture: frames.Frame,
    ids: panoptic.Ids,
    segments: list[dict[str, Any]],
    colors: dict[int, tuple[int, int, int]],
    things: set[int],
) -> frames.Frame:
    """Colour a picture, uint8 [H, W, 3], by the classes of its segments, ids int32 [H, W].

    Things of one class get shades in turn, from left to right; a light line parts neighbours; void is dark.
    """
    tint = np.zeros(picture.shape, np.float32)
    weight = np.full((*ids.shape, 1), 1 - VOID_WEIGHT, np.float32)
    seen: dict[int, int] = {}
    masks = [(ids == s["id"], s["category_id"]) for s in segments]
    # By position and not by id, so that the same object has about the same shade in truth and prediction.
    for mask, category_id in sorted((m for m in masks if m[0].any()), key=lambda m: float(np.nonzero(m[0])[1].mean())):
        shift = 0.0
        if category_id in things:
            shift = SHADES[seen.get(category_id, 0) % len(SHADES)]
            seen[category_id] = seen.get(category_id, 0) + 1
        tint[mask] = _shade(colors[category_id], shift)
        weight[mask] = COLOR_WEIGHT
    blend = (1 - weight) * picture + weight * tint
    line = _contours(ids)
    blend[line] = 0.45 * blend[line] + 0.55 * 255
    return np.asarray(blend + 0.5, np.uint8)


def _shade(color: tuple[int, int, int], shift: float) -> npt.NDArray[np.float32]:
    rgb = np.array(color, np.float32)
    return rgb * (1 + shift) if shift < 0 else rgb + (255 - rgb) * np.float32(shift)


def _contours(ids: panoptic.Ids) -> npt.NDArray[np.bool_]:
    """Pixels of segments whose right or lower neighbour is of another one, bool [H, W].

    Not along void, whose many small islands would turn into a web of lines.
    """
    line = np.zeros(ids.shape, np.bool_)
    right, below = ids[:, 1:], ids[1:]
    line[:, :-1] |= (ids[:, :-1] != right) & (right > 0)
    line[:-1] |= (ids[:-1] != below) & (below > 0)
    return line & (ids > 0)


def _shrink(picture: frames.Frame, interpolation: int) -> frames.Frame:
    height, width = picture.shape[:2]
    if width <= MAX_WIDTH_PX:
        return picture
    size = (MAX_WIDTH_PX, max(1, round(height * MAX_WIDTH_PX / width)))
    return np.asarray(cv2.resize(picture, size, interpolation=interpolation), np.uint8)


def data_uri(picture: frames.Frame) -> str:
    """JPEG of a picture, uint8 [H, W, 3] RGB, as a data URI."""
    # Full chroma: half of it would smear the thin lines.
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    ok, content = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), options)
    if not ok:
        raise ValueError(f"a picture of shape {picture.shape} can't be encoded as JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode("ascii")
