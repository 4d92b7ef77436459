"""Zip archives that a user gives: checked as a whole before anything is written, then unpacked into a folder.

Format: PKWARE's APPNOTE.TXT. What Python's zipfile leaves open is settled here: names in UTF-8 without the flag that
says so, backslashes as separators, names twice, links, and methods of compression that it lacks.
"""

import lzma
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from tqdm import tqdm

_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_METHOD_NAMES: Final = {6: "Implode", 9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd", 99: "AES encryption"}
_ENCRYPTED, _UTF8 = 0x1, 0x800
_ZIP_STARTS: Final = (b"PK\x03\x04", b"PK\x05\x06")
_ZIP_PART: Final = b"PK\x07\x08"
_ZIP_END: Final = b"PK\x05\x06"
_MAX_END: Final = 22 + 0xFFFF
"""Bytes of the record at an archive's end with the longest comment."""
_FAT_SYSTEMS: Final = (0, 10, 14)
"""Systems that made an archive whose own separator is the backslash: FAT, NTFS, VFAT."""
_OTHERS: Final = (
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x"),
    (b"Rar!\x1a\x07", "a RAR archive", "unrar x"),
    (b"\x1f\x8b", "gzip's", "gunzip"),
    (b"BZh", "bzip2's", "bunzip2"),
    (b"\xfd7zXZ\x00", "xz's", "unxz"),
    (b"\x28\xb5\x2f\xfd", "Zstandard's", "unzstd"),
)


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive whose members can all be unpacked, under names relative to a folder, each once.

    Raises ValueError in one line for any other file, saying what it is and what helps.
    """
    start, end = _ends(path)
    # Another archive may end in a zip that it holds, and be taken for it.
    if other := "" if start.startswith(_ZIP_STARTS) else _other(path, start):
        raise ValueError(f"{path} is {other}")
    if _is_part(end):
        raise ValueError(f"{path} is one part of a zip archive; join them (zip -s 0 {path.name} --out whole.zip)")
    try:
        content = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error) as error:
        step = "download it again, or join its parts first (cat NAME.zip.* > whole.zip)"
        raise ValueError(f"{path} is a zip archive that is cut short or damaged ({error}); {step}") from error
    with content:
        _check_members(path, content)
        _set_names(path, content)
        yield content


def unpack(content: zipfile.ZipFile, top: str, folder: Path) -> None:
    """Write what lies in the folder `top` of an opened archive, "" for all, to a new folder.

    Files and folders get ordinary modes. Raises ValueError naming the archive's member that can't be read.
    """
    folder.mkdir()
    prefix = f"{top}/" if top else ""
    inside = [info for info in content.filelist if info.filename.startswith(prefix)]
    for info in tqdm(inside, desc=Path(str(content.filename)).name, unit="file", disable=None):
        path = folder / info.filename[len(prefix) :]
        if info.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with content.open(info) as source, path.open("xb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
        except FileExistsError as error:
            raise ValueError(f"{content.filename}: {info.filename!r} is there in other letters; rename one") from error
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
            # With a number it is the system's, such as a full disk, else of what was read.
            if getattr(error, "errno", None):
                raise
            reason = f"{info.filename!r} is damaged ({error})"
            raise ValueError(f"{content.filename}: {reason}; download the archive again") from error


def _ends(path: Path) -> tuple[bytes, bytes]:
    with path.open("rb") as file:
        start = file.read(512)
        file.seek(max(0, path.stat().st_size - _MAX_END))
        return start, file.read()


def _other(path: Path, start: bytes) -> str:
    """What a file is that doesn't start as a zip archive, and what helps; "" for an archive behind a program."""
    text = start.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if not start:
        return "empty; download it again"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, as a download without login leaves; download the set's archive in a browser"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS; run `git lfs pull` where it lies"
    if start.startswith(_ZIP_PART):
        return f"the first part of a zip archive; join the parts (zip -s 0 {path.stem}.zip --out whole.zip)"
    if tarfile.is_tarfile(path):
        return f"a tar archive; unpack it (tar -xf {path.name}) and give SRC the folder"
    for magic, name, command in _OTHERS:
        if start.startswith(magic):
            return f"{name}, no zip archive; unpack it ({command} {path.name}) and give SRC the folder"
    return "" if zipfile.is_zipfile(path) else "neither a folder nor a zip archive; give SRC a set in Vistas' layout"


def _is_part(end: bytes) -> bool:
    """Whether an archive's last record says that it has other parts (APPNOTE 4.3.16: number of this disk)."""
    record = end[max(0, end.rfind(_ZIP_END)) :]
    return (
        len(record) >= 22 and record.startswith(_ZIP_END) and struct.unpack_from("<H", record, 4)[0] not in (0, 0xFFFF)
    )


def _check_members(path: Path, content: zipfile.ZipFile) -> None:
    for info in content.filelist:
        mode = info.external_attr >> 16
        if info.flag_bits & _ENCRYPTED:
            raise ValueError(f"{path} is encrypted; unpack it (7z x {path.name}) and give SRC the folder")
        if info.compress_type not in _METHODS:
            method = _METHOD_NAMES.get(info.compress_type, f"method {info.compress_type}")
            found = f"{info.filename!r} is compressed by {method}, which can't be read here"
            raise ValueError(f"{path}: {found}; unpack it (7z x {path.name}) and give SRC the folder")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            kind = "a link" if stat.S_ISLNK(mode) else "no ordinary file"
            raise ValueError(f"{path}: {info.filename!r} is {kind}; pack the files themselves (zip -r without -y)")


def _set_names(path: Path, content: zipfile.ZipFile) -> None:
    """Give the members the names that they are unpacked under; leave out macOS' own, and equal files of one name."""
    names = [_decoded(info) for info in content.filelist]
    # A set has folders. Without a slash in any name, the backslashes are what separates them.
    slashes = any("/" in name for name in names)
    members: dict[str, zipfile.ZipInfo] = {}
    for info, name in zip(content.filelist, names, strict=True):
        if info.create_system in _FAT_SYSTEMS or not slashes:
            name = name.replace("\\", "/")
        plain = PurePosixPath(name)
        if plain.is_absolute() or ".." in plain.parts or re.match(r"[A-Za-z]:", name):
            raise ValueError(f"{path}: {name!r} leaves the archive; pack it anew")
        if not plain.parts or plain.parts[0] == "__MACOSX":
            continue
        info.filename = f"{plain}/" if name.endswith("/") else str(plain)
        same = members.setdefault(info.filename, info)
        if (same.CRC, same.file_size) != (info.CRC, info.file_size):
            raise ValueError(f"{path}: {info.filename!r} is in it twice, with different content; pack it anew")
    above = {str(parent) for name in members for parent in PurePosixPath(name).parents}
    if both := sorted(above & members.keys()):
        raise ValueError(f"{path}: {both[0]!r} is a file and a folder; pack it anew")
    content.filelist[:] = members.values()
    content.NameToInfo = members


def _decoded(info: zipfile.ZipInfo) -> str:
    """A member's name. Without the flag for UTF-8 it is in code page 437, but many programs write UTF-8 all the same.

    Bytes that are valid UTF-8 beyond ASCII make no sense in code page 437, so they tell.
    """
    if info.flag_bits & _UTF8:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename
