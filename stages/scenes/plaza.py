"""A crowded square seen from above: more than 255 segments in one picture."""

from functools import partial

import numpy as np

from stages.scenes import backdrop, buildings, furniture, people, vehicles
from stages.scenes import classes as c
from stages.scenes.backdrop import FAR_M, SLAB
from stages.scenes.canvas import Canvas
from stages.scenes.order import Job, pick, run


def paint_plaza(canvas: Canvas) -> None:
    """Paint the square over the sky: people in rows, bicycles, cars and buildings behind."""
    rng = canvas.rng
    backdrop.paint_ground(canvas, c.SIDEWALK, SLAB)
    backdrop.paint_joints(canvas, (-40, 40), (5, 60), 0.0)
    backdrop.texture_ground(canvas, road=False)
    x = -90.0
    while x < 90:
        wide = pick(rng, 9, 18)
        wall = buildings.Wall((x, 0.0, FAR_M * 0.45), (1.0, 0.0), wide, pick(rng, 14, 26))
        buildings.paint_wall(canvas, wall, buildings.random_style(rng), 1.0, doors=True)
        x += wide
    jobs: list[Job] = []
    for z in (88.0, 80.0):
        for x in np.arange(-34, 36, 5.2 if z > 85 else 4.8).tolist():
            kind, paint = vehicles.KINDS[rng.integers(4)], vehicles.PAINTS[rng.integers(10)]
            jobs.append((z, partial(vehicles.paint_car_across, canvas, x, z, kind, paint, 1)))
    for z in np.geomspace(13, 70, 15).tolist():
        reach = z / 0.95 * 0.5
        for x in np.linspace(-reach, reach, 14)[:-1].tolist():
            at = z + pick(rng, -0.4, 0.4)
            jobs.append((at, partial(people.paint_walker, canvas, x + pick(rng, 0, 0.06) * z, at, 0.0)))
    for x in np.arange(-30, 31, 6.0).tolist():
        jobs.append((74.0, partial(furniture.paint_tree, canvas, x, 74.0, pick(rng, 5, 7), 0.0)))
        jobs.append((46.0, partial(people.paint_bicycle, canvas, x * 0.75, 46.0, 0.0)))
        jobs.append((36.0, partial(furniture.paint_street_light, canvas, x, 36.0, 1)))
        jobs.append((29.0, partial(furniture.paint_bin, canvas, x * 0.55, 29.0)))
        jobs.append((22.0, partial(furniture.paint_sign, canvas, x * 0.8, 22.0)))
    run(jobs)
