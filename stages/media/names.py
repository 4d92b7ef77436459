"""Names of files, as people, JSON and C++ libraries can take them.

A name on Linux is bytes, of which Python makes text with surrogates where they are not UTF-8. OpenCV ends the process
on such text, FFmpeg takes `10:30.mp4` for a protocol and the suffix for the format, and OpenCV takes `%03d` for a
sequence of pictures. So they are given the descriptor of an open file or folder.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_NAME_BYTES = 255
"""Of a name in a folder, on Linux."""


def unicode_name(name: str) -> str:
    r"""A file's name as valid Unicode: each byte that is not UTF-8 becomes `\xNN`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def png_name(name: str) -> str:
    """`name` with `.png`. One that would be too long for a file is cut, and ends with 8 digits of its SHA-256."""
    encoded = os.fsencode(name)
    if len(encoded) + len(".png") <= MAX_NAME_BYTES:
        return f"{name}.png"
    end = f"-{hashlib.sha256(encoded).hexdigest()[:8]}.png"
    return encoded[: MAX_NAME_BYTES - len(end)].decode("utf-8", "ignore") + end


@contextmanager
def descriptor_path(path: Path, flags: int = os.O_RDONLY) -> Iterator[str]:
    """A path of plain ASCII, without the name and its suffix, to an open file or folder, for as long as the block runs.

    Raises OSError where it can't be opened.
    """
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
