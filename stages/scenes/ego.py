"""The hood of the car that carries the camera."""

import numpy as np

from stages.scenes import classes as c
from stages.scenes.backdrop import mix
from stages.scenes.canvas import Canvas, Color


def paint_hood(canvas: Canvas, paint: Color, share: float) -> None:
    """Paint the hood of the camera's car over the lowest `share` (0 to 1) of the picture."""
    segment = canvas.segment(c.EGO_VEHICLE)
    t = np.linspace(-1.05, 1.05, 41)
    h, w = canvas.height, canvas.width
    rim = h * (1 - share * (1 - 0.55 * t**2 - 0.12 * t**8))
    points = np.concatenate([np.stack([w * (0.5 + t * 0.5), rim], 1), [[w * 1.05, h + 2], [-w * 0.05, h + 2]]])
    canvas.poly(points, paint, segment)
    canvas.shade(points, 1.45, 0.6)
    gleam = np.concatenate(
        [
            np.stack([w * (0.5 + t * 0.38), rim + h * share * 0.16], 1),
            np.stack([w * (0.5 + t * 0.38), rim + h * share * 0.26], 1)[::-1],
        ]
    )
    canvas.poly(gleam, mix(paint, canvas.mood.horizon, 0.3), segment)
