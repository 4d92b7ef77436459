import math
import tracemalloc

import numpy as np
import pytest

from stages.inference.latencies import RELATIVE_WIDTH, Latencies


@pytest.mark.parametrize("count", [1, 2, 99, 5000])
@pytest.mark.parametrize("percent", [0, 50, 99, 100])
def test_percentiles_are_those_of_all_latencies(count: int, percent: float) -> None:
    values = np.random.default_rng(count).lognormal(3, 1, count)
    found = Latencies()
    for value in values:
        found.add(value)
    expected = float(np.percentile(values, percent, method="inverted_cdf"))
    assert found.percentile(percent) == pytest.approx(expected, rel=0.51 * RELATIVE_WIDTH)
    assert found.count == count


def test_none_and_those_beyond_the_ends() -> None:
    found = Latencies()
    assert math.isnan(found.percentile(50))
    for value in (0.0, 1e12):
        found.add(value)
    assert found.percentile(0) == pytest.approx(0.01, rel=0.01)
    assert found.percentile(100) == pytest.approx(1e6, rel=0.02)


def test_a_day_at_30_hz_takes_no_more_memory_than_a_second() -> None:
    found = Latencies()
    found.add(20.0)
    tracemalloc.start()
    try:
        for number in range(100_000):
            found.add(20.0 + number % 7)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 10_000
