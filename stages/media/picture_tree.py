"""Lists the pictures and videos below a folder, for `predict --shard`."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from stages.foundation import files
from stages.media.frame_sources import PICTURE_SIGNATURES, PICTURE_SUFFIXES, SIGNATURE_BYTES

VIDEO_SUFFIXES = {".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm"}
VIDEO_SIGNATURES = re.compile(
    rb"....(?:ftyp|moov|mdat|wide)|\x1a\x45\xdf\xa3|RIFF....AVI |\0\0\x01[\xba\xb3]|OggS|FLV\x01", re.DOTALL
)
"""First bytes of MP4 and MOV, Matroska and WebM, AVI, MPEG, Ogg and FLV. Pictures are looked for first (HEIF)."""


@dataclass(frozen=True)
class Item:
    """A picture or a video of a tree."""

    key: str
    """Path below the tree, with `/`."""
    path: Path
    size_bytes: int
    """-1 where the file can't be looked at, such as a link to nothing."""
    modified_ns: int
    """Time of the file's last change."""

    @property
    def is_picture(self) -> bool:
        """Whether it is read as a picture: by its content, or by its suffix where the content tells nothing."""
        head = _head(self.path)
        if PICTURE_SIGNATURES.match(head):
            return True
        return not VIDEO_SIGNATURES.match(head) and self.path.suffix.lower() in PICTURE_SUFFIXES


def items(tree: Path) -> tuple[list[Item], int]:
    """Return the pictures and videos below a folder, sorted by path, and the number of other files.

    A file counts by its suffix or by its content. Hidden files and folders are left out. Links to folders are followed,
    each folder once. Raises ValueError if `tree` is no folder, and OSError if a folder can't be listed.
    """
    if not tree.is_dir():
        raise ValueError(f"{files.printable(tree)} is not a folder; give SOURCE one to use --shard or --gather")
    found: list[Item] = []
    others = 0
    seen: set[tuple[int, int]] = set()

    def fail(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(tree, onerror=fail, followlinks=True):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=os.fsencode)
        for name in names:
            if name.startswith("."):
                continue
            path = Path(place, name)
            if not _counts(path):
                others += 1
                continue
            try:
                status = path.stat()
                size_bytes, modified_ns = status.st_size, status.st_mtime_ns
            except OSError:
                size_bytes, modified_ns = -1, 0
            found.append(Item(path.relative_to(tree).as_posix(), path, size_bytes, modified_ns))
    return sorted(found, key=lambda item: os.fsencode(item.key)), others


def _counts(path: Path) -> bool:
    if path.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES:
        return True
    head = _head(path)
    return bool(PICTURE_SIGNATURES.match(head) or VIDEO_SIGNATURES.match(head))


def _head(path: Path) -> bytes:
    """Return the first bytes of a regular file; none if it is not one, or can't be read."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(SIGNATURE_BYTES)
    except OSError:
        return b""
