"""Maps of segments over their pictures, with a legend, fast enough for video: OpenCV alone."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stages.inference import frames
from stages.inference.segments import Segments

COLOR_WEIGHT = 0.55
"""Of the class colour over the picture; where there is no segment, of black."""
SHADES = (1.0, 0.72, 1.22, 0.86, 1.36)
"""Brightness of a thing's colour, in turn over the things of a class."""


class Painter:
    """Draws with the colours of a data set's categories."""

    def __init__(self, categories: list[dict[str, Any]]) -> None:
        """`categories`: COCO categories with `color`, RGB."""
        self.categories = {c["id"]: c for c in categories}
        """By category_id."""

    def draw(self, picture: frames.Frame, found: Segments, lines: list[str]) -> frames.Frame:
        """A picture, uint8 [H, W, 3], with its segments, a legend of their classes, and lines of text above it."""
        colors = np.zeros((max(found.category_ids, default=0) + 1, 3), np.uint8)
        seen: dict[int, int] = {}
        for segment, category_id in found.category_ids.items():
            category = self.categories[category_id]
            shade = SHADES[seen.get(category_id, 0) % len(SHADES)] if category["isthing"] else 1.0
            seen[category_id] = seen.get(category_id, 0) + 1
            colors[segment] = np.clip(np.array(category["color"]) * shade, 0, 255)
        painted = cv2.addWeighted(picture, 1 - COLOR_WEIGHT, np.take(colors, found.ids, axis=0), COLOR_WEIGHT, 0)
        result: npt.NDArray[np.uint8] = np.asarray(painted, np.uint8)
        self._legend(result, [self.categories[c] for c in sorted(seen)], lines)
        return result

    def _legend(self, picture: frames.Frame, categories: list[dict[str, Any]], lines: list[str]) -> None:
        """Text at the top left, in place, as large as the picture's height bears."""
        scale = max(0.35, picture.shape[0] / 1400)
        step = int(28 * scale) + 2
        entries: list[tuple[str, tuple[int, ...] | None]] = [(line, None) for line in lines]
        # The last word of Vistas' names tells the most: object--vehicle--car.
        entries += [(c["name"].rpartition("--")[2], tuple(c["color"])) for c in categories]
        widest = max(
            (cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0] for text, _ in entries), default=0
        )
        shown = entries[: max(1, picture.shape[0] // step - 1)]
        corner = picture[: step * len(shown) + 6, : widest + 2 * step]
        corner[:] = corner // 3
        for row, (text, color) in enumerate(shown):
            bottom = step * (row + 1)
            if color is not None:
                cv2.rectangle(picture, (4, bottom - step + 6), (step - 4, bottom), color, cv2.FILLED)
            at = (4 if color is None else step + 2, bottom)
            cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
