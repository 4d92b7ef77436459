"""Tells a damaged video file from one of an unknown format."""

from pathlib import Path

_FIRST_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"}
"""Boxes with which an MP4 or MOV file starts."""


def damage(path: Path) -> str | None:
    """Return what is wrong with a file that can't be opened as a video; None if it may have an unknown format or codec.

    Knows empty files, files that start with zeros, and MP4 and MOV, whose boxes are of ISO/IEC 14496-12, 4.2.
    """
    size, place = path.stat().st_size, 0
    names: set[bytes] = set()
    with path.open("rb") as file:
        if not any(file.read(4096)):
            return f"{size} bytes, the first of them zero" if size else "0 bytes"
        while place < size:
            file.seek(place)
            head = file.read(16)
            length, name = int.from_bytes(head[:4], "big"), head[4:8]
            if not names and name not in _FIRST_BOXES:
                return None
            names.add(name)
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            elif length == 0:
                length = size - place
            if length < 8 or place + length > size:
                return f"a box of {length} bytes at byte {place} of {size}"
            place += length
    return None if b"moov" in names else "its index, the box moov, is missing"
