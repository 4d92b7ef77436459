"""What a folder without a set in Vistas' layout holds, for messages: known sets by the paths of their own layouts.

`LAYOUTS` has the native layout of each set that street-scene networks are trained on, from the sets' own documents and
tools. A reader for one of them starts here: `recognise` says where it lies. Folders may be in a zip archive. Only names
are looked at, and the content of a few files where names don't tell.
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
"""Whether a set in Vistas' layout lies at a folder."""

LEVELS: Final = 2
"""How far below a folder sets are looked for."""
MAX_ENTRIES: Final = 200
"""Entries of a folder that are looked at, by rising name, so that any SRC is answered soon."""
SPLITS: Final = {"train": "training", "training": "training"} | dict.fromkeys(
    ("val", "valid", "validation"), "validation"
)
"""Names that people give the folders of a split, in lower case -> Vistas' names."""
PICTURES: Final = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
ARCHIVES: Final = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
EXPECTED: Final = "expected PNGs in instances beside images, at the top or in training and validation; see docs/data.md"


@dataclass(frozen=True)
class Layout:
    """The native layout of a set."""

    name: str
    marks: tuple[tuple[str, ...], ...]
    """Alternatives; of one of them each pattern must be there. `*` is a part of one name, as the shell has it."""
    content: Callable[[Folder], bool] | None = None
    """Whether a file that the last pattern names is of this layout, where its name doesn't tell."""
    step: str = "there is no reader for it yet: bring it into Vistas' layout, see docs/data.md"
    """What helps."""


def _has(file: Folder, *words: bytes) -> bool:
    """Whether a file has all the words, read in blocks: COCO's files are up to hundreds of MB."""
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
    """Whether the first line is a class and the numbers of a box or a polygon, in shares of the picture."""
    with file.open("rb") as stream:
        cells = stream.readline(1 << 16).split()
    numbers = [re.fullmatch(rb"[01]?(\.\d*)?([eE]-?\d+)?", cell) for cell in cells[1:]]
    return len(cells) >= 5 and cells[0].isdigit() and all(numbers)


def _each(*patterns: str, under: tuple[str, ...] = ("",)) -> tuple[tuple[str, ...], ...]:
    """Each pattern under each of the folders, as alternatives."""
    return tuple((folder + pattern,) for pattern in patterns for folder in under)


LAYOUTS: Final = (
    Layout(
        "a set with masks in labels or panoptic alone",
        _each(
            *(f"{version}{kind}/*.png" for version in ("", "v1.2/", "v2.0/") for kind in ("labels", "panoptic")),
            under=("training/", "validation/", "train/", "val/", ""),
        ),
        step="those are not read: put the folders instances of the same archive beside them, see docs/data.md",
    ),
    Layout(
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
    Layout(
        "IDD",
        _each("*/*_gtFine_polygons.json", under=("gtFine/*/", "*/", "")) + _each("leftImg8bit/*/*/*_leftImg8bit.*"),
    ),
    Layout(
        "KITTI's semantics",
        (("training/image_2", "training/semantic"), ("training/image_2", "training/instance"))
        + (("image_2", "semantic"), ("image_2", "instance")),
    ),
    Layout(
        "ADE20K (full)",
        _each("images/ADE/*/*/*/*_seg.png", "images/*/*/*/*_seg.png", "images/*/*/ADE_*_seg.png"),
    ),
    Layout(
        "ADE20K SceneParsing",
        _each("annotations/*/ADE_*.png", "annotations_instance/*/ADE_*.png")
        + (("images/training", "annotations/training"), ("images/validation", "annotations/validation")),
    ),
    Layout("BDD100K", _each("labels/pan_seg", "labels/ins_seg", "labels/sem_seg", "images/10k", "images/100k")),
    Layout(
        "Pascal VOC",
        tuple(("JPEGImages", mark) for mark in ("SegmentationClass", "SegmentationObject", "Annotations/*.xml")),
    ),
    Layout("COCO panoptic", _each("*/*.json", "*.json"), _is_coco_panoptic),
    Layout("COCO stuff", _each("stuffthingmaps/*", "*/stuff_*.json", "stuff_*.json")),
    Layout("COCO instances", _each("*/*.json", "*.json"), _is_coco),
    Layout(
        "a YOLO set",
        (("images", "labels/*.txt"), ("images/*", "labels/*/*.txt"), ("*/images", "*/labels/*.txt")),
        _is_yolo,
    ),
)


def recognise(folder: Folder) -> tuple[Layout, list[str]] | None:
    """The layout of a set that lies at a folder, and the paths that tell; None where no layout is known."""
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
    """One line: what a folder holds that is no set in Vistas' layout, and the step that helps.

    `choose` is the step that takes a set that lies below instead, with {} for its path.
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
    for path in (path for place in (folder, *below) for path in _folders(place)):
        if path.name.lower() in ("instances", "instance"):
            inside = ", ".join(_names(path)) or "nothing"
            return f"found {_relative(path, folder)}, with {inside} in it; {EXPECTED}"
    names = _names(folder)
    if not names:
        return "it is empty; give the folder that the set was unpacked into"
    entries = (path for place in (folder, *below) for path in _entries(place))
    archives = [_relative(p, folder) for p in entries if p.suffix.lower() in ARCHIVES and p.is_file()]
    if archives:
        more = f" and {len(archives) - 5} more" if len(archives) > 5 else ""
        return f"found archives, {', '.join(archives[:5])}{more}; unpack the set's own and give that folder"
    counts = [(sum(f.suffix.lower() in PICTURES for f in _entries(place)), place) for place in (folder, *below)]
    pictures = [f"{count} in {_relative(place, folder)}" for count, place in counts if count]
    if pictures:
        return f"found pictures ({', '.join(pictures[:3])}) and no folder instances with their masks; {EXPECTED}"
    return f"found {', '.join(names)}; {EXPECTED}"


def top(folder: Folder, is_set: IsSet) -> Folder:
    """The folder, or, as archives often have it, the only one in it, down to a set or to where there is more."""
    inside = _entries(folder)
    alone = len(inside) == 1 and inside[0].is_dir() and not is_set(folder)
    return top(inside[0], is_set) if alone else folder


def _matching(folder: Folder, pattern: str) -> Iterator[Folder]:
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
    try:
        return path.is_file() and content(path)
    except (OSError, zipfile.BadZipFile, zlib.error):
        return False


def _below(folder: Folder, levels: int, is_set: IsSet) -> Iterator[Folder]:
    """Folders below, the nearer ones first, but for those in a set."""
    here = _folders(folder)
    yield from here
    for path in here if levels > 1 else ():
        if not is_set(path):
            yield from _below(path, levels - 1, is_set)


def _folders(folder: Folder) -> list[Folder]:
    return list(islice((path for path in _entries(folder) if path.is_dir()), MAX_ENTRIES))


def _entries(folder: Folder) -> list[Folder]:
    """What is in a folder, by rising name, but for hidden files; nothing where it can't be listed."""
    try:
        inside: list[Folder] = list(folder.iterdir()) if folder.is_dir() else []
    except OSError:
        return []
    return sorted((p for p in inside if not p.name.startswith(".") and p.name != "__MACOSX"), key=lambda p: p.name)


def _names(folder: Folder) -> list[str]:
    """The first names in a folder, folders with a slash."""
    inside = _entries(folder)
    return [path.name + "/" * path.is_dir() for path in inside[:5]] + (["more"] if len(inside) > 5 else [])


def path(place: Folder) -> str:
    """The path of a folder or a file; of one in an archive, its path in there, which is empty for the whole."""
    return str(place) if isinstance(place, Path) else place.at.rstrip("/")


def _relative(place: Folder, folder: Folder) -> str:
    if isinstance(place, Path) and isinstance(folder, Path):
        return place.relative_to(folder).as_posix()
    return path(place)[len(path(folder)) :].strip("/") or "."
