"""Images of labels as PNG files, written from the places where labels change.

PNG's filter Up stores each row as its difference to the row above (W3C PNG specification, 9.2). Of an image of labels
nearly all of that is zero, so only the pixels that differ from the one below are looked at, and no image is made.
"""

import struct
import zlib

import numpy as np
import numpy.typing as npt

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2
_COLOUR_TYPES = {1: 0, 3: 2}
"""Grey and RGB, by number of channels."""
_LEVEL = 2
"""Of zlib-ng. Level 1 leaves six times the bytes in nearly the same time, level 3 as many as 2."""


def filtered(
    table: npt.NDArray[np.uint8], raster: npt.NDArray[np.uint16], below: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:
    """The image table[raster] as PNG stores it before compression: uint8 [H, 1 + W * channels].

    Each row begins with its filter's number, Up; differences are modulo 256. `table` is uint8 [65536, channels];
    `below` are flat indices of the raster's pixels that differ from the one below.
    """
    (height, width), channels = raster.shape, table.shape[1]
    rows = np.zeros((height, 1 + width * channels), np.uint8)
    rows[:, 0] = _UP
    rows[0, 1:] = table[raster[0]].ravel()
    labels, stored, under = raster.ravel(), rows.ravel(), below + width
    differences = table[labels[under]] - table[labels[below]]
    first = under * channels + under // width + 1
    for channel in range(channels):
        stored[first + channel] = differences[:, channel]
    return rows


def encode(table: npt.NDArray[np.uint8], raster: npt.NDArray[np.uint16], below: npt.NDArray[np.int64]) -> bytes:
    """The image table[raster] as an 8-bit PNG file, grey or RGB; arguments as of `filtered`, with 1 or 3 channels."""
    import imagecodecs

    height, width = raster.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[table.shape[1]], 0, 0, 0)
    content = bytes(imagecodecs.zlibng_encode(filtered(table, raster, below), level=_LEVEL))
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
