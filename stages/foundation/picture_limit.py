"""Refuses pictures with too many pixels by their header, before a decoder takes memory for them.

A file of 100 KB can state 60000 x 60000 pixels. The limit belongs to the process and not to a call: it protects every
reader and can't change a result. `config.load` sets it to data.max_picture_mpx, and worker processes inherit it.

Formats: W3C PNG 11.2.2, ITU-T T.81 B.2.2 (JPEG), Microsoft's BITMAPINFOHEADER, Google's WebP container, TIFF 6.0 and
BigTIFF, ISO/IEC 15444-1 (JPEG 2000) and 23008-12 (AVIF and HEIF), Netpbm, GIF89a. Of other formats OpenCV refuses more
than 2^30 pixels by itself.
"""

import re
import struct
from pathlib import Path

DEFAULT_MPX = 200
_MAX_BYTES_PX = 8
"""Bytes of a pixel in the largest common file: uncompressed, 16 bits, RGBA."""
_SPARE_BYTES = 1 << 26
"""For thumbnails, metadata and further pictures in the file."""
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers that start a JPEG frame, SOF (ITU-T T.81, table B.1)."""
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd9\xff]", re.DOTALL)
"""A marker of a JPEG file that a 2-byte length follows."""
_HEAD_BYTES = 1 << 16
_limit_mpx = DEFAULT_MPX


def set_limit(mpx: int) -> None:
    """Set the limit of this process, in megapixels."""
    global _limit_mpx
    _limit_mpx = mpx


def limit_mpx() -> int:
    """Return the limit of this process, in megapixels."""
    return _limit_mpx


def require(width: int, height: int) -> None:
    """Raise ValueError, without the file's name, for a picture of more pixels than the limit."""
    if width * height > _limit_mpx * 1_000_000:
        raise ValueError(
            f"{width} x {height} pixels, expected at most {_limit_mpx} million (data.max_picture_mpx); scale it "
            "down, or raise the limit"
        )


def check(content: bytes) -> None:
    """Raise ValueError, without the file's name, if a picture's header states more pixels than the limit."""
    if found := size(content):
        require(*found)


def read(path: Path) -> bytes:
    """Return the bytes of a picture file.

    Raises ValueError, without the file's name, for a file that is larger than any picture within the limit, and OSError
    if it can't be read.
    """
    size_bytes, most = path.stat().st_size, _limit_mpx * 1_000_000 * _MAX_BYTES_PX + _SPARE_BYTES
    if size_bytes > most:
        raise ValueError(
            f"{size_bytes} bytes, more than a picture of {_limit_mpx} million pixels can have (data.max_picture_mpx); "
            "scale it down, or raise the limit"
        )
    content = path.read_bytes()
    check(content)
    return content


def size(content: bytes) -> tuple[int, int] | None:
    """Return width and height as the header states them, in pixels; None for a broken header or another format."""
    try:
        for mark, parse in _PARSERS:
            if mark.match(content):
                return parse(content)
    except (struct.error, IndexError, ValueError):
        pass
    return None


def _png(content: bytes) -> tuple[int, int] | None:
    width, height = struct.unpack_from(">II", content, 16)
    return width, height


def _jpeg(content: bytes) -> tuple[int, int] | None:
    place = 2
    while found := _MARKER.search(content, place):
        place = found.start()
        if content[place + 1] in _FRAMES:
            height, width = struct.unpack_from(">HH", content, place + 5)
            return width, height
        place += 2 + struct.unpack_from(">H", content, place + 2)[0]
    return None


def _bmp(content: bytes) -> tuple[int, int] | None:
    (header_bytes,) = struct.unpack_from("<I", content, 14)
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", content, 18)
    return abs(width), abs(height)


def _webp(content: bytes) -> tuple[int, int] | None:
    kind = content[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(content[24:27], "little"), 1 + int.from_bytes(content[27:30], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", content, 26)
    return width & 0x3FFF, height & 0x3FFF


def _tiff(content: bytes) -> tuple[int, int] | None:
    order = "<" if content[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", content, 2)[0] == 43
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), content, start)
    found = {}
    for entry in range(min(count, 4096)):
        place = start + (8 + 20 * entry if big else 2 + 12 * entry)
        tag, kind = struct.unpack_from(order + "HH", content, place)
        code = {3: "H", 4: "I", 16: "Q"}.get(kind)
        if tag in (256, 257) and code:
            (found[tag],) = struct.unpack_from(order + code, content, place + (12 if big else 8))
    return (found[256], found[257]) if {256, 257} <= found.keys() else None


def _boxes(content: bytes) -> tuple[int, int] | None:
    """Return the largest size of a JPEG 2000, AVIF or HEIF file, whose boxes ihdr and ispe state it."""
    found = []
    for match in re.finditer(rb"ihdr|ispe", content[:_HEAD_BYTES]):
        place = match.end() + (4 if match[0] == b"ispe" else 0)
        one, two = struct.unpack_from(">II", content, place)
        found.append((one, two) if match[0] == b"ispe" else (two, one))
    return max(found, key=lambda each: each[0] * each[1], default=None)


def _codestream(content: bytes) -> tuple[int, int] | None:
    """Return the size of a JPEG 2000 codestream, whose first segment, SIZ, states it."""
    right, bottom, left, top = struct.unpack_from(">IIII", content, 8)
    return right - left, bottom - top


def _netpbm(content: bytes) -> tuple[int, int] | None:
    if content[1:2] == b"7":
        sizes = dict(re.findall(rb"(WIDTH|HEIGHT)\s+(\d{1,18})", content[:_HEAD_BYTES]))
        return int(sizes.get(b"WIDTH", 0)), int(sizes.get(b"HEIGHT", 0))
    # OpenCV takes any control character for a blank.
    blank = rb"(?:[\x00-\x20]|#[^\n]*\n)+"
    found = re.match(rb"P." + blank + rb"(\d{1,18})" + blank + rb"(\d{1,18})", content[:_HEAD_BYTES])
    return (int(found[1]), int(found[2])) if found else None


def _gif(content: bytes) -> tuple[int, int] | None:
    width, height = struct.unpack_from("<HH", content, 6)
    return width, height


_PARSERS = tuple(
    (re.compile(mark, re.DOTALL), parse)
    for mark, parse in (
        (rb"\x89PNG\r\n\x1a\n", _png),
        (rb"\xff\xd8\xff", _jpeg),
        (rb"BM", _bmp),
        (rb"RIFF....WEBP", _webp),
        (rb"II[*+]\0|MM\0[*+]", _tiff),
        (rb"\0\0\0\x0cjP  |....ftyp", _boxes),
        (rb"\xff\x4f\xff\x51", _codestream),
        (rb"P[1-7Ff]", _netpbm),
        (rb"GIF8", _gif),
    )
)
"""First bytes of a format, and what reads its size."""
