"""The painter's algorithm: distant objects are painted first."""

from collections.abc import Callable

import numpy as np

Job = tuple[float, Callable[[], None]]
"""Distance in metres, and the function that paints the object there."""


def run(jobs: list[Job]) -> None:
    """Run the jobs from the farthest to the nearest."""
    for _, job in sorted(jobs, key=lambda item: -item[0]):
        job()


def pick(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number from the uniform distribution between low and high."""
    return float(rng.uniform(low, high))
