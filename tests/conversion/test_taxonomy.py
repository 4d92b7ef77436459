import csv
from pathlib import Path

import pytest

from stages.conversion import taxonomy
from stages.vistas import labels
from tests.conftest import TABLES

CAR = labels.Label(0, "car", "Car", True, True, (0, 0, 142))
CARS = labels.Label(1, "cars", "Cars", False, False, (1, 0, 142))
ROAD = labels.Label(2, "road", "Road", False, True, (128, 64, 128))
LABELS = (CAR, CARS, ROAD)


def table(folder: Path, *lines: str, header: str = "source,target,crowd,isthing,color") -> Path:
    path = folder / "table.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


@pytest.mark.parametrize(
    ("name", "things", "stuff", "crowds"),
    [("vistas_v2_0", 70, 46, 3), ("cityscapes19_v2_0", 8, 11, 2)],
)
def test_presets_of_v2(name: str, things: int, stuff: int, crowds: int) -> None:
    rows = taxonomy.read(TABLES / f"{name}.csv", labels.LABELS)
    categories, targets = taxonomy.build({"vistas": (labels.LABELS, rows)})
    assert [c["id"] for c in categories] == list(range(1, things + stuff + 1))
    assert [c["isthing"] for c in categories] == [1] * things + [0] * stuff
    assert sum(t.iscrowd for t in targets["vistas"]) == crowds
    by_name = {c["name"]: c["id"] for c in categories}
    if name == "vistas_v2_0":
        for label, target in zip(labels.LABELS, targets["vistas"], strict=True):
            assert target.category_id == by_name.get(label.name, target.category_id if target.iscrowd else 0)
        assert targets["vistas"][31] == taxonomy.LabelMapping(by_name["human--person--individual"], iscrowd=True)
        assert targets["vistas"][123] == taxonomy.LabelMapping(0)
    else:
        assert categories[by_name["road"] - 1]["color"] == [128, 64, 128]
        assert targets["vistas"][0] == taxonomy.LabelMapping(0, dropped=True)


@pytest.mark.parametrize(("name", "things", "stuff"), [("vistas_v1_2", 37, 28), ("cityscapes19_v1_2", 8, 11)])
def test_presets_of_v1_2(name: str, things: int, stuff: int) -> None:
    found = labels.load(Path(__file__).with_name("config_v1.2.json"))
    categories, _ = taxonomy.build({"v": (found, taxonomy.read(TABLES / f"{name}.csv", found))})
    assert [c["isthing"] for c in categories] == [1] * things + [0] * stuff


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["car,car", "cars,car,crowd", "road,road", "rode,road"], [":5:", "'rode' is not a label"]),
        (["car,car", "cars,car,crowd", "road,road", "car,road"], [":5:", "'car' is also in", ":2;"]),
        (["car,car", "cars,car,crowd"], ["no line for ['road']"]),
        (["car,car", "cars,bus,crowd", "road,road"], [":3:", "crowd of 'bus'", "no other line has that target"]),
        (["car,car", "cars,road,crowd", "road,road"], [":3:", "which is stuff and has no crowds"]),
        (["car,car", "cars,void", "road,car"], [":4:", "'car' is stuff, but a thing in", ":2", "isthing"]),
        (["car,car", "cars,,", "road,road"], [":3:", "a source and a target"]),
        (["car,car", "cars,void,crowd", "road,road"], [":3:", "a crowd of 'void'"]),
        (["car,car,group", "cars,void", "road,road"], [":2:", "'group'", "'crowd' or nothing"]),
        (["car,car,,2", "cars,void", "road,road"], [":2:", "'2'", "0, 1 or nothing"]),
        (["car,car,,,#12", "cars,void", "road,road"], [":2:", "'#12'", "#RRGGBB"]),
        (["car,void", "cars,drop", "road,drop"], ["0 classes", "1 to 254"]),
    ],
)
def test_errors_name_the_line(tmp_path: Path, lines: list[str], words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"table\.csv|classes") as caught:
        taxonomy.build({"set": (LABELS, taxonomy.read(table(tmp_path, *lines), LABELS))})
    assert [w for w in words if w not in str(caught.value)] == []


UNION_HEADER = "source,target,crowd,isthing,color,union"


@pytest.mark.parametrize(
    ("road", "words"),
    [
        ("road,road,,,,lane; road", ["'road'", "expected 'void'", "pixels of a union have no class"]),
        ("road,drop,,,,lane; road", ["'drop'", "expected 'void'"]),
        ("road,void,,,,lane", ["union is 'lane'", "two or more different classes, with ';' between them"]),
        ("road,void,,,,lane; lane", ["two or more different classes"]),
        ("road,void,,,,lane; road;", ["two or more different classes"]),
        ("road,void,,,,lane; void", ["two or more different classes"]),
        ("road,void,,,,lane; Car", ["'Car' of the union differs only by spelling from the class 'car'", "csv:2)"]),
    ],
)
def test_errors_of_unions_name_the_line(tmp_path: Path, road: str, words: list[str]) -> None:
    path = table(tmp_path, "car,car", "cars,void", road, header=UNION_HEADER)
    with pytest.raises(ValueError, match=r"table\.csv:4: ") as caught:
        taxonomy.build({"set": (LABELS, taxonomy.read(path, LABELS))})
    assert [w for w in words if w not in str(caught.value)] == []


def test_a_union_is_void_and_its_classes_are_labelled_in_part(tmp_path: Path) -> None:
    first = taxonomy.read(table(tmp_path, "car,car", "cars,car,crowd", "road,road"), LABELS)
    path = table(tmp_path, "car,car", "cars,void,,,,car; bus", "road,void,,,,road; lane", header=UNION_HEADER)
    second = taxonomy.read(path, LABELS)
    categories, targets = taxonomy.build({"a": (LABELS, first), "b": (LABELS, second)})
    assert [c["name"] for c in categories] == ["car", "road"]
    assert targets["b"][1:] == (taxonomy.LabelMapping(0, union=True),) * 2
    car, road = categories
    assert taxonomy.coverage(first, categories) == taxonomy.Coverage((car, road), (), ())
    assert taxonomy.coverage(second, categories) == taxonomy.Coverage((), (car,), (road,))


def test_classes_that_differ_only_by_spelling_are_a_warning_with_both_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sets = {}
    for name, target in (("a", "trash can"), ("b", "trash-can"), ("c", "trash can")):
        (tmp_path / name).mkdir()
        path = table(tmp_path / name, "car,car", f"cars,{target}", "road,void")
        sets[name] = (LABELS, taxonomy.read(path, LABELS))
    taxonomy.build(sets)
    (message,) = [record.getMessage() for record in caplog.records]
    assert f"'trash can' ({tmp_path}/a/table.csv:3)" in message
    assert f"'trash-can' ({tmp_path}/b/table.csv:3)" in message
    assert "two classes" in message


def test_other_columns_and_missing_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"table\.csv:1: columns .*'colour'"):
        taxonomy.read(table(tmp_path, header="source,target,colour"), LABELS)
    with pytest.raises(FileNotFoundError, match=r"none\.csv not found; .* \['table'\]"):
        taxonomy.read(tmp_path / "none.csv", LABELS)


def test_sources_share_classes_by_name(tmp_path: Path) -> None:
    first = taxonomy.read(table(tmp_path, "car,vehicle", "cars,vehicle,crowd", "road,road,,,#0a0b0c"), LABELS)
    bus, road = (
        labels.Label(0, "bus", "Bus", True, True, (9, 9, 9)),
        labels.Label(1, "road", "Road", False, True, (7, 7, 7)),
    )
    second = [taxonomy.Row("b.csv:2", "bus", "vehicle"), taxonomy.Row("b.csv:3", "road", "road")]
    categories, targets = taxonomy.build({"a": (LABELS, first), "b": ((bus, road), second)})
    assert [(c["id"], c["name"], c["isthing"]) for c in categories] == [(1, "vehicle", 1), (2, "road", 0)]
    assert categories[1]["color"] == [10, 11, 12]
    assert targets["a"] == (taxonomy.LabelMapping(1), taxonomy.LabelMapping(1, iscrowd=True), taxonomy.LabelMapping(2))
    assert targets["b"] == (taxonomy.LabelMapping(1), taxonomy.LabelMapping(2))


def test_without_a_table_classes_are_the_evaluated_labels() -> None:
    categories, targets = taxonomy.build({"a": (LABELS, taxonomy.as_evaluated(LABELS, "config.json"))})
    assert [c["name"] for c in categories] == ["car", "road"]
    assert [t.category_id for t in targets["a"]] == [1, 0, 2]


def test_labels_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"source a names labels twice: \['car'\]"):
        taxonomy.build({"a": ((CAR, CAR), taxonomy.as_evaluated((CAR, CAR), "config.json"))})


def test_a_table_in_another_encoding_is_named(tmp_path: Path) -> None:
    table(tmp_path).write_bytes(b"source,target\ncar,v\xe9hicule\n")
    with pytest.raises(ValueError, match=r"table\.csv:2: found byte 0xe9, which is not UTF-8"):
        taxonomy.read(tmp_path / "table.csv", LABELS)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1", "not JSON"),
        ("{}", "no `labels` among its keys"),
        ('{"labels": [{"name": "car"}]}', r"labels\[0\] 'car': no readable"),
        (
            '{"labels": [{"name": "a", "readable": "A", "instances": 1, "evaluate": true, "color": [1, 2, 3]}]}',
            "true or",
        ),
        (
            '{"labels": [{"name": "a", "readable": "A", "instances": true, "evaluate": true, "color": null}]}',
            "color is null",
        ),
    ],
)
def test_a_broken_config_is_named(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=rf"config\.json.*: .*{words}"):
        labels.load(tmp_path / "config.json")


def labels_of(name: str) -> tuple[labels.Label, ...]:
    """The labels that a table has lines for; things by its column isthing."""
    with (TABLES / f"{name}.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    return tuple(
        labels.Label(i, line["source"], "", line["isthing"] == "1", True, (0, 0, 0)) for i, line in enumerate(lines)
    )


@pytest.mark.parametrize(
    ("name", "count", "things", "stuff"),
    [
        ("ade20k", 150, 100, 50),
        ("coco_panoptic", 133, 80, 53),
        ("merged222_v2_0", 124, 72, 52),
        ("cityscapes19_cityscapes", 34, 8, 11),
        ("cityscapes19_bdd100k", 40, 8, 11),
        ("cityscapes19_idd", 40, 8, 10),
        ("cityscapes19_voc", 21, 5, 0),
    ],
)
def test_tables_of_other_sets(name: str, count: int, things: int, stuff: int) -> None:
    found = labels_of(name)
    assert len({label.name for label in found}) == count
    categories, _ = taxonomy.build({"set": (found, taxonomy.read(TABLES / f"{name}.csv", found))})
    assert [c["isthing"] for c in categories] == [1] * things + [0] * stuff


@pytest.mark.parametrize("target", ["cityscapes19", "vistas_v2_0"])
@pytest.mark.parametrize("source", ["ade20k", "coco_panoptic", "cityscapes"])
def test_tables_onto_other_classes(target: str, source: str) -> None:
    own = labels_of("cityscapes19_cityscapes" if source == "cityscapes" else source)
    onto = taxonomy.read(
        TABLES / f"{target}_v2_0.csv" if target == "cityscapes19" else TABLES / f"{target}.csv", labels.LABELS
    )
    rows = taxonomy.read(TABLES / f"{target}_{source}.csv", own)
    alone, _ = taxonomy.build({"vistas": (labels.LABELS, onto)})
    both, _ = taxonomy.build({"vistas": (labels.LABELS, onto), "other": (own, rows)})
    assert both == alone
    names = {c["name"] for c in alone}
    assert [row.where for row in rows if not {*row.union} <= names] == []


@pytest.mark.parametrize("ade", ["merged222_ade20k", "merged222_strict_ade20k"])
def test_the_merged_set_has_222_classes(ade: str) -> None:
    own = labels_of("ade20k")
    rows = taxonomy.read(TABLES / f"{ade}.csv", own)
    vistas = taxonomy.read(TABLES / "merged222_v2_0.csv", labels.LABELS)
    categories, _ = taxonomy.build({"vistas": (labels.LABELS, vistas), "ade20k": (own, rows)})
    assert len({c["name"] for c in categories}) == 222
    assert sum(c["isthing"] for c in categories) == 147
    assert [row.source for row in vistas if row.source != row.target or row.isthing is None] == []
    assert len({row.target for row in rows if row.target.startswith("New-")}) == 98
    # The name ends with a blank in the set that this merge was made for.
    assert "New-buffet-counter-sideboard " in {row.target for row in rows}
    by_source = {row.source: row for row in rows}
    assert {by_source[name].target for name in ("stairs", "stairway", "step")} == {"New-stairs"}
    if ade == "merged222_ade20k":
        assert sum(not row.target.startswith("New-") for row in rows) == 49
        assert by_source["road"].target == "construction--flat--road"
        assert all(row.isthing is not None for row in rows)
    else:
        assert "marking--continuous--solid" in by_source["road"].union
