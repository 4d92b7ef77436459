import json
import re

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
