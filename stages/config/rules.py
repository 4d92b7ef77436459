"""Rules for values of parameters: ranges, which are metadata of the fields, and names."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_type_hints


class RuleError(ValueError):
    """A value that breaks a rule. The message has the key, the rule in words, the value found and how to fix it."""

    def __init__(self, key: str, words: str, value: object):
        self.key = key
        self.finding = f"{key}: must be {words}, found {value!r}"
        super().__init__(f"{self.finding}; edit it under conf/ and run `make params`")


def require(rule: bool, key: str, words: str, value: object) -> None:
    """Raise RuleError unless `rule` holds."""
    if not rule:
        raise RuleError(key, words, value)


@dataclass(frozen=True)
class Range:
    """Allowed values of a number: `Annotated[int, Range(at_least=1)]` is the type of such a field.

    `check_ranges` applies it, and docs/parameters.md prints `words`.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    multiple_of: int | None = None
    or_zero: bool = False
    """0 is allowed too, as the value that turns something off."""

    def holds(self, value: float) -> bool:
        """Return whether `value` is allowed."""
        return (self.or_zero and value == 0) or (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
            and (self.multiple_of is None or value % self.multiple_of == 0)
        )

    def words(self) -> str:
        """The range in words, as in "must be WORDS"."""
        return f"0, or {self._without_zero()}" if self.or_zero else self._without_zero()

    def _without_zero(self) -> str:
        if self.multiple_of is not None:
            return f"a positive multiple of {self.multiple_of}"
        low, high = self.at_least, self.at_most
        if self.above is None and self.below is None:
            return f"{low} or more" if high is None else f"{low} to {high}"
        if self.below is None and high is None:
            return f"above {self.above}"
        left = f"({self.above}" if low is None else f"[{low}"
        return f"in {left}, {self.below})" if high is None else f"in {left}, {high}]"


@cache
def ranges(kind: type) -> dict[str, Range]:
    """The ranges of a dataclass by the names of its fields."""
    hints = get_type_hints(kind, include_extras=True)
    found = {
        name: [m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Range)] for name, hint in hints.items()
    }
    return {name: metadata[0] for name, metadata in found.items() if metadata}


def type_and_range(owner: object, name: str, words: str) -> str:
    """Return the rule of a field in words: its type, which is `words`, and its range if it has one."""
    allowed = ranges(owner).get(name) if isinstance(owner, type) else None
    return f"{words}, {allowed.words()}" if allowed else words


def check_ranges(section: object, key: str) -> None:
    """Raise ValueError for the first field of a dataclass that is out of its range; `key` is the key of the section."""
    kind: type = type(section)
    for name, allowed in ranges(kind).items():
        value = getattr(section, name)
        require(allowed.holds(value), f"{key}.{name}", allowed.words(), value)


def is_name(name: str, marks: str = "._-") -> bool:
    """Return whether `name` can be a folder, part of a DVC stage's name, and an argument of a command without quotes.

    It has the characters a-z, A-Z, 0-9 and `marks`, and the first one is a letter or a digit. It does not end in .dvc:
    DVC adds this suffix to the name of a folder to name its own file.
    """
    plain = re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9{re.escape(marks)}]*", name) is not None
    return plain and not name.endswith(".dvc") and ".." not in name.split("/")


def name_rule(marks: str = "._-") -> str:
    """The rule of `is_name` in words, for messages."""
    end = ", and no .dvc at the end" if "." in marks else ""
    return f"a name of a-z A-Z 0-9 {' '.join(marks)}, with a letter or digit first{end}"


def check_inside(key: str, path: str) -> None:
    """Raise ValueError for a path that leaves its folder: DVC tracks the folder and would miss changes elsewhere."""
    parts = Path(path).parts
    require(
        ".." not in parts and not Path(path).is_absolute(), key, "a path that stays in its folder, without ..", path
    )
