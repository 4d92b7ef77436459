"""Checks the zip archives that users give as a whole, then unpacks them into a folder.

Format: PKWARE's APPNOTE.TXT. Python's zipfile leaves open how to treat names in UTF-8 without the UTF-8 flag,
backslashes as separators, repeated names, links, and compression methods that it does not support. This module does.
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

from stages.foundation import file_kinds

_DAMAGE: Final = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, struct.error, NotImplementedError, RuntimeError,
    ValueError, OverflowError,
)  # fmt: skip
"""What zipfile raises for a damaged member, whose own header differs from the archive's list, too."""
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_METHOD_NAMES: Final = {6: "Implode", 9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd", 99: "AES encryption"}
_ENCRYPTED, _UTF8 = 0x1, 0x800
_ZIP_STARTS: Final = (b"PK\x03\x04", b"PK\x05\x06")
_ZIP_PART: Final = b"PK\x07\x08"
_ZIP_END: Final = b"PK\x05\x06"
_MAX_END: Final = 22 + 0xFFFF
"""Bytes of the record at an archive's end with the longest possible comment."""
_FAT_SYSTEMS: Final = (0, 10, 14)
"""Systems on which an archive can be made whose separator is the backslash: FAT, NTFS, VFAT (APPNOTE 4.4.2)."""


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive and check that every member can be unpacked into a folder, under a name of its own.

    Raises ValueError for any other file: one line that says what it is and how to proceed.
    """
    start, end = _ends(path)
    # Checked first: another archive can end with a zip archive that it holds, and zipfile would open that.
    if other := "" if start.startswith(_ZIP_STARTS) else _other(path, start):
        raise ValueError(f"{path} is {other}")
    if _is_part(end):
        step = f"join the parts (zip -s 0 {path.name} --out whole.zip)"
        raise ValueError(f"{path} is one part of a zip archive; {step}")
    try:
        content = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error) as error:
        step = "download it again, or join its parts first (cat NAME.zip.* > whole.zip)"
        raise ValueError(f"{path} is a zip archive that is cut short or damaged ({error}); {step}") from error
    with content:
        _check_members(path, content)
        _set_names(path, content)
        yield content


def unpack(content: zipfile.ZipFile, top: str, folder: Path) -> None:
    """Unpack the folder `top` of an opened archive, or all of it for "", into a new folder.

    Files and folders get the system's default modes. Raises ValueError, naming the member, if one can't be read.
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
            found = f"{info.filename!r} differs from another name only by letter case"
            raise ValueError(f"{content.filename}: {found}; rename one of them in the archive") from error
        except (*_DAMAGE, OSError) as error:
            # An error with a number comes from the system, such as a full disk. One without is damaged content.
            if getattr(error, "errno", None):
                raise
            reason = f"{info.filename!r} is damaged ({error})"
            raise ValueError(f"{content.filename}: {reason}; download the archive again") from error


def _ends(path: Path) -> tuple[bytes, bytes]:
    """Return the first START_BYTES bytes of a file and the last _MAX_END."""
    with path.open("rb") as file:
        start = file.read(file_kinds.START_BYTES)
        file.seek(max(0, path.stat().st_size - _MAX_END))
        return start, file.read()


def _other(path: Path, start: bytes) -> str:
    """Return what a file is that does not begin as a zip archive, and how to proceed.

    Returns "" for a self-extracting archive, whose zip archive follows a program.
    """
    if not start:
        return "empty; download it again"
    if start.startswith(_ZIP_PART):
        return f"the first part of a zip archive; join the parts (zip -s 0 {path.stem}.zip --out whole.zip)"
    if _is_tar(path):
        return f"a tar archive; unpack it (tar -xf {path.name}) and give SRC the folder"
    if kind := file_kinds.recognise(start):
        step = kind.step.format(path.name)
        return (
            f"{kind.name}, not a zip archive; {step} and give SRC the folder"
            if kind.is_archive
            else f"{kind.name}; {step}"
        )
    try:
        is_zip = zipfile.is_zipfile(path)
    except _DAMAGE:  # ZipFile refuses it too, and says why.
        is_zip = True
    return "" if is_zip else "neither a folder nor a zip archive; give SRC a set in Vistas layout"


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except (*_DAMAGE, OSError):  # A compressed one that is cut short or damaged.
        return False


def _is_part(end: bytes) -> bool:
    """Return whether an archive has other parts: the disk number in its last record is not 0 (APPNOTE 4.3.16)."""
    record = end[max(0, end.rfind(_ZIP_END)) :]
    return (
        len(record) >= 22 and record.startswith(_ZIP_END) and struct.unpack_from("<H", record, 4)[0] not in (0, 0xFFFF)
    )


def _check_members(path: Path, content: zipfile.ZipFile) -> None:
    """Raise ValueError for a member that is encrypted, compressed by an unsupported method, or not a file or folder."""
    for info in content.filelist:
        mode = info.external_attr >> 16
        if info.flag_bits & _ENCRYPTED:
            raise ValueError(f"{path} is encrypted; unpack it (7z x {path.name}) and give SRC the folder")
        if info.compress_type not in _METHODS:
            method = _METHOD_NAMES.get(info.compress_type, f"method {info.compress_type}")
            found = f"{info.filename!r} is compressed by {method}, which Python can't read"
            raise ValueError(f"{path}: {found}; unpack it (7z x {path.name}) and give SRC the folder")
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            kind = "a link" if stat.S_ISLNK(mode) else "not an ordinary file"
            step = "create the archive from the files themselves (zip -r without -y)"
            raise ValueError(f"{path}: {info.filename!r} is {kind}; {step}")


def _set_names(path: Path, content: zipfile.ZipFile) -> None:
    """Set the names under which the members are unpacked.

    Leaves out __MACOSX and repeated members with equal content. Raises ValueError for a name that points outside the
    folder, or that two different members have.
    """
    names = [_decoded(info) for info in content.filelist]
    # Every set has folders. If no name has a slash, backslashes separate them.
    slashes = any("/" in name for name in names)
    members: dict[str, zipfile.ZipInfo] = {}
    for info, name in zip(content.filelist, names, strict=True):
        if info.create_system in _FAT_SYSTEMS or not slashes:
            name = name.replace("\\", "/")
        plain = PurePosixPath(name)
        if plain.is_absolute() or ".." in plain.parts or re.match(r"[A-Za-z]:", name):
            raise ValueError(f"{path}: {name!r} points outside the archive; create the archive again")
        if not plain.parts or plain.parts[0] == "__MACOSX":
            continue
        info.filename = f"{plain}/" if name.endswith("/") else str(plain)
        same = members.setdefault(info.filename, info)
        if (same.CRC, same.file_size) != (info.CRC, info.file_size):
            found = f"{info.filename!r} occurs twice with different content"
            raise ValueError(f"{path}: {found}; create the archive again")
    above = {str(parent) for name in members for parent in PurePosixPath(name).parents}
    if both := sorted(above & members.keys()):
        raise ValueError(f"{path}: {both[0]!r} is both a file and a folder; create the archive again")
    content.filelist[:] = members.values()
    content.NameToInfo = members


def _decoded(info: zipfile.ZipInfo) -> str:
    """Return the name of a member.

    Without the UTF-8 flag names are in code page 437 (APPNOTE, appendix D). But many programs write UTF-8 without
    setting the flag. Bytes beyond ASCII that are valid UTF-8 are UTF-8: in code page 437 they would be meaningless.
    """
    if info.flag_bits & _UTF8:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename
