"""Archives that people have: unpacked whole, under the right names, or refused in a line before a byte is written."""

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.raw_sets import archives
from tests.test_convert import content as content_of
from tests.test_convert import write_set


def pack(folder: Path, archive: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(archive, "w", method) as content:
        for path in sorted(folder.rglob("*")):
            content.write(path, path.relative_to(folder))
    return archive


def write(archive: Path, *members: tuple[str | zipfile.ZipInfo, bytes | str]) -> Path:
    with zipfile.ZipFile(archive, "w") as content:
        for name, data in members:
            content.writestr(name, data)
    return archive


def unpacked(archive: Path, out: Path, top: str = "") -> dict[str, bytes]:
    with archives.opened(archive) as content:
        archives.unpack(content, top, out)
    return content_of(out)


def refused(archive: Path) -> str:
    with pytest.raises(ValueError, match=archive.name) as caught, archives.opened(archive):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def patch(archive: Path, field: int, value: bytes) -> Path:
    """Overwrite a field of all headers of members, by its place from the version that is needed to extract."""
    data = bytearray(archive.read_bytes())
    for magic, start in ((b"PK\x03\x04", 4), (b"PK\x01\x02", 6)):
        place = data.find(magic)
        while place >= 0:
            data[place + start + field : place + start + field + len(value)] = value
            place = data.find(magic, place + 4)
    archive.write_bytes(data)
    return archive


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_set_comes_out_as_it_went_in(tmp_path: Path, method: int) -> None:
    src = write_set(tmp_path / "set")
    assert unpacked(pack(src, tmp_path / "set.zip", method), tmp_path / "out") == content_of(src)


def test_what_lies_in_one_folder_alone(tmp_path: Path) -> None:
    archive = write(tmp_path / "a.zip", ("a/b.txt", "1"), ("ab.txt", "2"), ("__MACOSX/._b.txt", "3"), ("./c.txt", "4"))
    assert unpacked(archive, tmp_path / "a", "a") == {"b.txt": b"1"}
    assert unpacked(archive, tmp_path / "all") == {"a/b.txt": b"1", "ab.txt": b"2", "c.txt": b"4"}


def test_a_zip64_archive(tmp_path: Path) -> None:
    archive = tmp_path / "big.zip"
    with zipfile.ZipFile(archive, "w") as content, content.open("a.txt", "w", force_zip64=True) as file:
        file.write(b"1")
    assert unpacked(archive, tmp_path / "out") == {"a.txt": b"1"}


@pytest.mark.parametrize(
    ("method", "name"), [(9, "Deflate64"), (93, "Zstandard"), (95, "XZ"), (98, "PPMd"), (77, "method 77")]
)
def test_methods_that_python_lacks(tmp_path: Path, method: int, name: str) -> None:
    archive = patch(write(tmp_path / "a.zip", ("a.txt", "1")), 4, struct.pack("<H", method))
    assert f"'a.txt' is compressed by {name}, which Python can't read; unpack it (7z x a.zip)" in refused(archive)


def test_a_version_that_python_lacks(tmp_path: Path) -> None:
    assert "zip file version" in refused(patch(write(tmp_path / "a.zip", ("a.txt", "1")), 0, struct.pack("<H", 99)))


def test_an_encrypted_archive(tmp_path: Path) -> None:
    archive = patch(write(tmp_path / "a.zip", ("a.txt", "1")), 2, struct.pack("<H", 1))
    assert "is encrypted; unpack it (7z x a.zip) and give SRC the folder" in refused(archive)


@pytest.mark.parametrize("keep", [0.2, 0.9, 0.99])
def test_an_archive_cut_short(tmp_path: Path, keep: float) -> None:
    archive = pack(write_set(tmp_path / "set"), tmp_path / "set.zip")
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * keep)])
    assert "cut short or damaged" in refused(archive)


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        archive = tmp_path / f"{method}.zip"
        with zipfile.ZipFile(archive, "w", method) as content:
            content.writestr("a.txt", bytes(range(256)) * 9)
        data = bytearray(archive.read_bytes())
        data[60:80] = b"\xa5" * 20
        archive.write_bytes(data)
        with pytest.raises(ValueError, match=rf"{method}\.zip: 'a\.txt' is damaged .*download the archive again"):
            unpacked(archive, tmp_path / str(method))


def test_the_end_of_an_archive_of_several_disks_behind_other_bytes(tmp_path: Path) -> None:
    """Found by fuzzing: zipfile raises already where it is asked whether the file is an archive."""
    path = tmp_path / "a.zip"
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 2)
    path.write_bytes(b"other bytes" + locator + b"PK\x05\x06" + bytes(18))
    refused = pytest.raises(
        ValueError, match=r"a\.zip is a zip archive that is cut short or damaged \(zipfiles that span"
    )
    with refused, archives.opened(path):
        pass


def test_parts_of_an_archive(tmp_path: Path) -> None:
    last = write(tmp_path / "a.zip", ("a.txt", "1"))
    data = bytearray(last.read_bytes())
    data[data.rfind(b"PK\x05\x06") + 4] = 2
    last.write_bytes(data)
    assert "is one part of a zip archive; join the parts (zip -s 0 a.zip" in refused(last)
    first = tmp_path / "a.z01"
    first.write_bytes(b"PK\x07\x08PK\x03\x04" + bytes(100))
    assert "the first part of a zip archive; join the parts (zip -s 0 a.zip" in refused(first)


def packed_tar(path: Path, mode: str) -> Path:
    inner = write(path.parent / "inner.zip", ("a.txt", "1"))
    with tarfile.open(path, mode) as content:  # type: ignore[call-overload]
        content.add(inner, "inner.zip")
    return path


OTHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a.tar": (lambda path: packed_tar(path, "w"), "a tar archive; unpack it (tar -xf a.tar) and give SRC the folder"),
    "a.tar.gz": (lambda path: packed_tar(path, "w:gz"), "a tar archive; unpack it (tar -xf a.tar.gz)"),
    "a.zip": (lambda path: packed_tar(path, "w:xz"), "a tar archive; unpack it (tar -xf a.zip)"),
    "a.7z": (lambda path: path.write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(99)), "a 7z archive, not a zip archive"),
    "a.rar": (lambda path: path.write_bytes(b"Rar!\x1a\x07\x01\x00" + bytes(99)), "a RAR archive, not a zip archive"),
    "a.gz": (lambda path: path.write_bytes(gzip.compress(b"1")), "unpack it (gunzip a.gz)"),
    "a.bz2": (lambda path: path.write_bytes(bz2.compress(b"1")), "unpack it (bunzip2 a.bz2)"),
    "a.xz": (lambda path: path.write_bytes(lzma.compress(b"1")), "unpack it (unxz a.xz)"),
    "page.zip": (lambda path: path.write_text("\n<!DOCTYPE html><html>Log in"), "a web page"),
    "pointer.zip": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "empty.zip": (lambda path: path.write_bytes(b""), "is empty; download it again"),
    "a.jpg": (lambda path: path.write_bytes(b"\xff\xd8\xff" + bytes(99)), "neither a folder nor a zip archive"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_zip_archive(tmp_path: Path, name: str) -> None:
    make, words = OTHERS[name]
    make(tmp_path / name)
    assert words in refused(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["../a.txt", "/etc/a.txt", "a/../../b.txt", "..\\a.txt", "\\a.txt", "C:/a.txt", "C:\\a.txt"]
)
def test_names_that_leave_the_archive(tmp_path: Path, name: str) -> None:
    assert "points outside the archive; create the archive again" in refused(write(tmp_path / "a.zip", (name, "1")))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO])
def test_links_and_special_files(tmp_path: Path, kind: int) -> None:
    info = zipfile.ZipInfo("images/a.jpg")
    info.external_attr = (kind | 0o777) << 16
    text = refused(write(tmp_path / "a.zip", (info, "../elsewhere.jpg")))
    found = "a link" if kind == stat.S_IFLNK else "not an ordinary file"
    assert f"'images/a.jpg' is {found}; create the archive from the files" in text


def test_names_twice(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        write(tmp_path / "a.zip", ("a.txt", "1"), ("a.txt", "2"))
    assert "'a.txt' occurs twice with different content" in refused(tmp_path / "a.zip")
    with pytest.warns(UserWarning, match="Duplicate name"):
        write(tmp_path / "b.zip", ("a.txt", "1"), ("a.txt", "1"))
    assert unpacked(tmp_path / "b.zip", tmp_path / "b") == {"a.txt": b"1"}
    assert "'a' is both a file and a folder" in refused(write(tmp_path / "c.zip", ("a", "1"), ("a/b", "2")))


def test_names_that_differ_by_case_are_files_of_their_own(tmp_path: Path) -> None:
    archive = write(tmp_path / "a.zip", ("a/x.jpg", "1"), ("a/X.jpg", "2"))
    assert unpacked(archive, tmp_path / "a") == {"a/x.jpg": b"1", "a/X.jpg": b"2"}


def test_backslashes_of_windows(tmp_path: Path) -> None:
    windows = zipfile.ZipInfo("a\\b.txt")
    windows.create_system = 0
    expected = {"a/b.txt": b"1", "c/d.txt": b"2"}
    assert unpacked(write(tmp_path / "a.zip", (windows, "1"), ("c/d.txt", "2")), tmp_path / "a") == expected
    assert unpacked(write(tmp_path / "b.zip", ("a\\b.txt", "1"), ("c\\d.txt", "2")), tmp_path / "b") == expected
    # Of a system whose separator is the slash, it is a part of the name.
    unix = write(tmp_path / "c.zip", ("a\\b.txt", "1"), ("c/d.txt", "2"))
    assert unpacked(unix, tmp_path / "c") == {"a\\b.txt": b"1", "c/d.txt": b"2"}


@pytest.mark.parametrize(("raw", "flag"), [("größe.txt".encode(), True), ("größe.txt".encode(), False)])
def test_names_in_utf_8_with_and_without_its_flag(tmp_path: Path, raw: bytes, flag: bool) -> None:
    archive = write(tmp_path / "a.zip", ("x" * len(raw), "1"))
    archive.write_bytes(archive.read_bytes().replace(b"x" * len(raw), raw))
    patch(archive, 2, struct.pack("<H", 0x800 if flag else 0))
    assert unpacked(archive, tmp_path / "a") == {"größe.txt": b"1"}


def test_names_in_code_page_437(tmp_path: Path) -> None:
    archive = write(tmp_path / "a.zip", ("gr##e.txt", "1"))
    archive.write_bytes(archive.read_bytes().replace(b"gr##e", "größe".encode("cp437")))
    assert unpacked(archive, tmp_path / "a") == {"größe.txt": b"1"}


def test_an_archive_behind_a_program(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as content:
        content.writestr("a.txt", "1")
    (tmp_path / "a.exe").write_bytes(b"MZ" + bytes(1000) + stream.getvalue())
    assert unpacked(tmp_path / "a.exe", tmp_path / "a") == {"a.txt": b"1"}


@pytest.mark.parametrize(
    ("at", "value"),
    [(6, b"\x20\0"), (6, b"\x40\0"), (6, b"\x01\0"), (26, b"\xff\xff"), (28, b"\xff\xff"), (0, b"XX")],
)
def test_a_member_whose_own_header_is_damaged_is_named(tmp_path: Path, at: int, value: bytes) -> None:
    """The archive's list is whole, so only unpacking finds it."""
    archive = write(tmp_path / "a.zip", ("é.txt", b"text"))
    data = bytearray(archive.read_bytes())
    data[at : at + len(value)] = value
    archive.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.zip.*(is damaged|neither a folder)") as caught:
        unpacked(archive, tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_packed_tar_cut_short_or_damaged_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.zip"
    with tarfile.open(path, f"w:{kind}") as content:  # type: ignore[call-overload]
        info = tarfile.TarInfo("a")
        info.size = 10_000
        content.addfile(info, io.BytesIO(bytes(range(250)) * 40))
    whole = path.read_bytes()
    for spoiled in (whole[:40], whole[:30] + b"\xff" * 20 + whole[50:]):
        path.write_bytes(spoiled)
        assert "; unpack it" in refused(path)
