"""Reads JSON files into types: every value is checked, and an error names the file, the place in it, and what to do.

A type is a TypedDict, a frozen dataclass, list[...], dict[str, ...], tuple[..., ...], a union, Literal, Any, or one of
str, int, float, bool and None. Libraries that do this, such as msgspec and pydantic, are not on devices, which have
NumPy and OpenCV alone (Python 3.10).
"""

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from stages.foundation import files

_WORDS: dict[object, str] = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"
}  # fmt: skip
_SHOWN = 60
"""Characters of a value in a message."""


def read(path: Path, kind: Any, fix: str) -> Any:
    """Read a JSON file as the type `kind`.

    Raises FileNotFoundError if it is missing, and ValueError, which ends with `fix`, if it is not JSON or of another
    shape.
    """
    content = files.read_json(path)
    try:
        return parse(kind, content)
    except ValueError as error:
        raise ValueError(f"{files.printable(path)}: {error}; {fix}") from error


def parse(kind: Any, content: object, place: str = "") -> Any:
    """Return `content`, a parsed JSON value, as the type `kind`.

    A TypedDict keeps keys that it does not have; a dataclass refuses them. Whole numbers have 64 bits, and numbers are
    finite. Raises ValueError with place, what was found and what is expected.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or kind is object:
        return content
    if origin in (Union, types.UnionType):
        return _union(arguments, content, place)
    if origin is Literal:
        return content if content in arguments and type(content) in map(type, arguments) else _fail(
            f"one of {list(arguments)}", content, place
        )  # fmt: skip
    if is_typeddict(kind) or is_dataclass(kind):
        return _object(kind, content, place)
    if origin in (list, tuple):
        return _list(kind, content, place)
    if origin in (dict, Mapping):
        if not isinstance(content, dict):
            return _fail("an object", content, place)
        return {name: parse(arguments[1], value, f"{place}.{name}".lstrip(".")) for name, value in content.items()}
    return _scalar(kind, content, place)


def _fail(expected: str, content: object, place: str) -> Any:
    found = json.dumps(content, default=str)
    found = found if len(found) <= _SHOWN else f"{found[: _SHOWN - 3]}..."
    raise ValueError(f"{_at(place)}: found {files.printable(found)}, expected {expected}")


def _at(place: str) -> str:
    return files.printable(place) or "the file"


def _union(kinds: tuple[Any, ...], content: object, place: str) -> Any:
    for kind in kinds:
        try:
            return parse(kind, content, place)
        except ValueError:
            continue
    return _fail(" or ".join(_WORDS.get(kind, getattr(kind, "__name__", str(kind))) for kind in kinds), content, place)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _object(kind: Any, content: object, place: str) -> Any:
    hints = _hints(kind)
    if not isinstance(content, dict):
        _fail(f"an object with {', '.join(hints)}", content, place)
    assert isinstance(content, dict)
    required = kind.__required_keys__ if is_typeddict(kind) else _required(kind)
    if lacking := [name for name in hints if name in required and name not in content]:
        raise ValueError(f"{_at(place)}: has no {', '.join(lacking)}")
    if is_dataclass(kind) and (unknown := sorted(map(str, content.keys() - hints.keys()))):
        raise ValueError(f"{_at(place)}: unknown keys {unknown[:5]}, expected {', '.join(hints)}")
    known = {n: parse(hints[n], value, f"{place}.{n}".lstrip(".")) for n, value in content.items() if n in hints}
    return {**content, **known} if is_typeddict(kind) else kind(**known)


def _required(kind: Any) -> set[str]:
    return {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}


def _list(kind: Any, content: object, place: str) -> Any:
    arguments = get_args(kind)
    if not isinstance(content, list):
        _fail("a list", content, place)
    assert isinstance(content, list)
    if get_origin(kind) is tuple and arguments[-1] is not Ellipsis:
        if len(content) != len(arguments):
            _fail(f"a list of {len(arguments)}", content, place)
        return tuple(parse(arguments[i], value, f"{place}[{i}]") for i, value in enumerate(content))
    found = [parse(arguments[0], value, f"{place}[{i}]") for i, value in enumerate(content)]
    return tuple(found) if get_origin(kind) is tuple else found


def _scalar(kind: Any, content: object, place: str) -> Any:
    if kind is float and type(content) is int and abs(content) < 2**63:
        return float(content)
    if type(content) is not kind:
        _fail(_WORDS.get(kind, str(kind)), content, place)
    if type(content) is int and abs(content) >= 2**63:
        _fail("a whole number of 64 bits", content, place)
    if type(content) is float and not math.isfinite(content):
        _fail("a finite number", content, place)
    return content
