"""Decides which pictures belong to a split: by the set's folders, by a list in a file, or by a hash (data.splits)."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from stages import config
from stages.foundation import names, text
from stages.sets.raw_set import Problem, RawSet, Scene
from stages.vistas import reader


def pictures(
    found: dict[str, RawSet], split: str, tables: Path, cfg: config.Data
) -> Iterator[tuple[str, str, Scene | Problem]]:
    """Yield (source, file name without suffix, picture) for each picture of a split, by source and key.

    With several sources the file name is SOURCE_KEY. Raises ValueError, naming the file, where a split list and the
    pictures do not match, and FileNotFoundError where the list is missing.
    """
    path = tables / f"{cfg.split_file}.csv"
    listed = read_list(path) if cfg.splits is config.Splits.file else {}
    seen = set()
    for source, raw in found.items():
        for scene in raw.scenes(split if cfg.splits is config.Splits.folders else ""):
            name = scene.key if len(found) == 1 else f"{source}_{scene.key}"
            seen.add(name)
            chosen = split
            if cfg.splits is config.Splits.file:
                if name not in listed:
                    if suffixed := [other for other in listed if _without_suffix(other) == name]:
                        step = "write all names without suffix"
                        raise ValueError(f"{path}: found {suffixed[0]!r}, expected {name!r}; {step}")
                    hint = names.hint(name, listed)
                    raise ValueError(
                        f"{path}: no line for {name!r}{hint}; add one, with nothing after the comma to leave it out"
                    )
                chosen = listed[name]
            elif cfg.splits is config.Splits.fraction:
                chosen = "val" if _uniform(cfg.split_seed, source, scene.key) < cfg.val_fraction * 2**64 else "train"
            if chosen == split:
                yield source, name, scene
    if unknown := sorted(listed.keys() - seen):
        stem = _without_suffix(unknown[0])
        hint = (
            f" (write {stem!r}, without suffix)"
            if stem != unknown[0] and stem in seen
            else names.hint(unknown[0], seen)
        )
        raise ValueError(f"{path}: {len(unknown)} lines name no picture, such as {unknown[0]!r}{hint}; delete them")


def _without_suffix(name: str) -> str:
    """Return a name without a picture's suffix. A name can have other dots."""
    path = Path(name)
    return path.stem if path.suffix.lower() in reader.PICTURES else name


def _uniform(seed: int, source: str, key: str) -> int:
    """Return a number from 0 to 2^64 - 1. Adding or removing other pictures does not change it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{source}/{key}".encode()).digest()[:8])


def read_list(path: Path) -> dict[str, str]:
    """Read a split list: a CSV file of lines `name,split` without a header. Returns name -> train, val or "".

    Raises FileNotFoundError, and ValueError naming the line that is wrong.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found; write it, or set data.split_file and data.splits in conf/data")
    result: dict[str, str] = {}
    for line in text.read_csv(path):
        where, cells = f"{path}:{line.number}", line.cells
        name = reader.composed(cells[0]) if cells else ""
        if len(cells) != 2 or cells[1] not in (*reader.SPLITS, "") or name in result or not name:
            expected = "a name that no other line has, and train, val or nothing"
            raise ValueError(f"{where}: found {cells}, expected {expected}; correct the line")
        if "/" in name or name == "..":
            raise ValueError(f"{where}: {name!r} is a path, expected a picture's name without suffix; correct the line")
        result[name] = cells[1]
    return result
