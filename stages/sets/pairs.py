"""Pairs the pictures of a set with their annotation files by key, and reports what has no partner."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from pathlib import Path

from stages.foundation import files
from stages.sets.raw_set import Problem, Scene
from stages.vistas import reader

Key = Callable[[Path], str]
"""Function that returns a file's key, or "" for a file that is none of the kind."""


def by_key(paths: Iterable[Path], key: Key) -> dict[str, list[Path]]:
    """Return files by key, in Unicode's composed form. Hidden files, such as ._NAME of macOS, are ignored."""
    result: dict[str, list[Path]] = {}
    for path in sorted(paths):
        if path.name.startswith("."):
            continue
        if found := key(path):
            plain = found if files.is_utf8(found) else files.printable(found)
            result.setdefault(reader.composed(plain), []).append(path)
    return result


def ending(*suffixes: str, joined: bool = False) -> Key:
    """Return the key of files whose names end so: the name without it, with the folder's name before if `joined`."""

    def key(path: Path) -> str:
        end = next((suffix for suffix in suffixes if path.name.lower().endswith(suffix.lower())), "")
        stem = path.name[: -len(end)] if end else ""
        return f"{path.parent.name}_{stem}" if joined and stem else stem

    return key


def scenes(
    root: Path,
    images: Mapping[str, list[Path]],
    kinds: Mapping[str, Mapping[str, list[Path]]],
) -> Iterator[Scene | Problem]:
    """Yield a Scene for each key that has a picture and a file of each kind, by ascending key, else a Problem.

    `kinds` has the files of each kind of annotation by key; the first kind is Scene.annotation.
    """
    real = root.resolve()
    keys = set(images).union(*kinds.values())
    for key in sorted(keys):
        groups = {"picture": images.get(key, [])} | {kind: paths.get(key, []) for kind, paths in kinds.items()}
        here = [path for paths in groups.values() for path in paths]
        first = files.printable(here[0])
        lacks = [kind for kind, paths in groups.items() if not paths]
        twice = next((paths for paths in groups.values() if len(paths) > 1), None)
        missing = next((path for path in here if not path.is_file()), None)
        outside = next((path for path in here if reader.leaves(path, real)), None)
        if not all(files.is_utf8(path.name) for path in here):
            yield Problem(key, f"{first}: the name is not UTF-8; rename the picture and its annotation")
        elif lacks:
            yield Problem(key, f"{first}: no {lacks[0]} of that name; restore it or delete the file")
        elif twice:
            other = files.printable(twice[1])
            yield Problem(key, f"{files.printable(twice[0])}: {other} has the same key; rename or delete one of them")
        elif missing:
            what = "a broken link" if missing.is_symlink() else "not a file"
            yield Problem(key, f"{files.printable(missing)}: {what}; restore it (`dvc checkout` if DVC tracks the set)")
        elif outside:
            found = f"a link to {files.printable(outside.resolve())}, outside of {root}"
            yield Problem(key, f"{files.printable(outside)}: {found}; replace it by a copy")
        else:
            image, annotation, *others = here
            yield Scene(key, image, annotation, tuple(others))


def require(found: Sized, where: Path, split: str) -> None:
    """Raise FileNotFoundError if a split has no picture."""
    if not found:
        which = f"of {split} " if split else ""
        raise FileNotFoundError(
            f"{where} has no pictures {which}with annotations; put them there, or set data.splits in conf/data to file "
            "or fraction if the set has no such split"
        )
