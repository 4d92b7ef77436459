"""Reads parameters into the dataclasses of this folder, and writes them back as plain mappings and lists."""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from stages.config.deploy import Deploy
from stages.config.root import Config
from stages.config.rules import require, type_and_range
from stages.config.targets import Target
from stages.foundation import picture_limit, text


def load(path: Path = Path("params.yaml")) -> Config:
    """Read and check a file of composed parameters: YAML, or JSON for machines without a YAML reader.

    Raises FileNotFoundError where it is missing, and ValueError with the full key where a key is unknown or a value has
    another type or is out of its range. Sets this process's limit of pixels, data.max_picture_mpx.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path} not found; run `make params` in the repository's root, or "
            f"`python -m stages.commands.params --out {path}`"
        )
    content = text.read_json(path) if path.suffix == ".json" else text.read_yaml(path)
    result = _typed(Config, content, "")
    assert isinstance(result, Config)
    picture_limit.set_limit(result.data.max_picture_mpx)
    return result


def parse_deploy(content: Mapping[str, Any]) -> Deploy:
    """The section `deploy` from its plain form. Raises ValueError as `load`."""
    result = _typed(Deploy, content, "deploy")
    assert isinstance(result, Deploy)
    return result


def parse_target(name: str, content: Mapping[str, Any]) -> Target:
    """The section `targets.<name>` from its plain form. Raises ValueError as `load`."""
    result = _typed(Target, content, f"targets.{name}")
    assert isinstance(result, Target)
    result.check(name)
    return result


def find_target(cfg: Config, name: str) -> Target:
    """The target with an id. Raises ValueError that lists the ids there are."""
    if name not in cfg.targets:
        raise ValueError(
            f"--target: must be among the targets {sorted(cfg.targets)}, found {name!r}; add it to the profile "
            '(docs/targets.md, "Add one") and run `make params`'
        )
    return cfg.targets[name]


RULES: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
"""Types of parameters in words."""


def _typed(kind: Any, value: Any, key: str, owner: object = None) -> Any:
    """`value` as `kind`: a dataclass, an Enum, a list, a dict or a scalar. `owner`: the dataclass whose field it is."""
    if is_dataclass(kind):
        require(isinstance(value, dict), key or "the parameters", "a mapping", value)
        known = get_type_hints(kind)
        for name in value:
            require(name in known, f"{key}.{name}".lstrip("."), f"one of the keys {sorted(known)}", name)
        arguments = {name: _typed(known[name], v, f"{key}.{name}".lstrip("."), kind) for name, v in value.items()}
        result: Any = kind
        return result(**arguments)
    if get_origin(kind) is list:
        require(isinstance(value, list), key, "a list", value)
        return [_typed(get_args(kind)[0], v, f"{key}[{i}]") for i, v in enumerate(value)]
    if get_origin(kind) is dict:
        require(isinstance(value, dict), key, "a mapping", value)
        for name in value:
            require(isinstance(name, str), key, f"a mapping with names of text, in quotes ('{name}')", name)
        return {name: _typed(get_args(kind)[1], v, f"{key}.{name}") for name, v in value.items()}
    if kind is Any:
        return value
    if issubclass(kind, Enum):
        choices = [choice.value for choice in kind]
        require(value in choices, key, f"one of {choices}", value)
        return kind(value)
    return _scalar(kind, value, key, owner)


def _scalar(kind: type, value: Any, key: str, owner: object) -> Any:
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 2**1023 else math.inf
    if kind is str:
        require(type(value) is str, key, "text, in quotes where YAML reads it as a number or a truth value", value)
        # OmegaConf's mark for a value that is still missing.
        require(value != "???", key, "given", value)
    require(type(value) is kind, key, type_and_range(owner, key.rpartition(".")[2], RULES[kind]), value)
    require(kind is not float or math.isfinite(value), key, "a finite number", value)
    require(kind is not int or abs(value) < 2**63, key, "a whole number of 64 bits", value)
    return value


def plain(value: Any) -> Any:
    """The plain form of a section or a value, for JSON and YAML: dataclasses as dicts, members of Enums as values."""
    if isinstance(value, Enum):
        return value.value
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value
