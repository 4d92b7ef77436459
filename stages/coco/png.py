"""Checks PNG files, and encodes images of labels as PNG from the pixels where the label changes.

PNG's filter Up stores each row as its difference from the row above (W3C PNG specification, 9.2). In an image of labels
nearly all differences are zero, so the encoder computes only those of pixels that differ from the pixel below. It never
builds the image itself.
"""

import struct
import zlib

import numpy as np
import numpy.typing as npt

from stages.foundation import picture_limit

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2
_COLOUR_TYPES = {1: 0, 3: 2}
"""Number of channels -> PNG's colour type: grey and RGB."""
_LEVEL = 2
"""Compression level of zlib-ng. Level 1 makes files six times as large in nearly the same time; 3 is like 2."""


def critical(content: bytes) -> bytes:
    """Return a PNG with its critical chunks only: IHDR, PLTE, IDAT and IEND (W3C PNG, 5.4 and 11.2).

    The pixel values depend on these alone. Some other chunks make decoders change them, such as tRNS, which becomes an
    alpha channel. Raises ValueError if the file ends before IEND, a checksum is wrong, or there are too many pixels.
    """
    picture_limit.check(content)
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
    """Return the image table[raster] as PNG stores it before compression: uint8 [H, 1 + W * channels].

    Each row begins with the number of its filter, Up; differences are modulo 256. `table` is uint8 [65536, channels],
    `raster` uint16 [H, W]. `below` holds the flat indices of the pixels that differ from the pixel below them.
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
    """Return the image table[raster] as an 8-bit PNG file, grey for 1 channel or RGB for 3. Arguments as `filtered`."""
    import imagecodecs

    height, width = raster.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[table.shape[1]], 0, 0, 0)
    content = bytes(imagecodecs.zlibng_encode(filtered(table, raster, below), level=_LEVEL))
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
