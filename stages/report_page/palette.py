"""Moves colours of classes apart that look alike, also to people who see fewer hues.

Data sets give several classes the same white or grey. Colours are compared as CIE L*a*b* (ISO/CIE 11664-4), as they are
and as protanopes and deuteranopes see them, after the matrices of Machado et al., "A Physiologically-based Model for
Simulation of Color Vision Deficiency" (IEEE TVCG 2009), table 1, severity 1.
"""

import itertools
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

Colors = npt.NDArray[np.uint8]
"""Colours, uint8 [N, 3], RGB."""

PROTANOPIA = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
DEUTERANOPIA = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
CLEAR, SEEN_WITH_FEWER_HUES = 20.0, 8.0
"""Wanted distances of two colours in L*a*b*, where 2.3 is just noticed: to most eyes, and to those simulated."""
RELAXED = 0.8
"""Factor for both distances where no colour is far enough from all others."""


def apart(colors: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return a colour for each one, RGB, 0 to 255. The first keep theirs, later ones take the nearest that is clear."""
    steps = (0, 51, 102, 153, 204, 255)
    grid = np.array(list(itertools.product(steps, steps, steps)), np.uint8)
    taken = np.empty((0, 3), np.uint8)
    for color in colors:
        own = np.array([color], np.uint8)
        candidates = np.concatenate([own, grid])
        clearance = _clearance(candidates, taken)
        wish = np.linalg.norm(_lab(candidates)[0] - _lab(own)[0], axis=-1)
        least = 1.0
        while not (clear := clearance >= least).any():
            least *= RELAXED
        taken = np.concatenate([taken, candidates[[int(np.argmin(np.where(clear, wish, np.inf)))]]])
    return [[int(channel) for channel in color] for color in taken]


def _clearance(candidates: Colors, taken: Colors) -> npt.NDArray[np.float64]:
    """Return how far each candidate is from the nearest taken colour, float64 [N]; 1 or more is far enough."""
    if not len(taken):
        return np.ones(len(candidates))
    scale = np.array([CLEAR, SEEN_WITH_FEWER_HUES, SEEN_WITH_FEWER_HUES])[:, None, None]
    distances = np.linalg.norm(_lab(candidates)[:, :, None] - _lab(taken)[:, None], axis=-1) / scale
    return np.asarray(distances.min(axis=(0, 2)))


def _lab(colors: Colors) -> npt.NDArray[np.float64]:
    """Return L*a*b* of colours, float64 [3, N, 3]: to most eyes, to protanopes, to deuteranopes."""
    srgb = colors / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.stack([linear, linear @ np.transpose(PROTANOPIA), linear @ np.transpose(DEUTERANOPIA)]).clip(0, 1)
    encoded = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    return np.asarray(cv2.cvtColor(encoded.astype(np.float32), cv2.COLOR_RGB2Lab), np.float64)
