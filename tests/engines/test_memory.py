"""Offsets in a block of memory that steps share."""

import random

from stages.engines.cuda import memory
from stages.engines.cuda.memory import Span


def test_what_is_needed_at_the_same_time_never_shares_a_byte() -> None:
    rng = random.Random(0)
    for count in range(60):
        spans = []
        for _ in range(count):
            first = rng.randrange(20)
            spans.append(Span(first, rng.randrange(first, 20), rng.choice([0, 1, 255, 256, 257, 10_000])))
        offsets, total = memory.place(spans)
        assert all(offset % memory.ALIGNMENT == 0 for offset in offsets)
        for i, a in enumerate(spans):
            assert offsets[i] + a.bytes <= total
            for k, b in enumerate(spans[:i]):
                apart_in_time = a.last < b.first or b.last < a.first
                apart_in_place = offsets[i] + a.bytes <= offsets[k] or offsets[k] + b.bytes <= offsets[i]
                assert apart_in_time or apart_in_place or not a.bytes or not b.bytes


def test_a_chain_needs_room_for_two_neighbours_alone() -> None:
    spans = [Span(i, i + 1, 1024) for i in range(50)]
    assert memory.place(spans)[1] == 2048
    assert memory.place([]) == ([], 0)


def test_blocks_in_a_row_are_aligned() -> None:
    assert memory.consecutive([1, 256, 300]) == ([0, 256, 512], 1024)
