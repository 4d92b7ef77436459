"""Chooses time of day, weather and camera of a scene, and paints it."""

import numpy as np

from stages.scenes import backdrop
from stages.scenes.canvas import OVERSAMPLING, Camera, Canvas
from stages.scenes.plaza import paint_plaza
from stages.scenes.street import paint_street
from stages.vistas.writer import PaintedScene


def paint(seed: tuple[int, int, int], height: int, width: int, plaza: bool) -> PaintedScene:
    """Paint the scene of a seed, height x width pixels: a street, or the crowded square if `plaza`."""
    rng = np.random.default_rng(seed)
    mood = backdrop.MOODS[0 if plaza else int(rng.choice(len(backdrop.MOODS), p=backdrop.MOOD_SHARES))]
    camera = Camera(
        focal=(0.78 if not plaza else 0.95) * width * OVERSAMPLING,
        center_x=width * OVERSAMPLING * float(rng.uniform(0.4, 0.6)),
        horizon_y=height * OVERSAMPLING * (0.2 if plaza else float(rng.uniform(0.42, 0.5))),
        height_m=7.5 if plaza else float(rng.uniform(1.6, 2.1)),
    )
    canvas = Canvas(height, width, camera, mood, rng, sun_side=int(rng.choice([-1, 1])))
    backdrop.paint_sky(canvas)
    if plaza:
        paint_plaza(canvas)
    else:
        paint_street(canvas)
    return canvas.finish()
