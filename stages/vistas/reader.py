"""Reads sets in Mapillary Vistas layout: finds versions, config, pictures and instance masks.

The archive of v2.0 has config_v1.2.json and config_v2.0.json, and in each of training/ and validation/ the folders
images/, v1.2/instances/ and v2.0/instances/. Archives up to v1.2 have no folders of versions: config.json,
training/images/ and training/instances/. This layout is called flat here. A set without splits has images/ and
instances/ at its root. Instance masks are 16-bit grey PNGs, label * 256 + instance (README of the set,
research.mapillary.com).
"""

import re
import struct
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages import config
from stages.coco import png
from stages.foundation import files, picture_limit
from stages.raw_sets import layouts
from stages.vistas import labels, plausibility

FLAT = "flat"
"""Version of a set without folders of versions."""
VERSIONS = ("v1.2", "v2.0")
SPLITS = {"train": "training", "val": "validation"}
"""Name of a split -> its folder."""
PICTURES = (".jpg", ".jpeg", ".png")
INSTANCES_PER_LABEL = 256

_PLACES = ("", *(f"{name}/" for name in SPLITS.values()))
"""Prefixes of the folders images in a set."""
_INSTANCES = {version: f"{version}/instances" for version in VERSIONS} | {FLAT: "instances"}
"""Version -> folder of its instance masks, beside the folder images."""
_COLOUR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
"""PNG's colour types (W3C PNG, 11.2.2)."""
_DVC_CACHE = re.compile(r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$")
"""Part of the path of each file in DVC's cache."""


@dataclass(frozen=True)
class Scene:
    """The files of one annotated picture of a set."""

    key: str
    """File name of the picture, without suffix."""
    image: Path
    instances: Path
    """The instance mask."""
    panoptic: Path | None
    """The set's own panoptic PNG, if it has one."""


@dataclass(frozen=True)
class Problem:
    """A picture of a set that can't be converted."""

    key: str
    message: str
    """One line: the file, what was found, and the fix."""


@dataclass(frozen=True)
class VistasSet:
    """One version of a set on the disk."""

    root: Path
    version: str
    """v1.2, v2.0 or flat."""
    config: Path
    labels: tuple[labels.Label, ...]
    """In id order."""

    def folders(self, split: str = "") -> list[Path]:
        """Return the folders that hold images/ of a split, 'train' or 'val', or of the whole set; sorted."""
        places = [self.root / SPLITS[split]] if split else [self.root / place for place in _PLACES]
        return sorted(folder for folder in places if (folder / "images").is_dir())

    def instances(self, folder: Path) -> Path:
        """Return the folder of the instance masks for the pictures in folder/images."""
        return folder / _INSTANCES[self.version]


def versions(folder: layouts.Folder) -> list[str]:
    """Return the versions, of VERSIONS and FLAT, whose instance masks a folder has."""
    named = {v: [f"{place}{_INSTANCES[v]}" for place in _PLACES] for v in (*VERSIONS, FLAT)}
    return [version for version, paths in named.items() if any(_has_masks(folder / path) for path in paths)]


def lies_at(folder: layouts.Folder) -> bool:
    """Return whether a folder is a set in Vistas layout: it has instance masks and a folder images."""
    return bool(versions(folder)) and any((folder / f"{place}images").is_dir() for place in _PLACES)


def _has_masks(folder: layouts.Folder) -> bool:
    return folder.is_dir() and any(
        path.suffix.lower() == ".png" and not path.name.startswith(".") for path in folder.iterdir()
    )


def find(source: config.Source, root: Path, key: str) -> VistasSet:
    """Find the set of a source in the folder `root`. `key` is the source's parameter, for messages.

    Raises FileNotFoundError or ValueError, saying what was found and which parameter to set.
    """
    folder = root / source.root
    if folder.is_file():
        raise FileNotFoundError(f"{folder} is a file, expected a folder; import the set by `make data SRC={folder}`")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} not found; put the set there, or set data.root and {key}.root in conf/data")
    found = versions(folder)
    version = source.version or (found[0] if len(found) == 1 else "")
    if not found:
        choose = f"set data.root or {key}.root in conf/data so that the set's folder is {{}}"
        raise ValueError(f"{folder} is no set in Vistas' layout: {layouts.explain(folder, lies_at, choose)}")
    if version not in found:
        wanted = f"version {version}" if version else "one version"
        raise ValueError(f"{folder}: found {', '.join(found)}, expected {wanted}; set {key}.version in conf/data")
    names = ["config.json"] if version == FLAT else [f"config_{version}.json", "config.json"]
    names = [source.config] if source.config else names
    paths = [folder / name for name in names if (folder / name).is_file()]
    if not paths:
        others = sorted(p.name for p in folder.glob("*.json"))
        above = next((folder.parent / name for name in names if (folder.parent / name).is_file()), None)
        step = f"give the folder of {above}" if above else f"put the set's config there, or name it in {key}.config"
        raise FileNotFoundError(f"{folder}/{names[0]} not found (found: {others}); {step}")
    return VistasSet(folder, version, paths[0], labels.load(paths[0]))


def scenes(found: VistasSet, split: str = "") -> Iterator[Scene | Problem]:
    """Yield the pictures of a split, or of the whole set, by ascending key, and a Problem for each that can't be used.

    A key is a file name without suffix in Unicode's composed form (NFC), since macOS decomposes the names of files.
    Raises FileNotFoundError if there is no picture.
    """
    folders = found.folders(split)
    images = _by_key([folder / "images" for folder in folders], PICTURES)
    masks = _by_key([found.instances(folder) for folder in folders], (".png",))
    if not images:
        where = found.root / SPLITS[split] if split else found.root
        raise FileNotFoundError(
            f"{where}/images has no pictures ({', '.join(PICTURES)}); put the set there, or set data.root, "
            "data.sources and data.splits in conf/data"
        )
    root = found.root.resolve()
    for key in sorted(images.keys() | masks.keys()):
        named = [*images.get(key, []), *masks.get(key, [])]
        first = files.printable(named[0])
        several = next((paths for paths in (images.get(key, []), masks.get(key, [])) if len(paths) > 1), None)
        outside = [path for path in named if leaves(path, root)]
        missing = [path for path in named if not path.is_file()]
        if not all(files.is_utf8(path.name) for path in named):
            yield Problem(key, f"{first}: the name is not UTF-8; rename the picture and its mask (convmv -t utf8)")
        elif key not in masks:
            expected = files.printable(found.instances(images[key][0].parents[1]) / f"{key}.png")
            yield Problem(key, f"{first}: no mask at {expected}; restore it or delete the picture")
        elif key not in images:
            yield Problem(key, f"{first}: no picture of that name; restore it or delete the mask")
        elif several:
            yield Problem(key, _same_key(*several[:2]))
        elif missing:
            what = "a broken link" if missing[0].is_symlink() else "not a file"
            name = files.printable(missing[0])
            yield Problem(key, f"{name}: {what}; restore it (`dvc checkout` if DVC tracks the set)")
        elif outside:
            yield Problem(
                key,
                f"{files.printable(outside[0])}: a link to {files.printable(outside[0].resolve())}, outside of "
                f"{found.root}; replace it by a copy",
            )
        else:
            image, mask = named
            own = mask.parents[1] / "panoptic" / mask.name
            usable = own.is_file() and not leaves(own, root)
            yield Scene(key, image, mask, own if usable else None)


def _by_key(folders: list[Path], suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    """Return the files with these suffixes by key. Hidden files are ignored, such as ._NAME, which macOS writes."""
    result: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.suffix.lower() in suffixes and not path.name.startswith("."):
                stem = path.stem if files.is_utf8(path.stem) else files.printable(path.stem)
                result.setdefault(composed(stem), []).append(path)
    return result


def composed(name: str) -> str:
    """Return a name in NFC, the Unicode normal form of keys."""
    return unicodedata.normalize("NFC", name)


def _same_key(path: Path, other: Path) -> str:
    """Return the message about two files that have the same key."""
    why = ""
    if path.stem != other.stem:
        why = f" (their names, {path.name!a} and {other.name!a}, differ only in Unicode's normal form)"
    found = f"{files.printable(path)}: {files.printable(other)} has the same key{why}"
    return f"{found}; rename or delete one of them, with its mask"


def leaves(path: Path, root: Path) -> bool:
    """Return whether a link leads a path out of the set. Links into DVC's cache, as in a tracked set, do not count."""
    real = path.resolve()
    return not real.is_relative_to(root) and not _DVC_CACHE.search(real.as_posix())


def instances(path: Path, num_labels: int) -> npt.NDArray[np.uint16]:
    """Read an instance mask, uint16 [H, W], label * 256 + instance.

    Raises ValueError for a file that is broken or not a 16-bit grey PNG, and for a label id of `num_labels` or more.
    """
    import imagecodecs

    name = files.printable(path)
    try:
        content = picture_limit.read(path)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if not content.startswith(png.SIGNATURE) or len(content) < 26:
        raise ValueError(f"{name}: {len(content)} bytes that are not a PNG; restore the file")
    depth, kind = struct.unpack(">BB", content[24:26])
    if (depth, kind) != (16, 0):
        raise ValueError(
            f"{name}: {depth}-bit {_COLOUR_TYPES.get(kind, 'unknown')}, expected 16-bit grey, label * 256 + instance; "
            "use the PNGs of Vistas' folder instances, not labels or panoptic"
        )
    try:
        raster = np.asarray(imagecodecs.png_decode(png.critical(content)), np.uint16)
    except (imagecodecs.PngError, ValueError) as error:
        raise ValueError(f"{name}: a broken PNG ({error}); restore the file") from error
    top = int(raster.max()) >> 8
    if top >= num_labels:
        raise ValueError(
            f"{name}: label {top}, but the config has {num_labels}, 0 to {num_labels - 1}; check the source's version "
            f"and config. {plausibility.looks_like(np.unique(raster), num_labels)}"
        )
    return raster
