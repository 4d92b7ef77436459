"""Reading a Mapillary Vistas v2.0 set: config, splits and instance rasters.

Format: research.mapillary.com, the set's own README. instances PNG: 16-bit grey, label * 256 + instance.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.vistas import labels

EXIF_ORIENTATION = 0x0112
SPLITS = {"train": "training", "val": "validation"}


@dataclass(frozen=True)
class Scene:
    """One annotated image of a set."""

    key: str
    image: Path
    instances: Path


def read_labels(root: Path, version: str) -> tuple[labels.Label, ...]:
    """The labels of a set's config, in id order. Raises FileNotFoundError or ValueError, naming the file."""
    path = root / f"config_{version}.json"
    if not path.exists():
        found = sorted(p.name for p in root.glob("config*.json")) if root.is_dir() else "no such folder"
        raise FileNotFoundError(f"{path} not found (found: {found}); set data.root and data.version in conf/data")
    return labels.load(path)


def scenes(root: Path, version: str, split: str) -> list[Scene]:
    """The annotated images of a split ('train' or 'val'), sorted by key.

    Raises FileNotFoundError when the split is missing or empty, or when an image lacks its raster or the
    other way round, naming the first few.
    """
    folder = root / SPLITS[split]
    images = {p.stem: p for p in sorted((folder / "images").glob("*.jpg"))}
    rasters = {p.stem: p for p in sorted((folder / version / "instances").glob("*.png"))}
    if not images:
        raise FileNotFoundError(f"{folder}/images holds no .jpg; set data.root to a Mapillary Vistas {version} set")
    for missing, kind in (
        (images.keys() - rasters.keys(), "instances"),
        (rasters.keys() - images.keys(), "images"),
    ):
        if missing:
            some = ", ".join(sorted(missing)[:3])
            raise FileNotFoundError(f"{folder}: {len(missing)} keys are missing in {kind}: {some}; restore or delete")
    return [Scene(key, images[key], rasters[key]) for key in sorted(images)]


def check_picture(path: Path, shape: tuple[int, ...]) -> None:
    """Raise ValueError where a picture does not lie as its raster of [H, W] does: another size, or turned by EXIF.

    TAO turns pictures by EXIF and rasters never, so such a pair would train on wrong masks.
    """
    from PIL import Image

    with Image.open(path) as picture:
        size, orientation = picture.size, picture.getexif().get(EXIF_ORIENTATION, 1)
    if size != shape[::-1]:
        raise ValueError(f"{path}: {size[0]}x{size[1]}, but its raster is {shape[1]}x{shape[0]}; restore the pair")
    if orientation != 1:
        raise ValueError(
            f"{path}: EXIF orientation {orientation}, but masks are not turned; strip it: exiftool -Orientation= {path}"
        )


def instances(path: Path, num_labels: int) -> npt.NDArray[np.uint16]:
    """Read an instance raster: uint16 [H, W], label * 256 + instance. Raises ValueError for anything else."""
    import cv2

    raster = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if raster is None:
        raise ValueError(f"{path}: can't be read as a picture; restore the file")
    if raster.dtype != np.uint16 or raster.ndim != 2:
        raise ValueError(f"{path}: {raster.dtype} {raster.shape}, expected 16-bit grey as in Vistas' instances")
    top = int(raster.max()) >> 8
    if top >= num_labels:
        raise ValueError(f"{path}: label {top}, but the config has {num_labels}; data.version may be the wrong one")
    return np.asarray(raster, dtype=np.uint16)
