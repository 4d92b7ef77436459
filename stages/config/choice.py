"""The workspace's choice: the profile and the overrides that params.yaml was composed from, which it records.

`make params`, all targets of make that begin with it, and DVC's own composition (`dvc exp run`, by
hydra_plugins/schema.py) start from the recorded choice. Nothing on a device imports this module.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from stages.config.rules import is_name
from stages.foundation import text

FILE = "params.yaml"
"""The file that records the choice. It lies beside the folder conf/."""


@dataclass(frozen=True)
class Choice:
    """A profile and Hydra overrides on top of it."""

    profile: str = ""
    """Name of a file in conf/profile; empty: the one that conf/config.yaml names."""
    overrides: tuple[str, ...] = ()
    """Hydra overrides as written."""

    def __str__(self) -> str:
        about = f"profile {self.profile or 'of conf/config.yaml'}"
        return f"{about} with {' '.join(self.overrides)}" if self.overrides else about

    def for_hydra(self) -> list[str]:
        """All overrides for Hydra, the profile first."""
        # In quotes, or Hydra would take 2024 for a number.
        return [*([f"profile='{self.profile}'"] if self.profile else []), *self.overrides]

    def extended(self, more: Sequence[str]) -> "Choice":
        """Return this choice with overrides added. One for a key that has an override already takes its place.

        Another profile among them begins anew, without the overrides so far. Raises OverrideParseException, and
        ValueError for an override of the record itself.
        """
        parsed = OverridesParser.create().parse_overrides(list(more))
        names = [each for each in parsed if _target(each) == ("", "profile", None) and isinstance(each.value(), str)]
        start = self
        if names and (name := str(names[-1].value())) != self.profile:
            start = Choice(name)
        kept = {
            _target(each): str(each.input_line)
            for each in OverridesParser.create().parse_overrides(list(start.overrides))
        }
        for each in parsed:
            if each.key_or_group == "overrides":
                raise ValueError(f"override {each.input_line}: overrides is the record of all others; leave it out")
            if each not in names:
                kept.pop(_target(each), None)
                kept[_target(each)] = str(each.input_line)
        return replace(start, overrides=tuple(kept.values()))


def _target(override: Override) -> tuple[str, str, str | None]:
    """Return the target of an override: its mark (+, ++, ~ or none), its key or folder, and its package."""
    mark = re.match(r"[+~]*", str(override.input_line))
    return mark[0] if mark else "", override.key_or_group, override.package


def recorded(path: Path) -> Choice:
    """The choice that a params.yaml records; without the file conf/config.yaml's.

    Raises ValueError where the file can't tell: it is not YAML, as with the marks of a merge conflict in it, or its
    keys `profile` and `overrides` hold something else.
    """
    if not path.exists():
        return Choice()
    fix = "restore it by git, or state both: make params PROFILE=name OVERRIDES='...', which may be empty"
    try:
        content = text.read_yaml(path)
    except ValueError as error:
        raise ValueError(f"{error}; {fix}") from error
    profile, overrides = (content.get("profile"), content.get("overrides", [])) if isinstance(content, dict) else (0, 0)
    if not isinstance(profile, str) or not is_name(profile, "._-/"):
        raise ValueError(f"{path}: profile: must be the name of a file in conf/profile, found {profile!r}; {fix}")
    if not isinstance(overrides, list) or not all(isinstance(each, str) for each in overrides):
        raise ValueError(f"{path}: overrides: must be a list of texts, found {overrides!r}; {fix}")
    return Choice(profile, tuple(overrides))


_NOTHING_RECORDED: ContextVar[bool] = ContextVar("nothing_recorded", default=False)


@contextmanager
def nothing_recorded() -> Iterator[None]:
    """Within this block, compositions do not start from the recorded choice, but from the given overrides alone."""
    token = _NOTHING_RECORDED.set(True)
    try:
        yield
    finally:
        _NOTHING_RECORDED.reset(token)


def starts_from_record() -> bool:
    """Return whether a composition starts from the recorded choice: True outside of `nothing_recorded`."""
    return not _NOTHING_RECORDED.get()
