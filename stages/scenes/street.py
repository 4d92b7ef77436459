"""A street: its random plan, and the objects on it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from stages.scenes import backdrop, buildings, ego, furniture, people, vehicles
from stages.scenes import classes as c
from stages.scenes.backdrop import CURB_M, SLAB, gain
from stages.scenes.canvas import Canvas
from stages.scenes.order import Job, pick, run

LANE_M: Final = 3.3
ASPHALT: Final = (98.0, 98.0, 102.0)
GRASS: Final = (104.0, 132.0, 66.0)
PAINT: Final = (226.0, 226.0, 220.0)
NEAR_M: Final = 1.2
END_M: Final = 130.0
"""Distance of the end of the street."""
ACTORS_END_M: Final = 48.0
"""Largest distance of vehicles and people. Farther ones would be below a pixel at the size of the network's masks."""


@dataclass(frozen=True)
class Street:
    """Plan of a street, metres; sides are -1 (left) and 1 (right)."""

    edge: dict[int, float]
    """Half width of the road on each side of the camera."""
    verge: dict[int, float]
    """Width of the grass between curb and sidewalk; 0 where there is none."""
    walk: float
    parking: dict[int, bool]
    crossing: float
    """Distance of the near edge of the zebra crossing."""
    side_street: bool

    def front(self, side: int) -> float:
        """Return the distance of the building line from the axis of the camera."""
        return self.edge[side] + 0.3 + self.verge[side] + self.walk

    def middle(self, side: int) -> float:
        """Return the distance of the middle of the sidewalk from the axis of the camera."""
        return self.edge[side] + 0.3 + self.verge[side] + self.walk / 2


def _plan(rng: np.random.Generator) -> Street:
    parking = {-1: bool(rng.random() < 0.7), 1: bool(rng.random() < 0.6)}
    lanes = int(rng.integers(1, 3))
    edge = {side: LANE_M / 2 + 2.3 * parking[side] + 0.4 + (lanes * LANE_M if side < 0 else 0) for side in (-1, 1)}
    verge = {side: 1.7 if rng.random() < 0.65 else 0.0 for side in (-1, 1)}
    return Street(edge, verge, pick(rng, 2.6, 3.6), parking, pick(rng, 8, 15), bool(rng.random() < 0.55))


def paint_street(canvas: Canvas) -> None:
    """Paint a street over the sky, from the skyline to the hood of the camera's car."""
    rng, street = canvas.rng, _plan(canvas.rng)
    _paint_skyline(canvas)
    backdrop.paint_ground(canvas, c.TERRAIN, GRASS)
    _paint_floor(canvas, street)
    _paint_markings(canvas, street)
    backdrop.texture_ground(canvas, road=True)
    _cast_shadow(canvas, street)
    blocks: list[Job] = []
    for side in (-1, 1):
        blocks += _blocks(canvas, street, side)
    blocks += _crossing_cars(canvas, street)
    run(blocks)
    jobs = _traffic(canvas, street)
    for side in (-1, 1):
        jobs += _roadside(canvas, street, side)
    run(jobs)
    if rng.random() < 0.75:
        paint = vehicles.PAINTS[rng.integers(len(vehicles.PAINTS))]
        ego.paint_hood(canvas, gain(paint, 0.8), pick(rng, 0.07, 0.12))


def _paint_skyline(canvas: Canvas) -> None:
    rng = canvas.rng
    x = -150.0
    while x < 150:
        wide, tall = pick(rng, 10, 24), pick(rng, 8, 24)
        wall = buildings.Wall((x, 0.0, END_M + 30), (1.0, 0.0), wide, tall)
        tint = backdrop.mix(buildings.WALLS[rng.integers(9)], (138, 146, 158), 0.6)
        canvas.face(wall.rect(0, wide, 0, tall), tint, canvas.segment(c.BUILDING))
        x += wide
    for x in np.arange(-60, 60, 6.0).tolist():
        furniture.paint_tree(canvas, x + pick(rng, -2, 2), END_M + 20, pick(rng, 6, 11), 0.0)


def _paint_floor(canvas: Canvas, street: Street) -> None:
    span = (NEAR_M, END_M)
    for side in (-1, 1):
        inner, front = street.edge[side] + 0.3, street.front(side)
        walk = street.front(side) - street.walk

        def lane(a: float, b: float, side: int = side) -> tuple[float, float]:
            return min(a * side, b * side), max(a * side, b * side)

        backdrop.strip(canvas, c.SIDEWALK, SLAB, lane(walk, front), span, CURB_M)
        backdrop.paint_joints(canvas, lane(walk, front), span, CURB_M)
        if walk > inner:
            backdrop.strip(canvas, c.TERRAIN, gain(GRASS, 0.95), lane(inner, walk), span, CURB_M)
    backdrop.strip(canvas, c.ROAD, ASPHALT, (-street.edge[-1], street.edge[1]), span)
    for side in (-1, 1):
        backdrop.paint_curb(canvas, street.edge[side] * side, side, span)
    if street.side_street:
        near = street.crossing + 5
        backdrop.strip(canvas, c.ROAD, ASPHALT, (-90, 90), (near, near + 11))


def _paint_markings(canvas: Canvas, street: Street) -> None:
    rng = canvas.rng
    left, right = -street.edge[-1], street.edge[1]
    hole = (street.crossing - 1.5, street.crossing + (17 if street.side_street else 5))
    solid = canvas.segment(c.SOLID)
    for x in (left + 0.35 + 2.2 * street.parking[-1], right - 0.5 - 2.2 * street.parking[1]):
        for z in ((NEAR_M, hole[0]), (hole[1], 90.0)):
            backdrop.mark(canvas, solid, (x, x + 0.16), z, PAINT)
    dashed, start = canvas.segment(c.DASHED), pick(rng, 1.5, 4)
    for x in np.arange(-LANE_M / 2, left + 2.4, -LANE_M).tolist():
        for z in np.arange(start, 80, 5.5).tolist():
            if z + 3 < hole[0] or z > hole[1]:
                backdrop.mark(canvas, dashed, (x - 0.12, x + 0.12), (z, z + 3), PAINT)
    zebra = canvas.segment(c.ZEBRA)
    for x in np.arange(left + 0.5, right - 0.6, 1.05).tolist():
        backdrop.mark(canvas, zebra, (x, x + 0.55), (street.crossing, street.crossing + 3.2), PAINT)


def _cast_shadow(canvas: Canvas, street: Street) -> None:
    if canvas.mood.sun < 0.5:
        return
    side = canvas.sun_side
    reach = street.front(side) - pick(canvas.rng, 3.0, 8.0)
    x0, x1 = sorted((side * reach, side * (street.front(side) + 1)))
    points = [(x0, 0.0, NEAR_M), (x1, 0.0, NEAR_M), (x1, 0.0, END_M), (x0, 0.0, END_M)]
    canvas.shadow(canvas.camera.project(points), 0.34, 4.0)


def _blocks(canvas: Canvas, street: Street, side: int) -> list[Job]:
    rng, front = canvas.rng, street.front(side)
    jobs: list[Job] = []
    gap = (street.crossing + 4, street.crossing + 17) if street.side_street else (END_M, END_M)
    z, number = pick(rng, 1.5, 3.0), 0
    park = int(rng.integers(0, 2))
    while z < END_M:
        end = min(z + pick(rng, 9, 20), END_M + 10)
        if z < gap[0] < end:
            end = gap[0]
        if gap[0] <= z < gap[1]:
            z = gap[1]
            continue
        if number == park or (number > 3 and rng.random() < 0.25):
            jobs.append((z, partial(_paint_park, canvas, side, front, (z, end))))
        elif end - z > 3:
            style, tall = buildings.random_style(rng), pick(rng, 7.5, 19)
            jobs.append((z, partial(buildings.paint_building, canvas, side, front, (z, end), tall, style)))
        z, number = end, number + 1
    return jobs


def _paint_park(canvas: Canvas, side: int, front: float, z: tuple[float, float]) -> None:
    rng = canvas.rng
    x = sorted((side * front, side * (front + 40)))
    backdrop.strip(canvas, c.TERRAIN, GRASS, (x[0], x[1]), z, CURB_M)
    for at in np.linspace(z[1], z[0] + 1, 4).tolist():
        furniture.paint_tree(canvas, side * (front + pick(rng, 3.5, 12)), at, pick(rng, 5, 9), CURB_M)
    furniture.paint_hedge(canvas, side * (front + 1.6), z, pick(rng, 0.8, 1.3))
    color = ((46, 52, 50), (150, 112, 74), (206, 206, 202))[rng.integers(3)]
    furniture.paint_fence(canvas, side * (front + 0.1), z, pick(rng, 1.2, 1.6), color)


def _car(canvas: Canvas, x: float, z: float, away: bool) -> Job:
    kind = vehicles.KINDS[canvas.rng.integers(len(vehicles.KINDS))]
    paint = gain(vehicles.PAINTS[canvas.rng.integers(len(vehicles.PAINTS))], pick(canvas.rng, 0.9, 1.08))
    return z, partial(vehicles.paint_car, canvas, x, z, kind, paint, away)


def _traffic(canvas: Canvas, street: Street) -> list[Job]:
    rng = canvas.rng
    jobs: list[Job] = []
    busy = (street.crossing - 6, street.crossing + (17 if street.side_street else 5))
    for side in (-1, 1):
        z = pick(rng, 4.5, 9)
        while street.parking[side] and z < ACTORS_END_M:
            if rng.random() < 0.75 and not busy[0] < z < busy[1]:
                x = side * (street.edge[side] - 1.15) + pick(rng, -0.1, 0.1)
                jobs.append(_car(canvas, x, z, away=side > 0))
            z += pick(rng, 5.6, 8)
    oncoming, z = -LANE_M, pick(rng, 9, 22)
    bus = rng.random() < 0.75
    while z < ACTORS_END_M + 10:
        if bus:
            paint = ((198, 44, 40), (232, 176, 40), (38, 96, 150))[rng.integers(3)]
            jobs.append((z, partial(vehicles.paint_bus, canvas, oncoming, z, paint, False)))
            bus, z = False, z + 10
        else:
            jobs.append(_car(canvas, oncoming + pick(rng, -0.2, 0.2), z, away=False))
        z += pick(rng, 9, 24)
    z = pick(rng, 11, 24)
    while z < ACTORS_END_M:
        jobs.append(_car(canvas, pick(rng, -0.3, 0.3), z, away=True))
        z += pick(rng, 9, 26)
    for _ in range(int(rng.integers(0, 4))):
        x, z = pick(rng, -street.edge[-1], street.edge[1]), street.crossing + pick(rng, 0.4, 2.8)
        jobs.append((z, partial(people.paint_walker, canvas, x, z, 0.0)))
    return jobs


def _crossing_cars(canvas: Canvas, street: Street) -> list[Job]:
    # They wait in the side street behind the building line, so that nearer blocks hide them.
    rng = canvas.rng
    jobs: list[Job] = []
    for side in (-1, 1):
        if street.side_street and rng.random() < 0.75:
            kind, paint = vehicles.KINDS[rng.integers(4)], vehicles.PAINTS[rng.integers(10)]
            x, z = side * (street.front(side) + pick(rng, 0.5, 3)), street.crossing + (7 if side < 0 else 11)
            jobs.append((z, partial(vehicles.paint_car_across, canvas, x, z, kind, paint, -side)))
    return jobs


def _roadside(canvas: Canvas, street: Street, side: int) -> list[Job]:
    rng, kerb, walk = canvas.rng, street.edge[side] + 0.75, street.middle(side)
    jobs: list[Job] = []

    def add(z: float, job: Callable[..., None], *args: object) -> None:
        jobs.append((z, partial(job, canvas, *args)))

    def seen(x: float, depth: float) -> float:
        # Return a random distance, at most `depth` metres beyond the nearest one at which x is in the picture.
        room = canvas.width / 2 + side * (canvas.width / 2 - canvas.camera.center_x)
        return max(x * canvas.camera.focal / room, 4.5) * 1.04 + pick(rng, 0, depth)

    for z in np.arange(pick(rng, 7, 11), ACTORS_END_M, pick(rng, 16, 22)).tolist():
        add(z, furniture.paint_street_light, side * kerb, z, side)
    for z in np.arange(pick(rng, 9, 15), 100, pick(rng, 9, 14)).tolist():
        if rng.random() < 0.7:
            add(z, furniture.paint_tree, side * (kerb + 0.3), z, pick(rng, 4.5, 7.5), CURB_M)
    z = street.crossing - 0.6
    add(z, furniture.paint_traffic_light, side * kerb, z, int(rng.integers(3)))
    for z in (pick(rng, 5, 9), pick(rng, 9, 20), pick(rng, 20, ACTORS_END_M)):
        if rng.random() < 0.75:
            add(z, furniture.paint_sign, side * (kerb + 0.15), z)
    for _ in range(int(rng.integers(3, 7))):
        z = float(np.exp(rng.uniform(np.log(5.0), np.log(30))))
        add(z, people.paint_walker, side * (walk + pick(rng, -1.1, 1.1)), z, CURB_M)
    for _ in range(int(rng.integers(1, 3))):
        z = seen(walk + 0.4, 9)
        add(z, people.paint_bicycle, side * (walk - 0.4), z, CURB_M)
    for _ in range(int(rng.integers(1, 3))):
        inner = walk - street.walk / 2 + 0.5
        z = seen(inner + 0.5, 8)
        add(z, furniture.paint_bin, side * inner, z)
    if rng.random() < 0.3:
        z = pick(rng, 14, 30)
        add(z, people.paint_group, side * walk, z, int(rng.integers(6, 12)), CURB_M)
    if rng.random() < 0.4:
        z = seen(street.front(side), 10)
        add(z, furniture.paint_heap, side * (walk + street.walk / 2 - 0.6), z)
    return jobs
