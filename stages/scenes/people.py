"""People and bicycles, as figures facing the camera."""

from typing import Final

import numpy as np
import numpy.typing as npt

from stages.scenes import classes as c
from stages.scenes.backdrop import gain
from stages.scenes.canvas import OVERSAMPLING, Canvas, Color

SKINS: Final[tuple[Color, ...]] = ((236, 196, 168), (206, 158, 122), (150, 104, 76), (98, 66, 50))
HAIRS: Final[tuple[Color, ...]] = ((40, 28, 22), (92, 62, 38), (24, 22, 24), (168, 128, 76), (130, 126, 124))
TOPS: Final[tuple[Color, ...]] = (
    (196, 40, 46),
    (44, 92, 170),
    (232, 228, 220),
    (52, 58, 66),
    (226, 172, 48),
    (60, 132, 92),
    (150, 74, 140),
    (206, 112, 60),
    (110, 170, 200),
)
TROUSERS: Final[tuple[Color, ...]] = ((36, 44, 72), (30, 30, 34), (112, 100, 82), (70, 76, 86), (64, 84, 122))


def paint_person(canvas: Canvas, x: float, z: float, segment: int, ground: float) -> None:
    """Paint one walking person of random looks at (x, z) metres, on ground at height `ground`."""
    rng, scale = canvas.rng, canvas.camera.focal / z
    tall = float(rng.uniform(1.58, 1.88))
    stride, turn = float(rng.uniform(-0.22, 0.22)), int(rng.choice([-1, 1]))
    top, trousers = TOPS[rng.integers(len(TOPS))], TROUSERS[rng.integers(len(TROUSERS))]
    skin, hair = SKINS[rng.integers(len(SKINS))], HAIRS[rng.integers(len(HAIRS))]
    foot = canvas.camera.project([(x, ground, z)])[0]
    unit = scale * tall

    def at(*points: tuple[float, float]) -> npt.NDArray[np.float64]:
        # Both axes are in units of the person's height, y above the ground.
        return np.array([(foot[0] + a * unit, foot[1] - b * unit) for a, b in points])

    shade = at((-0.14, -0.01), (0.14, -0.01), (0.16, 0.03), (-0.16, 0.03))
    canvas.shadow(shade, 0.5, unit * 0.02)
    if canvas.mood.sun > 0.5:
        lean = -canvas.sun_side * 0.55
        canvas.shadow(at((-0.05, 0), (0.06, 0), (lean + 0.06, 0.1), (lean - 0.05, 0.1)), 0.35, unit * 0.02)
    for sign, shadow in ((-1, 0.72), (1, 1.0)):
        step = stride * sign
        leg = at(
            (-0.075, 0.5),
            (0.075, 0.5),
            (step * 0.5 + 0.06, 0.26),
            (step + 0.045, 0.04),
            (step - 0.045, 0.04),
            (step * 0.5 - 0.06, 0.26),
        )
        canvas.poly(leg, gain(trousers, shadow), segment, z)
        shoe = at((step - 0.05, 0.0), (step + 0.05 + 0.03 * turn, 0.0), (step + 0.04, 0.05), (step - 0.045, 0.05))
        canvas.poly(shoe, (40, 34, 32), segment, z)
    swing = -stride * 0.8
    arm = at(
        (-0.1, 0.81),
        (-0.14, 0.79),
        (-0.15 + swing * 0.4, 0.62),
        (-0.12 + swing, 0.46),
        (-0.075 + swing, 0.47),
        (-0.09, 0.64),
    )
    canvas.poly(arm, gain(top, 0.72), segment, z)
    torso = at(
        (-0.105, 0.82),
        (-0.04, 0.85),
        (0.04, 0.85),
        (0.105, 0.82),
        (0.115, 0.66),
        (0.09, 0.47),
        (-0.09, 0.47),
        (-0.115, 0.66),
    )
    canvas.poly(torso, top, segment, z)
    dark = -canvas.sun_side
    canvas.poly(
        at(
            (dark * 0.035, 0.84),
            (dark * 0.105, 0.82),
            (dark * 0.115, 0.66),
            (dark * 0.09, 0.47),
            (dark * 0.03, 0.47),
        ),
        gain(top, 0.8),
        segment,
        z,
    )
    arm = at(
        (0.1, 0.81),
        (0.14, 0.79),
        (0.15 - swing * 0.4, 0.62),
        (0.12 - swing, 0.46),
        (0.075 - swing, 0.47),
        (0.09, 0.64),
    )
    canvas.poly(arm, gain(top, 0.9), segment, z)
    for hand in (-0.1 + swing, 0.1 - swing):
        canvas.disc(at((hand, 0.45))[0], 0.024 * unit, skin, segment, z)
    if rng.random() < 0.35:
        bag = at((0.1, 0.5), (0.2, 0.5), (0.19, 0.34), (0.11, 0.34))
        canvas.poly(bag, TOPS[rng.integers(len(TOPS))], segment, z)
    canvas.poly(at((-0.03, 0.84), (0.03, 0.84), (0.03, 0.9), (-0.03, 0.9)), gain(skin, 0.8), segment, z)
    canvas.disc(at((0.0, 0.945))[0], 0.062 * unit, hair, segment, z)
    canvas.disc(at((0.014 * turn, 0.93))[0], 0.05 * unit, skin, segment, z)


def paint_walker(canvas: Canvas, x: float, z: float, ground: float) -> None:
    """Paint one person as one segment."""
    paint_person(canvas, x, z, canvas.segment(c.PERSON), ground)


def paint_group(canvas: Canvas, x: float, z: float, count: int, ground: float) -> None:
    """Paint people so close together that an annotator draws one region: one segment of Person Group."""
    segment = canvas.segment(c.PERSON_GROUP)
    offsets = np.sort(canvas.rng.uniform(0, 1.6, count))[::-1]
    for i, back in enumerate(offsets.tolist()):
        spot = (i * 0.618 % 1 - 0.5) * 0.36 * count
        paint_person(canvas, x + spot, z + back, segment, ground)


def paint_bicycle(canvas: Canvas, x: float, z: float, ground: float) -> None:
    """Paint a parked bicycle from its side. The mask of a wheel is the whole disc; the frame has gaps."""
    rng, scale = canvas.rng, canvas.camera.focal / z
    segment, heading = canvas.segment(c.BICYCLE), int(rng.choice([-1, 1]))
    paint: Color = TOPS[rng.integers(len(TOPS))]
    origin = canvas.camera.project([(x, ground, z)])[0]

    def at(*points: tuple[float, float]) -> npt.NDArray[np.float64]:
        return np.array([(origin[0] + heading * a * scale, origin[1] - b * scale) for a, b in points])

    canvas.shadow(at((-0.85, -0.03), (0.85, -0.03), (0.85, 0.04), (-0.85, 0.04)), 0.45, scale * 0.05)
    tyre, tube = 0.07 * scale, 0.065 * scale
    angles = np.linspace(0, 2 * np.pi, 25)
    for hub in (-0.55, 0.55):
        rim = at(*[(hub + 0.34 * float(np.cos(a)), 0.36 + 0.34 * float(np.sin(a))) for a in angles])
        canvas.outline(rim, segment)
        canvas.line(rim, tyre, (30, 30, 32), segment, z)
        if scale > 30 * OVERSAMPLING:
            for a in angles[::4]:
                spoke = at((hub, 0.36), (hub + 0.33 * float(np.cos(a)), 0.36 + 0.33 * float(np.sin(a))))
                canvas.line(spoke, 0, (150, 152, 156), segment, z)
        canvas.disc(at((hub, 0.36))[0], 0.06 * scale, (120, 122, 126), segment, z)
    crank, saddle, head = (-0.08, 0.34), (-0.2, 0.86), (0.4, 0.84)
    for path in (
        ((-0.55, 0.36), crank, head, saddle, crank),
        ((-0.55, 0.36), saddle),
        ((0.55, 0.36), head, (0.36, 1.02)),
    ):
        canvas.line(at(*path), tube, paint, segment, z)
    canvas.line(at((-0.34, 0.92), (-0.1, 0.92)), 0.09 * scale, (34, 28, 26), segment, z)
    canvas.line(at((0.24, 1.06), (0.36, 1.02), (0.46, 1.08)), 0.05 * scale, (40, 40, 42), segment, z)
    canvas.disc(at(crank)[0], 0.09 * scale, (60, 60, 64), segment, z)
