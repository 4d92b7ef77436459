"""Sky, ground and road: the background of a street."""

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from stages.scenes import classes as c
from stages.scenes.canvas import Canvas, Color, Mood

MOODS: Final = (
    Mood((88, 140, 205), (196, 214, 230), (1.02, 1.0, 0.96), 0.9, 0.45, (250, 250, 250), 260, False),
    Mood((150, 162, 176), (204, 208, 212), (0.84, 0.86, 0.90), 0.1, 0.85, (222, 225, 228), 150, False),
    Mood((96, 132, 190), (248, 205, 150), (1.08, 0.94, 0.78), 0.8, 0.50, (255, 220, 180), 170, False),
    Mood((50, 66, 118), (226, 148, 112), (0.58, 0.55, 0.66), 0.15, 0.42, (168, 116, 124), 140, True),
)
"""Clear day, overcast, golden hour, dusk."""
MOOD_SHARES: Final = (0.42, 0.2, 0.2, 0.18)
SLAB: Final = (170.0, 164.0, 156.0)
"""Colour of paving."""
FAR_M: Final = 220.0
CURB_M: Final = 0.16
"""Height of curbs and sidewalks."""


def mix(a: Color, b: Color, t: float) -> Color:
    """Return the colour between a (t = 0) and b (t = 1)."""
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t


def gain(color: Color, factor: float) -> Color:
    """Return a darker (factor < 1) or lighter colour. It may leave 0 to 255, since the canvas clips it."""
    return color[0] * factor, color[1] * factor, color[2] * factor


def octaves(rng: np.random.Generator, height: int, width: int, first: int) -> npt.NDArray[np.float32]:
    """Return smooth noise float32 (height, width), about -1 to 1, of four octaves, wider than tall, like clouds."""
    total = np.zeros((height, width), np.float32)
    for octave in range(4):
        cells = first * 2**octave
        grid = rng.normal(0, 1, (5 * cells, 2 * cells)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 0.5 ** (octave + 1)
    return total


def paint_sky(canvas: Canvas) -> None:
    """Fill the whole canvas with a sky: a gradient, the glow of the sun, and soft clouds."""
    mood, rng = canvas.mood, canvas.rng
    h, w = 96, 144  # Clouds are soft, so they are painted small and enlarged.
    reach = max(canvas.camera.horizon_y / canvas.height, 0.05)
    t = np.clip(np.linspace(0, 1 / reach, h, dtype=np.float32), 0, 1)[:, None, None]
    sky = np.asarray(mood.zenith, np.float32) * (1 - t) + np.asarray(mood.horizon, np.float32) * t
    sky = np.repeat(sky, w, axis=1)
    u, v = np.arange(w, dtype=np.float32)[None] / w, np.arange(h, dtype=np.float32)[:, None] / h
    sun_x = 0.5 + canvas.sun_side * rng.uniform(0.1, 0.45)
    spread = ((u - sun_x) ** 2 * 2 + (v - reach * rng.uniform(0.3, 0.9)) ** 2 * 4) / 0.12
    sky += np.exp(-spread)[..., None] * np.asarray((70, 55, 30), np.float32) * (0.3 + 0.7 * mood.sun)
    noise = octaves(rng, h, w, 2)
    noise -= noise.mean()
    cover = np.clip((noise + mood.cloud - 0.45) * 2.6, 0, 1) * (1 - 0.6 * t[..., 0])
    above = np.roll(noise, 4, axis=0)  # Thick clouds above keep the light away.
    belly = np.clip(0.95 - 0.3 * above, 0.74, 1.04)
    cloud = np.asarray(mood.cloud_color, np.float32) * belly[..., None]
    sky += (cloud - sky) * cover[..., None]
    large = cv2.resize(sky, (canvas.width, canvas.height), interpolation=cv2.INTER_CUBIC)
    canvas.rgb[:] = cv2.convertScaleAbs(np.maximum(large, 0))
    canvas.ids[:] = canvas.segment(c.SKY)


def paint_ground(canvas: Canvas, label: int, color: Color) -> None:
    """Fill everything below the horizon with one label and colour."""
    far, y = FAR_M * 40, 0.0
    points = [(-far * 4, y, far), (far * 4, y, far), (60.0, y, 0.6), (-60.0, y, 0.6)]
    canvas.poly(canvas.camera.project(points), color, canvas.segment(label), 30.0)


def strip(
    canvas: Canvas, label: int, color: Color, x: tuple[float, float], z: tuple[float, float], y: float = 0.0
) -> None:
    """Paint a flat rectangle of ground x[0]..x[1], z[0]..z[1] at height y, in slices, so that haze grows."""
    segment = canvas.segment(label)
    edges = np.geomspace(max(z[0], 0.6), max(z[1], 0.7), 9)
    for far, near in zip(edges[:0:-1], edges[-2::-1], strict=True):
        points = [(x[0], y, far), (x[1], y, far), (x[1], y, near), (x[0], y, near)]
        canvas.face([(float(a), float(b), float(d)) for a, b, d in points], color, segment)


def mark(canvas: Canvas, segment: int, x: tuple[float, float], z: tuple[float, float], white: Color) -> None:
    """Paint one rectangle of a road marking."""
    canvas.face([(x[0], 0, z[1]), (x[1], 0, z[1]), (x[1], 0, z[0]), (x[0], 0, z[0])], white, segment)


def paint_curb(canvas: Canvas, edge: float, side: int, z: tuple[float, float]) -> None:
    """Paint a curb along x = edge: first its face towards the road, then its top, 0.3 m wide."""
    segment = canvas.segment(c.CURB)
    top, outer = CURB_M, edge + 0.3 * side
    steps = np.geomspace(z[0], z[1], 9)
    for near, far in zip(steps[-2::-1].tolist(), steps[:0:-1].tolist(), strict=True):
        face = [(edge, 0.0, near), (edge, top, near), (edge, top, far), (edge, 0.0, far)]
        crown = [(edge, top, near), (outer, top, near), (outer, top, far), (edge, top, far)]
        canvas.face(face, (128, 128, 126), segment)
        canvas.face(crown, (192, 190, 184), segment)


def texture_ground(canvas: Canvas, road: bool) -> None:
    """Add a rough texture to everything below the horizon, in perspective, and wheel tracks to a road."""
    camera = canvas.camera
    top = max(int(camera.horizon_y) + 2, 0)
    rows, columns = canvas.height - top, canvas.width
    if rows <= 0:
        return
    v, u = (
        np.arange(top, canvas.height, dtype=np.float32)[:, None],
        np.arange(columns, dtype=np.float32)[None],
    )
    z = camera.focal * camera.height_m / (v - camera.horizon_y)
    x = (u - camera.center_x) * (z / camera.focal)
    tile = 512
    noise = canvas.rng.normal(0, 1, (tile, tile)).astype(np.float32)
    rough = noise + 2 * cv2.blur(noise, (3, 3)) + 7 * cv2.GaussianBlur(noise, (0, 0), 14)
    lookup = cv2.remap(
        rough.astype(np.float32),
        np.mod(x * 40, tile - 1),
        np.broadcast_to(np.mod(z * 40, tile - 1), x.shape).astype(np.float32),
        cv2.INTER_LINEAR,
    )
    effect = 1 + 0.05 * lookup * np.clip(9 / z, 0.12, 1)
    if road:
        wear = np.cos((x - 0.82) * np.float32(2 * np.pi / 1.65)) * np.float32(0.035)
        seen = canvas.ids[top:] == canvas.segment(c.ROAD)
        effect += np.where(seen, wear, np.float32(0))
    canvas.multiply((0, top, columns, canvas.height), np.clip(effect, 0, 1.9).astype(np.float32))


def paint_joints(canvas: Canvas, x: tuple[float, float], z: tuple[float, float], y: float) -> None:
    """Draw the joints between the slabs of a sidewalk. Segments stay as they are."""
    color, camera = (138.0, 132.0, 126.0), canvas.camera
    for at in np.arange(np.ceil(z[0]), min(z[1], 26.0)).tolist():
        canvas.line(camera.project([(x[0], y, at), (x[1], y, at)]), 0, color, None, at)
    for across in np.arange(x[0], x[1] + 0.1, 1.0).tolist():
        canvas.line(camera.project([(across, y, z[0]), (across, y, min(z[1], 26.0))]), 0, color, None, 15.0)
