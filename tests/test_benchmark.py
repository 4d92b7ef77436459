"""The figures of the stage benchmark."""

import pytest

from stages import benchmark


def test_figures_are_milliseconds_of_a_frame() -> None:
    """101 calls of 4 frames: 40 ms, 44 ms, ... a call."""
    found = benchmark.summary([0.04 + 0.004 * number for number in range(101)], 4)
    assert found["p50_ms"] == pytest.approx(60)
    assert found["p99_ms"] == pytest.approx(109)
    assert found["hz"] == pytest.approx(1000 / 60)
    assert found["quantiles_ms"] == pytest.approx([10 + 5 * number for number in range(21)])
