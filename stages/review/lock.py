"""dvc.lock as plain mappings: read from a file or a commit, compared entry by entry, and written in DVC's own form."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from stages.foundation import files

NAME = "dvc.lock"

Entry = Mapping[str, Any]
"""A stage in dvc.lock: cmd, deps, params, outs."""
Entries = Mapping[str, Entry]
"""Name of a stage, with its item -> entry."""


def parse(content: bytes | None, source: str) -> dict[str, Any]:
    """Return the stages of a dvc.lock by their names; none where `content` is None.

    Raises ValueError naming `source` where it isn't the YAML of a lock, such as one with the marks of a conflict.
    """
    if content is None:
        return {}
    try:
        loaded = yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        fix = "resolve its conflict by `make merge-lock`" if b"<<<<<<< " in content else "restore it from git"
        raise ValueError(f"{source}: not a file that DVC wrote; {fix}") from error
    stages = (loaded or {}).get("stages", {}) if isinstance(loaded or {}, dict) else None
    if not isinstance(stages, dict) or not all(isinstance(entry, dict) for entry in stages.values()):
        raise ValueError(f"{source}: expected `stages` with an entry for each stage; restore it from git")
    return stages


def read(root: Path) -> dict[str, Any]:
    """Return the stages of the workspace's dvc.lock; none where there is no such file."""
    path = root / NAME
    return parse(path.read_bytes() if path.exists() else None, NAME)


def write(root: Path, stages: Entries) -> None:
    """Write dvc.lock in the form that DVC gives it."""
    from dvc.utils.serialize import dump_yaml

    with files.atomic_write(root / NAME) as draft:
        dump_yaml(draft, {"schema": "2.0", "stages": dict(stages)})


def outs(entry: Entry) -> dict[str, Entry]:
    """Return the outputs of an entry by their paths: hash, size in bytes, and nfiles of a folder."""
    return {out["path"]: out for out in entry.get("outs", [])}


def deps(entry: Entry) -> dict[str, Entry]:
    """Return the dependencies of an entry by their paths: hash, size in bytes, and nfiles of a folder."""
    return {dep["path"]: dep for dep in entry.get("deps", [])}


def params(entry: Entry) -> dict[str, Any]:
    """Return the values of an entry's parameters by their dotted keys, such as train or deploy.mode."""
    return {key: value for group in entry.get("params", {}).values() for key, value in group.items()}


def digest(item: Entry | None) -> str | None:
    """Return the hash of a dependency or an output, or None where it has none."""
    if item is None:
        return None
    return next((str(item[key]) for key in (item.get("hash"), "md5", "etag", "checksum") if key and key in item), None)


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by their dotted keys. Lists and empty mappings are leaves."""
    if not isinstance(value, Mapping) or (not value and key):
        return {key: value}
    return {name: leaf for k, v in value.items() for name, leaf in flat(v, f"{key}.{k}".lstrip(".")).items()}


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the dotted keys whose values differ, also where one side lacks the key."""
    old, new, absent = flat(before), flat(after), object()
    return [key for key in (new | old) if old.get(key, absent) != new.get(key, absent)]


def plain(value: Any) -> str:
    """Return a parameter's value on one line, as YAML writes it; a text without quotes unless it is empty."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=str)


def params_of(path: Path) -> dict[str, Any]:
    """Return the content of a params.yaml. Raises ValueError naming it where it isn't a mapping in YAML."""
    return parse_params(path.read_bytes(), str(path))


def parse_params(content: bytes | None, source: str) -> dict[str, Any]:
    """Return the content of a params.yaml, or none where `content` is None."""
    try:
        loaded = yaml.safe_load(content or b"{}")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{source}: not YAML; resolve its conflict or run `make params`") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{source}: expected a mapping of parameters; run `make params`")
    return loaded
