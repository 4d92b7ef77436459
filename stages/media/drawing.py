"""Draws maps of segments over their pictures, for `predict`, `infer` and the report. Needs only NumPy and OpenCV."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from stages.foundation.coco_types import Category
from stages.foundation.panoptic_ids import VOID_ID
from stages.inference import frames
from stages.inference.segments import Segments


@dataclass(frozen=True)
class Style:
    """Settings for blending a map of segments with its picture."""

    color_weight: float
    """Share of the class colour in a pixel of a segment, 0 to 1. The rest is the picture."""
    void_weight: float
    """Share of black in a pixel without a segment, 0 to 1. The rest is the picture."""
    shades: tuple[tuple[float, float], ...]
    """Pairs (gain, white). The things of a class take them in turn: colour x gain + 255 x white, at most 255."""
    contours: bool
    """True to draw a light line between neighbouring segments."""


class Tracked(NamedTuple):
    """A segment with a number in the whole video."""

    track_id: int
    x: int
    y: int
    """Pixel at which the middle of the number stands."""


NOT_TRACKED: Final[Mapping[int, Tracked]] = MappingProxyType({})

VIDEO_STYLE: Final = Style(0.55, 0.55, ((1.0, 0.0), (0.72, 0.0), (1.22, 0.0), (0.86, 0.0), (1.36, 0.0)), contours=False)
"""For `predict` and `infer`."""
REPORT_STYLE: Final = Style(
    color_weight=0.68,
    void_weight=0.8,
    shades=((1.0, 0.0), (0.7, 0.0), (0.7, 0.3), (0.85, 0.0), (0.55, 0.45), (0.58, 0.0), (0.85, 0.15)),
    contours=True,
)
"""For the report: small pictures beside each other, with clear borders."""

MIN_TEXT_SCALE: Final = 0.35
"""OpenCV's scale of the smallest text that can be read."""
SMALL_PX: Final = 480
"""The legend covers too much of a picture with a shorter side than this, since its text can't be smaller."""
LINE_CHARACTERS: Final = 32
"""Length of the longest line beside a small picture, such as `orin_jp61: 1000.0 Hz, 1000.0 ms`. More is cut off."""
CONTOUR_WEIGHT: Final = 0.55
"""Share of white in a contour."""


class Painter:
    """Draws overlays in the colours of a data set's categories."""

    def __init__(self, categories: Sequence[Category], style: Style = VIDEO_STYLE) -> None:
        """`categories` are those of label_map.json, each with its RGB colour."""
        self.categories = {category["id"]: category for category in categories}
        """category_id -> category."""
        self.style = style

    def draw(
        self,
        picture: frames.Frame,
        found: Segments,
        lines: Sequence[str],
        tracked: Mapping[int, Tracked] = NOT_TRACKED,
    ) -> frames.Frame:
        """Return the overlay with a legend: `lines` of text and the names of its classes.

        The legend stands at the top left. A picture with a side below SMALL_PX gets it in a strip at the right, so that
        it hides nothing. The strip's width depends on the picture's height, on the data set's classes and on whether
        there are lines, so all frames of a video have one size.

        The segments of `tracked`, by segment id, get a shade by their track id, which is written into them.

        `picture` is uint8 [H, W, 3], RGB; the result is too, or uint8 [H, W + strip, 3].
        """
        result = self.overlay(picture, found, tracked)
        for one in tracked.values():
            _write_id(result, one)
        classes = [self.categories[c] for c in sorted(set(found.category_ids.values()))]
        if min(picture.shape[:2]) >= SMALL_PX:
            self._legend(result, classes, lines)
            return result
        height = picture.shape[0]
        names = [_short(category) for category in self.categories.values()]
        width = _legend_width([*names, *(["0" * LINE_CHARACTERS] if lines else [])], height)
        strip = np.zeros((height, width + width % 2, 3), np.uint8)
        self._legend(strip, classes, lines)
        return np.concatenate([result, strip], axis=1)

    def overlay(
        self, picture: frames.Frame, found: Segments, tracked: Mapping[int, Tracked] = NOT_TRACKED
    ) -> frames.Frame:
        """Return the picture, uint8 [H, W, 3], RGB, with each segment in the colour of its class.

        The things of a class get the style's shades by their track ids, or in the order of `found.category_ids`.
        """
        style, colors = self.style, self._colors(found, tracked)
        painted = cv2.addWeighted(
            picture, 1 - style.color_weight, np.take(colors, found.ids, axis=0), style.color_weight, 0
        )
        result: frames.Frame = np.asarray(painted, np.uint8)
        if style.void_weight != style.color_weight:
            void = ~np.isin(found.ids, list(found.category_ids))
            result[void] = cv2.convertScaleAbs(picture, alpha=1 - style.void_weight)[void]
        if style.contours:
            line = _contours(found.ids)
            result[line] = np.rint((1 - CONTOUR_WEIGHT) * result[line] + CONTOUR_WEIGHT * 255)
        return result

    def _colors(self, found: Segments, tracked: Mapping[int, Tracked]) -> npt.NDArray[np.uint8]:
        """Return the colour of each segment id, uint8 [1 + largest id, 3]; black for ids without a category."""
        colors = np.zeros((max(int(found.ids.max(initial=0)), *found.category_ids, 0) + 1, 3), np.uint8)
        drawn: dict[int, int] = {}
        for segment_id, category_id in found.category_ids.items():
            category, number = self.categories[category_id], drawn.get(category_id, 0)
            drawn[category_id] = number + 1
            number = tracked[segment_id].track_id if segment_id in tracked else number
            gain, white = self.style.shades[number % len(self.style.shades)] if category["isthing"] else (1.0, 0.0)
            colors[segment_id] = np.clip(np.array(category["color"]) * gain + 255 * white, 0, 255)
        return colors

    def _legend(self, picture: frames.Frame, categories: Sequence[Category], lines: Sequence[str]) -> None:
        """Write `lines` and the names of `categories` into the picture, uint8 [H, W, 3], in place.

        The text size follows the picture's height. Entries that do not fit are left out.
        """
        scale, step = _text_size(picture.shape[0])
        entries: list[tuple[str, tuple[int, ...] | None]] = [(line, None) for line in lines]
        entries += [(_short(category), tuple(category["color"])) for category in categories]
        shown = entries[: max(1, picture.shape[0] // step - 1)]
        corner = picture[: step * len(shown) + 6, : _legend_width([text for text, _ in entries], picture.shape[0])]
        corner[:] = corner // 3
        for row, (text, color) in enumerate(shown):
            bottom = step * (row + 1)
            if color is not None:
                cv2.rectangle(picture, (4, bottom - step + 6), (step - 4, bottom), color, cv2.FILLED)
            at = (4 if color is None else step + 2, bottom)
            cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)


def _write_id(picture: frames.Frame, tracked: Tracked) -> None:
    """Write a track id into the picture, uint8 [H, W, 3], in place: white, on a dark rim."""
    text, scale = str(tracked.track_id), _text_size(picture.shape[0])[0]
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    at = (tracked.x - width // 2, tracked.y + height // 2)
    for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, color, thickness, cv2.LINE_AA)


def _short(category: Category) -> str:
    """Return the last part of a Vistas name, the most specific one: object--vehicle--car."""
    return category["name"].rpartition("--")[2]


def _text_size(height: int) -> tuple[float, int]:
    """Return OpenCV's scale of the legend's text, and the height of a line in pixels, for a picture of a height."""
    scale = max(MIN_TEXT_SCALE, height / 1400)
    return scale, int(28 * scale) + 2


def _legend_width(texts: Sequence[str], height: int) -> int:
    """Return the width in pixels of a legend of `texts` in a picture of a height."""
    scale, step = _text_size(height)
    widths = (cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] for text in texts)
    return max(widths, default=0) + 2 * step


def from_left_to_right(ids: npt.NDArray[np.int32], category_ids: Mapping[int, int]) -> dict[int, int]:
    """Return the segments of `category_ids` in the map int32 [H, W], sorted by the mean column of their pixels.

    With this order an object has about the same shade in two maps of one picture, whatever their ids.
    """
    values, inverse = np.unique(ids, return_inverse=True)
    columns = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    means = np.bincount(inverse.ravel(), columns.ravel()) / np.bincount(inverse.ravel())
    mean_of = dict(zip(values.tolist(), means.tolist(), strict=True))
    return {i: category_ids[i] for i in sorted(category_ids.keys() & mean_of.keys(), key=lambda i: (mean_of[i], i))}


def _contours(ids: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Return the pixels of segments whose right or lower neighbour is in another segment, bool [H, W].

    Void gets no contour, because its many small areas would cover the picture with lines.
    """
    line = np.zeros(ids.shape, np.bool_)
    right, below = ids[:, 1:], ids[1:]
    line[:, :-1] |= (ids[:, :-1] != right) & (right != VOID_ID)
    line[:-1] |= (ids[:-1] != below) & (below != VOID_ID)
    line &= ids != VOID_ID
    return line
