"""Buildings along a street: facades in perspective with windows, doors, shops and roofs."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from stages.scenes import classes as c
from stages.scenes.backdrop import CURB_M, gain, mix
from stages.scenes.canvas import Canvas, Color, Point

WALLS: Final[tuple[Color, ...]] = (
    (186, 120, 92),
    (204, 178, 140),
    (168, 152, 138),
    (214, 204, 188),
    (152, 96, 82),
    (176, 184, 186),
    (206, 164, 112),
    (140, 146, 152),
    (196, 148, 134),
)
AWNINGS: Final[tuple[Color, ...]] = ((150, 40, 44), (40, 84, 62), (44, 66, 120), (190, 150, 60), (90, 60, 50))
LIT: Final[Color] = (330, 270, 170)
"""Colour of a lit window. It exceeds 255, so that it stays bright in the dim light of dusk."""


@dataclass(frozen=True)
class Wall:
    """A vertical wall: from `origin` along the unit direction `along` on the ground, metres."""

    origin: Point
    along: tuple[float, float]
    length: float
    height: float

    def at(self, s: float, y: float) -> Point:
        """Return the world point s metres along the wall and y metres above its foot."""
        x, base, z = self.origin
        return x + self.along[0] * s, base + y, max(z + self.along[1] * s, 0.6)

    def rect(self, s0: float, s1: float, y0: float, y1: float) -> list[Point]:
        """Return the world corners of a rectangle on the wall."""
        return [self.at(s0, y0), self.at(s1, y0), self.at(s1, y1), self.at(s0, y1)]


@dataclass(frozen=True)
class Style:
    """Look of a building: sizes in metres, window as shares of bay and storey."""

    wall: Color
    storey_m: float
    bay_m: float
    window: tuple[float, float]
    shop: bool
    awning: Color
    roof: str


def random_style(rng: np.random.Generator) -> Style:
    """Draw a style at random."""
    wall = WALLS[rng.integers(len(WALLS))]
    return Style(
        wall=gain(wall, float(rng.uniform(0.88, 1.1))),
        storey_m=float(rng.uniform(2.9, 3.5)),
        bay_m=float(rng.uniform(1.9, 2.9)),
        window=(float(rng.uniform(0.45, 0.62)), float(rng.uniform(0.5, 0.64))),
        shop=bool(rng.random() < 0.6),
        awning=AWNINGS[rng.integers(len(AWNINGS))],
        roof=("flat", "mansard", "flat", "gable")[rng.integers(4)],
    )


def paint_building(canvas: Canvas, side: int, x: float, z: tuple[float, float], height: float, style: Style) -> None:
    """Paint a building whose street front stands at |x| on one side (-1, 1) from z[0] to z[1] metres."""
    depth, front_x = 14.0, x * side
    sunny = canvas.sun_side != side
    front_gain = 1.0 + 0.16 * canvas.mood.sun * (1 if sunny else -1.6)
    front = Wall((front_x, CURB_M, z[0]), (0.0, 1.0), z[1] - z[0], height)
    end = Wall((front_x, CURB_M, z[0]), (float(side), 0.0), depth, height)
    paint_roof(canvas, front, end, side, style)
    paint_wall(canvas, end, style, 0.86, doors=False)
    paint_wall(canvas, front, style, front_gain, doors=True)


def paint_roof(canvas: Canvas, front: Wall, end: Wall, side: int, style: Style) -> None:
    """Paint the roof above the walls: a mansard, a gable, or a flat roof with chimneys."""
    segment, slate = canvas.segment(c.BUILDING), (92.0, 78.0, 76.0)
    length, top = front.length, front.height
    if style.roof == "flat":
        for s in (0.25, 0.7):
            x, _, z = front.at(length * s, 0)
            chimney = Wall((x + side * 1.5, CURB_M, z), (side, 0), 1.2, top + 1.3)
            canvas.face(chimney.rect(0, 1.2, top - 1, top + 1.3), gain(style.wall, 0.75), segment)
        return
    rise, back = (2.4, 1.6) if style.roof == "mansard" else (3.4, 7.0)
    x = front.origin[0]
    ridge = [(x + side * back, CURB_M + top + rise, front.origin[2] + s) for s in (0.0, length)]
    if style.roof == "gable":
        canvas.face([end.at(0, top), ridge[0], end.at(end.length, top)], gain(style.wall, 0.8), segment)
    else:
        far = (x + side * end.length, CURB_M + top + rise, front.origin[2])
        canvas.face([end.at(0, top), ridge[0], far, end.at(end.length, top)], gain(slate, 0.8), segment)
    slope = canvas.face([front.at(0, top), ridge[0], ridge[1], front.at(length, top)], slate, segment)
    canvas.shade(slope, 1.1, 0.85, 0.05)


def paint_wall(canvas: Canvas, wall: Wall, style: Style, light: float, doors: bool) -> None:
    """Paint a wall with windows, its colour times `light`. `doors` adds the doors and shops of the ground floor."""
    segment, rng = canvas.segment(c.BUILDING), canvas.rng
    base = gain(style.wall, light)
    samples = canvas.face(wall.rect(0, wall.length, -0.2, wall.height), base, segment)
    canvas.shade(samples, 1.08, 0.84, 0.035)
    ground = 3.6 if style.shop else style.storey_m
    bays = max(int(wall.length / style.bay_m), 1)
    bay = wall.length / bays
    storeys = max(int((wall.height - ground - 0.5) / style.storey_m), 1)
    trim, frame = gain(base, 1.14), mix(base, (240, 238, 230), 0.6)
    for storey in range(storeys):
        y = ground + storey * style.storey_m
        canvas.face(wall.rect(0, wall.length, y - 0.12, y + 0.06), trim, segment)
        for i in range(bays):
            _paint_window(canvas, wall, style, (i + 0.5) * bay, y, bay, frame)
    top = wall.height
    canvas.face(wall.rect(0, wall.length, top - 0.45, top), trim, segment)
    canvas.face(wall.rect(0, wall.length, top - 0.55, top - 0.45), gain(base, 0.65), segment)
    if not doors:
        return
    entrance = int(rng.integers(bays))
    for i in range(bays):
        middle = (i + 0.5) * bay
        if i == entrance:
            _paint_door(canvas, wall, middle, frame)
        elif style.shop:
            _paint_shop(canvas, wall, style, middle, bay)
        else:
            _paint_window(canvas, wall, style, middle, 0.3, bay, frame)


def _glass(canvas: Canvas) -> Color:
    rng = canvas.rng
    if rng.random() < (0.45 if canvas.mood.lamps else 0.03):
        return gain(LIT, float(rng.uniform(0.7, 1.1)))
    return mix((44, 54, 66), canvas.mood.zenith, float(rng.uniform(0.05, 0.45)))


def _paint_window(canvas: Canvas, wall: Wall, style: Style, s: float, y: float, bay: float, frame: Color) -> None:
    segment = canvas.segment(c.BUILDING)
    half, low = bay * style.window[0] / 2, y + style.storey_m * 0.26
    high = low + style.storey_m * style.window[1]
    glass = _glass(canvas)
    if wall.at(s, 0)[2] > 60:  # At a few samples of width, window frames would only blur.
        canvas.face(wall.rect(s - half, s + half, low, high), glass, segment)
        return
    canvas.face(wall.rect(s - half - 0.1, s + half + 0.1, low - 0.1, high + 0.1), frame, segment)
    canvas.face(wall.rect(s - half, s + half, low, high), glass, segment)
    canvas.face(wall.rect(s - half, s + half, high - 0.22, high), gain(glass, 0.6), segment)
    canvas.face(wall.rect(s - 0.04, s + 0.04, low, high), frame, segment)
    canvas.face(wall.rect(s - half - 0.18, s + half + 0.18, low - 0.2, low - 0.08), gain(frame, 0.82), segment)


def _paint_door(canvas: Canvas, wall: Wall, s: float, frame: Color) -> None:
    segment = canvas.segment(c.BUILDING)
    leaf: Color = ((92, 56, 40), (48, 66, 60), (70, 40, 46), (52, 56, 74))[canvas.rng.integers(4)]
    canvas.face(wall.rect(s - 0.75, s + 0.75, 0, 2.75), frame, segment)
    canvas.face(wall.rect(s - 0.6, s + 0.6, 0, 2.2), leaf, segment)
    canvas.face(wall.rect(s - 0.6, s + 0.6, 2.25, 2.62), _glass(canvas), segment)
    canvas.face(wall.rect(s - 0.4, s + 0.4, 1.2, 2.0), gain(leaf, 0.7), segment)


def _paint_shop(canvas: Canvas, wall: Wall, style: Style, s: float, bay: float) -> None:
    segment, half = canvas.segment(c.BUILDING), bay * 0.44
    canvas.face(wall.rect(s - half, s + half, 0.1, 2.9), gain(style.awning, 0.6), segment)
    glass = gain(LIT, 0.85) if canvas.mood.lamps else mix((70, 76, 84), (190, 180, 160), canvas.rng.random() * 0.4)
    canvas.face(wall.rect(s - half + 0.12, s + half - 0.12, 0.5, 2.4), glass, segment)
    canvas.face(wall.rect(s - half + 0.12, s + half - 0.12, 0.5, 0.9), gain(glass, 0.7), segment)
    out = -0.7 if wall.origin[0] > 0 else 0.7  # The awning reaches over the sidewalk.
    a, b = wall.at(s - half, 2.95), wall.at(s + half, 2.95)
    low_a, low_b = (a[0] + out, a[1] - 0.55, a[2]), (b[0] + out, b[1] - 0.55, b[2])
    canvas.face([a, b, low_b, low_a], style.awning, segment)
    drop = [low_a, low_b, (low_b[0], low_b[1] - 0.16, low_b[2]), (low_a[0], low_a[1] - 0.16, low_a[2])]
    canvas.face(drop, gain(style.awning, 0.7), segment)
