"""Places in one block of device memory for what is needed at different times."""

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 256
"""Bytes; TensorRT asks for it of its scratch memory, and tensor cores' loads for less."""


@dataclass(frozen=True)
class Span:
    """So many bytes from one step to another, both included."""

    first: int
    last: int
    bytes: int


def in_a_row(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Offsets of blocks that are needed at the same time, each aligned, and bytes in all."""
    offsets, end = [], 0
    for size in sizes:
        offsets.append(end)
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return offsets, end


def place(spans: Sequence[Span]) -> tuple[list[int], int]:
    """Offset of each span in a block that all of them share, and the bytes of that block.

    Spans that overlap in time get places that do not. The largest is placed first, each as low as it can be (greedy by
    size, arXiv:2001.03288, section 5.3).
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
