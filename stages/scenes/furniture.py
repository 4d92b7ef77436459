"""Objects beside a road: trees, hedges, fences, bins, and poles with lamps, signs or traffic lights."""

from typing import Final

import numpy as np
import numpy.typing as npt

from stages.scenes import classes as c
from stages.scenes.backdrop import CURB_M, gain, mix
from stages.scenes.canvas import OVERSAMPLING, Canvas, Color
from stages.vistas.labels import UNLABELED

LEAVES: Final[tuple[Color, ...]] = ((88, 130, 56), (106, 140, 62), (72, 116, 62), (124, 138, 58))
STEEL: Final[Color] = (96, 100, 104)


def _foliage(canvas: Canvas, spots: npt.NDArray[np.float64], radius: float, leaf: Color, z: float) -> None:
    """Paint clumps of leaves at samples (N, 2), low and dark ones first. Clumps towards the sun are brighter."""
    segment, rng = canvas.segment(c.VEGETATION), canvas.rng
    low, high = spots[:, 1].max(), spots[:, 1].min()
    middle, half = spots[:, 0].mean(), max(float(np.ptp(spots[:, 0])) / 2, 1.0)
    sun = np.array([canvas.sun_side * 0.3, -0.4])

    def light(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        rise = (low - points[:, 1]) / max(low - high, 1.0)
        return 0.46 + 0.46 * rise + 0.16 * canvas.sun_side * canvas.mood.sun * (points[:, 0] - middle) / half

    clumps = spots[np.argsort(-spots[:, 1] + rng.normal(0, radius, len(spots)))]
    sizes = radius * rng.uniform(0.6, 1.1, len(clumps))
    tints = light(clumps) * rng.normal(0.86, 0.06, len(clumps))
    # The leaves of a clump follow it at once, so that nearer clumps hide them.
    leaves = 9 if radius > 3 * OVERSAMPLING else 3
    angle, reach = (
        rng.uniform(0, 2 * np.pi, (len(clumps), leaves)),
        rng.uniform(0.1, 1.05, (len(clumps), leaves)),
    )
    offset = np.stack([np.cos(angle), np.sin(angle)], 2) * (reach * sizes[:, None])[..., None]
    facing = (offset @ sun) / sizes[:, None]
    centers = np.concatenate([clumps[:, None], clumps[:, None] + offset], 1).reshape(-1, 2)
    small = rng.uniform(0.14, 0.32, (len(clumps), leaves)) * sizes[:, None]
    radii = np.concatenate([sizes[:, None], small], 1).ravel()
    shades = tints[:, None] * (1.06 + 0.55 * facing + rng.normal(0, 0.1, facing.shape))
    shades = np.concatenate([tints[:, None], shades], 1).ravel()
    canvas.discs(centers, radii, shades[:, None] * np.asarray(leaf), segment, z)


def paint_tree(canvas: Canvas, x: float, z: float, height: float, ground: float) -> None:
    """Paint a tree `height` metres tall: a trunk, and a crown of clumps with gaps through which the sky is visible."""
    rng, scale = canvas.rng, canvas.camera.focal / z
    segment, leaf = canvas.segment(c.VEGETATION), LEAVES[rng.integers(len(LEAVES))]
    foot = canvas.camera.project([(x, ground, z)])[0]
    canvas.shadow(
        foot + np.array([[-1.3, 0.1], [1.3, 0.1], [1.5, -0.25], [-1.5, -0.25]]) * scale * [1, 0.4],
        0.35,
        scale * 0.12,
    )
    bark, fork = (88.0, 68.0, 52.0), height * 0.42
    trunk = np.array([[-0.17, 0], [0.17, 0], [0.1, -fork], [-0.1, -fork]]) * scale + foot
    canvas.poly(trunk, bark, segment, z)
    canvas.poly(trunk * [1, 1] + [[0, 0], [-0.17 * scale, 0], [-0.1 * scale, 0], [0, 0]], gain(bark, 0.75), segment, z)
    crown_x, crown_y = height * 0.26, height * 0.31
    for tip in (-0.6, 0.5, 0.1):
        branch = foot + np.array([[0, -fork * 0.9], [tip * crown_x, -height * 0.72]]) * scale
        canvas.line(branch, 0.12 * scale, gain(bark, 0.8), segment, z)
    count = int(np.clip(height * scale / OVERSAMPLING * 0.45, 12, 80))
    angle, reach = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.uniform(0.04, 1, count))
    wobble = 1 + 0.16 * np.sin(angle * 3 + rng.uniform(0, 6))
    spots = np.stack([np.cos(angle) * reach * wobble * crown_x, -height * 0.67 - np.sin(angle) * reach * crown_y], 1)
    _foliage(canvas, foot + spots * scale, crown_y * scale * (0.12 + 1.0 / np.sqrt(count)), leaf, z)


def paint_hedge(canvas: Canvas, x: float, z: tuple[float, float], height: float) -> None:
    """Paint a hedge along the street at x from z[0] to z[1] metres."""
    segment, leaf = canvas.segment(c.VEGETATION), LEAVES[2]
    edges = np.geomspace(max(z[0], 1.5), z[1], 7)
    for far, near in zip(edges[:0:-1].tolist(), edges[-2::-1].tolist(), strict=True):
        y = CURB_M
        quad = [(x, y, near), (x, y, far), (x, y + height * 0.9, far), (x, y + height * 0.9, near)]
        canvas.face(quad, gain(leaf, 0.62), segment)
        depth = (near * far) ** 0.5
        count = int(np.clip(160 / depth, 8, 40))
        s, up = canvas.rng.uniform(near, far, count), canvas.rng.uniform(0.1, 0.95, count)
        points = [(x, y + height * b, a) for a, b in zip(s.tolist(), up.tolist(), strict=True)]
        _foliage(canvas, canvas.camera.project(points), 0.3 * canvas.camera.focal / depth, leaf, depth)


def paint_fence(canvas: Canvas, x: float, z: tuple[float, float], height: float, color: Color) -> None:
    """Paint a railing along the street at x. It has gaps between its bars, but its mask is the whole area."""
    segment, camera = canvas.segment(c.FENCE), canvas.camera
    low, high, near, far = CURB_M + 0.18, CURB_M + height, max(z[0], 1.2), z[1]
    canvas.outline(camera.project([(x, low, near), (x, low, far), (x, high, far), (x, high, near)]), segment)
    at = z[1]
    while at > near:
        ends = camera.project([(x, CURB_M, at), (x, CURB_M + height, at)])
        canvas.line(ends, 0.09 * camera.focal / at, color, segment, at)
        at -= max(0.42, at * 0.035)  # Distant bars are farther apart, since their gaps would close.
    for y, thick in ((0.18, 0.1), (height - 0.06, 0.13), (height * 0.55, 0.07)):
        rail = CURB_M + y
        canvas.face(
            [(x, rail, near), (x, rail, far), (x, rail + thick, far), (x, rail + thick, near)],
            gain(color, 1.1),
            segment,
        )


def _pole(canvas: Canvas, x: float, z: float, height: float, width: float) -> None:
    segment, scale = canvas.segment(c.POLE), canvas.camera.focal / z
    foot, top = canvas.camera.project([(x, CURB_M, z), (x, CURB_M + height, z)])
    half = max(width * scale, 1.4 * OVERSAMPLING) / 2
    canvas.shadow(foot + np.array([[-0.3, 0.02], [0.3, 0.02], [0.3, -0.04], [-0.3, -0.04]]) * scale, 0.4, scale * 0.06)
    body = np.array(
        [foot - [half, 0], foot + np.array([half, 0]), top + np.array([half * 0.8, 0]), top - [half * 0.8, 0]]
    )
    canvas.poly(body, STEEL, segment, z)
    lit = canvas.sun_side * half
    glint = np.array(
        [
            foot + np.array([lit * 0.2, 0]),
            foot + np.array([lit * 0.8, 0]),
            top + np.array([lit * 0.7, 0]),
            top + np.array([lit * 0.2, 0]),
        ]
    )
    canvas.poly(glint, gain(STEEL, 1.45), segment, z)


def paint_street_light(canvas: Canvas, x: float, z: float, side: int) -> None:
    """Paint a lamp post on a side (-1, 1) of the street, with its arm over the road: a pole and a street light."""
    height, scale = 5.8, canvas.camera.focal / z
    _pole(canvas, x, z, height, 0.2)
    segment = canvas.segment(c.STREET_LIGHT)
    top = canvas.camera.project([(x, CURB_M + height, z)])[0]

    def at(*points: tuple[float, float]) -> npt.NDArray[np.float64]:
        return np.array([(top[0] - side * a * scale, top[1] - b * scale) for a, b in points])

    canvas.line(at((0, -0.3), (0.15, 0.15), (0.6, 0.4), (1.1, 0.45)), 0.18 * scale, STEEL, segment, z)
    canvas.poly(at((0.8, 0.3), (0.95, 0.7), (1.9, 0.62), (2.15, 0.3)), (70, 74, 78), segment, z)
    lit = canvas.mood.lamps
    canvas.poly(
        at((0.9, 0.3), (0.98, 0.1), (1.95, 0.1), (2.08, 0.3)),
        (460, 400, 280) if lit else (226, 228, 222),
        segment,
        z,
    )
    if lit:
        x_px, y_px = at((1.4, 0.22))[0]
        canvas.glow(x_px, y_px, scale * 0.9, (110, 88, 48), segment)


def paint_sign(canvas: Canvas, x: float, z: float) -> None:
    """Paint a traffic sign on its pole: round, triangular or square."""
    scale, form = canvas.camera.focal / z, int(canvas.rng.integers(4))
    _pole(canvas, x, z, 2.9, 0.11)
    segment = canvas.segment(c.TRAFFIC_SIGN)
    hub = canvas.camera.project([(x, CURB_M + 2.6, z)])[0]
    unit = 0.46 * scale
    turn = {0: (24, 0.0), 1: (3, -np.pi / 2), 2: (4, np.pi / 4), 3: (8, np.pi / 8)}[form]
    angles = np.linspace(0, 2 * np.pi, turn[0], endpoint=False) + turn[1]
    ring = np.stack([np.cos(angles), np.sin(angles)], 1) * unit * (1.15 if form in (1, 2) else 1.0)
    red, white, blue = (204.0, 28.0, 34.0), (244.0, 242.0, 238.0), (28.0, 84.0, 178.0)
    outer, inner = ((red, white), (red, white), (white, blue), (white, red))[form]
    canvas.poly(hub + ring, outer, segment, z)
    canvas.poly(hub + ring * (0.9 if form > 1 else 0.7), inner, segment, z)
    ink = (30.0, 30.0, 34.0) if form < 2 else white
    bar = np.array([[-0.12, -0.3], [0.12, -0.3], [0.12, 0.3], [-0.12, 0.3]])
    canvas.poly(hub + (bar if form < 3 else bar[:, ::-1] * [1.7, 1]) * unit, ink, segment, z)


def paint_traffic_light(canvas: Canvas, x: float, z: float, state: int) -> None:
    """Paint an upright traffic light on its pole; state 0 red, 1 amber, 2 green."""
    scale = canvas.camera.focal / z
    _pole(canvas, x, z, 3.1, 0.14)
    segment = canvas.segment(c.TRAFFIC_LIGHT)
    hub = canvas.camera.project([(x, CURB_M + 3.2, z)])[0]
    box = np.array([[-0.29, -0.72], [0.29, -0.72], [0.29, 0.72], [-0.29, 0.72]])
    canvas.poly(hub + box * scale, (34, 38, 36), segment, z)
    canvas.poly(hub + box * scale * [0.86, 0.94], (52, 56, 54), segment, z)
    for i, color in enumerate(((255, 50, 40), (255, 190, 40), (60, 240, 140))):
        lens = hub + np.array([0, (i - 1) * 0.44]) * scale
        on = i == state
        canvas.disc(lens, 0.19 * scale, (22, 24, 24), segment, z)
        tint = gain(color, 1.0 if not canvas.mood.lamps else 1.7) if on else gain(color, 0.22)
        canvas.disc(lens, 0.165 * scale, tint, segment, z)
        if on:
            canvas.glow(lens[0], lens[1], scale * 0.22, gain(color, 0.35), segment)


def paint_bin(canvas: Canvas, x: float, z: float) -> None:
    """Paint a litter bin: a ribbed drum with a lid."""
    segment, scale = canvas.segment(c.TRASH_CAN), canvas.camera.focal / z
    paint: Color = ((44, 96, 66), (52, 84, 70), (36, 88, 84))[canvas.rng.integers(3)]
    foot = canvas.camera.project([(x, CURB_M, z)])[0]
    canvas.shadow(
        foot + np.array([[-0.42, 0.04], [0.5, 0.04], [0.5, -0.08], [-0.42, -0.08]]) * scale, 0.5, scale * 0.07
    )
    body = foot + np.array([[-0.3, 0], [0.3, 0], [0.37, -0.95], [-0.37, -0.95]]) * scale
    canvas.poly(body, paint, segment, z)
    for rib in (-0.22, -0.08, 0.06, 0.2):
        stave = np.array([[rib, -0.05], [rib + 0.07, -0.05], [rib * 1.2 + 0.08, -0.88], [rib * 1.2, -0.88]])
        canvas.poly(foot + stave * scale, gain(paint, 0.72 if rib * canvas.sun_side < 0 else 1.2), segment, z)
    lid = np.array([[-0.42, -0.93], [0.42, -0.93], [0.36, -1.08], [0.16, -1.16], [-0.16, -1.16], [-0.36, -1.08]])
    canvas.poly(foot + lid * scale, gain(paint, 0.6), segment, z)
    slot = np.array([[-0.2, -1.0], [0.2, -1.0], [0.2, -1.06], [-0.2, -1.06]])
    canvas.poly(foot + slot * scale, (16, 18, 18), segment, z)


def paint_heap(canvas: Canvas, x: float, z: float) -> None:
    """Paint a covered heap. No label fits it, so that it stays unlabeled, as by an annotator."""
    foot, scale = canvas.camera.project([(x, CURB_M, z)])[0], canvas.camera.focal / z
    t = np.linspace(0, np.pi, 15)
    bumps = 0.75 + 0.16 * np.sin(t * 5 + canvas.rng.uniform(0, 6)) + 0.12 * np.sin(t * 3)
    hull = foot + np.stack([np.cos(t) * 0.85, -np.sin(t) * bumps], 1) * scale
    canvas.shadow(hull + np.array([0, 0.05 * scale]), 0.5, scale * 0.1)
    cover = mix((70, 92, 120), (110, 104, 96), canvas.rng.random())
    segment = canvas.segment(UNLABELED)
    canvas.poly(hull, cover, segment, z)
    canvas.shade(hull, 1.3, 0.6, 0.06)
    for a, b in ((3, 6), (8, 10), (11, 13)):
        canvas.poly(
            np.array([hull[a], hull[b], foot + np.array([(b - 7) * 0.1, -0.15]) * scale]),
            gain(cover, 0.8),
            None,
            z,
        )
