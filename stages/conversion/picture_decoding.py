"""Decodes a picture with both libraries that will read it: Pillow, for TAO, and OpenCV, for everything else.

OpenCV's pixels are the reference. A picture that Pillow decodes to other pixels has to be rewritten. Both libraries
decode every file to its end. Neither applies colour profiles or gamma, and both drop an alpha channel.
"""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from stages.foundation import files, picture_files, picture_limit

FORMATS = ("JPEG", "MPO", "PNG")
"""Pillow's names of the formats that every build of both libraries reads. MPO is several JPEGs in one file (phones)."""
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Decoded:
    """A picture that both libraries can decode."""

    rgb: picture_files.Rgb
    """OpenCV's pixels, uint8 [H, W, 3], as stored and not turned."""
    orientation: int
    """Orientation from EXIF or XMP, 1 to 8, by which TAO turns the picture."""
    alike: bool
    """True if TAO decodes the same pixels from the file, before it turns them."""


def read(path: Path) -> Decoded:
    """Decode a picture with both libraries.

    Raises ValueError, naming the file, where one of them fails, where the sizes differ, or where a JPEG is damaged.
    """
    name = files.printable(path)
    try:
        content = picture_limit.read(path)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    kind, pillow, orientation = _by_pillow(content, name)
    try:
        rgb = picture_files.decode(content)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if rgb.shape != pillow.shape:
        sizes = " and ".join(
            f"{found.shape[1]}x{found.shape[0]} by {by}" for by, found in (("OpenCV", rgb), ("Pillow", pillow))
        )
        raise ValueError(f"{name}: {sizes}, expected the same size; save it as JPEG or PNG")
    return Decoded(rgb, orientation, kind in FORMATS and np.array_equal(rgb, pillow))


def _by_pillow(content: bytes, name: str) -> tuple[str, picture_files.Rgb, int]:
    """Return format, pixels and orientation, by the calls of TAO's loader (Mask2Former's BaseDataset.get_image)."""
    try:
        with warnings.catch_warnings():
            # The warnings are about palettes, sizes and metadata. Wrong pixels are found by comparing them.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as picture:
                rgb = picture.convert("RGB")
                orientation = rgb.getexif().get(_EXIF_ORIENTATION, 1)
                kind = picture.format or ""
    except MemoryError:
        raise
    except Exception as error:  # Pillow's format readers raise many kinds of exceptions for broken content.
        reason = "a format that Pillow can't read" if isinstance(error, UnidentifiedImageError) else error
        found = f"{len(content)} bytes that are not a complete picture ({reason})"
        raise ValueError(f"{name}: {found}; {picture_files.FIX}") from error
    return kind, np.asarray(rgb), orientation if orientation in range(1, 9) else 1
