"""A picture as its two readers see it: Pillow, by which TAO trains, and OpenCV, by which all else is done.

OpenCV's answer says what the RGB values of a file are; a file of which Pillow reads others has to be written anew. Both
read every file to its end. Neither applies colour profiles or gamma, and both drop an alpha channel.
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
"""As Pillow names them, that every build of both libraries reads. MPO is what phones write: JPEGs in a row."""
_EXIF_ORIENTATION = 0x0112
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])", re.DOTALL)
"""Of a JPEG, but for those that lie amid coded data; behind each is the length of a segment, but for the next two."""
_SOI, _EOI = b"\xd8", b"\xd9"
_DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG file")
"""Of libjpeg's warnings (jerror.h), those that stand for pixels that are missing or made up."""

_MEND = "restore the file, or save it as an 8-bit JPEG or PNG"


@dataclass(frozen=True)
class Seen:
    """A picture that both can read."""

    rgb: picture_files.Rgb
    """uint8 [H, W, 3] as it is stored, not turned."""
    orientation: int
    """EXIF's or XMP's, by which TAO turns the picture: 1 to 8."""
    alike: bool
    """Whether TAO reads the same values from the file before it turns them."""


def see(path: Path) -> Seen:
    """Read a picture by both.

    Raises ValueError, naming the file, where one of them can't or libjpeg tells of damage.
    """
    content, name = path.read_bytes(), files.printable(path)
    kind, pillow, orientation = _by_pillow(content, name)
    with _standard_error() as written:
        rgb = picture_files.decode(content)
    # Without OpenCV's own lines, which tell the time.
    said = [line for line in written.decode(errors="replace").splitlines() if line and not line.startswith("[")]
    if rgb is None:
        reason = f"OpenCV: {said[-1]}" if said else "OpenCV can't read it"
        raise ValueError(f"{name}: {len(content)} bytes that are no whole picture ({reason}); {_MEND}")
    if kind in ("JPEG", "MPO") and not _ends(content):
        # As of a file whose rest was never written: both readers make pixels of its zeros.
        found = f"{len(content)} bytes that are no whole picture (no end marker)"
        raise ValueError(f"{name}: {found}; restore the file")
    if damage := [line for line in said if line.startswith(_DAMAGE)]:
        raise ValueError(f"{name}: damaged ({damage[0]}); restore the file, or save it anew if it looks right")
    if rgb.shape != pillow.shape:
        sizes = " and ".join(
            f"{found.shape[1]}x{found.shape[0]} by {by}" for by, found in (("OpenCV", rgb), ("Pillow", pillow))
        )
        raise ValueError(f"{name}: {sizes}; save it as JPEG or PNG")
    return Seen(rgb, orientation, kind in FORMATS and np.array_equal(rgb, pillow))


def _by_pillow(content: bytes, name: str) -> tuple[str, picture_files.Rgb, int]:
    """Format, pixels and orientation, by the calls of TAO's loader (BaseDataset.get_image of its Mask2Former)."""
    try:
        with warnings.catch_warnings():
            # To developers, of palettes, sizes and metadata; what is wrong with the pixels is seen by comparing them.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as picture:
                rgb = picture.convert("RGB")
                orientation: Any = rgb.getexif().get(_EXIF_ORIENTATION)
                kind = picture.format or ""
    except MemoryError:
        raise
    except Exception as error:
        # Its readers of formats raise whatever the content leads them to.
        reason = "of no format that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        found = f"{len(content)} bytes that are no whole picture ({reason})"
        raise ValueError(f"{name}: {found}; {_MEND}") from error
    return kind, np.asarray(rgb), orientation if orientation in range(1, 9) else 1


def _ends(content: bytes) -> bool:
    """Whether the first picture of a JPEG file has its end marker, EOI (ITU-T T.81, B.1.1)."""
    place = 2
    while found := _MARKER.search(content, place):
        if found[1] in (_SOI, _EOI):
            return found[1] == _EOI
        place = found.end() + int.from_bytes(content[found.end() : found.end() + 2])
    return False


@contextmanager
def _standard_error() -> Iterator[bytearray]:
    """What is written to standard error meanwhile, once it is over: of a codec's warnings there is no other trace."""
    written = bytearray()
    saved, aside = os.dup(2), os.memfd_create("stderr")
    try:
        os.dup2(aside, 2)
        yield written
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        written += os.pread(aside, 1 << 16, 0)
        os.close(aside)
