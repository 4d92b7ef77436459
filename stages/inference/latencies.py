"""Percentiles of the latencies of a run of any length, in memory of a fixed size."""

import math

import numpy as np

MIN_MS, MAX_MS = 0.01, 1e6
"""Latencies beyond these count as these."""
RELATIVE_WIDTH = 0.01
"""Width of a bin relative to its lower edge: a percentile is at most half of it off."""
_BINS = math.ceil(math.log(MAX_MS / MIN_MS) / math.log1p(RELATIVE_WIDTH)) + 1


class Latencies:
    """Counts latencies in bins of logarithmic width."""

    def __init__(self) -> None:
        self.count = 0
        """Number of latencies."""
        self._bins = np.zeros(_BINS, np.int64)

    def add(self, latency_ms: float) -> None:
        """Count a latency, in milliseconds."""
        place = math.log(min(max(latency_ms, MIN_MS), MAX_MS) / MIN_MS) / math.log1p(RELATIVE_WIDTH)
        self._bins[min(int(place), _BINS - 1)] += 1
        self.count += 1

    def percentile(self, percent: float) -> float:
        """Return the latency in milliseconds that `percent` of all do not exceed. NaN without a latency."""
        if not self.count:
            return math.nan
        rank = max(1, math.ceil(percent / 100 * self.count))
        place = int(np.searchsorted(np.cumsum(self._bins), rank))
        return MIN_MS * math.exp((place + 0.5) * math.log1p(RELATIVE_WIDTH))
