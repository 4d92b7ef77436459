"""Reading sets in Mapillary Vistas layout: which version lies where, config, pictures and instance rasters.

v2.0's archive has training/ and validation/ with images/ and, for each version, v1.2/instances and v2.0/instances, and
config_v1.2.json and config_v2.0.json beside them; archives up to v1.2 are flat: config.json, training/images and
training/instances. A set without splits has images/ and instances/ at its root. Instances are 16-bit grey PNGs,
label * 256 + instance (the set's own README, research.mapillary.com).
"""

import struct
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages import config
from stages.coco import png
from stages.foundation import files
from stages.raw_sets import layouts
from stages.vistas import labels, plausibility

FLAT = "flat"
"""Version of a set whose folders have no version between split and instances."""
VERSIONS = ("v1.2", "v2.0")
SPLITS = {"train": "training", "val": "validation"}
PICTURES = (".jpg", ".jpeg", ".png")
INSTANCES_PER_LABEL = 256

_PLACES = ("", *(f"{name}/" for name in SPLITS.values()))
"""Where in a set its folders images may be."""
_INSTANCES = {version: f"{version}/instances" for version in VERSIONS} | {FLAT: "instances"}
"""Where beside a folder images its rasters lie."""
_COLOUR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
_DVC_CACHE = "/files/md5/"


@dataclass(frozen=True)
class Scene:
    """One annotated picture of a set."""

    key: str
    image: Path
    instances: Path
    panoptic: Path | None
    """The set's own panoptic PNG, where it has one."""


@dataclass(frozen=True)
class Problem:
    """A picture of a set that can't be converted."""

    key: str
    message: str
    """One line: file, what was found and what mends it."""


@dataclass(frozen=True)
class VistasSet:
    """A set as it was found on the disk."""

    root: Path
    version: str
    """v1.2, v2.0 or flat."""
    config: Path
    labels: tuple[labels.Label, ...]
    """In id order."""

    def folders(self, split: str = "") -> list[Path]:
        """Those with the pictures of a split ('train' or 'val'), or of the whole set, sorted."""
        places = [self.root / SPLITS[split]] if split else [self.root / place for place in _PLACES]
        return sorted(folder for folder in places if (folder / "images").is_dir())

    def instances(self, folder: Path) -> Path:
        """Folder of the rasters of a folder's pictures."""
        return folder / _INSTANCES[self.version]


def versions(folder: layouts.Folder) -> list[str]:
    """Those of VERSIONS, and FLAT, that a folder has instances of."""
    named = {v: [f"{place}{_INSTANCES[v]}" for place in _PLACES] for v in (*VERSIONS, FLAT)}
    return [version for version, paths in named.items() if any(_has_rasters(folder / path) for path in paths)]


def lies_at(folder: layouts.Folder) -> bool:
    """Whether a folder has instances, and folders images where those of a set are."""
    return bool(versions(folder)) and any((folder / f"{place}images").is_dir() for place in _PLACES)


def _has_rasters(folder: layouts.Folder) -> bool:
    return folder.is_dir() and any(
        path.suffix.lower() == ".png" and not path.name.startswith(".") for path in folder.iterdir()
    )


def find(source: config.Source, root: Path, key: str) -> VistasSet:
    """The set of a source at data.root, by its folders. `key` is the source's in the parameters, for messages.

    Raises FileNotFoundError or ValueError, saying what was found and which parameter to set.
    """
    folder = root / source.root
    if folder.is_file():
        raise FileNotFoundError(f"{folder} is a file, expected a set's folder; bring it in by `make data SRC={folder}`")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} not found; put the set there, or set data.root and {key}.root in conf/data")
    found = versions(folder)
    version = source.version or (found[0] if len(found) == 1 else "")
    if not found:
        choose = f"set data.root or {key}.root in conf/data so that the set's folder is {{}}"
        raise ValueError(f"{folder} is no set in Vistas' layout: {layouts.explain(folder, lies_at, choose)}")
    if version not in found:
        wanted = f"version {version}" if version else "one version, or which to take"
        raise ValueError(f"{folder} holds {', '.join(found)}, expected {wanted}: set {key}.version in conf/data")
    names = ["config.json"] if version == FLAT else [f"config_{version}.json", "config.json"]
    names = [source.config] if source.config else names
    paths = [folder / name for name in names if (folder / name).is_file()]
    if not paths:
        others = sorted(p.name for p in folder.glob("*.json"))
        above = next((folder.parent / name for name in names if (folder.parent / name).is_file()), None)
        step = f"give the folder of {above}" if above else f"put the set's config there or name it in {key}.config"
        raise FileNotFoundError(f"{folder}/{names[0]} not found (found: {others}); {step}")
    return VistasSet(folder, version, paths[0], labels.load(paths[0]))


def scenes(found: VistasSet, split: str = "") -> Iterator[Scene | Problem]:
    """The annotated pictures of a split, or of all, by rising key; and a problem for each that can't be one.

    A key is a file's name without suffix, in Unicode's composed form (NFC): macOS writes names decomposed.

    Raises FileNotFoundError where there is no picture at all.
    """
    folders = found.folders(split)
    images = _by_key([folder / "images" for folder in folders], PICTURES)
    rasters = _by_key([found.instances(folder) for folder in folders], (".png",))
    if not images:
        where = found.root / SPLITS[split] if split else found.root
        raise FileNotFoundError(
            f"{where}/images holds no pictures ({', '.join(PICTURES)}); put the set there, or set data.root, "
            "data.sources and data.splits in conf/data"
        )
    root = found.root.resolve()
    for key in sorted(images.keys() | rasters.keys()):
        named = [*images.get(key, []), *rasters.get(key, [])]
        first = files.printable(named[0])
        several = next((paths for paths in (images.get(key, []), rasters.get(key, [])) if len(paths) > 1), None)
        outside = [path for path in named if leaves(path, root)]
        missing = [path for path in named if not path.is_file()]
        if not all(files.is_utf8(path.name) for path in named):
            yield Problem(key, f"{first}: the name is not UTF-8; rename the picture and its mask (convmv -t utf8)")
        elif key not in rasters:
            expected = files.printable(found.instances(images[key][0].parents[1]) / f"{key}.png")
            yield Problem(key, f"{first}: no mask at {expected}; restore it or delete the picture")
        elif key not in images:
            yield Problem(key, f"{first}: no picture of that name; restore it or delete the mask")
        elif several:
            yield Problem(key, _same_key(*several[:2]))
        elif missing:
            what = "a link to nothing" if missing[0].is_symlink() else "no file"
            name = files.printable(missing[0])
            yield Problem(key, f"{name}: {what}; restore it (dvc checkout, if DVC tracks the set)")
        elif outside:
            yield Problem(
                key,
                f"{files.printable(outside[0])}: a link to {files.printable(outside[0].resolve())}, outside of "
                f"{found.root}; put a copy there",
            )
        else:
            image, raster = named
            own = raster.parents[1] / "panoptic" / raster.name
            usable = own.is_file() and not leaves(own, root)
            yield Scene(key, image, raster, own if usable else None)


def _by_key(folders: list[Path], suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    """Files of these suffixes by their keys. Hidden ones, such as macOS' ._NAME beside NAME, are no part of a set."""
    result: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.suffix.lower() in suffixes and not path.name.startswith("."):
                stem = path.stem if files.is_utf8(path.stem) else files.printable(path.stem)
                result.setdefault(composed(stem), []).append(path)
    return result


def composed(name: str) -> str:
    """A name in the Unicode normal form that keys are compared in."""
    return unicodedata.normalize("NFC", name)


def _same_key(path: Path, other: Path) -> str:
    """What is wrong with two files of one key."""
    why = ""
    if path.stem != other.stem:
        why = f" (their names, {path.name!a} and {other.name!a}, differ in Unicode's normal form alone)"
    found = f"{files.printable(path)}: {files.printable(other)} has the same key{why}"
    return f"{found}; rename or delete one with its mask"


def leaves(path: Path, root: Path) -> bool:
    """Whether a path leaves the set by a link. DVC's own links into its cache, as of a tracked set, do not."""
    real = path.resolve()
    return not real.is_relative_to(root) and _DVC_CACHE not in real.as_posix()


def instances(path: Path, num_labels: int) -> npt.NDArray[np.uint16]:
    """Read an instance raster: uint16 [H, W], label * 256 + instance. Raises ValueError for anything else."""
    import imagecodecs

    content, name = path.read_bytes(), files.printable(path)
    if not content.startswith(png.SIGNATURE) or len(content) < 26:
        raise ValueError(f"{name}: {len(content)} bytes that are no PNG; restore the file")
    depth, kind = struct.unpack(">BB", content[24:26])
    if (depth, kind) != (16, 0):
        raise ValueError(
            f"{name}: {depth}-bit {_COLOUR_TYPES.get(kind, 'unknown')}, expected 16-bit grey, label * 256 + instance; "
            "take the PNGs of Vistas' folder instances, not labels or panoptic"
        )
    try:
        raster = np.asarray(imagecodecs.png_decode(png.critical(content)), np.uint16)
    except (imagecodecs.PngError, ValueError) as error:
        raise ValueError(f"{name}: a broken PNG ({error}); restore the file") from error
    top = int(raster.max()) >> 8
    if top >= num_labels:
        raise ValueError(
            f"{name}: label {top}, but the config has {num_labels}, 0 to {num_labels - 1}; the source's version or "
            f"config may be another set's. {plausibility.looks_like(np.unique(raster), num_labels)}"
        )
    return raster
