"""Configs, tables and lists as people write them: other encodings, blanks, names that are nearly right."""

import codecs
import csv
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from stages import config
from stages.conversion import taxonomy
from stages.foundation import names, text
from stages.vistas import check, labels
from tests.test_convert import CLASSES, build, write_set

GOOD = {"name": "car", "readable": "Car", "instances": True, "evaluate": True, "color": [0, 0, 142]}


def write_config(folder: Path, entries: Any, **others: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps({"labels": entries, **others}))
    return path


@pytest.mark.parametrize(
    "encode",
    [
        lambda s: s.encode("utf-8-sig"),
        lambda s: s.encode("utf-16"),
        lambda s: codecs.BOM_UTF16_BE + s.encode("utf-16-be"),
        lambda s: s.replace("\n", "\r\n").encode(),
        lambda s: s.replace("\n", "\r").encode(),
    ],
)
def test_configs_in_any_marked_encoding_are_read(tmp_path: Path, encode: Any) -> None:
    root = write_set(tmp_path / "set")
    content = json.dumps({"labels": [{**CLASSES[0], "name": "Fußgänger"}, *CLASSES[1:]]}, indent=1, ensure_ascii=False)
    (root / "config.json").write_bytes(encode(content))
    assert labels.load(root / "config.json")[0].name == "Fußgänger"
    build(root, tmp_path / "coco", config.Data())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (json.dumps({"labels": [{**GOOD, "name": "é"}]}, ensure_ascii=False).encode("latin-1"), ":1: found byte 0xe9"),
        (json.dumps({"labels": [GOOD]}).encode("utf-16-le"), ":1: found a zero byte"),
        (b'{"labels": [\n', ":2:1: not JSON"),
        (b"", ":1:1: not JSON"),
        (b'{"labels": [], "labels": []}', "'labels' occurs twice"),
        (b"[]", r": found [], expected an object with the list `labels`"),
        (b"null", ": found null, expected an object"),
        (b'{"labels": []}', ": labels is [], expected a list with an entry"),
        (b'{"labels": {"0": "car"}}', ': labels is {"0": "car"}, expected a list'),
        (b'{"categories": []}', ": no `labels` among its keys ['categories']"),
    ],
)
def test_a_file_that_is_no_config_is_named_and_no_stage_is_blamed(tmp_path: Path, content: bytes, words: str) -> None:
    root = write_set(tmp_path / "set")
    (root / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match="config") as caught:
        check.check(root)
    assert str(caught.value).startswith(f"{root / 'config.json'}")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "stage" not in str(caught.value)


DEFECTS: list[tuple[Any, str]] = [
    ({"name": None}, "labels[1]: name is null, expected text"),
    ({"name": ""}, "labels[1] '': name is \"\", expected text that is not blank"),
    ({"name": "  "}, "expected text that is not blank"),
    ({"name": "\u200b"}, 'name is "\\u200b", expected text that is not blank'),
    ({"name": " \u2060\ufeff\u3000"}, "expected text that is not blank"),
    ({"name": 7}, "labels[1]: name is 7, expected text"),
    ({"name": "a\nb"}, "with a line end or another control character"),
    ({"name": "\ud800"}, "with a line end or another control character"),
    ({"name": "road"}, "labels[1] 'road': labels[0] has the same name"),
    ({"readable": None}, "labels[1] 'car': readable is null, expected text"),
    ({"instances": "true"}, "labels[1] 'car': instances is \"true\", expected true or false"),
    ({"evaluate": 1}, "labels[1] 'car': evaluate is 1, expected true or false"),
    ({"color": [300, 0, 0]}, "labels[1] 'car': color is [300, 0, 0], expected three whole numbers from 0 to 255"),
    ({"color": [0, -1, 0]}, "color is [0, -1, 0]"),
    ({"color": [0.5, 0, 0]}, "color is [0.5, 0, 0]"),
    ({"color": [True, 0, 0]}, "color is [true, 0, 0]"),
    ({"color": [0, 0]}, "color is [0, 0]"),
    ({"color": [0, 0, 0, 255]}, "color is [0, 0, 0, 255]"),
    ({"color": "#00008e"}, 'color is "#00008e"'),
    ({"color": ["0", "0", "0"]}, 'color is ["0", "0", "0"]'),
    ({"color": None}, "color is null"),
    ({"color": [float("nan"), 0, 0]}, "color is [NaN, 0, 0]"),
    ({"id": 2}, "labels[1] 'car': id is 2, but a label's id is its place in the list, from 0"),
    ({"id": "2"}, 'id is "2", but'),
    ({"id": True}, "id is true, but a label's id is its place in the list"),
]


@pytest.mark.parametrize(("change", "words"), DEFECTS)
def test_each_defect_of_a_label_has_its_place(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = write_config(tmp_path, [{**GOOD, "name": "road"}, {**GOOD, **change}])
    with pytest.raises(ValueError, match="correct the set's config") as caught:
        labels.load(path)
    assert str(caught.value).startswith(f"{path}: labels[1]")
    assert words in str(caught.value)


def test_a_config_that_evaluates_nothing_is_a_problem_of_the_set(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    path = write_config(root, [{**entry, "evaluate": False} for entry in CLASSES])
    ((problem,),) = (report.problems for report in check.check(root))
    assert problem == f"{path}: evaluate is false for all 5 labels; set it to true for the classes to learn"


@pytest.mark.parametrize("key", ["name", "readable", "instances", "evaluate", "color"])
def test_a_missing_key_has_its_place(tmp_path: Path, key: str) -> None:
    path = write_config(tmp_path, [{k: v for k, v in GOOD.items() if k != key}])
    with pytest.raises(ValueError, match=rf"labels\[0\].*: no {key}, expected"):
        labels.load(path)


def test_the_configs_of_both_versions_are_told_at_once(tmp_path: Path) -> None:
    root = write_set(write_set(tmp_path / "set", "v1.2"), "v2.0")
    for name in ("config_v1.2.json", "config_v2.0.json"):
        (root / name).write_text(json.dumps({"labels": [{**GOOD, "name": ""}]}))
    with pytest.raises(ValueError, match=r"(?s)config_v1\.2\.json: labels\[0\].*config_v2\.0\.json: labels\[0\]"):
        check.check(root)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    entries = [{**GOOD, "name": None, "color": [0, 0]}, 3, {**GOOD, "evaluate": "no"}, {**GOOD, "name": "car"}]
    with pytest.raises(ValueError, match="correct the set's config") as caught:
        labels.load(write_config(tmp_path, entries))
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == [
        "labels[0]",
        "labels[0]",
        "labels[1]",
        "labels[2] 'car'",
        "labels[3] 'car'",
    ]


def test_a_whole_config_of_defects_is_cut(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="correct the set's config") as caught:
        labels.load(write_config(tmp_path, [None] * 300))
    lines = str(caught.value).splitlines()
    assert "300 labels, expected at most 256" in lines[0]
    assert lines[-1].endswith("and 281 more; correct the set's config")
    assert len(lines) == labels.SHOWN_PROBLEMS + 1


def test_what_is_right_stays_right(tmp_path: Path) -> None:
    """Keys of others' own, ids that agree with the places, blanks in names."""
    entries = [
        {**GOOD, "id": 0, "supercategory": "vehicle", "trainId": 13},
        {**GOOD, "name": "New-buffet-counter-sideboard ", "id": 1, "readable": ""},
    ]
    found = labels.load(write_config(tmp_path, entries, version=float("nan"), mapping="public"))
    assert [label.name for label in found] == ["car", "New-buffet-counter-sideboard "]


def test_names_that_are_nearly_the_same_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_config(tmp_path, [{**GOOD, "name": name} for name in ("car", "Car ", "bus", "lane-mark", "lane_mark")])
    assert len(labels.load(path)) == 5
    assert "labels 'car' and 'Car ' differ only by blanks, case or punctuation" in caplog.text
    assert "'lane-mark' and 'lane_mark'" in caplog.text
    assert "bus" not in caplog.text
    caplog.clear()
    labels.load()
    assert not caplog.text


# Tables.

BLANK = "New-buffet-counter-sideboard "
LABELS = tuple(
    labels.Label(i, name, name, True, True, (i, 0, 0)) for i, name in enumerate(("car", BLANK, "Straße", "b, c"))
)


def table(folder: Path, *lines: str) -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join(["source,target", *lines, '"b, c",car']) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("cell", [f'"{BLANK}"', BLANK])
def test_a_label_that_ends_with_a_blank_can_be_named(tmp_path: Path, cell: str) -> None:
    rows = taxonomy.read(table(tmp_path, "car,car", f"{cell},sideboard", " Straße , road "), LABELS)
    assert [(row.source, row.target) for row in rows] == [
        ("car", "car"),
        (BLANK, "sideboard"),
        ("Straße", "road"),
        ("b, c", "car"),
    ]


def test_a_table_by_pythons_writer_is_read(tmp_path: Path) -> None:
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("source", "target"), *((label.name, "car") for label in LABELS)])
    assert [row.source for row in taxonomy.read(tmp_path / "table.csv", LABELS)] == [label.name for label in LABELS]


def test_quoted_blanks_count(tmp_path: Path) -> None:
    rows = taxonomy.read(table(tmp_path, 'car," car "', f"{BLANK},b", "Straße,c"), LABELS)
    assert rows[0].target == " car "


@pytest.mark.parametrize(
    ("cell", "meant"),
    [
        (BLANK.strip(), BLANK),
        ('"car "', "car"),
        ("Car", "car"),
        ("new_buffet_counter_sideboard", BLANK),
        ("c\u200bar", "car"),
        ("STRASSE", "Straße"),
    ],
)
def test_a_near_miss_is_pointed_out(tmp_path: Path, cell: str, meant: str) -> None:
    with pytest.raises(ValueError, match=r"table\.csv:2: .* is not a label of the set's config") as caught:
        taxonomy.read(table(tmp_path, f"{cell},car"), LABELS)
    assert f"(did you mean {meant!a}? it differs from {cell.strip(chr(34))!a})" in str(caught.value)


def test_unicode_forms_are_told_apart(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Fußgänger") for form in ("NFC", "NFD"))
    assert names.similar(composed, [decomposed, "x"]) == [decomposed]
    known = (labels.Label(0, decomposed, "", True, True, (0, 0, 0)),)
    (tmp_path / "table.csv").write_text(f"source,target\n{composed},a\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"did you mean 'Fu\\xdfga\\u0308nger'\?"):
        taxonomy.read(tmp_path / "table.csv", known)


@pytest.mark.parametrize("target", ["Void", "VOID", '"void "', "Drop", "d_rop"])
def test_the_words_of_a_table_are_not_taken_for_classes(tmp_path: Path, target: str) -> None:
    with pytest.raises(ValueError, match=r"table\.csv:2: target .* is not the keyword '(void|drop)'"):
        taxonomy.read(table(tmp_path, f"car,{target}"), LABELS)


def test_classes_that_are_nearly_the_same_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = table(tmp_path, "car,car", f"{BLANK},Car", "Straße,road")
    categories, _ = taxonomy.build({"a": (LABELS, taxonomy.read(path, LABELS))})
    assert [c["name"] for c in categories] == ["car", "Car", "road"]
    assert f"'car' ({path}:2) and 'Car' ({path}:3) differ" in caplog.text


def test_the_class_of_a_crowd_that_is_nearly_there(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('source,target,crowd\ncar,car,\nStraße,Car,crowd\n"b, c",car,\n' + f"{BLANK},car,\n")
    with pytest.raises(
        ValueError, match=r":3: a crowd of 'Car', but no other line has that target .*did you mean 'car'\?"
    ):
        taxonomy.build({"a": (LABELS, taxonomy.read(path, LABELS))})


LINES = ["source,target", "car,car", f"{BLANK},b", "Straße,c", '"b, c",d']


@pytest.mark.parametrize(
    "content",
    [
        "\r\n".join(LINES).encode("utf-8-sig"),
        "\r".join(LINES).encode(),
        "\n".join(LINES).encode("utf-16"),
        ("\n\n".join([*LINES, ",", " , ", ""]) + "\n\n").encode(),
        "\n".join(["source , target", " car,car ", f'  "{BLANK}", b', "Straße , c", LINES[-1]]).encode(),
    ],
)
def test_tables_as_programs_save_them(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    assert [row.target for row in taxonomy.read(tmp_path / "table.csv", LABELS)] == ["car", "b", "c", "d"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("source;target\ncar;car\n", ":1: cells are separated by semicolons; save the file with commas"),
        ("source\ttarget\ncar\tcar\n", ":1: cells are separated by tabs"),
        ("source,target,source\ncar,car,x\n", ":1: columns ['source', 'target', 'source'], expected"),
        ("source,Target\ncar,car\n", ":1: columns ['source', 'Target']"),
        ("", ":1: columns []"),
        ('source,target\ncar,"car\nStraße,b\n', ":2: not CSV (unexpected end of data)"),
        ('source,target\n"car"x,car\n', ":2: not CSV"),
        ("source,target\ncar,car,void\n", ":2: 3 cells"),
        ("source,target\ncar\n", ":2: found"),
        ("source,target\nc\0ar,car\n", ":2: found a zero byte"),
        ("source,target,color\ncar,car,#00 00 8\n", ":2: color is '#00 00 8'"),
        ('source,target\ncar,"a\nb"\n', ":2: target 'a\\nb' has a line end"),
        ("source,target\ncar,car\n\n\ncar,car\n", ":5: 'car' is also in"),
    ],
)
def test_tables_that_cant_be_read_name_the_line(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content, newline="", encoding="utf-8")
    with pytest.raises(ValueError, match="table") as caught:
        taxonomy.read(path, LABELS)
    assert f"{path}{words}" in str(caught.value)


# Lists of splits.


@pytest.mark.parametrize(
    "content",
    [
        "p000,val\np001,train\np002,\n".encode("utf-8-sig"),
        "p000,val\r\np001,train\r\np002,\r\n\r\n".encode("utf-16"),
        b"p000,val\rp001,train\rp002,",
        b'\np000 , val\n,\n p001,train \n"p002",\n\n',
    ],
)
def test_lists_as_programs_save_them(tmp_path: Path, content: bytes) -> None:
    root = write_set(tmp_path / "set", training=3, validation=0, folders=False)
    (tmp_path / "mine.csv").write_bytes(content)
    cfg = config.Data(splits=config.Splits.file, split_file="mine")
    build(root, tmp_path / "coco", cfg, tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("p000;val\np001;train\np002;\n", ":1: cells are separated by semicolons"),
        ("p000,val\np001,train\nP002,\n", "no line for 'p002' (did you mean 'P002'? it differs from 'p002')"),
        ("p000,val\np001,train\np002,\np002.jpg,\n", "'p002.jpg' (write 'p002', without suffix); delete them"),
        ("p000.jpg,val\np001.jpg,train\np002.jpg,\n", ": found 'p000.jpg', expected 'p000'; write all names without"),
        ("p000,val\np001,train\np002.PNG,\n", ": found 'p002.PNG', expected 'p002'; write all names without suffix"),
        ("p000,val\np001,train\np002.v2,\n", ": no line for 'p002'; add one"),
        ("p000,val\np001,train\np002,\np-002,\n", "such as 'p-002' (did you mean 'p002'?"),
        ("p000,val\np001,tr\xe9\n", ":2: found byte 0xe9, which is not UTF-8"),
    ],
)
def test_lists_that_cant_be_read_name_the_line(tmp_path: Path, content: str, words: str) -> None:
    root = write_set(tmp_path / "set", training=3, validation=0, folders=False)
    (tmp_path / "mine.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match="mine") as caught:
        build(root, tmp_path / "coco", config.Data(splits=config.Splits.file, split_file="mine"), tmp_path)
    assert words in str(caught.value)


# A set's own panoptic JSON.


def segments(infos: bytes) -> bytes:
    return b'{"images": [], "annotations": [{"image_id": 1, "file_name": "a", "segments_info": [%s]}]}' % infos


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe[\x00", ":1:2: not JSON"),
        (b"\xe9", ":1: found byte 0xe9"),
        (b"[]", ": not a COCO panoptic JSON: no list 'images'"),
        (b'{"images": [], "annotations": {}}', "no list 'annotations'"),
        (b'{"images": [1], "annotations": []}', "images[0] lacks id, file_name"),
        (b'{"images": [], "annotations": [{"image_id": 1, "file_name": "a"}]}', "annotations[0] lacks segments_info"),
        (segments(b'{"id": 1}, 2'), "annotations[0]: segments_info[1] has no id"),
        (segments(b'{"id": 1}, {"id": 1}'), "segment 1 occurs twice in a"),
        (segments(b'{"id": 1, "area": NaN}'), "segment 1 of a has no pixel"),
        (segments(b'{"id": 1, "area": "7"}'), "segments_info[0] has no id, or an area that is not a number"),
    ],
)
def test_defects_of_a_panoptic_json_have_their_place(tmp_path: Path, content: bytes, words: str) -> None:
    root = write_set(tmp_path / "set")
    path = root / "training/panoptic/panoptic_2018.json"
    path.parent.mkdir()
    path.write_bytes(content)
    (path.parent / "._panoptic_2018.json").write_bytes(b"macOS")
    (found,) = (report.problems for report in check.check(root))
    assert words in found[0]
    assert found[0].startswith(str(path))
    assert "stage" not in found[0]


def test_zero_bytes_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\nb\0\n")
    with pytest.raises(ValueError, match=r"a\.txt:2: found a zero byte; save the file as UTF-8 text"):
        text.read(tmp_path / "a.txt")
