"""The GPUs that plans are for, and their facts by the table gpus.csv.

Shared memory is the same for all GPUs of a compute capability (CUDA C++ Programming Guide, "Technical Specifications
per Compute Capability"). The number of multiprocessors is not, but plans for the number that runs are no faster than
those for PLANNED_FOR (docs/benchmarks.md), so an engine has one plan for all GPUs of a compute capability.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PLANNED_FOR = 132
"""Multiprocessors that an engine's plans are made for: those of an H100."""
_OLDEST_SHARED_KIB = (64, 64)
"""Shared memory of compute capability 7.5, which every later one has too."""


@dataclass(frozen=True)
class Machine:
    """GPUs that a plan is for."""

    compute_capability: str
    """Such as 8.7; "" for PTX, which runs on several."""
    multiprocessors: int = PLANNED_FOR

    @property
    def block_shared_bytes(self) -> int:
        """Shared memory that a block may ask for."""
        return _shared_kib(self.compute_capability)[0] << 10

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a multiprocessor."""
        return _shared_kib(self.compute_capability)[1] << 10


@dataclass(frozen=True)
class KnownGpu:
    """A row of gpus.csv."""

    name: str
    compute_capability: str
    multiprocessors: int
    block_shared_kib: int
    multiprocessor_shared_kib: int


@cache
def known() -> tuple[KnownGpu, ...]:
    """The rows of gpus.csv. Its columns l2_mib, empty where it is not published, and source are for people."""
    with Path(__file__).with_name("gpus.csv").open(encoding="utf-8", newline="") as file:
        return tuple(
            KnownGpu(
                row["name"],
                row["compute_capability"],
                int(row["multiprocessors"]),
                int(row["block_shared_kib"]),
                int(row["multiprocessor_shared_kib"]),
            )
            for row in csv.DictReader(file)
        )


@cache
def _shared_kib(compute_capability: str) -> tuple[int, int]:
    for gpu in known():
        if gpu.compute_capability == compute_capability:
            return gpu.block_shared_kib, gpu.multiprocessor_shared_kib
    return _OLDEST_SHARED_KIB
