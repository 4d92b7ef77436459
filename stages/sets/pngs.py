"""Reads the annotation PNGs of data sets as raw values, and refuses those of another coding.

Decoders change pixels silently: they expand palettes to colours, scale few bits to 8, and drop or apply alpha. So the
header is compared with what the format says before anything is decoded (W3C PNG, 11.2.2).
"""

import io
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from stages.coco import png
from stages.foundation import files, picture_limit

GREY, RGB, PALETTE, RGBA = 0, 2, 3, 6
Uint16 = npt.NDArray[np.uint16]
Int32 = npt.NDArray[np.int32]
_NAMES: Final = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
"""PNG's colour types."""


def header(content: bytes) -> tuple[int, int]:
    """Return bit depth and colour type of a PNG. Raises ValueError, without the file's name, for another file."""
    if not content.startswith(png.SIGNATURE) or len(content) < 26:
        raise ValueError(f"{len(content)} bytes that are not a PNG; restore the file")
    depth, kind = struct.unpack(">BB", content[24:26])
    return depth, kind


def read(path: Path, depth: int, kind: int, fix: str) -> npt.NDArray[np.integer]:
    """Read a PNG of a bit depth (8 or 16) and colour type: uint8 or uint16, [H, W] or [H, W, channels].

    A palette PNG gives its indices and may have fewer bits. Raises ValueError, naming the file, for a broken file, and
    for another depth or type with the advice `fix`.
    """
    import imagecodecs

    name = files.printable(path)
    try:
        content = picture_limit.read(path)
    except OSError as error:
        raise ValueError(f"{name}: can't be read ({error.strerror}); restore the file") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    try:
        found = header(content)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    alike = found[1] == kind and (found[0] == depth or (kind == PALETTE and found[0] < depth))
    if not alike:
        shown = f"{found[0]}-bit {_NAMES.get(found[1], 'unknown')}"
        raise ValueError(f"{name}: {shown}, expected {depth}-bit {_NAMES[kind]}; {fix}")
    try:
        plain = png.critical(content)
        if kind == PALETTE:
            # Pillow alone gives the indices; other decoders give the palette's colours.
            with Image.open(io.BytesIO(plain)) as picture:
                return np.asarray(picture, np.uint8)
        return np.asarray(imagecodecs.png_decode(plain), np.uint16 if depth == 16 else np.uint8)
    except (imagecodecs.PngError, ValueError, OSError, SyntaxError) as error:
        raise ValueError(f"{name}: a broken PNG ({error}); restore the file") from error


@dataclass(frozen=True)
class Numbered:
    """A picture of codes as runs of equal pixels, row by row."""

    codes: npt.NDArray[np.integer]
    """The distinct codes, ascending."""
    places: npt.NDArray[np.intp]
    """Place in `codes` of each run."""
    lengths: npt.NDArray[np.intp]
    """Pixels of each run."""
    shape: tuple[int, ...]

    def painted(self, table: npt.NDArray[np.integer] | None = None) -> Uint16:
        """Return table[place] of each pixel, uint16 [H, W]; without a table the place itself."""
        values = self.places if table is None else table[self.places]
        return np.repeat(values.astype(np.uint16), self.lengths).reshape(self.shape)


def numbered(path: Path, codes: npt.NDArray[np.integer]) -> Numbered:
    """Return a picture of codes as runs. Sorting runs in place of all pixels is several times faster.

    Raises ValueError for more than 65536 codes.
    """
    ends = _run_ends(codes)
    of_runs = codes.ravel()[ends]
    distinct = np.unique(of_runs)
    if len(distinct) > 1 << 16:
        raise ValueError(f"{files.printable(path)}: {len(distinct)} segments, expected at most 65536; restore the file")
    # NumPy sorts values several times faster than it finds their order, which return_inverse would need.
    return Numbered(distinct, np.searchsorted(distinct, of_runs), np.diff(ends, prepend=-1), codes.shape)


def colors(path: Path, rgb: npt.NDArray[np.integer]) -> Numbered:
    """Return a picture, uint8 [H, W, 3], as runs with the codes R + 256 G + 65536 B. Raises as `numbered`."""
    # As 32-bit numbers with a constant alpha, which is removed from the few codes in place of all pixels.
    rgba = cv2.cvtColor(np.asarray(rgb, np.uint8), cv2.COLOR_RGB2RGBA)
    found = numbered(path, rgba.view("<u4")[..., 0])
    return replace(found, codes=found.codes & 0xFFFFFF)


def _run_ends(values: npt.NDArray[np.integer]) -> npt.NDArray[np.intp]:
    """Return the index of the last pixel of each run of equal pixels, row by row."""
    flat = values.ravel()
    return np.append(np.flatnonzero(flat[1:] != flat[:-1]), flat.size - 1)


def require_size(path: Path, found: tuple[int, ...], other: Path, expected: tuple[int, ...]) -> None:
    """Raise ValueError unless two annotation files of a picture have the same height and width."""
    if found[:2] != expected[:2]:
        sizes = f"{found[1]}x{found[0]}, but {files.printable(other)} is {expected[1]}x{expected[0]}"
        raise ValueError(f"{files.printable(path)}: {sizes}; restore both files of the same picture")


def require_known(path: Path, values: npt.NDArray[np.integer], known: npt.NDArray[np.bool_], rule: str) -> None:
    """Raise ValueError if one of `values`, an index into `known` or beyond it, is not known. `rule` is the fix."""
    # The highest value tells enough where all below it are known too. In 8 bits, 255 counts as below 0: it is void.
    byte = values.dtype == np.uint8 and len(known) == 256
    top = int((values + np.uint8(1)).max() if byte else values.max())
    if top < len(known) and (np.roll(known, 1) if byte else known)[: top + 1].all():
        return
    # Counting all pixels in place of runs takes longer than decoding them.
    present = np.flatnonzero(np.bincount(values.ravel()[_run_ends(values)]))
    inside = present[present < len(known)]
    strange = np.append(inside[~known[inside]], present[present >= len(known)])
    if len(strange):
        shown = ", ".join(str(value) for value in strange[:5].tolist()) + (", ..." if len(strange) > 5 else "")
        raise ValueError(f"{files.printable(path)}: found values {shown}; {rule}")


def kind(path: Path) -> int:
    """Return the colour type of a PNG, or -1 for another file."""
    with path.open("rb") as file:
        try:
            return header(file.read(26))[1]
        except ValueError:
            return -1


def is_of(content: bytes, depth: int, kind: int) -> bool:
    """Return whether bytes begin as a PNG of a depth and colour type."""
    try:
        return header(content) == (depth, kind)
    except ValueError:
        return False
