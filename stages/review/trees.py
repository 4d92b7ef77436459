"""Hashes of folders as DVC makes them: the MD5 of a JSON list of the MD5 and the path of each file in the folder."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from stages.review import lock


@dataclass(frozen=True)
class Size:
    """Size of a folder whose list of files is not in DVC's cache."""

    size_bytes: int
    files: int


def inside(path: str, folder: str) -> bool:
    """Return whether a path is a folder or below it."""
    return PurePosixPath(path).is_relative_to(PurePosixPath(folder))


def overlap(one: str, other: str) -> bool:
    """Return whether two paths are the same, or one is below the other."""
    return inside(one, other) or inside(other, one)


def digest(files: Mapping[str, str]) -> str:
    """Return DVC's hash of a folder: path below it -> MD5 of the file, in hexadecimal."""
    listed = [{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


class Cache:
    """The lists of files in DVC's cache."""

    def __init__(self, repo: Any):  # DVC has no types
        self.odb = repo.cache.local

    def files(self, path: str, out: lock.Entry) -> dict[str, str] | None:
        """Return path -> MD5 of the files of an output at `path`, or None where the cache doesn't have its list."""
        value = lock.digest(out)
        if value is None or not value.endswith(".dir"):
            return None if value is None else {path: value}
        try:
            listed = json.loads(Path(self.odb.oid_to_path(value)).read_bytes())
        except (OSError, ValueError):
            return None
        return {f"{path}/{each['relpath']}": each["md5"] for each in listed}

    def part(self, path: str, folder: str, out: lock.Entry) -> str | None:
        """Return the hash that a file or folder has inside of the output `folder`; "absent" where it isn't there.

        None where the cache doesn't have the output's list of files.
        """
        files = self.files(folder, out)
        if files is None:
            return None
        if path in files:
            return files[path]
        below = {name.removeprefix(f"{path}/"): md5 for name, md5 in files.items() if name.startswith(f"{path}/")}
        return digest(below) if below else "absent"

    def above(self, path: str, outs: Mapping[str, lock.Entry], others: Mapping[str, Path]) -> str | Size:
        """Return the hash of a folder that holds outputs, and `others`: path -> the file in the workspace.

        Its size where the cache doesn't have the lists of files of all outputs.
        """
        known = [self.files(out_path, out) for out_path, out in outs.items()]
        if any(files is None for files in known):
            size = sum(int(out.get("size", 0)) for out in outs.values())
            size += sum(file.stat().st_size for file in others.values())
            return Size(size, len(others) + sum(int(out.get("nfiles", 1)) for out in outs.values()))
        files = {name: md5 for each in known if each for name, md5 in each.items()}
        for name, file in others.items():
            files[name] = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
        return digest({name.removeprefix(f"{path}/"): md5 for name, md5 in files.items()})


def is_recorded(now: str | Size, recorded: lock.Entry | None) -> bool:
    """Return whether the entry of a dependency in dvc.lock has this hash or size."""
    if recorded is None:
        return False
    if isinstance(now, Size):
        return now == Size(int(recorded.get("size", 0)), int(recorded.get("nfiles", 1)))
    return now == lock.digest(recorded)
