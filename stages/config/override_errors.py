"""Explains an override that Hydra or OmegaConf refused in one line: key, rule, value found, how to fix it.

Nothing on a device imports this module.
"""

import re
from dataclasses import is_dataclass
from typing import Any, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    KeyValidationError,
    OmegaConfBaseException,
    ValidationError,
)

from stages.config import yaml_types


def bare(cause: OmegaConfBaseException | None) -> str:
    """Return the first line of an error of OmegaConf; the lines below it repeat the key."""
    return str(cause).partition("\n")[0] if cause is not None else ""


def another(key: str) -> str:
    """Return how to fix a value that was found wrong."""
    example = yaml_types.example(key)
    return f"give another value{f', such as {example}' if example else ''} (docs/parameters.md)"


def unreadable(override: str) -> str:
    """Explain an override that is not in Hydra's grammar."""
    name, equals, value = override.partition("=")
    if not equals and not name.startswith("~"):
        fix = "write key=value, and a value that has blanks in quotes, as key='a value'"
    else:
        fix = f"write the value in quotes, as {name}='{value}'" if value and "'" not in value else "correct the quotes"
    return f"override {override}: Hydra can't read it; {fix}"


def sweep(overrides: list[str]) -> str:
    """Explain an override that gives several values, where one is wanted."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    written = next(str(each.input_line) for each in parsed if each.is_sweep_override())
    name, _, value = written.partition("=")
    fix = f"give one, or run `make sweep GRID='{written}'`"
    if re.fullmatch(r"[^()'\"]+", value):
        fix += f"; a list is {name}=[{value}], a text with commas {name}='{value}'"
    return f"override {written}: {name}: must be one value, found several; {fix}"


def refused(cause: OmegaConfBaseException | None, written: str) -> str:
    """Explain an override that OmegaConf refused, in one line. Empty where OmegaConf names no key."""
    if isinstance(cause, KeyValidationError):
        fix = "choose a name of letters, or write it in quotes in a file under conf/"
        return f"override {written}: a name must be text, and Hydra reads a number, a truth value or null; {fix}"
    if cause is None or not cause.full_key:
        return ""
    key = cause.full_key
    name, _, found = written.partition("=")
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        return f"override {written}: {key}: {yaml_types.no_key(key)}"
    if written.startswith("~"):
        return f"override {written}: {key}: can't be deleted; give it a value"
    names = name.lstrip("+").split(".")
    size = next((i for i in range(1, len(names)) if get_origin(yaml_types.kind_of(".".join(names[:i]))) is dict), 0)
    entry = yaml_types.kind_of(".".join(names[: size + 1])) if size else None
    if isinstance(entry, type) and is_dataclass(entry) and f"is not a subclass of {entry.__name__}." in bare(cause):
        return f"override {written}: {_new_entry(names, size, found)}"
    kind = yaml_types.kind_of(key)
    if kind is None or not (isinstance(cause, ValidationError) or "Cannot merge" in bare(cause)):
        return f"override {written}: {key}: {bare(cause)}"
    fix = f"; {another(key)}"
    if kind is str and re.fullmatch(r"[^\[\]{}'\"]+", found):
        fix = f"; write {name}='{found}', with the quotes"
    elif kind is str:
        fix = f"; write {_plain(cause.value)} in quotes"
    return f"override {written}: {key}: must be {yaml_types.rule_of(kind, key)}, found {found or 'nothing'}{fix}"


def _new_entry(names: list[str], size: int, found: str) -> str:
    """Explain an override for a part of an entry that data.sources or targets does not have: what to write instead.

    The first `size` of `names` are the key of the mapping; after them come the entry's name and the part's key.
    """
    if len(names) == size + 1 and not found.startswith("{"):
        key = ".".join(names)
        return f"{key}: must be a mapping, found {found}; {another(key)}"
    found = _in_quotes(found, yaml_types.kind_of(".".join(names)))
    for name in reversed(names[size:]):
        found = f"{{{name}: {found}}}"
    return f"a new entry is written as a whole: +{'.'.join(names[:size])}={found}"


def _in_quotes(found: str, kind: Any) -> str:
    """A value of an override, or the values of a plain list, with quotes where text is wanted and Hydra reads other."""
    if get_origin(kind) is list and re.fullmatch(r"\[[^\[\]{}'\"]+\]", found):
        return f"[{','.join(_in_quotes(each.strip(), get_args(kind)[0]) for each in found[1:-1].split(','))}]"
    if kind is not str or not found:
        return found
    value = OverridesParser.create().parse_override(f"key={found}").value()
    return f"'{found}'" if isinstance(value, int | float | None) else found


def _plain(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
