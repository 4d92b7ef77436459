"""Reads the files of data/metrics. They are committed, so people merge and edit them: their shape is checked."""

from pathlib import Path
from typing import Any, TypedDict

from stages.foundation import json_shapes

_Number = int | float | None
_Figures = dict[str, _Number]
_Timings = dict[str, dict[str, int | float | list[float]]]
_FIX = "restore it by `git checkout`, or run the stage that writes it"


class _Part(TypedDict, total=False):
    """Figures of a set, or of a part of a source. Which of them are there depends on model.mode."""

    all: _Figures
    things: _Figures
    stuff: _Figures
    semantic: _Figures
    instance: _Figures
    name: str
    not_computed: str


class _Pictures(TypedDict):
    pictures: int


class _Source(_Part, _Pictures, total=False):
    partly: _Part
    protocol: _Part


class _Evaluate(_Part, total=False):
    tao: _Figures
    device: str
    by_source: dict[str, _Source]


class EngineFacts(TypedDict):
    """Content of engine_TARGET.json, from the engine's manifest."""

    engine_sha256: str
    file: str
    bytes: int
    builder: str
    builder_version: str
    """The whole version."""
    architecture: str
    compute_capabilities: list[str]
    variant: str
    precision: str
    graph_sha256: str
    provenance: dict[str, str]
    """SHA-256 of the files that the graph was made from."""


class _Verify(TypedDict):
    engine_sha256: str | None
    """None in figures that an old version wrote; they count for no engine."""
    pixel_agreement_pct: float
    pq: float
    checkpoint_pq: float
    pq_difference: float
    pictures: int


class _Eager(TypedDict, total=False):
    eager: _Timings
    speedup_end_to_end: float


class _Benchmark(_Eager):
    engine_sha256: str | None
    engine: _Timings
    host: dict[str, str | int | None]
    date: str
    commit: str
    dirty: bool
    built: dict[str, Any] | None


_KINDS: dict[str, Any] = {"evaluate": _Evaluate, "engine": EngineFacts, "verify": _Verify, "benchmark": _Benchmark}
"""First word of a file's name -> its content."""


def read(path: Path) -> dict[str, Any]:
    """Read a file of data/metrics.

    Raises FileNotFoundError if it is missing, and ValueError if it is not JSON or of another shape.
    """
    content: dict[str, Any] = json_shapes.read(path, _KINDS.get(path.stem.split("_")[0], dict[str, Any]), _FIX)
    return content


def read_all(folder: Path) -> dict[str, Any]:
    """Return the content of each file in a folder by its name without .json. Raises as `read`."""
    return {path.stem: read(path) for path in sorted(folder.glob("*.json"))}
