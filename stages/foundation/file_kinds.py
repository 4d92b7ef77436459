"""Recognises by its first bytes a file that was saved or downloaded in place of the wanted one.

The first bytes are those of the formats' own documents: Git LFS (docs/spec.md), HTML and XML, PKWARE's APPNOTE.TXT,
7zFormat.txt, RAR's technical note, RFC 1952 (gzip), bzip2, xz-file-format.txt and RFC 8878 (Zstandard).
"""

from dataclasses import dataclass
from typing import Final

START_BYTES: Final = 512
"""Bytes of a file's start that `recognise` needs."""


@dataclass(frozen=True)
class FileKind:
    """A kind of file that stands in for another one."""

    name: str
    """With an article, such as `a web page`."""
    step: str
    """Advice on how to get the wanted file. {} stands for the name of the file."""
    is_archive: bool = False


GIT_LFS_POINTER: Final = FileKind("a pointer of Git LFS, not the file itself", "run `git lfs pull` in its repository")
WEB_PAGE: Final = FileKind("a web page", "download the file itself, in a browser if that needs a login")
_TEXTS: Final = (
    (b"version https://git-lfs", GIT_LFS_POINTER),
    (b"<!doctype", WEB_PAGE),
    (b"<html", WEB_PAGE),
    (b"<head", WEB_PAGE),
    (b"<!--", WEB_PAGE),
    # Object stores return XML if access is denied.
    (b"<?xml", WEB_PAGE),
)
"""First bytes, in lower case after blanks and a byte order mark."""
_ARCHIVES: Final = (
    (b"PK\x03\x04", "a zip archive", "unzip"),
    (b"PK\x05\x06", "an empty zip archive", "unzip"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x"),
    (b"Rar!\x1a\x07", "a RAR archive", "unrar x"),
    (b"\x1f\x8b", "a gzip file", "gunzip"),
    *((b"BZh%d1AY&SY" % level, "a bzip2 file", "bunzip2") for level in range(1, 10)),
    (b"\xfd7zXZ\x00", "an xz file", "unxz"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", "unzstd"),
)
"""First bytes, name, and command that unpacks."""


def recognise(start: bytes) -> FileKind | None:
    """Return the kind of a file by its first START_BYTES bytes, or None if it is none of these kinds."""
    text = start.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if found := next((kind for mark, kind in _TEXTS if text.startswith(mark)), None):
        return found
    for mark, name, command in _ARCHIVES:
        if start.startswith(mark):
            return FileKind(name, f"unpack it ({command} {{}})", is_archive=True)
    return None
