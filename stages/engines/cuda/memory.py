"""Plan the use of one block of device memory by tensors that are needed at different times."""

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 256
"""Alignment in bytes, which TensorRT needs for its scratch memory. Our kernels need less."""


@dataclass(frozen=True)
class Span:
    """Memory that the steps `first` to `last`, both included, need."""

    first: int
    last: int
    bytes: int


def consecutive(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Offsets of aligned areas that are needed at the same time, one after the other, and their bytes in all."""
    offsets, end = [], 0
    for size in sizes:
        offsets.append(end)
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return offsets, end


def place(spans: Sequence[Span]) -> tuple[list[int], int]:
    """Offset of each span in one block that all of them share, and the bytes of that block.

    Spans that overlap in time don't overlap in memory. The largest is placed first, and each at the lowest offset that
    is free (greedy by size, arXiv:2001.03288, section 5.3).
    """
    offsets = [0] * len(spans)
    placed: list[int] = []
    for i in sorted(range(len(spans)), key=lambda i: (-spans[i].bytes, i)):
        span = spans[i]
        others = [k for k in placed if spans[k].first <= span.last and span.first <= spans[k].last]
        for k in sorted(others, key=lambda k: offsets[k]):
            if offsets[i] + span.bytes <= offsets[k]:
                break
            end = offsets[k] + spans[k].bytes
            offsets[i] = max(offsets[i], -(-end // ALIGNMENT) * ALIGNMENT)
        placed.append(i)
    return offsets, max((offset + span.bytes for offset, span in zip(offsets, spans, strict=True)), default=0)
