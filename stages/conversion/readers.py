"""Decodes a picture with both libraries that will read it: Pillow, which TAO uses, and OpenCV, which all else uses.

OpenCV's pixels are the reference. A picture that Pillow decodes to other pixels has to be rewritten. Both libraries
decode every file to its end. Neither applies colour profiles or gamma, and both drop an alpha channel.
"""

import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from stages.foundation import files, picture_files

FORMATS = ("JPEG", "MPO", "PNG")
"""Pillow's names of the formats that every build of both libraries reads. MPO is several JPEGs in one file (phones)."""
_EXIF_ORIENTATION = 0x0112
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])", re.DOTALL)
"""A marker of a JPEG file, without those inside coded data. A 2-byte length follows each but SOI and EOI."""
_SOI, _EOI = b"\xd8", b"\xd9"
_DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG file")
"""The warnings of libjpeg (jerror.h) that mean missing or invented pixels."""

_FIX = "restore the file, or save it as an 8-bit JPEG or PNG"


@dataclass(frozen=True)
class Decoded:
    """A picture that both libraries can decode."""

    rgb: picture_files.Rgb
    """OpenCV's pixels, uint8 [H, W, 3], as stored and not turned."""
    orientation: int
    """Orientation from EXIF or XMP, 1 to 8, by which TAO turns the picture."""
    alike: bool
    """Whether TAO decodes the same pixels from the file, before it turns them."""


def read(path: Path) -> Decoded:
    """Decode a picture with both libraries.

    Raises ValueError, naming the file, where one of them fails, where the sizes differ, or where a JPEG is damaged.
    """
    content, name = path.read_bytes(), files.printable(path)
    kind, pillow, orientation = _by_pillow(content, name)
    with _standard_error() as written:
        rgb = picture_files.decode(content)
    # OpenCV's own log lines begin with a bracket. They are left out, as they hold the time of day.
    lines = [line for line in written.decode(errors="replace").splitlines() if line and not line.startswith("[")]
    if rgb is None:
        reason = f"OpenCV: {lines[-1]}" if lines else "OpenCV can't read it"
        raise ValueError(f"{name}: {len(content)} bytes that are not a complete picture ({reason}); {_FIX}")
    if kind in ("JPEG", "MPO") and not _has_end(content):
        # For example a file whose rest was allocated but never written: both libraries decode its zero bytes.
        found = f"{len(content)} bytes that are not a complete picture (no end marker)"
        raise ValueError(f"{name}: {found}; restore the file")
    if damage := [line for line in lines if line.startswith(_DAMAGE)]:
        raise ValueError(f"{name}: damaged ({damage[0]}); restore the file, or save it again if it looks right")
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
                orientation: Any = rgb.getexif().get(_EXIF_ORIENTATION)
                kind = picture.format or ""
    except MemoryError:
        raise
    except Exception as error:  # Pillow's format readers raise many kinds of exceptions for broken content.
        reason = "a format that Pillow can't read" if isinstance(error, UnidentifiedImageError) else error
        found = f"{len(content)} bytes that are not a complete picture ({reason})"
        raise ValueError(f"{name}: {found}; {_FIX}") from error
    return kind, np.asarray(rgb), orientation if orientation in range(1, 9) else 1


def _has_end(content: bytes) -> bool:
    """Return whether the first picture of a JPEG file has its end marker, EOI (ITU-T T.81, B.1.1)."""
    place = 2
    while found := _MARKER.search(content, place):
        if found[1] in (_SOI, _EOI):
            return found[1] == _EOI
        place = found.end() + int.from_bytes(content[found.end() : found.end() + 2])
    return False


@contextmanager
def _standard_error() -> Iterator[bytearray]:
    """Yield a buffer that holds, after the block, up to 64 KiB of what was written to standard error in the block.

    The codecs report warnings nowhere else.
    """
    written = bytearray()
    saved, buffer = os.dup(2), os.memfd_create("stderr")
    try:
        os.dup2(buffer, 2)
        yield written
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        written += os.pread(buffer, 1 << 16, 0)
        os.close(buffer)
