"""Cars and buses as extruded profiles in perspective."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from stages.scenes import classes as c
from stages.scenes.backdrop import gain, mix
from stages.scenes.canvas import Canvas, Color, Point

PAINTS: Final[tuple[Color, ...]] = (
    (176, 30, 34),
    (34, 68, 134),
    (222, 222, 220),
    (40, 42, 46),
    (142, 146, 150),
    (208, 172, 58),
    (36, 96, 84),
    (96, 102, 112),
    (186, 90, 40),
    (110, 146, 178),
)
GLASS: Final[Color] = (36, 46, 56)
TYRE: Final[Color] = (24, 24, 26)
HUB: Final[Color] = (150, 152, 156)


@dataclass(frozen=True)
class Kind:
    """Shape of a car: its size, and its outline from the rear bumper to the front one."""

    length: float
    width: float
    outline: tuple[tuple[float, float], ...]
    """(share of the length from the rear, height in metres), from the rear over the roof to the front."""
    waist: float
    glazed: tuple[int, int]
    """Indices of the edges of the outline that are the rear window and the windscreen."""


KINDS: Final = (
    Kind(4.5, 1.8, ((0, 0.92), (0.13, 0.98), (0.27, 1.42), (0.56, 1.44), (0.72, 0.95), (1, 0.72)), 0.95, (1, 3)),
    Kind(3.9, 1.75, ((0, 0.95), (0.02, 1.0), (0.12, 1.46), (0.58, 1.5), (0.76, 0.98), (1, 0.74)), 0.98, (1, 3)),
    Kind(4.6, 1.9, ((0, 1.0), (0.02, 1.1), (0.08, 1.66), (0.6, 1.7), (0.75, 1.1), (1, 0.92)), 1.08, (1, 3)),
    Kind(4.9, 1.9, ((0, 1.0), (0.01, 1.15), (0.03, 1.9), (0.72, 1.92), (0.86, 1.15), (1, 0.88)), 1.12, (1, 3)),
)
"""Saloon, hatchback, off-roader, van."""


def _width_at(kind: Kind, y: float) -> float:
    # The sides lean inwards above the waist.
    return kind.width / 2 - 0.34 * max(y - kind.waist, 0.0)


def paint_car(canvas: Canvas, x: float, z: float, kind: Kind, paint: Color, away: bool) -> None:
    """Paint a car along the street, its nearest end at z metres. It shows its rear if `away`, else its front."""
    segment = canvas.segment(c.CAR)
    outline = kind.outline if away else tuple((1 - t, y) for t, y in reversed(kind.outline))
    glazed = kind.glazed if away else tuple(len(outline) - 2 - i for i in reversed(kind.glazed))
    half, length = kind.width / 2, kind.length
    paint_shadow(canvas, x, z, half, length)
    for end in (z + length * 0.8, z + 0.25):
        for wheel in (x - half + 0.02, x + half - 0.26):
            box = [(wheel, 0.0, end), (wheel + 0.24, 0.0, end), (wheel + 0.24, 0.5, end), (wheel, 0.5, end)]
            canvas.face(box, TYRE, segment)
    if abs(x) > half:
        _paint_flank(canvas, segment, kind, x, z, paint, outline)
    for i in range(len(outline) - 2, -1, -1):
        (t0, y0), (t1, y1) = outline[i], outline[i + 1]
        w0, w1 = _width_at(kind, y0), _width_at(kind, y1)
        near, far = z + t0 * length, z + t1 * length
        # A face is visible only from above: the camera must be above the line through both edges.
        if y0 - near * (y1 - y0) / max(far - near, 1e-6) > canvas.camera.height_m:
            continue
        quad = [(x - w0, y0, near), (x + w0, y0, near), (x + w1, y1, far), (x - w1, y1, far)]
        facing = 1.12 if y1 - y0 < 0.3 else 0.95
        canvas.face(quad, gain(paint, facing), segment)
        if i in glazed and y1 > y0:
            _paint_screen(canvas, segment, quad)
    _paint_end(canvas, segment, kind, x, z, outline[0][1], paint, away)


def paint_shadow(canvas: Canvas, x: float, z: float, half: float, length: float) -> None:
    """Darken the ground under an object of this half width and length, more on the side away from the sun."""
    lean = -canvas.sun_side * 0.9 * canvas.mood.sun
    left, right = x - half - 0.15 + min(lean, 0), x + half + 0.15 + max(lean, 0)
    corners = [(left, 0.0, z - 0.2), (right, 0.0, z - 0.2), (right, 0.0, z + length), (left, 0.0, z + length)]
    strength = 0.42 + 0.25 * canvas.mood.sun
    canvas.shadow(canvas.camera.project(corners), strength, canvas.camera.focal / z * 0.12)


def _paint_screen(canvas: Canvas, segment: int, quad: list[Point]) -> None:
    a, b, d, e = (np.array(p) for p in quad)
    inner = [a * 0.92 + b * 0.08, b * 0.92 + a * 0.08, d * 0.92 + e * 0.08, e * 0.92 + d * 0.08]
    low, high = inner[:2], inner[2:]
    pane = [
        low[0] * 0.93 + high[1] * 0.07,
        low[1] * 0.93 + high[0] * 0.07,
        high[0] * 0.93 + low[1] * 0.07,
        high[1] * 0.93 + low[0] * 0.07,
    ]
    tint = mix(GLASS, canvas.mood.zenith, 0.22)
    points = [(float(p[0]), float(p[1]), float(p[2])) for p in pane]
    canvas.face(points, tint, segment)
    left, right = pane[3] * 0.75 + pane[2] * 0.25, pane[3] * 0.45 + pane[2] * 0.55
    foot_r, foot_l = pane[0] * 0.7 + pane[1] * 0.3, pane[0] * 0.95 + pane[1] * 0.05
    gleam = [(float(p[0]), float(p[1]), float(p[2])) for p in (left, right, foot_r, foot_l)]
    canvas.face(gleam, mix(tint, (235, 240, 245), 0.16), segment)


def _paint_flank(
    canvas: Canvas,
    segment: int,
    kind: Kind,
    x: float,
    z: float,
    paint: Color,
    outline: tuple[tuple[float, float], ...],
) -> None:
    inward = -1 if x > 0 else 1
    length = kind.length
    lit = 1.05 if canvas.sun_side == inward else 0.78

    def at(t: float, y: float) -> Point:
        return x + inward * _width_at(kind, y), y, z + t * length

    body = [at(0, 0.28), *(at(t, y) for t, y in outline), at(1, 0.28)]
    samples = canvas.face(body, gain(paint, lit), segment)
    canvas.shade(samples, 1.12, 0.72)
    glass = [(t, y) for t, y in outline if y > kind.waist + 0.2]
    (first, y0), (last, y1) = glass[0], glass[-1]
    waist = kind.waist + 0.04
    entry = max(t for t, y in outline if t < first)
    leave = min(t for t, y in outline if t > last)
    spans = (
        (entry * 0.5 + first * 0.5, first, (first + last) / 2),
        (leave * 0.5 + last * 0.5, last, (first + last) / 2),
    )
    for outer, top, middle in spans:
        edge = 0.015 if middle > outer else -0.015
        pane = [
            at(outer + edge, waist),
            at(top + edge, y0 - 0.09),
            at(middle - edge, y1 - 0.09),
            at(middle - edge, waist),
        ]
        canvas.face(pane, mix(GLASS, canvas.mood.zenith, 0.25), segment)
    for t in (0.18, 0.8):
        for radius, color in ((0.36, gain(paint, 0.3)), (0.32, TYRE), (0.18, HUB)):
            ring = [
                (
                    x + inward * (kind.width / 2),
                    0.32 + radius * float(np.sin(a)),
                    z + t * length + radius * float(np.cos(a)),
                )
                for a in np.linspace(0, 2 * np.pi, 14)
            ]
            canvas.face(ring, color, segment)


def _paint_end(
    canvas: Canvas, segment: int, kind: Kind, x: float, z: float, top: float, paint: Color, away: bool
) -> None:
    half = kind.width / 2

    def box(left: float, right: float, low: float, high: float, color: Color) -> None:
        points = [(x + left, low, z), (x + right, low, z), (x + right, high, z), (x + left, high, z)]
        canvas.face(points, color, segment)

    shape = [
        (-half * 0.97, 0.26),
        (half * 0.97, 0.26),
        (half, 0.5),
        (half * 0.98, top),
        (-half * 0.98, top),
        (-half, 0.5),
    ]
    samples = canvas.face([(x + a, b, z) for a, b in shape], paint, segment)
    canvas.shade(samples, 1.08, 0.7)
    box(-half * 0.95, half * 0.95, 0.24, 0.36, (30, 30, 32))
    box(-half * 0.96, half * 0.96, 0.5, 0.54, gain(paint, 0.55))
    lit = canvas.mood.lamps
    if away:
        lamp: Color = (400, 40, 36) if lit else (190, 26, 28)
        box(-0.26, 0.26, 0.56, 0.7, (226, 226, 214))
    else:
        lamp = (440, 430, 380) if lit else (232, 234, 228)
        box(-half * 0.5, half * 0.5, 0.42, 0.64, (26, 28, 30))
        box(-0.26, 0.26, 0.36, 0.46, (226, 226, 214))
    height = top - 0.2
    for sign in (-1, 1):
        outer, inner = sign * half * 0.93, sign * half * 0.58
        box(min(outer, inner), max(outer, inner), height - 0.08, height + 0.1, lamp)
        if lit:
            px = canvas.camera.project([(x + (outer + inner) / 2, height, z)])[0]
            reach = canvas.camera.focal / z * (0.22 if away else 0.4)
            canvas.glow(px[0], px[1], reach, (120, 14, 10) if away else (120, 112, 90), segment)


def paint_car_across(canvas: Canvas, x: float, z: float, kind: Kind, paint: Color, heading: int) -> None:
    """Paint a car that crosses the street, from its side, with its centre at x. heading is -1 (left) or 1 (right)."""
    segment, length = canvas.segment(c.CAR), kind.length
    paint_shadow(canvas, x, z, length / 2, kind.width)

    def at(t: float, y: float) -> Point:
        return x + heading * (t - 0.5) * length, y, z + 0.3 * max(y - kind.waist, 0)

    outline = kind.outline
    body = [at(0.01, 0.3), at(0, 0.5), *(at(t, y) for t, y in outline), at(1, 0.5), at(0.985, 0.3)]
    canvas.shade(canvas.face(body, paint, segment), 1.15, 0.68)
    canvas.face([at(0.01, 0.3), at(0.01, 0.4), at(0.985, 0.4), at(0.985, 0.3)], gain(paint, 0.45), segment)
    waist, tint = kind.waist + 0.04, mix(GLASS, canvas.mood.zenith, 0.22)
    (r0, _), (r1, ry), (f1, fy), (f0, _) = outline[1:5]
    middle = (r1 + f1) / 2
    for a, b, y, m in ((r0, r1, ry, middle - 0.012), (f0, f1, fy, middle + 0.012)):
        edge = 0.022 if m > a else -0.022
        canvas.face([at(a + edge, waist), at(b + edge * 0.5, y - 0.09), at(m, y - 0.09), at(m, waist)], tint, segment)
    canvas.face(
        [at(middle, 0.4), at(middle, waist), at(middle + 0.006, waist), at(middle + 0.006, 0.4)],
        gain(paint, 0.5),
        segment,
    )
    for a, b, color in ((0.0, 0.03, (190, 26, 28)), (0.96, 1.0, (240, 238, 220))):
        y = outline[0][1] - 0.2 if a == 0 else outline[-1][1] - 0.1
        canvas.face([at(a, y - 0.1), at(a, y + 0.06), at(b, y + 0.06), at(b, y - 0.1)], color, segment)
    for t in (0.18, 0.81):
        hub = canvas.camera.project([at(t, 0.33)])[0]
        scale = canvas.camera.focal / z
        arch: Color = gain(paint, 0.25)
        for radius, tint in ((0.39, arch), (0.34, TYRE), (0.2, HUB), (0.07, gain(HUB, 0.5))):
            canvas.disc(hub, radius * scale, tint, segment, z)


def paint_bus(canvas: Canvas, x: float, z: float, paint: Color, away: bool) -> None:
    """Paint a city bus along the street, its nearest end at z metres."""
    segment = canvas.segment(c.BUS)
    half, length, top = 1.25, 10.0, 3.05
    paint_shadow(canvas, x, z, half, length)
    tint, inward = mix(GLASS, canvas.mood.zenith, 0.2), -1 if x > 0 else 1
    side = x + inward * half

    def flank(t0: float, t1: float, low: float, high: float, color: Color) -> None:
        near, far = z + t0 * length, z + t1 * length
        points = [(side, low, near), (side, low, far), (side, high, far), (side, high, near)]
        canvas.face(points, color, segment)

    if abs(x) > half:
        lit = 1.02 if canvas.sun_side == inward else 0.76
        flank(0, 1, 0.3, top, gain(paint, lit))
        flank(0, 1, 0.95, 1.15, (236, 236, 232))
        for i in range(7):
            flank(0.02 + i * 0.14, 0.02 + i * 0.14 + 0.125, 1.35, 2.5, tint)
        for t in (0.2, 0.78):
            for radius, color in ((0.5, TYRE), (0.26, HUB)):
                ring = [
                    (side, 0.48 + radius * float(np.sin(a)), z + t * length + radius * float(np.cos(a)))
                    for a in np.linspace(0, 2 * np.pi, 16)
                ]
                canvas.face(ring, color, segment)

    def end(left: float, right: float, low: float, high: float, color: Color) -> None:
        points = [(x + left, low, z), (x + right, low, z), (x + right, high, z), (x + left, high, z)]
        canvas.face(points, color, segment)

    for left in (-half + 0.05, half - 0.4):
        end(left, left + 0.35, 0, 0.5, TYRE)
    shape = [
        (-half, 0.3),
        (half, 0.3),
        (half, top - 0.2),
        (half - 0.2, top),
        (-half + 0.2, top),
        (-half, top - 0.2),
    ]
    canvas.shade(canvas.face([(x + a, b, z) for a, b in shape], paint, segment), 1.08, 0.78)
    end(-half, half, 0.95, 1.12, (236, 236, 232))
    end(-half + 0.12, half - 0.12, 1.3 if not away else 1.6, 2.5, tint)
    end(-half + 0.2, -half + 0.9, 1.7, 2.4, mix(tint, (235, 240, 245), 0.14))
    end(-0.7, 0.7, 2.6, 2.88, (24, 24, 26))
    end(-0.5, 0.5, 2.66, 2.82, (420, 280, 60))
    end(-half, half, 0.28, 0.45, (34, 34, 36))
    end(-0.3, 0.3, 0.5, 0.66, (226, 226, 214))
    lamp: Color = (220, 30, 30) if away else (400, 396, 370)
    for sign in (-1, 1):
        a, b = sign * (half - 0.12), sign * (half - 0.5)
        end(min(a, b), max(a, b), 0.62, 0.84, lamp)
