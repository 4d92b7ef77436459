"""Zip archives of sets, and other archives in their place."""

import io
import tarfile
import warnings
import zipfile
from functools import cache
from typing import Any

from hypothesis import strategies as st

from stages.raw_sets import archives
from tests.support import fuzz
from tests.support.fuzz import fuzzed

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
names = st.lists(
    st.sampled_from(["a", "B", "é", "images", "..", ".", "__MACOSX", "C:", "", "a\\b"]), min_size=1, max_size=4
)
members = st.lists(
    st.tuples(
        names.map("/".join), st.binary(max_size=30), st.sampled_from(METHODS), st.sampled_from([0, 0o120777, 0o644])
    ),
    max_size=4,
)


def packed(files: list[tuple[str, bytes, int, int]]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of repeated names
        for name, content, method, mode in files:
            info = zipfile.ZipInfo(name or "x")
            info.compress_type, info.external_attr = method, mode << 16
            archive.writestr(info, content)
    return written.getvalue()


def unpacked(content: bytes) -> dict[str, bytes] | None:
    """Unpack an archive and return its files by name, or None if it is refused. Nothing may be written elsewhere."""
    with fuzz.folder() as folder:
        (folder / "a.zip").write_bytes(content)

        def unpack() -> bool:
            with archives.opened(folder / "a.zip") as archive:
                archives.unpack(archive, "", folder / "out")
            return True

        done = fuzz.outcome(unpack)
        assert {path.name for path in folder.iterdir()} <= {"a.zip", "out"}
        assert not any(path.is_symlink() for path in folder.rglob("*"))
        out = folder / "out"
        return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()} if done else None


@fuzzed(60, files=members)
def test_an_archive_is_unpacked_whole_and_in_its_folder(files: Any) -> None:
    found = unpacked(packed(files))
    for name, content in (found or {}).items():
        assert content in [given for _, given, _, _ in files], name


@cache
def whole() -> list[bytes]:
    files = [(f"images/{i}.jpg", bytes(range(40)) * (1 + i), method, 0o644) for i, method in enumerate(METHODS)]
    made = packed([*files, ("é/ü.txt", b"text", METHODS[1], 0)])
    tar, packed_tar = io.BytesIO(), io.BytesIO()
    for file, mode in ((tar, "w"), (packed_tar, "w:gz")):
        with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
            info = tarfile.TarInfo("../evil")
            info.size = 4
            archive.addfile(info, io.BytesIO(b"evil"))
    return [made, made, tar.getvalue(), packed_tar.getvalue(), b"#!/bin/sh\n" + made]


@fuzzed(100, number=st.integers(0, 4), changes=fuzz.edits, end=st.booleans())
def test_a_spoiled_archive_is_refused_or_has_its_members(number: int, changes: Any, end: bool) -> None:
    content = whole()[number]
    at = max(0, len(content) - 400) if end else 0
    unpacked(content[:at] + fuzz.spoiled(content[at:], changes))
