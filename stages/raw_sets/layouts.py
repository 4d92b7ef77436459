"""Recognises what a folder holds that is not a set in Vistas layout, and explains it in a message.

`LAYOUTS` has the native layout of each data set that street-scene networks are commonly trained on, taken from the
documents and tools of the sets. A new reader would start here: `recognise` returns the layout and its paths. A folder
may lie in a zip archive. Only file names are read, and the content of a few files whose names do not suffice.
"""

import fnmatch
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

Folder = Path | zipfile.Path
"""A folder or a file, on the disk or in an archive."""
IsSet = Callable[[Folder], bool]
"""Function that returns whether a folder is a set in Vistas layout."""

LEVELS: Final = 2
"""Levels of subfolders that are searched for sets."""
MAX_ENTRIES: Final = 200
"""Entries of a folder that are read, by ascending name. Limits the time for any folder that a user gives."""
SPLITS: Final = {"train": "training", "training": "training"} | dict.fromkeys(
    ("val", "valid", "validation"), "validation"
)
"""Common names of a split's folder, in lower case -> Vistas' names."""
PICTURES: Final = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
ARCHIVES: Final = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
EXPECTED: Final = "expected PNGs in instances beside images, at the top or in training and validation; see docs/data.md"


@dataclass(frozen=True)
class SetLayout:
    """The native layout of a data set."""

    name: str
    marks: tuple[tuple[str, ...], ...]
    """Alternatives. A folder has the layout if all patterns of one alternative match; `*` as in a shell."""
    content: Callable[[Folder], bool] | None = None
    """Function that checks the content of a file that matches the last pattern, where the name does not suffice."""
    step: str = "there is no reader for it yet: bring it into Vistas' layout, see docs/data.md"
    """What the user can do."""


def _has(file: Folder, *words: bytes) -> bool:
    """Return whether a file contains all words. Reads in blocks, since COCO's files have up to hundreds of MB."""
    missing, tail = set(words), b""
    with file.open("rb") as stream:
        while missing and (block := stream.read(1 << 22)):
            missing = {word for word in missing if word not in tail + block}
            tail = block[-64:]
    return not missing


def _is_coco_panoptic(file: Folder) -> bool:
    return _has(file, b'"images"', b'"annotations"', b'"segments_info"')


def _is_coco(file: Folder) -> bool:
    return _has(file, b'"images"', b'"annotations"', b'"image_id"')


def _is_yolo(file: Folder) -> bool:
    """Return whether the first line is a class id and the coordinates of a box or a polygon, from 0 to 1."""
    with file.open("rb") as stream:
        cells = stream.readline(1 << 16).split()
    numbers = [re.fullmatch(rb"[01]?(\.\d*)?([eE]-?\d+)?", cell) for cell in cells[1:]]
    return len(cells) >= 5 and cells[0].isdigit() and all(numbers)


def _each(*patterns: str, under: tuple[str, ...] = ("",)) -> tuple[tuple[str, ...], ...]:
    """Return alternatives of one pattern each: every pattern under every folder."""
    return tuple((folder + pattern,) for pattern in patterns for folder in under)


LAYOUTS: Final = (
    SetLayout(
        "a set with masks only in labels or panoptic",
        _each(
            *(f"{version}{kind}/*.png" for version in ("", "v1.2/", "v2.0/") for kind in ("labels", "panoptic")),
            under=("training/", "validation/", "train/", "val/", ""),
        ),
        step="those are not read: put the folders instances of the same archive beside them, see docs/data.md",
    ),
    SetLayout(
        "Cityscapes",
        _each(
            "*/*_gtFine_instanceIds.png",
            "*/*_gtFine_labelIds.png",
            # CITY_SEQUENCE_FRAME; IDD's names have fewer parts.
            "*/*_*_*_gtFine_polygons.json",
            under=("gtFine/*/", "*/", ""),
        )
        + _each("gtCoarse/*/*/*_*_*_gtCoarse_*", "leftImg8bit/*/*/*_*_*_leftImg8bit.*"),
    ),
    SetLayout(
        "IDD",
        _each("*/*_gtFine_polygons.json", under=("gtFine/*/", "*/", "")) + _each("leftImg8bit/*/*/*_leftImg8bit.*"),
    ),
    SetLayout(
        "KITTI's semantics",
        (("training/image_2", "training/semantic"), ("training/image_2", "training/instance"))
        + (("image_2", "semantic"), ("image_2", "instance")),
    ),
    SetLayout(
        "ADE20K (full)",
        _each("images/ADE/*/*/*/*_seg.png", "images/*/*/*/*_seg.png", "images/*/*/ADE_*_seg.png"),
    ),
    SetLayout(
        "ADE20K SceneParsing",
        _each("annotations/*/ADE_*.png", "annotations_instance/*/ADE_*.png")
        + (("images/training", "annotations/training"), ("images/validation", "annotations/validation")),
    ),
    SetLayout("BDD100K", _each("labels/pan_seg", "labels/ins_seg", "labels/sem_seg", "images/10k", "images/100k")),
    SetLayout(
        "Pascal VOC",
        tuple(("JPEGImages", mark) for mark in ("SegmentationClass", "SegmentationObject", "Annotations/*.xml")),
    ),
    SetLayout("COCO panoptic", _each("*/*.json", "*.json"), _is_coco_panoptic),
    SetLayout("COCO stuff", _each("stuffthingmaps/*", "*/stuff_*.json", "stuff_*.json")),
    SetLayout("COCO instances", _each("*/*.json", "*.json"), _is_coco),
    SetLayout(
        "a YOLO set",
        (("images", "labels/*.txt"), ("images/*", "labels/*/*.txt"), ("*/images", "*/labels/*.txt")),
        _is_yolo,
    ),
)


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


def explain(folder: Folder, is_set: IsSet, choose: str) -> str:
    """Return one line: what a folder holds that is not a set in Vistas layout, and what to do.

    `choose` is the step for a set that lies in a subfolder, with {} for its path.
    """
    below = list(_below(folder, LEVELS, is_set))
    sets = [place for place in below if is_set(place)]
    if splits := [place for place in sets if place.name.lower() in SPLITS]:
        names = [(_relative(place, folder), SPLITS[place.name.lower()]) for place in splits]
        renames = [f"{name} to {name[: name.rfind('/') + 1]}{right}" for name, right in names]
        return f"found a Vistas set whose splits have other names; rename {' and '.join(renames)}"
    if sets:
        found = f"{len(sets)} sets in Vistas' layout ({', '.join(_relative(f, folder) for f in sets[:5])})"
        step = choose.format(path(sets[0]))
        return f"found {found}; {step}, or another" if len(sets) > 1 else f"found a set in Vistas' layout in it; {step}"
    for place in (folder, *below):
        if recognised := recognise(place):
            layout, paths = recognised
            at = "" if place == folder else f" in {_relative(place, folder)}"
            return f"it looks like {layout.name}{at} ({', '.join(paths)}); {layout.step}"
    return _unknown(folder, below)


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
    """Descend while a folder holds nothing but one folder, as in many archives, and is not a set; return the last."""
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
    """Yield the subfolders down to `levels`, a folder's own before those of its subfolders. Skips those of a set."""
    here = _folders(folder)
    yield from here
    for path in here if levels > 1 else ():
        if not is_set(path):
            yield from _below(path, levels - 1, is_set)


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
