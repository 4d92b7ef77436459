"""Paints a street that moves, frame by frame, with the true number of every object.

Cars and a bus drive along it and across it, people walk, and they cover each other. The camera pans. Every object keeps
its looks, since each is painted with a generator of its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from stages.inference import frames
from stages.scenes import backdrop, buildings, people, vehicles
from stages.scenes import classes as c
from stages.scenes.canvas import OVERSAMPLING, Camera, Canvas
from stages.vistas.labels import LABELS

FPS = 25
_SPAN = (1.2, 130.0)
_ROAD_M, _WALK_M = 6.0, 10.0
"""Half width of the road, and of road and sidewalks together."""


@dataclass(frozen=True)
class Frame:
    """A frame and its truth."""

    rgb: frames.Frame
    """uint8 [H, W, 3]."""
    ids: npt.NDArray[np.int32]
    """int32 [H, W]: the number of the object or of the stuff class, the same in all frames; 0 for no label."""
    category_ids: dict[int, int]
    """Number -> category_id, which is the label id of Vistas v2.0 plus 1."""


CATEGORIES = {
    label.id + 1: {"id": label.id + 1, "name": label.name, "isthing": int(label.instances), "color": list(label.color)}
    for label in LABELS
}
"""category_id -> category."""


@dataclass(frozen=True)
class _Actor:
    """An object that moves on a straight line."""

    paint: Callable[[Canvas, float, float], None]
    """Paints it at x and z metres."""
    x: float
    z: float
    speed_x: float
    speed_z: float
    """m/s."""


def _actors(rng: np.random.Generator) -> list[_Actor]:
    def car(canvas: Canvas, x: float, z: float, kind: int, color: int, away: bool) -> None:
        vehicles.paint_car(canvas, x, z, vehicles.KINDS[kind], vehicles.PAINTS[color], away)

    def across(canvas: Canvas, x: float, z: float, kind: int, color: int, heading: int) -> None:
        vehicles.paint_car_across(canvas, x, z, vehicles.KINDS[kind], vehicles.PAINTS[color], heading)

    def bus(canvas: Canvas, x: float, z: float) -> None:
        vehicles.paint_bus(canvas, x, z, (198.0, 44.0, 40.0), False)

    def look() -> tuple[int, int]:
        return int(rng.integers(len(vehicles.KINDS))), int(rng.integers(len(vehicles.PAINTS)))

    def walker(canvas: Canvas, x: float, z: float) -> None:
        people.paint_walker(canvas, x, z, 0.0)

    found = [_Actor(partial(car, kind=k, color=p, away=True), 1.8, z, 0.0, v) for k, p, z, v in (
        (*look(), 7.0, 3.0), (*look(), 16.0, 2.0), (*look(), 27.0, 4.0),
    )]  # fmt: skip
    found += [
        _Actor(partial(car, kind=k, color=p, away=False), -2.2, z, 0.0, -v)
        for (k, p), z, v in zip([look() for _ in range(4)], (20.0, 34.0, 52.0, 75.0), (5.0, 6.0, 6.0, 7.0), strict=True)
    ]
    found.append(_Actor(bus, -2.2, 95.0, 0.0, -8.0))
    for side, z in ((-1, 12.0), (1, 19.0), (-1, 30.0)):
        kind, color = look()
        found.append(_Actor(partial(across, kind=kind, color=color, heading=-side), side * 14.0, z, -side * 5.0, 0.0))
    for _ in range(14):
        side = int(rng.choice([-1, 1]))
        x, z = side * float(rng.uniform(_ROAD_M, _WALK_M)), float(np.exp(rng.uniform(np.log(6), np.log(32))))
        found.append(_Actor(walker, x, z, float(rng.uniform(-0.2, 0.2)), float(rng.choice([-1.3, 1.3]))))
    for _ in range(8):
        side, z = int(rng.choice([-1, 1])), float(rng.uniform(7, 18))
        found.append(_Actor(walker, side * float(rng.uniform(2, 9)), z, -side * float(rng.uniform(0.9, 1.6)), 0.0))
    return found


def paint(height: int, width: int, count: int, seed: int = 0, fps: float = FPS) -> Iterator[Frame]:
    """Yield `count` frames of height x width pixels."""
    actors = _actors(np.random.default_rng(seed))
    mood = backdrop.MOODS[0]
    stuff: dict[int, int] = {}
    for number in range(count):
        time_s = number / fps
        camera = Camera(
            focal=0.8 * width * OVERSAMPLING,
            center_x=width * OVERSAMPLING * (0.5 + 0.03 * float(np.sin(0.9 * time_s))),
            horizon_y=height * OVERSAMPLING * (0.45 + 0.006 * float(np.sin(2.3 * time_s))),
            height_m=1.8,
        )
        canvas = Canvas(height, width, camera, mood, np.random.default_rng((seed, 1)), sun_side=1)
        backdrop.paint_sky(canvas)
        backdrop.paint_ground(canvas, c.TERRAIN, (104.0, 132.0, 66.0))
        backdrop.strip(canvas, c.SIDEWALK, backdrop.SLAB, (-_WALK_M, _WALK_M), _SPAN)
        backdrop.strip(canvas, c.ROAD, (98.0, 98.0, 102.0), (-_ROAD_M, _ROAD_M), _SPAN)
        for place in range(8, -1, -1):
            for side in (-1, 1):
                canvas.rng = np.random.default_rng((seed, 2, place, side + 1))
                style, tall = buildings.random_style(canvas.rng), float(canvas.rng.uniform(8, 19))
                z = 3.0 + 14 * place
                buildings.paint_building(canvas, side, _WALK_M, (z, z + 14), tall, style)
        number_of: dict[int, int] = {}
        placed = [(a.z + a.speed_z * time_s, i, a) for i, a in enumerate(actors, start=1)]
        for z, i, actor in sorted(placed, key=lambda one: -one[0]):
            if z > 1.5:
                canvas.rng = np.random.default_rng((seed, 3, i))
                number_of[len(canvas.labels)] = i
                actor.paint(canvas, actor.x + actor.speed_x * time_s, z)
        canvas.rng = np.random.default_rng((seed, 4, number))
        scene = canvas.finish()
        table = np.zeros(len(scene.labels), np.int32)
        category_ids: dict[int, int] = {}
        for segment, label in enumerate(scene.labels):
            if segment:
                known = number_of.get(segment) or stuff.setdefault(label, 1000 + len(stuff))
                table[segment] = known
                category_ids[known] = label + 1
        ids = table[scene.segments]
        present = set(np.unique(ids).tolist())
        yield Frame(scene.image, ids, {i: k for i, k in category_ids.items() if i in present})
