"""Finds values in a YAML file of conf/ whose type is not that of their parameter, with line and text as written.

Nothing on a device imports this module.
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from omegaconf._utils import get_yaml_loader  # its rules for numbers have no public name

from stages import config
from stages.config.rules import type_and_range

TAGS = {"int": "a whole number", "float": "a number", "bool": "true or false", "null": "nothing"}
"""Tags of YAML scalars that are not text -> the type in words."""


def no_key(key: str) -> str:
    """Return the message for a key that does not exist, with a similar one if there is any."""
    parent, _, name = key.rpartition(".")
    kind = kind_of(parent) if parent else config.Config
    known = list(get_type_hints(kind)) if is_dataclass(kind) else []
    near = difflib.get_close_matches(name, known, 1)
    mean = f"did you mean {near[0]}? " if near else ""
    return f"there is no such key; {mean}docs/parameters.md lists them"


def kind_of(key: str) -> object:
    """The type of a full key in stages/config, such as `train.gpus[0]`; None where the key is unknown or free."""
    kind: object = config.Config
    for name in filter(None, re.split(r"[.\[\]]+", key)):
        if is_dataclass(kind):
            kind = get_type_hints(kind).get(name)
        elif get_origin(kind) in (list, dict):
            kind = get_args(kind)[-1]
        else:
            return None
    return None if kind is Any else kind


def rule_of(kind: Any, key: str) -> str:
    """Return the rule of a parameter in words: its type, and its range if it has one."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {[choice.value for choice in kind]}"
    if get_origin(kind) is list:
        inside = get_args(kind)[0]
        return f"a list, each item {rule_of(inside, '')}"
    owner, _, name = key.rpartition(".")
    return type_and_range(kind_of(owner), name, config.RULES.get(kind, "a mapping"))


def example(key: str) -> str:
    """Return an override that gives a parameter its default; empty where that does not show how to write it."""
    key = key.partition("[")[0]
    kind = kind_of(key)
    if is_dataclass(kind):
        return next(filter(None, (example(f"{key}.{field.name}") for field in fields(kind))), "")
    owner, _, name = key.rpartition(".")
    of = kind_of(owner)
    known = next((field for field in fields(of) if field.name == name), None) if is_dataclass(of) else None
    if known is None:
        return ""
    value = config.plain(known.default if known.default_factory is MISSING else known.default_factory())
    if value is MISSING or value in ("", [], {}):
        return ""
    written = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return (
        f"{key}=[{written}]" if isinstance(value, list) else f"{key}={written.lower() if value is False else written}"
    )


def line_of(path: Path, section: str, key: str) -> int | None:
    """The line of a file, which fills `section`, that gives a full key or a part of it its value; None without one."""
    node, found = nodes(path), None
    names = [name for name in re.split(r"[.\[\]]+", key) if name]
    above = [name for name in section.split(".") if name]
    if names[: len(above)] != above:
        return None
    for name in names[len(above) :]:
        if not isinstance(node, yaml.MappingNode):
            break
        entry = next((each for each in node.value if each[0].value == name), None)
        if entry is None:
            return None
        found, node = entry[0].start_mark.line + 1, entry[1]
    return found


def nodes(path: Path) -> yaml.Node | None:
    """Return the root node of a YAML file, or None if the file holds nothing."""
    node: yaml.Node | None = yaml.compose(path.read_text(encoding="utf-8"), Loader=get_yaml_loader())
    return node


def file_problem(path: Path, key: str) -> str:
    """Explain the first value in a file that does not fit into the section `key`. Empty where all fit."""
    root = nodes(path)
    if root is None:
        return ""
    if not isinstance(root, yaml.MappingNode):
        return f"{path}:{root.start_mark.line + 1}: must be a mapping of keys to values, found {words_of(root)}"
    root.value = [(name, value) for name, value in root.value if name.value != "defaults"]
    for line, words in _complaints(root, kind_of(key) if key else config.Config, key):
        return f"{path}:{line}: {words}"
    return ""


def _complaints(node: yaml.Node, kind: object, key: str) -> Iterator[tuple[int, str]]:
    """Yield (line, explanation) for each node in `node` whose type is not `kind`."""
    line = node.start_mark.line + 1
    mapping = is_dataclass(kind) or get_origin(kind) is dict
    if kind is None or kind is Any:
        return
    if mapping or get_origin(kind) is list:
        wanted = yaml.MappingNode if mapping else yaml.SequenceNode
        if not isinstance(node, wanted) and not _left_open(node):
            yield line, f"{key}: must be {rule_of(kind, key)}, found {words_of(node)}"
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                yield from _complaints(value, get_args(kind)[0], f"{key}[{i}]")
        elif isinstance(node, yaml.MappingNode):
            yield from _entries(node, kind, key)
    elif not isinstance(node, yaml.ScalarNode):
        yield line, f"{key}: must be {rule_of(kind, key)}, found {words_of(node)}"
    elif not _left_open(node) and not _taken(node, kind):
        fix = f"; write '{node.value}', with the quotes" if kind is str else ""
        yield line, f"{key}: must be {rule_of(kind, key)}, found {words_of(node)}{fix}"


def _entries(node: yaml.MappingNode, kind: object, key: str) -> Iterator[tuple[int, str]]:
    for name, value in node.value:
        full, line = f"{key}.{name.value}".lstrip("."), name.start_mark.line + 1
        if name.tag.endswith(":merge"):
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                yield from _complaints(merged, kind, key)
        elif is_dataclass(kind):
            hints = get_type_hints(kind)
            if name.value in hints:
                yield from _complaints(value, hints[name.value], full)
            else:
                yield line, f"{full}: {no_key(full)}"
        elif not name.tag.endswith(":str"):
            yield line, f"{key}: must have names of text, found {words_of(name)}; write '{name.value}', with the quotes"
        else:
            yield from _complaints(value, get_args(kind)[1], full)


def _left_open(node: yaml.Node) -> bool:
    """Return whether a scalar gets its value elsewhere: from an interpolation, or, for ???, from another file."""
    return isinstance(node, yaml.ScalarNode) and ("${" in node.value or node.value == "???")


def _taken(node: yaml.ScalarNode, kind: object) -> bool:
    assert isinstance(kind, type)
    tag = node.tag.rpartition(":")[2]
    if issubclass(kind, Enum):
        return tag == "str" and node.value in kind.__members__
    if kind in (str, bool):
        return bool(tag == kind.__name__)
    if tag != "str":
        return tag in (("int",) if kind is int else ("int", "float"))
    try:
        (int if kind is int else float)(node.value)
    except ValueError:
        return False
    return True


def words_of(node: yaml.Node) -> str:
    """Return the value of a node as written, with the type that YAML gives it if that is not text."""
    if not isinstance(node, yaml.ScalarNode):
        return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
    what = TAGS.get(node.tag.rpartition(":")[2])
    return f"{node.value or 'nothing'}{f', which is {what} in YAML' if what and node.value else ''}"
