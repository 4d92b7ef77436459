"""One launch of a function of a compiled kernel: what the engine's file holds and the runtime queues."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from stages.inference.steps import require_keys

MAX_THREADS = 1024
"""Threads of a block, on every GPU."""
MAX_GRID = (2**31 - 1, 65535, 65535)
"""Blocks of a grid along x, y and z, on every GPU."""
MAX_LAUNCH_SHARED_BYTES = 227 << 10
"""Shared memory that a block may ask for, at most: that of compute capability 9.0."""

Size3 = tuple[int, int, int]


@dataclass(frozen=True)
class Launch:
    """One launch of a function."""

    function: str
    grid: Size3
    """Blocks along x, y and z."""
    block: Size3
    """Threads along x, y and z."""
    arguments: tuple[str, ...]
    """Pointers in the function's order: i0, i1, ... for inputs, o0, ... for outputs, w0, ... for workspaces."""
    shared_bytes: int = 0
    """Dynamic shared memory of a block, in addition to what the source declares."""


def parse(content: object, counts: Mapping[str, int]) -> Launch:
    """A launch from JSON; `counts` has the numbers of inputs, outputs and workspaces by i, o and w.

    Raises ValueError for anything that a GPU would refuse, and for pointers that don't exist.
    """
    if not isinstance(content, dict):
        raise ValueError(f"a launch must be an object, found {content!r}")
    require_keys(content, [f.name for f in fields(Launch)])
    function, arguments, shared_bytes = content["function"], content["arguments"], content["shared_bytes"]
    if not isinstance(function, str) or not re.fullmatch(r"[A-Za-z_]\w*", function, re.ASCII):
        raise ValueError(f"function must be a name, found {function!r}")
    pointers = {f"{kind}{i}" for kind, count in counts.items() for i in range(count)}
    if not isinstance(arguments, list) or not all(isinstance(a, str) and a in pointers for a in arguments):
        raise ValueError(f"arguments must be among {', '.join(sorted(pointers))}, found {arguments!r}")
    if type(shared_bytes) is not int or not 0 <= shared_bytes <= MAX_LAUNCH_SHARED_BYTES:
        raise ValueError(f"shared_bytes must be 0 to {MAX_LAUNCH_SHARED_BYTES}, found {shared_bytes!r}")
    grid, block = (_parse_size(key, content[key], limits) for key, limits in _LIMITS.items())
    if math.prod(block) > MAX_THREADS:
        raise ValueError(f"block must have at most {MAX_THREADS} threads, found {list(block)}")
    return Launch(function, grid, block, tuple(arguments), shared_bytes)


_LIMITS = {"grid": MAX_GRID, "block": (MAX_THREADS, MAX_THREADS, 64)}


def _parse_size(key: str, content: object, limits: Size3) -> Size3:
    if not isinstance(content, list) or len(content) != 3 or not all(type(n) is int for n in content):
        raise ValueError(f"{key} must be three integers, found {content!r}")
    if not all(1 <= n <= limit for n, limit in zip(content, limits, strict=True)):
        raise ValueError(f"{key} must be 1 to {list(limits)}, found {content}")
    x, y, z = content
    return x, y, z
