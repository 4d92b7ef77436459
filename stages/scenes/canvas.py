"""A pinhole camera over flat ground, and a canvas that stores colour and segment of every sample.

World: metres, x to the right, y up from the ground, z ahead; the camera stands at x = 0, z = 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from stages.vistas.labels import BY_NAME, LABELS, UNLABELED
from stages.vistas.writer import PaintedScene

Color = tuple[float, float, float]
"""RGB, 0 to 255."""
Point = tuple[float, float, float]
"""World point (x, y, z), metres."""

LEAFY: Final = (BY_NAME["nature--terrain"].id, BY_NAME["nature--vegetation"].id)
"""Labels that get a fine texture of blades and leaves."""
OVERSAMPLING: Final = 3  # Odd, so that the centre of a pixel is a sample and masks stay sharp.


@dataclass(frozen=True)
class Mood:
    """Weather and hour of a scene."""

    zenith: Color
    horizon: Color
    light: Color
    """Gain of each channel on surfaces, about 0 to 1.2."""
    sun: float
    """Contrast of sunlight and shadow, 0 (overcast) to 1."""
    cloud: float
    """Cover of clouds, 0 to 1."""
    cloud_color: Color
    haze_m: float
    """Distance in metres at which 63 % of the light has the colour of the horizon."""
    lamps: bool
    """True when street lamps, windows and headlights are lit."""


@dataclass(frozen=True)
class Camera:
    """Pinhole camera, in samples of the canvas."""

    focal: float
    center_x: float
    horizon_y: float
    height_m: float

    def project(self, points: Sequence[Point]) -> npt.NDArray[np.float64]:
        """Return the samples, float64 (N, 2), of world points in front of the camera. z is at least 0.5 m."""
        p = np.asarray(points, np.float64)
        scale = self.focal / np.maximum(p[:, 2], 0.5)
        samples = np.empty((len(p), 2))
        samples[:, 0] = self.center_x + p[:, 0] * scale
        samples[:, 1] = self.horizon_y + (self.height_m - p[:, 1]) * scale
        return samples


class Canvas:
    """Colour (uint8 RGB) and segment (uint16) planes, OVERSAMPLING times the picture's size."""

    def __init__(
        self, height: int, width: int, camera: Camera, mood: Mood, rng: np.random.Generator, sun_side: int
    ) -> None:
        """Make a blank canvas. height and width are in pixels of the picture; sun_side is -1 (left) or 1 (right)."""
        self.height, self.width = height * OVERSAMPLING, width * OVERSAMPLING
        self.camera, self.mood, self.rng, self.sun_side = camera, mood, rng, sun_side
        self.rgb = np.zeros((self.height, self.width, 3), np.uint8)
        self.ids = np.zeros((self.height, self.width), np.uint16)
        self.labels = [UNLABELED]
        self._stuff = {UNLABELED: 0}
        self._glows: list[tuple[float, float, float, Color, int]] = []
        self.grain = self._grain()

    def _grain(self) -> npt.NDArray[np.float32]:
        fine = self.rng.normal(0, 1, (self.height // 2 + 1, self.width // 2 + 1)).astype(np.float32)
        coarse = self.rng.normal(0, 1, (self.height // 24 + 2, self.width // 24 + 2)).astype(np.float32)
        size = (self.width, self.height)
        return 0.7 * cv2.resize(fine, size, interpolation=cv2.INTER_LINEAR) + 0.35 * cv2.resize(
            coarse, size, interpolation=cv2.INTER_CUBIC
        )

    def segment(self, label: int) -> int:
        """Return the number of the segment to paint: a new one for a thing, the only one of its label for stuff."""
        if not LABELS[label].instances and label in self._stuff:
            return self._stuff[label]
        self.labels.append(label)
        self._stuff[label] = len(self.labels) - 1
        return len(self.labels) - 1

    def tone(self, color: Color, z: float) -> Color:
        """Return the colour of a surface in the light of the scene, seen through z metres of haze."""
        clear = math.exp(-z / self.mood.haze_m)
        light, haze = self.mood.light, self.mood.horizon
        veil = 1 - clear
        return (
            min(color[0] * light[0] * clear + haze[0] * veil, 255.0),
            min(color[1] * light[1] * clear + haze[1] * veil, 255.0),
            min(color[2] * light[2] * clear + haze[2] * veil, 255.0),
        )

    def poly(self, points: npt.NDArray[np.float64], color: Color, segment: int | None, z: float = 0.0) -> None:
        """Fill a polygon of samples (N, 2). With segment None, segments stay as they are, as under a shadow."""
        p = np.rint(points).astype(np.int32)
        cv2.fillPoly(self.rgb, [p], self.tone(color, z))
        if segment is not None:
            cv2.fillPoly(self.ids, [p], segment)

    def outline(self, points: npt.NDArray[np.float64], segment: int) -> None:
        """Give the inside of a polygon of samples (N, 2) to a segment, as an annotator does. Colours stay."""
        cv2.fillPoly(self.ids, [np.rint(points).astype(np.int32)], segment)

    def face(self, points: Sequence[Point], color: Color, segment: int | None) -> npt.NDArray[np.float64]:
        """Fill a polygon of world points, with the haze of its nearest point. Return its samples (N, 2)."""
        p = self.camera.project(points)
        self.poly(p, color, segment, min(point[2] for point in points))
        return p

    def disc(self, center: npt.NDArray[np.float64], radius: float, color: Color, segment: int | None, z: float) -> None:
        """Fill a disc. Centre (2,) and radius are in samples."""
        at, r = (round(center[0]), round(center[1])), max(round(radius), 1)
        cv2.circle(self.rgb, at, r, self.tone(color, z), -1)
        if segment is not None:
            cv2.circle(self.ids, at, r, segment, -1)

    def discs(
        self,
        centers: npt.NDArray[np.float64],
        radii: npt.NDArray[np.float64],
        colors: npt.NDArray[np.float64],
        segment: int,
        z: float,
    ) -> None:
        """Fill N discs in their order: centres (N, 2) and radii (N,) in samples, colours (N, 3)."""
        clear = math.exp(-z / self.mood.haze_m)
        toned = colors * self.mood.light * clear + np.asarray(self.mood.horizon) * (1 - clear)
        whole, reach = (
            np.rint(centers).astype(int).tolist(),
            np.maximum(np.rint(radii), 1).astype(int).tolist(),
        )
        for center, r, color in zip(whole, reach, np.minimum(toned, 255).tolist(), strict=True):
            cv2.circle(self.rgb, center, r, color, -1)
            cv2.circle(self.ids, center, r, segment, -1)

    def line(self, points: npt.NDArray[np.float64], width: float, color: Color, segment: int | None, z: float) -> None:
        """Draw an open line of samples (N, 2), at least one pixel of the picture wide."""
        p = np.rint(points).astype(np.int32)
        thick = max(round(width), OVERSAMPLING)
        cv2.polylines(self.rgb, [p], False, self.tone(color, z), thick)
        if segment is not None:
            cv2.polylines(self.ids, [p], False, segment, thick)

    def shade(self, points: npt.NDArray[np.float64], top: float, bottom: float, grain: float = 0.0) -> None:
        """Multiply a polygon's colour by a vertical gradient of gains (0 to 2), with grain."""
        box = self._box(points)
        if box is None:
            return
        x0, y0, x1, y1 = box
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(mask, [np.rint(points).astype(np.int32) - (x0, y0)], 1)
        rows: npt.NDArray[np.float32] = np.linspace(top, bottom, y1 - y0, dtype=np.float32)[:, None]
        gain = rows * (1 + np.float32(grain) * self.grain[y0:y1, x0:x1])
        self.multiply(box, np.where(mask > 0, gain, np.float32(1)))

    def shadow(self, points: npt.NDArray[np.float64], strength: float, softness: float) -> None:
        """Darken a polygon of samples by strength (0 to 1), its edge blurred over `softness` samples."""
        margin = int(2 * softness) + 1
        low, high = points.min(0) - margin, points.max(0) + margin
        box = self._box(np.array([low, high]))
        if box is None:
            return
        x0, y0, x1, y1 = box
        mask = np.zeros((y1 - y0, x1 - x0), np.float32)
        cv2.fillPoly(mask, [np.rint(points).astype(np.int32) - (x0, y0)], strength)
        size = 2 * max(int(softness), 1) + 1
        self.multiply(box, 1 - cv2.blur(mask, (size, size)).astype(np.float32))

    def glow(self, x: float, y: float, radius: float, color: Color, segment: int) -> None:
        """Let light spread from a sample, over a radius in samples, if `segment` is visible there in the end."""
        self._glows.append((x, y, radius, color, segment))

    def _box(self, points: npt.NDArray[np.float64]) -> tuple[int, int, int, int] | None:
        x0, y0 = np.maximum(np.floor(points.min(0)), 0).astype(int).tolist()
        x1, y1 = np.minimum(np.ceil(points.max(0)) + 1, (self.width, self.height)).astype(int).tolist()
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None

    def multiply(self, box: tuple[int, int, int, int], gain: npt.NDArray[np.float32]) -> None:
        """Multiply a box (x0, y0, x1, y1) of samples by gains (y1 - y0, x1 - x0), 0 to 2. Segments stay as they are."""
        x0, y0, x1, y1 = box
        part = self.rgb[y0:y1, x0:x1]
        byte = cv2.convertScaleAbs(gain, alpha=128)
        part[:] = cv2.multiply(part, cv2.merge([byte, byte, byte]), scale=1 / 128)

    def finish(self) -> PaintedScene:
        """Return the picture: average the samples of a pixel, add glows, vignette and noise, sample the segments."""
        half = OVERSAMPLING // 2
        size = (self.width // OVERSAMPLING, self.height // OVERSAMPLING)
        image = cv2.resize(self.rgb, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        ids = np.ascontiguousarray(self.ids[half::OVERSAMPLING, half::OVERSAMPLING])
        leafy = np.isin(np.asarray(self.labels), LEAFY)[ids]
        speckle = 1 + 0.08 * self.rng.standard_normal(ids.shape, np.float32)
        image *= np.where(leafy, speckle, np.float32(1))[..., None]
        for x, y, radius, color, segment in self._glows:
            inside = 0 <= x < self.width and 0 <= y < self.height
            if inside and self.ids[int(y), int(x)] == segment:
                _add_glow(image, x / OVERSAMPLING, y / OVERSAMPLING, radius / OVERSAMPLING, color)
        v, u = np.mgrid[-1 : 1 : size[1] * 1j, -1 : 1 : size[0] * 1j].astype(np.float32)
        image *= (1.03 - 0.16 * (u * u + v * v) ** 1.2 * 0.6)[..., None]
        grain = 2.4 * self.rng.standard_normal(ids.shape, np.float32)[..., None]
        chroma = 1.2 * self.rng.standard_normal((*ids.shape, 3), np.float32)
        picture = np.clip(np.rint(image + grain + chroma), 0, 255).astype(np.uint8)
        return PaintedScene(picture, ids, self.labels)


def _add_glow(image: npt.NDArray[np.float32], x: float, y: float, radius: float, color: Color) -> None:
    reach = radius * 3
    x0, x1 = max(int(x - reach), 0), min(int(x + reach) + 1, image.shape[1])
    y0, y1 = max(int(y - reach), 0), min(int(y + reach) + 1, image.shape[0])
    if x1 <= x0 or y1 <= y0:
        return
    dx, dy = np.arange(x0, x1, dtype=np.float32) - x, np.arange(y0, y1, dtype=np.float32)[:, None] - y
    fall = np.exp(-(dx * dx + dy * dy) / (radius * radius))
    image[y0:y1, x0:x1] += fall[..., None] * np.asarray(color, np.float32)
