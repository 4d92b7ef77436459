r"""Makes file names safe for JSON, for PNG files and for OpenCV and FFmpeg.

A file name on Linux is bytes. Python decodes bytes that are not UTF-8 to lone surrogates. OpenCV aborts the process on
such a name. FFmpeg reads `10:30.mp4` as a protocol and guesses the format from the suffix. OpenCV reads `%03d` as a
sequence of pictures. `descriptor_path` avoids all four: it gives them the path of an open file descriptor.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.foundation import files

MAX_NAME_BYTES = 255
"""Longest file name on Linux (NAME_MAX), in bytes."""


def unicode_name(name: str) -> str:
    r"""Return a file name as valid Unicode: each byte that is not UTF-8 becomes `\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def png_name(name: str) -> str:
    """Return `name` with `.png` appended, cut as by `fitting_name`."""
    return fitting_name(name, ".png")


def fitting_name(name: str, suffix: str, more_bytes: int = 0) -> str:
    """Return `name` with `suffix` appended.

    A result of more than MAX_NAME_BYTES - `more_bytes` is cut, and then its stem ends with the first 8 hex digits of
    the name's SHA-256. `more_bytes` are those that the name of its draft has more.
    """
    encoded, limit = os.fsencode(name), MAX_NAME_BYTES - more_bytes
    if len(encoded) + len(suffix) <= limit:
        return name + suffix
    end = f"-{hashlib.sha256(encoded).hexdigest()[:8]}{suffix}"
    return encoded[: limit - len(end)].decode("utf-8", "ignore") + end


def check_folder(folder: Path, more_bytes: int = 0) -> None:
    """Raise ValueError if a folder can't be made because of a file or a name that is too long.

    `more_bytes` are those that the name of its draft has more.
    """
    label, limit = files.printable(folder), MAX_NAME_BYTES - more_bytes
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in folder.parts) or len(os.fsencode(folder.name)) > limit:
        raise ValueError(f"{label}: a name is too long, expected at most {limit} bytes; give OUT a shorter one")
    nearest = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
    if os.path.lexists(nearest) and not nearest.is_dir():
        raise ValueError(f"{label}: {files.printable(nearest)} is a file, expected a folder; give OUT another name")


@contextmanager
def descriptor_path(path: Path, flags: int = os.O_RDONLY) -> Iterator[str]:
    """Open a file or a folder and yield an ASCII path to it that has neither its name nor its suffix.

    The path is valid inside the `with` block. `flags` are those of os.open. Raises OSError if the file can't be opened.
    """
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
