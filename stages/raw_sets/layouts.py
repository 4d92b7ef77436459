"""Recognises the content of folders that are not sets in Vistas layout, and explains it in a message.

known_layouts.py has the native layout of each data set that street-scene networks are commonly trained on. A folder
may lie in a zip archive. Only file names are read, and the content of a few files whose names do not suffice.
"""

import fnmatch
import zipfile
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from stages.raw_sets.known_layouts import LAYOUTS as LAYOUTS
from stages.raw_sets.known_layouts import Folder as Folder
from stages.raw_sets.known_layouts import Part, SetLayout

IsSet = Callable[[Folder], bool]
"""Function that returns whether a folder is a set in Vistas layout."""

LEVELS: Final = 3
"""Levels of subfolders that are searched for sets."""
LEVELS_ABOVE: Final = 4
"""Folders above a folder that are searched for a set that it is a part of."""
MAX_FOLDERS: Final = 1000
"""Folders of each level that are searched. Limits the time for any folder that a user gives."""
MAX_ENTRIES: Final = 200
"""Entries of a folder that are read, by ascending name. Limits the time for any folder that a user gives."""
SPLITS: Final = {"train": "training", "training": "training"} | dict.fromkeys(
    ("val", "valid", "validation"), "validation"
)
"""Common names of a split's folder, in lower case -> Vistas' names."""
_FOLDERS: Final = SPLITS | {"image": "images", "images": "images", "instance": "instances", "instances": "instances"}
"""Common names of the folders of a set, in lower case -> Vistas' names."""
_VERSIONS: Final = ("v1.2", "v2.0")
PICTURES: Final = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
ARCHIVES: Final = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
EXPECTED: Final = "expected PNGs in instances beside images, at the top or in training and validation; see docs/data.md"


def recognise(folder: Folder) -> tuple[SetLayout, list[str]] | None:
    """Return the layout of the set in a folder and the paths that identify it, or None if the layout is unknown."""
    for layout in LAYOUTS:
        for *patterns, last in layout.marks:
            found = [next(_matching(folder, pattern), None) for pattern in patterns]
            candidates = islice(_matching(folder, last), 20)
            found.append(next((p for p in candidates if layout.content is None or _holds(layout.content, p)), None))
            paths = [_relative(path, folder) for path in found if path is not None]
            if len(paths) == len(found):
                return layout, paths
    return None


def complete(folder: Folder) -> list[SetLayout]:
    """Return the layouts with a reader of which a folder has every part."""
    return [layout for layout in LAYOUTS if layout.parts and not any(_lacks(folder, part) for part in layout.parts)]


def missing(folder: Folder, layout: SetLayout) -> str:
    """Return what a folder lacks of a layout with a reader, and the fix, for a message."""
    lacks = [part for part in layout.parts if _lacks(folder, part)]
    shown = " and ".join(f"{part.what} at {part.patterns[0]}" for part in lacks if not part.absent)
    return f"no {shown}; {'; '.join(dict.fromkeys(part.fix for part in lacks))}"


def _lacks(folder: Folder, part: Part) -> bool:
    found = any(next(_matching(folder, pattern), None) is not None for pattern in part.patterns)
    return found if part.absent else not found


def explain(folder: Folder, is_set: IsSet, choose: str) -> str:
    """Return one line: the content of a folder that is not a set in Vistas layout, and what to do.

    `choose` is the step for a set in a subfolder; {} in it stands for the subfolder's path.
    """
    below = list(_below(folder, LEVELS, is_set))
    sets = [place for place in below if is_set(place)]
    for place in (folder, *below):
        if not is_set(place) and (step := _renames(place, folder) or _moves(place, folder)):
            then = "" if place == folder else f"; then {choose.format(path(place))}"
            return f"found a Vistas set whose folders have other names or places; {step}{then}"
    if sets:
        own = [layout.name for place in sets for layout in complete(place)]
        kind = f"the layout of {own[0]}" if own else "Vistas' layout"
        found = f"{len(sets)} sets in {kind} ({', '.join(_relative(f, folder) for f in sets[:5])})"
        step = choose.format(path(sets[0]))
        return f"found {found}; {step}, or another" if len(sets) > 1 else f"found a set in {kind} in it; {step}"
    if isinstance(folder, Path):
        above = [place for place in folder.resolve().parents[:LEVELS_ABOVE] if is_set(place)]
        if above:
            own = [layout.name for layout in complete(above[-1])]
            kind = f"the layout of {own[0]}" if own else "Vistas' layout"
            return f"it is a part of a set in {kind}; {choose.format(above[-1])}"
    for place in (folder, *below):
        if recognised := recognise(place):
            layout, paths = recognised
            at = "" if place == folder else f" in {_relative(place, folder)}"
            step = layout.step
            if layout.parts:
                step = choose.format(path(place)) if layout in complete(place) else missing(place, layout)
            return f"it looks like {layout.name}{at} ({', '.join(paths)}); {step}"
    return _unknown(folder, below)


def _renames(place: Folder, folder: Folder) -> str:
    """Return how to rename subfolders of a place so that it is a set, or "" if that does not make it one.

    Names are relative to `folder`. Inner folders come first, so that the steps can be taken in their order.
    """
    by_name = _by_right_name(place)
    renamed = list[Folder]()
    is_set = False
    for base in (place, *(f for name in ("training", "validation") for f in by_name.get(name, []))):
        inside = _by_right_name(base)
        versions = [version for version in _folders(base) if version.name.lower() in _VERSIONS]
        masks = [f for at in (base, *versions) for f in _by_right_name(at).get("instances", []) if _has_png(f)]
        if masks and (images := inside.get("images", [])):
            is_set = True
            renamed += [*images, *masks, *(v for v in versions if any(m.parent == v for m in masks))]
            renamed += [] if base == place else [base]
    steps = []
    for found in sorted(renamed, key=path) if is_set else []:
        right = _FOLDERS.get(found.name.lower(), found.name.lower())
        name = _relative(found, folder)
        if found.name != right:
            steps.append((-name.count("/"), f"{name} to {name[: name.rfind('/') + 1]}{right}"))
    return f"rename {_joined([step for _, step in sorted(steps, key=lambda step: step[0])])}" if steps else ""


def _moves(place: Folder, folder: Folder) -> str:
    """Return how to move the splits out of a place's folders images and instances, or "" if they are not there."""
    by_name = _by_right_name(place)
    steps = []
    for images, masks in zip(by_name.get("images", []), by_name.get("instances", []), strict=False):
        for inside in _folders(masks):
            right = SPLITS.get(inside.name.lower(), "")
            if right and _has_png(inside) and (images / inside.name).is_dir():
                parent = "" if place == folder else f"{_relative(place, folder)}/"
                steps += [
                    f"{_relative(kind / inside.name, folder)} to {parent}{right}/{name}"
                    for kind, name in ((images, "images"), (masks, "instances"))
                ]
    return f"move {_joined(steps)}" if steps else ""


def _by_right_name(folder: Folder) -> dict[str, list[Folder]]:
    """Return the subfolders with a common name of a set's folder, by Vistas' own name for it."""
    result: dict[str, list[Folder]] = {}
    for inside in _folders(folder):
        if right := _FOLDERS.get(inside.name.lower()):
            result.setdefault(right, []).append(inside)
    return result


def _has_png(folder: Folder) -> bool:
    return any(path.suffix.lower() == ".png" for path in _entries(folder))


def _joined(steps: list[str]) -> str:
    return " and ".join([*([", ".join(steps[:-1])] if steps[:-1] else []), steps[-1]])


def _unknown(folder: Folder, below: list[Folder]) -> str:
    """Return the line about a folder without a known layout. `below` are its subfolders."""
    for path in (path for place in (folder, *below) for path in _folders(place)):
        if path.name.lower() in ("instances", "instance"):
            inside = ", ".join(_names(path)) or "nothing"
            return f"found {_relative(path, folder)}, with {inside} in it; {EXPECTED}"
    names = _names(folder)
    if not names:
        return "it is empty; give the folder into which the set was unpacked"
    entries = (path for place in (folder, *below) for path in _entries(place))
    archives = [_relative(p, folder) for p in entries if p.suffix.lower() in ARCHIVES and p.is_file()]
    if archives:
        more = f" and {len(archives) - 5} more" if len(archives) > 5 else ""
        return f"found archives, {', '.join(archives[:5])}{more}; unpack the set's archive and give its folder"
    counts = [(sum(f.suffix.lower() in PICTURES for f in _entries(place)), place) for place in (folder, *below)]
    pictures = [f"{count} in {_relative(place, folder)}" for count, place in counts if count]
    if pictures:
        return f"found pictures ({', '.join(pictures[:3])}) and no folder instances with their masks; {EXPECTED}"
    return f"found {', '.join(names)}; {EXPECTED}"


def top(folder: Folder, is_set: IsSet) -> Folder:
    """Descend while a folder contains only one folder, as in many archives, and is not a set; return the last."""
    inside = _entries(folder)
    alone = len(inside) == 1 and inside[0].is_dir() and not is_set(folder)
    return top(inside[0], is_set) if alone else folder


def _matching(folder: Folder, pattern: str) -> Iterator[Folder]:
    """Yield the paths in a folder that match a pattern, of which MAX_ENTRIES are tried at each level."""
    first, _, rest = pattern.partition("/")
    if "*" in first:
        paths = list(islice((p for p in _entries(folder) if fnmatch.fnmatchcase(p.name, first)), MAX_ENTRIES))
    else:
        paths = [folder / first]
    for path in paths:
        if rest:
            yield from _matching(path, rest) if path.is_dir() else ()
        elif path.exists():
            yield path


def _holds(content: Callable[[Folder], bool], path: Folder) -> bool:
    """Return whether `content` accepts a file. A file that can't be read is not accepted."""
    try:
        return path.is_file() and content(path)
    except (OSError, zipfile.BadZipFile, zlib.error):
        return False


def _below(folder: Folder, levels: int, is_set: IsSet) -> Iterator[Folder]:
    """Yield the subfolders down to `levels`, those of a level before deeper ones. Skips those of a set."""
    here = [folder]
    for _ in range(levels):
        inside = (path for place in here if not is_set(place) for path in _folders(place))
        here = list(islice(inside, MAX_FOLDERS))
        yield from here


def _folders(folder: Folder) -> list[Folder]:
    return list(islice((path for path in _entries(folder) if path.is_dir()), MAX_ENTRIES))


def _entries(folder: Folder) -> list[Folder]:
    """Return the entries of a folder by ascending name, without hidden ones; empty if it can't be listed."""
    try:
        inside: list[Folder] = list(folder.iterdir()) if folder.is_dir() else []
    except OSError:
        return []
    return sorted((p for p in inside if not p.name.startswith(".") and p.name != "__MACOSX"), key=lambda p: p.name)


def _names(folder: Folder) -> list[str]:
    """Return the first five names in a folder. Folders end with a slash."""
    inside = _entries(folder)
    return [path.name + "/" * path.is_dir() for path in inside[:5]] + (["more"] if len(inside) > 5 else [])


def path(place: Folder) -> str:
    """Return the path of a folder or a file. In an archive it is the path inside it, "" for the archive's root."""
    return str(place) if isinstance(place, Path) else place.at.rstrip("/")


def _relative(place: Folder, folder: Folder) -> str:
    if isinstance(place, Path) and isinstance(folder, Path):
        return place.relative_to(folder).as_posix()
    return path(place)[len(path(folder)) :].strip("/") or "."
