"""A line of `make doctor`. This folder runs on any Python from 3.10 on; heavy imports are inside functions."""

from dataclasses import dataclass

REQUIRED, OPTIONAL, NOT_HERE = "required", "optional", "not here"
"""Levels. A required line that is not ok fails; `not here` is a check of a workspace on a machine that has none."""


@dataclass(frozen=True)
class Line:
    """One thing that is needed, and what was found of it."""

    name: str
    required: str
    found: str
    ok: bool
    level: str = REQUIRED
    fix: str = ""
    """Command or step that corrects it; empty where the line is ok."""


def line(name: str, required: str, found: str, ok: bool, fix: str, level: str = REQUIRED) -> Line:
    """Return a line on one line of text, without the fix where nothing is wrong."""
    return Line(name, required, " ".join(found.split()), ok, level, "" if ok else fix)


def gib(size: float) -> str:
    """Format a number of bytes."""
    return f"{size / 2**30:.1f} GiB"
