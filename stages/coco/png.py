"""Images of labels as PNG files: checked as they come, and written from the places where labels change.

PNG's filter Up stores each row as its difference to the row above (W3C PNG specification, 9.2). Of an image of labels
nearly all of that is zero, so only the pixels that differ from the one below are looked at, and no image is made.
"""

import struct
import zlib

import numpy as np
import numpy.typing as npt

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2
_COLOUR_TYPES = {1: 0, 3: 2}
"""Grey and RGB, by number of channels."""
_LEVEL = 2
"""Of zlib-ng. Level 1 leaves six times the bytes in nearly the same time, level 3 as many as 2."""


def critical(content: bytes) -> bytes:
    """A PNG's critical chunks, IHDR, PLTE, IDAT and IEND, alone: those that pixels are made of (W3C PNG, 5.4 and 11.2).

    Decoders make other pixels of some of the others, such as an alpha channel of tRNS. Raises ValueError where the file
    ends before IEND does, or a checksum is wrong.
    """
    kept, place, kind = [SIGNATURE], len(SIGNATURE), b""
    while kind != b"IEND":
        end = place + 12 + int.from_bytes(content[place : place + 4])
        if max(end, place + 12) > len(content):
            raise ValueError(f"cut short after {len(content)} bytes")
        kind, data = content[place + 4 : place + 8], content[place + 4 : end - 4]
        if zlib.crc32(data) != int.from_bytes(content[end - 4 : end]):
            raise ValueError(f"wrong checksum of its chunk {kind.decode('latin-1')!r}")
        if kind[:1].isupper():
            kept.append(content[place:end])
        place = end
    return b"".join(kept)


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
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
