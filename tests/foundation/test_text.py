import bz2
import gzip
import json
import lzma
import re
import zipfile

import pytest

from stages.foundation import text

CONTENT = {"labels": [{"name": "Straße"}, {"name": "b"}]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-16-be-bom"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_text_of_any_marked_encoding_and_line_end_is_read_alike(tmp_path, encoding, newline):
    written = json.dumps(CONTENT, indent=1, ensure_ascii=False).replace("\n", newline)
    kind = encoding.removesuffix("-bom")
    mark = "\ufeff" if encoding.endswith("-bom") else ""
    (tmp_path / "a.json").write_bytes((mark + written).encode(kind))
    assert text.read_json(tmp_path / "a.json") == CONTENT
    assert "\r" not in text.read(tmp_path / "a.json")
    assert not text.read(tmp_path / "a.json").startswith("\ufeff")


def test_latin_1_is_refused_with_its_place(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("a,b\nStraße,1\n".encode("latin-1"))
    with pytest.raises(ValueError, match=re.escape(f"{path}:2: found byte 0xdf, which is not UTF-8; save")):
        text.read(path)


def test_utf_16_without_a_mark_is_no_json(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(CONTENT).encode("utf-16-le"))
    with pytest.raises(ValueError, match=re.escape(f"{path}:1:")):
        text.read_json(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"a": 1,\n}', ":2:1: not JSON"),
        ('{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        ("[" * 200_000, "nested too deeply"),
        ("", ":1:1: not JSON"),
    ],
)
def test_what_is_no_json_names_file_and_place(tmp_path, content, reason):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(reason)) as raised:
        text.read_json(path)
    assert str(path) in str(raised.value)
    assert "run the stage" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "is a pointer of Git LFS, .*git lfs pull",
        ),
        (b"\n<!DOCTYPE html><html>Log in", "is a web page; download the file itself"),
        (b'\xef\xbb\xbf<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "is a web page"),
        (gzip.compress(b"{}"), r"is a gzip file; unpack it \(gunzip config_v2\.0\.json\)"),
        (bz2.compress(b"{}"), "is a bzip2 file"),
        (lzma.compress(b"{}"), "is an xz file"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(99), "is a 7z archive"),
    ],
)
@pytest.mark.parametrize("read", [text.read, text.read_json, text.read_csv, text.read_yaml])
def test_a_file_of_another_kind_is_named(tmp_path, read, content, words):
    path = tmp_path / "config_v2.0.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path} is ")


def test_a_zip_archive_is_no_text(tmp_path):
    path = tmp_path / "a.csv"
    with zipfile.ZipFile(path, "w") as content:
        content.writestr("a.txt", "1")
    with pytest.raises(ValueError, match=r"a\.csv is a zip archive; unpack it \(unzip a\.csv\)"):
        text.read(path)


@pytest.mark.parametrize("content", ["BZhang,val\n", "BZh9,val\n", "PK,train\n", "version,1\n", "<a>,1\n", "Rar,1\n"])
def test_text_that_begins_like_another_kind_is_read(tmp_path, content):
    (tmp_path / "a.csv").write_text(content)
    assert text.read(tmp_path / "a.csv") == content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("0", "found a single value, expected keys and values"),
        ("!!binary aGk=", "found a single value, expected keys and values"),
        ("!!int", "found a single value, expected keys and values"),
        ("a: !!int", r"not YAML \(string index out of range\)"),
        ("a: !!float x", r"not YAML \(could not convert"),
        ("a: ${", "not YAML .*; correct the file"),
        ("a: !!timestamp x", "not YAML .*; correct the file"),
    ],
)
def test_yaml_that_breaks_its_reader_is_one_line(tmp_path, content, words):
    path = tmp_path / "a.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"a\.yaml: {words}") as raised:
        text.read_yaml(path)
    assert len(str(raised.value).splitlines()) == 1


def test_blanks_inside_quotes_are_kept_and_those_outside_are_not(tmp_path):
    (tmp_path / "a.csv").write_text('a , " b ","c ""d"" ",  \n')
    (line,) = text.read_csv(tmp_path / "a.csv")
    assert line.cells == ["a", " b ", 'c "d" ', ""]
