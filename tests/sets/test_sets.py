"""Sets in their native layouts, converted: the same segments, crowds and void; and the traps of each format."""

import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from stages import config, convert
from stages.coco import panoptic
from stages.config import Format
from stages.conversion import taxonomy
from stages.foundation import files
from stages.sets import check, classes, formats, json_index
from stages.sets.raw_set import Scene
from tests.conftest import TABLES
from tests.raw_sets.test_archives import pack
from tests.support import sets

WRITERS: dict[Format, Callable[[Path], Path]] = {
    Format.ade20k: sets.ade20k,
    Format.cityscapes: sets.cityscapes,
    Format.kitti: sets.kitti,
    Format.vistas_labels: sets.vistas_labels,
    Format.coco_panoptic: sets.coco_panoptic,
    Format.coco_instances: sets.coco_instances,
    Format.coco_stuff: sets.coco_stuff,
    Format.voc: sets.voc,
    Format.bdd100k: sets.bdd100k,
    Format.idd: sets.idd,
}
NAMES: dict[Format, dict[str, str]] = {
    Format.coco_panoptic: sets.COCO_NAMES,
    Format.coco_stuff: sets.STUFF_NAMES,
}
"""Names of the scene's classes where a format has others."""
TABLES_OF = {Format.kitti: "cityscapes", Format.vistas_labels: "", Format.coco_panoptic: "", Format.coco_instances: ""}
"""Tables of other names. The small sets of COCO list few categories, so they have no table."""
ALONE = (Format.vistas_labels, Format.coco_stuff)
"""Formats without objects: all things are crowds."""


def build(root: Path, out: Path, source: config.Source | None = None, **options: Any) -> Path:
    cfg = config.Data(sources={"a": source or config.Source()}, workers=1, **options)
    convert.build(root, out, out.parent / "data.json", TABLES, cfg)
    return out


def expected(
    seed: int, names: dict[str, str], known: set[str], objects: bool = True, crowds: bool = True
) -> dict[Any, Any]:
    """(class, whether a crowd, number) -> mask."""
    pixels, segments = sets.scene(seed)
    result: dict[Any, Any] = {}
    for index, segment in enumerate(segments):
        name = names.get(segment.name, segment.name)
        if name in known and (crowds or not segment.iscrowd):
            number = segment.number if objects else 0
            key = (name, segment.isthing and not number, number)
            result[key] = result.get(key, np.zeros(pixels.shape, bool)) | (pixels == index)
    return result


def assert_scene(
    out: Path, split: str, place: int, seed: int, names: dict[str, str], objects: bool = True, crowds: bool = True
) -> None:
    """The place-th picture of a split is the scene."""
    written = panoptic.read(out / split)
    by_id = {category["id"]: category for category in written.categories}
    entry = written.entries[place]
    ids = panoptic.read_ids(entry.png)
    wanted = expected(seed, names, {c["name"] for c in written.categories}, objects, crowds)
    found = [(by_id[s["category_id"]]["name"], bool(s["iscrowd"]), ids == s["id"]) for s in entry.segments]
    assert len(found) == len(wanted)
    for (name, iscrowd, _), mask in wanted.items():
        assert any(n == name and c == iscrowd and np.array_equal(m, mask) for n, c, m in found), (name, iscrowd)
    semantic = cv2.imread(str(out / split / "semantic" / entry.png.name), cv2.IMREAD_UNCHANGED)
    classes = {c["name"]: c["id"] for c in written.categories}
    truth = np.zeros(ids.shape, np.uint8)
    for (name, _, _), mask in wanted.items():
        truth[mask] = classes[name]
    assert np.array_equal(semantic, truth)


@pytest.mark.parametrize("chosen", WRITERS)
@pytest.mark.parametrize("named", [True, False])
def test_every_layout_gives_the_same_scene(tmp_path: Path, chosen: Format, named: bool) -> None:
    root = WRITERS[chosen](tmp_path / "set")
    assert formats.found_in(root) == [chosen]
    table = TABLES_OF.get(chosen, chosen.value) if named else ""
    source = config.Source(format=chosen if named else Format.auto, taxonomy=table)
    options: dict[str, Any] = {}
    if chosen is Format.kitti:
        with pytest.raises(
            FileNotFoundError, match=r"no pictures of val .*data\.splits in conf/data to file or fraction"
        ):
            build(root, tmp_path / "coco", source)
        listed = tmp_path / "tables"
        listed.mkdir()
        for path in TABLES.glob("*.csv"):
            (listed / path.name).write_bytes(path.read_bytes())
        (listed / "mine.csv").write_text("000000_10,train\n000001_10,train\n000100_10,val\n")
        cfg = config.Data(sources={"a": source}, splits=config.Splits.file, split_file="mine", workers=1)
        convert.build(root, tmp_path / "coco", tmp_path / "data.json", listed, cfg)
    else:
        build(root, tmp_path / "coco", source, **options)
    names, objects = NAMES.get(chosen, {}), chosen not in ALONE
    for split, seeds in sets.SPLITS.items():
        for place, seed in enumerate(seeds):
            # VOC has no crowds: what is difficult is void.
            assert_scene(tmp_path / "coco", split, place, seed, names, objects, crowds=chosen is not Format.voc)
    assert files.read_json(tmp_path / "coco/statistics.json")["sources"]["a"]["version"] == chosen.value


def test_ade20k_without_objects_has_crowds(tmp_path: Path) -> None:
    out = build(sets.ade20k(tmp_path / "set", objects=False), tmp_path / "coco")
    assert_scene(out, "val", 0, 100, {}, objects=False)


def rewrite(path: Path, change: Callable[[Any], Any]) -> None:
    """Change the pixels of a PNG; its mode follows from the array."""
    with Image.open(path) as image:
        pixels = np.array(image)
    Image.fromarray(change(pixels)).save(path)


def put(value: Any) -> Callable[[Any], Any]:
    """Set a pixel."""

    def change(pixels: Any) -> Any:
        pixels[0, 0] = value
        return pixels

    return change


FAULTS: dict[str, tuple[Format, str, Callable[[Any], Any], str]] = {
    "cityscapes, 8 bits": (
        Format.cityscapes,
        "gtFine/train/ulm/ulm_000000_000019_gtFine_instanceIds.png",
        lambda pixels: (pixels % 256).astype(np.uint8),
        r"instanceIds\.png: 8-bit grey, expected 16-bit grey; use the instanceIds",
    ),
    "cityscapes, train ids": (
        Format.cityscapes,
        "gtFine/train/ulm/ulm_000000_000019_gtFine_instanceIds.png",
        put(13001),
        r"instanceIds\.png: found values 13001; expected labels 0 to 33, and .* are they train ids",
    ),
    "cityscapes, label out of range": (
        Format.cityscapes,
        "gtFine/train/ulm/ulm_000000_000019_gtFine_instanceIds.png",
        put(34),
        r"found values 34; expected labels 0 to 33",
    ),
    "kitti, 8 bits": (
        Format.kitti,
        "training/instance/000000_10.png",
        lambda pixels: (pixels >> 8).astype(np.uint8),
        r"instance/000000_10\.png: 8-bit grey, expected 16-bit grey",
    ),
    "kitti, coded as Cityscapes": (
        Format.kitti,
        "training/instance/000000_10.png",
        lambda pixels: ((pixels >> 8) * 1000 + (pixels & 255)).astype(np.uint16),
        r"instance/000000_10\.png: found values .*; expected label \* 256 \+ object .* KITTI-360",
    ),
    "kitti, labels alone in 16 bits": (
        Format.kitti,
        "training/instance/000000_10.png",
        lambda pixels: (pixels >> 8).astype(np.uint16),
        r"no value above 26, so that every pixel would be label 0",
    ),
    "ade20k, colours": (
        Format.ade20k,
        "annotations/training/ADE_train_00000000.png",
        lambda pixels: np.stack([pixels] * 3, -1),
        r"ADE_train_00000000\.png: 8-bit RGB, expected 8-bit grey",
    ),
    "ade20k, ids that were shifted": (
        Format.ade20k,
        "annotations/training/ADE_train_00000000.png",
        lambda pixels: pixels - 1,
        r"ADE_train_00000000\.png: found values 255; expected 0 for void and 1 to 150",
    ),
    "ade20k, object of two classes": (
        Format.ade20k,
        "annotations_instance/training/ADE_train_00000000.png",
        put((1, 1, 0)),
        "object 1 has several classes",
    ),
    "ade20k, object of no class": (
        Format.ade20k,
        "annotations_instance/training/ADE_train_00000000.png",
        put((101, 9, 0)),
        "found class 101, expected 1 to 100",
    ),
    "ade20k, size": (
        Format.ade20k,
        "annotations_instance/training/ADE_train_00000000.png",
        lambda pixels: pixels[:, :-1].copy(),
        r"59x40, but .*annotations/training/ADE_train_00000000\.png is 60x40",
    ),
    "labels, beyond the config": (
        Format.vistas_labels,
        "training/labels/p0.png",
        put(5),
        r"p0\.png: found values 5; expected 0 to 4, the 5 labels of .*config\.json, and 255 for void",
    ),
    "labels, 16 bits": (
        Format.vistas_labels,
        "training/labels/p0.png",
        lambda pixels: pixels.astype(np.uint16) * 256,
        r"p0\.png: 16-bit grey, expected 8-bit grey; .*data\.sources\.NAME\.format to vistas",
    ),
    "voc, colours": (
        Format.voc,
        "SegmentationClass/2007_000000.png",
        lambda pixels: np.stack([pixels] * 3, -1),
        r"2007_000000\.png: 8-bit RGB, expected 8-bit palette",
    ),
    "voc, grey as in SegmentationClassAug": (
        Format.voc,
        "SegmentationClass/2007_000000.png",
        lambda pixels: pixels,
        r"2007_000000\.png: 8-bit grey, expected 8-bit palette",
    ),
    "bdd100k, alpha dropped": (
        Format.bdd100k,
        "labels/pan_seg/bitmasks/train/b0.png",
        lambda pixels: pixels[..., :3].copy(),
        r"b0\.png: 8-bit RGB, expected 8-bit RGBA; .*alpha channel is data",
    ),
    "bdd100k, channels swapped": (
        Format.bdd100k,
        "labels/pan_seg/bitmasks/train/b0.png",
        put((41, 0, 0, 9)),
        r"b0\.png: class 41, expected 0 to 40",
    ),
    "bdd100k, object of two classes": (
        Format.bdd100k,
        "labels/pan_seg/bitmasks/train/b0.png",
        put((1, 0, 0, 3)),
        r"object 3 has several classes",
    ),
    "coco_stuff, ids that were not shifted": (
        Format.coco_stuff,
        "stuffthingmaps/train2017/000000000000.png",
        put(182),
        r"found values 182; expected category ids - 1",
    ),
    "coco_panoptic, grey": (
        Format.coco_panoptic,
        "annotations/panoptic_train2017/000000000000.png",
        lambda pixels: pixels[..., 0].copy(),
        r"8-bit grey, expected 8-bit RGB",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_contradicts_its_format_is_refused(tmp_path: Path, name: str) -> None:
    chosen, path, change, words = FAULTS[name]
    root = WRITERS[chosen](tmp_path / "set")
    rewrite(root / path, change)
    options: dict[str, Any] = {}
    if chosen is Format.kitti:
        options = {"splits": config.Splits.fraction, "val_fraction": 0.5}
    with pytest.raises(ValueError, match=words) as caught:
        build(root, tmp_path / "coco", config.Source(format=chosen), **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "coco").exists()


def pixel(out: Path, split: str = "val") -> tuple[int, list[Any]]:
    """The id of the pixel that `put` sets, and the segments of the first picture of a split."""
    entry = panoptic.read(out / split).entries[0]
    return int(panoptic.read_ids(entry.png)[0, 0]), entry.segments


@pytest.mark.parametrize(
    ("chosen", "path", "value", "name", "crowd"),
    [
        # A value below 1000 of a thing: a group.
        (Format.cityscapes, "gtFine/val/ulm/ulm_000100_000019_gtFine_instanceIds.png", 28, "bus", True),
        (Format.cityscapes, "gtFine/val/ulm/ulm_000100_000019_gtFine_instanceIds.png", 28000, "bus", False),
        # Above 8 bits: object 900 of a label.
        (Format.cityscapes, "gtFine/val/ulm/ulm_000100_000019_gtFine_instanceIds.png", 28900, "bus", False),
        # n = 0 of a thing has no instance truth.
        (Format.kitti, "training/instance/000100_10.png", 28 * 256, "bus", True),
        (Format.kitti, "training/instance/000100_10.png", 28 * 256 + 1, "bus", False),
        # A = 0 with B, and A alone: both are objects.
        (Format.bdd100k, "labels/pan_seg/bitmasks/val/b100.png", (34, 0, 7, 0), "bus", False),
        (Format.bdd100k, "labels/pan_seg/bitmasks/val/b100.png", (34, 0, 0, 7), "bus", False),
        (Format.bdd100k, "labels/pan_seg/bitmasks/val/b100.png", (34, 0, 0, 0), "bus", True),
        (Format.bdd100k, "labels/pan_seg/bitmasks/val/b100.png", (34, 0b10, 0, 7), "bus", True),
        (Format.bdd100k, "labels/pan_seg/bitmasks/val/b100.png", (34, 0b01, 0, 7), "bus", True),
        (Format.bdd100k, "labels/pan_seg/bitmasks/val/b100.png", (0, 0, 0, 7), None, False),
        # The highest id before the gap at the end, and void.
        (Format.coco_stuff, "stuffthingmaps/val2017/000000000100.png", 181, "wood", False),
        (Format.coco_stuff, "stuffthingmaps/val2017/000000000100.png", 255, None, False),
        (Format.coco_panoptic, "annotations/panoptic_val2017/000000000100.png", (0, 0, 0), None, False),
        (Format.ade20k, "annotations/validation/ADE_val_00000100.png", 150, "flag", True),
        (Format.ade20k, "annotations/validation/ADE_val_00000100.png", 0, None, False),
        (Format.vistas_labels, "validation/labels/p100.png", 255, None, False),
    ],
)
def test_what_a_value_means(
    tmp_path: Path, chosen: Format, path: str, value: Any, name: str | None, crowd: bool
) -> None:
    """Depth, channels, gaps, groups and void: one pixel with a value of its own."""
    root = WRITERS[chosen](tmp_path / "set")
    rewrite(root / path, put(value))
    # KITTI has no split val, so all pictures are for training but one.
    listed = tmp_path / "tables"
    listed.mkdir()
    (listed / "mine.csv").write_text("000000_10,train\n000001_10,\n000100_10,val\n")
    splits = {"splits": config.Splits.file, "split_file": "mine"} if chosen is Format.kitti else {}
    cfg = config.Data(sources={"a": config.Source(format=chosen)}, workers=1, **splits)  # type: ignore[arg-type]
    convert.build(root, tmp_path / "coco", tmp_path / "data.json", listed, cfg)
    found, segments = pixel(tmp_path / "coco")
    names = {c["id"]: c["name"] for c in panoptic.read(tmp_path / "coco/val").categories}
    segment = next((s for s in segments if s["id"] == found), None)
    assert (names[segment["category_id"]] if segment else None) == name
    assert segment is None or (segment["area"], bool(segment["iscrowd"])) == (1, crowd)


def test_a_palette_with_another_number_of_colours_has_the_same_indices(tmp_path: Path) -> None:
    """In VOC the index counts: fewer bits and another palette change nothing."""
    root = sets.voc(tmp_path / "set")
    before = build(root, tmp_path / "a").joinpath("val/panoptic.json").read_bytes()
    path = root / "SegmentationObject/2007_000100.png"
    with Image.open(path) as image:
        indices = np.array(image)
    few = Image.fromarray(np.where(indices == 255, 0, indices).astype(np.uint8), "P")
    few.putpalette([9, 9, 9] * 16)
    few.save(path, bits=2)
    assert path.read_bytes()[24:26] == bytes((2, 3))
    assert build(root, tmp_path / "b").joinpath("val/panoptic.json").read_bytes() == before


def test_a_later_polygon_covers_an_earlier_one_and_deleted_ones_are_not_drawn(tmp_path: Path) -> None:
    root = sets.idd(tmp_path / "set")
    square = [[0, 0], [0, 5], [5, 5], [5, 0]]
    path = next((root / "gtFine/val").rglob("*.json"))

    def change(content: Any) -> None:
        content["objects"] += [
            {"label": "car", "polygon": square, "deleted": 0},
            {"label": "bus", "polygon": square, "deleted": 0},
            {"label": "truck", "polygon": square, "deleted": 1},
        ]

    change_json(path, change)
    found, segments = pixel(build(root, tmp_path / "coco"))
    names = {c["id"]: c["name"] for c in panoptic.read(tmp_path / "coco/val").categories}
    assert [(names[s["category_id"]], s["area"]) for s in segments if s["id"] == found] == [("bus", 36)]


def test_the_json_of_ade20k_full_is_latin_1(tmp_path: Path) -> None:
    root = sets.ade20k_full(tmp_path / "set")
    raw = formats.find(config.Source(), root, "data.sources.a")
    assert "building, \xe9difice" in [label.name for label in raw.labels]
    assert all(b"\xe9difice" in path.read_bytes() for path in root.rglob("*.json"))


def test_a_licence_plate_is_void(tmp_path: Path) -> None:
    root = sets.cityscapes(tmp_path / "set")
    path = root / "gtFine/val/ulm/ulm_000100_000019_gtFine_instanceIds.png"
    rewrite(path, put(65535))
    entry = panoptic.read(build(root, tmp_path / "coco") / "val").entries[0]
    assert panoptic.read_ids(entry.png)[0, 0] == 0


@pytest.mark.parametrize("chosen", [Format.cityscapes, Format.ade20k])
def test_a_missing_annotation_is_a_problem(tmp_path: Path, chosen: Format) -> None:
    root = WRITERS[chosen](tmp_path / "set")
    lost = next(
        iter(sorted((root / ("gtFine" if chosen is Format.cityscapes else "annotations_instance")).rglob("*.png")))
    )
    lost.unlink()
    with pytest.raises(ValueError, match=r"no .*mask.* of that name; restore it"):
        build(root, tmp_path / "coco")


def test_train_id_files_are_not_read(tmp_path: Path) -> None:
    """They are made by tools, so a folder may have them or not."""
    root = sets.cityscapes(tmp_path / "set")
    before = build(root, tmp_path / "a").joinpath("train/panoptic.json").read_bytes()
    for path in root.rglob("*_instanceIds.png"):
        (path.parent / path.name.replace("instanceIds", "labelTrainIds")).write_bytes(b"x")
        (path.parent / path.name.replace("instanceIds", "instanceTrainIds")).write_bytes(b"x")
    assert build(root, tmp_path / "b").joinpath("train/panoptic.json").read_bytes() == before


def table(tmp_path: Path, text: str) -> Path:
    folder = tmp_path / "tables"
    folder.mkdir()
    (folder / "mine.csv").write_text(text, encoding="utf-8")
    return folder


def test_ade20k_full_with_a_table(tmp_path: Path) -> None:
    """Names in Latin-1; the table says what is a thing."""
    root = sets.ade20k_full(tmp_path / "set")
    assert formats.found_in(root) == [Format.ade20k_full]
    rows = ["source,target,crowd,isthing", "car,car,,1", "person,person,,1"]
    text = "\n".join([*rows, '"building, édifice",house,,0', "road,road,,0", "sky,sky,,0"])
    cfg = config.Data(sources={"a": config.Source(taxonomy="mine")}, workers=1)
    convert.build(root, tmp_path / "coco", tmp_path / "data.json", table(tmp_path, text), cfg)
    written = panoptic.read(tmp_path / "coco/train")
    assert [c["name"] for c in written.categories] == ["car", "person", "house", "road", "sky"]
    pixels, segments = sets.scene(0)
    ids = panoptic.read_ids(written.entries[0].png)
    # It has no crowds, so the group is an object.
    assert len(written.entries[0].segments) == 7
    for index, segment in enumerate(segments):
        here = np.unique(ids[pixels == index])
        assert len(here) == 1
        assert bool(here[0]) == bool(segment.name)


def test_the_last_digit_of_red_says_nothing_in_ade20k_full(tmp_path: Path) -> None:
    root = sets.ade20k_full(tmp_path / "set")
    rows = [f'"{name}",{short},,1' for short, name in sets.FULL_NAMES.items()]
    folder = table(tmp_path, "\n".join(["source,target,crowd,isthing", *rows]))
    cfg = config.Data(sources={"a": config.Source(taxonomy="mine")}, workers=1)
    convert.build(root, tmp_path / "a", tmp_path / "data.json", folder, cfg)
    for path in root.rglob("*_seg.png"):
        rewrite(path, put_red)
    convert.build(root, tmp_path / "b", tmp_path / "data.json", folder, cfg)
    for name in ("train/panoptic.json", "val/panoptic.json"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()


def put_red(pixels: Any) -> Any:
    pixels[::2, :, 0] += 5
    return pixels


def test_ade20k_full_whose_classes_nobody_names(tmp_path: Path) -> None:
    root = sets.ade20k_full(tmp_path / "set")
    path = next(root.rglob("ADE_train_00000000_seg.png"))
    rewrite(path, put((250, 255, 3)))
    source = config.Source(format=Format.ade20k_full)
    with pytest.raises(ValueError, match="class 6655, which no JSON of the set names"):
        build(root, tmp_path / "coco", source)


def change_json(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


COCO_FAULTS: dict[str, tuple[Callable[[Any], None], str]] = {
    "no isthing": (
        lambda c: c["categories"][0].pop("isthing"),
        r"panoptic_val2017\.json: categories\[0\] lacks isthing; correct the categories",
    ),
    "category of a gap": (
        lambda c: c["annotations"][0]["segments_info"][0].update(category_id=2),
        "category 2, which the file does not list",
    ),
    "a segment that the PNG has not": (
        lambda c: c["annotations"][0]["segments_info"].append({"id": 5, "category_id": 1}),
        r"000100\.png: ids \[\] only in the PNG, \[5\] only in .*panoptic_val2017\.json",
    ),
    "a segment that the JSON has not": (
        lambda c: c["annotations"][0]["segments_info"].pop(),
        r"000100\.png: ids \[\d+\] only in the PNG",
    ),
    "a segment twice": (
        lambda c: c["annotations"][0]["segments_info"].append(c["annotations"][0]["segments_info"][0]),
        r"panoptic_val2017\.json: segments_info of 000000000100\.png has an id twice",
    ),
    "annotations of an unknown picture": (
        lambda c: c["annotations"][0].update(image_id=7),
        r"annotations of images \[7\], which the file does not list",
    ),
    "another file's name": (
        lambda c: c["annotations"][0].update(file_name="1.png"),
        "file_name '1.png', expected '000000000100.png'",
    ),
    "pictures outside": (lambda c: c["images"][0].update(file_name="../a.jpg"), "expected a bare name"),
    "the same picture twice": (lambda c: c["images"].append(c["images"][0]), "image id 100 occurs twice"),
    "other categories than the other split's": (
        lambda c: c["categories"][1].update(name="bicycle"),
        r"category 3 is not as in .*; use files of one release",
    ),
    "isthing that is no number": (lambda c: c["categories"][0].update(isthing="no"), "isthing is 'no'"),
    "ids that are text": (lambda c: c["categories"][0].update(id="1"), "category id '1' is not a number"),
    "a category that is a number": (lambda c: c["categories"].append(7), "category 7, expected an object"),
    "a picture without a name": (lambda c: c["images"][0].pop("file_name"), "image 100 has no file_name"),
    "a picture that is a list": (lambda c: c["images"].append([]), "not COCO's JSON .*restore the file"),
    "no size": (lambda c: c["images"][0].pop("width"), r"image 100 has height and width \(40, None\)"),
    "two annotations": (
        lambda c: c["annotations"].append(c["annotations"][0]),
        "2 annotations of image 100, expected one",
    ),
}


@pytest.mark.parametrize("name", COCO_FAULTS)
def test_a_panoptic_json_that_contradicts_itself(tmp_path: Path, name: str) -> None:
    change, words = COCO_FAULTS[name]
    root = sets.coco_panoptic(tmp_path / "set")
    change_json(root / "annotations/panoptic_val2017.json", change)
    with pytest.raises(ValueError, match=words) as caught:
        build(root, tmp_path / "coco")
    assert "\n" not in str(caught.value)


def test_a_json_that_is_cut_short(tmp_path: Path) -> None:
    root = sets.coco_panoptic(tmp_path / "set")
    path = root / "annotations/panoptic_train2017.json"
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ValueError, match=r"panoptic_train2017\.json: not COCO's JSON .*restore the file"):
        build(root, tmp_path / "coco")


def test_a_json_is_read_in_blocks_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sets.coco_instances(tmp_path / "set") / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "Straßenmüll 垃圾"
    path.write_text(json.dumps(content), encoding="utf-8")
    assert json_index.read(path).categories[0]["name"] == "Straßenmüll 垃圾"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    whole = json_index.read(path)
    assert whole.categories[0]["name"] == "Straßenmüll 垃圾"
    by_image: dict[int, list[Any]] = {}
    for annotation in content["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    for block in (1, 7, 64, 1000):
        monkeypatch.setattr(json_index, "_BLOCK", block)
        found = json_index.read(path)
        assert found == whole
        for image_id, annotations in by_image.items():
            assert json_index.entries(path, list(found.places[image_id])) == annotations


def test_of_overlapping_objects_the_smaller_lies_on_top_and_losses_are_counted(tmp_path: Path) -> None:
    root = sets.coco_instances(tmp_path / "set")
    small, large = [[2, 2, 12, 2, 12, 8, 2, 8]], [[0, 0, 30, 0, 30, 20, 0, 20]]

    def change(content: Any) -> None:
        one = {"image_id": 100, "iscrowd": 0}
        # The file has the small one first; the last is the small one again, which lies over it.
        content["annotations"] = [
            {**one, "id": 1, "category_id": 1, "segmentation": small},
            {**one, "id": 2, "category_id": 3, "segmentation": large},
            {**one, "id": 3, "category_id": 3, "segmentation": small},
        ]

    change_json(root / "annotations/instances_val2017.json", change)
    out = build(root, tmp_path / "coco")
    entry = panoptic.read(out / "val").entries[0]
    assert sorted(s["area"] for s in entry.segments) == [60, 540]
    found = files.read_json(out / "statistics.json")
    assert found["val"]["objects_hidden_by_others"] == 1
    assert found["val"]["object_pixels_under_others"] == 120
    assert found["train"]["objects_hidden_by_others"] == 0


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ([[1, 1, 20, 20]], "a polygon has fewer than three points"),
        ([], "a polygon has fewer than three points"),
        ({"size": [60, 40], "counts": [0, 2400]}, "size .*, expected"),
        (None, "TypeError"),
        # pycocotools writes beyond its memory for these, or takes all that there is.
        ({"size": [40, 60], "counts": [0, 2400, 9]}, "run lengths of 2409 pixels, expected 2400"),
        ({"size": [40, 60], "counts": [5, 95]}, "run lengths of 100 pixels, expected 2400"),
        ({"size": [40, 60], "counts": [5, -1, 2396]}, "counts that are no run lengths"),
        ({"size": [40, 60], "counts": "0o1"}, "run lengths of .* pixels, expected 2400"),
        ({"size": [40, 60], "counts": "P"}, "counts that are no compressed run lengths"),
        ({"size": [40, 60], "counts": "oooooooooo0"}, "a run of more than"),
        ([[0, 0, 1e9, 0, 0, 1e9]], "outline of .* expected one near the picture"),
        ([[0, 0, float("nan"), 0, 0, 5]], "expected one near the picture"),
        ([[0, 0, 10**400, 0, 0, 5]], "OverflowError"),
        ([[0, 0, 900000, 0] * 99], "outline of .* expected one near the picture"),
    ],
)
def test_an_object_that_cant_be_drawn(tmp_path: Path, shape: Any, words: str) -> None:
    root = sets.coco_instances(tmp_path / "set")
    change_json(root / "annotations/instances_val2017.json", lambda c: c["annotations"][0].update(segmentation=shape))
    with pytest.raises(ValueError, match=rf"instances_val2017\.json: annotation 1 can't be drawn .*{words}"):
        build(root, tmp_path / "coco")


def idd_with(tmp_path: Path, **change: Any) -> Path:
    root = sets.idd(tmp_path / "set")
    path = next((root / "gtFine/val").rglob("*.json"))
    change_json(path, lambda content: content["objects"][0].update(change))
    return root


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": "skygroup"}, "label 'skygroup', expected one of IDD's 40 or a group of a thing"),
        ({"label": "Sky"}, "label 'Sky', expected one of IDD's 40"),
        ({"polygon": [[1, 1]]}, "a polygon of 'sky' has 1 points, expected 3"),
        ({"polygon": [[1, 1], [1, float("nan")], [2, 2]]}, "not IDD's polygons .*coordinate nan"),
        ({"polygon": None}, "not IDD's polygons"),
        ({"polygon": [[1, 1], [1, 2**31], [2, 2]]}, "not IDD's polygons .*coordinate 2147483648"),
        ({"polygon": [[1, 1], [1, 10**400], [2, 2]]}, "not IDD's polygons .*OverflowError"),
    ],
)
def test_polygons_of_idd_that_cant_be_drawn(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=rf"frame0029_gtFine_polygons\.json: {words}"):
        build(idd_with(tmp_path, **change), tmp_path / "coco")


def test_labels_of_two_versions_must_be_chosen_from(tmp_path: Path) -> None:
    root = sets.vistas_labels(tmp_path / "set")
    for split in ("training", "validation"):
        for version in ("v1.2", "v2.0"):
            shutil.copytree(root / split / "labels", root / split / version / "labels")
        shutil.rmtree(root / split / "labels")
    with pytest.raises(ValueError, match=r"found v1\.2, v2\.0, expected one version; set data\.sources\.a\.version"):
        build(root, tmp_path / "coco", config.Source(format=Format.vistas_labels))
    build(root, tmp_path / "coco", config.Source(format=Format.vistas_labels, version="v2.0"))


def test_label_ids_in_the_folder_instances_and_as_palette(tmp_path: Path) -> None:
    """As Vistas' own labels are; only if the format is named."""
    root = sets.vistas_labels(tmp_path / "set")
    for split in ("training", "validation"):
        (root / split / "labels").rename(root / split / "instances")
        for path in (root / split / "instances").iterdir():
            sets.palette_png(path, np.array(Image.open(path)))
    with pytest.raises(ValueError, match=r"8-bit palette, expected 16-bit grey"):
        build(root, tmp_path / "coco")
    out = build(root, tmp_path / "coco", config.Source(format=Format.vistas_labels))
    assert_scene(out, "val", 0, 100, {}, objects=False)


def test_objects_are_those_of_pycocotools(tmp_path: Path) -> None:
    """A public reader draws the same masks, where objects don't overlap."""
    root = sets.coco_instances(tmp_path / "set")
    out = build(root, tmp_path / "coco")
    theirs = COCO(str(root / "annotations/instances_val2017.json"))
    ours = COCO(str(out / "val/instances.json"))
    masks = [sorted(c.annToMask(a).tobytes() for a in c.loadAnns(c.getAnnIds())) for c in (theirs, ours)]
    assert masks[0] == masks[1]


def test_torchvision_reads_the_twins_alike(tmp_path: Path) -> None:
    """The layouts that the tests write are those that a public reader expects."""
    from torchvision import datasets

    root = sets.cityscapes(tmp_path / "cityscapes")
    for image, target in datasets.Cityscapes(str(root), split="val", mode="fine", target_type="instance"):
        assert image.size == target.size == (sets.WIDTH, sets.HEIGHT)
        assert np.array(target).max() == 26001
    root = sets.voc(tmp_path / "VOCdevkit/VOC2012")
    for _, target in datasets.VOCSegmentation(str(tmp_path), year="2012", image_set="val"):
        assert set(np.unique(np.array(target))) == {0, 7, 15, 255}


def test_background_of_voc_is_void_unless_a_table_says_otherwise(tmp_path: Path) -> None:
    out = build(sets.voc(tmp_path / "set"), tmp_path / "coco", config.Source(taxonomy="voc"))
    entry = panoptic.read(out / "val").entries[0]
    assert panoptic.read_ids(entry.png)[0, 0] == 0
    assert "background" not in [c["name"] for c in panoptic.read(out / "val").categories]


def test_two_formats_in_a_folder_must_be_chosen_from(tmp_path: Path) -> None:
    root = sets.coco_instances(sets.coco_panoptic(tmp_path / "set"))
    with pytest.raises(
        ValueError, match=r"found coco_panoptic, coco_instances, expected one format; set data\.sources\.a\.format"
    ):
        build(root, tmp_path / "coco")
    build(root, tmp_path / "coco", config.Source(format=Format.coco_panoptic))


def test_the_wrong_format_is_refused(tmp_path: Path) -> None:
    root = sets.cityscapes(tmp_path / "set")
    with pytest.raises(ValueError, match="no set in the layout of Pascal VOC: no pictures at JPEGImages/"):
        build(root, tmp_path / "coco", config.Source(format=Format.voc))


def test_sets_of_two_formats_become_one(tmp_path: Path) -> None:
    sets.cityscapes(tmp_path / "sets/c")
    sets.bdd100k(tmp_path / "sets/b")
    sources = {"c": config.Source("c"), "b": config.Source("b")}
    convert.build(
        tmp_path / "sets", tmp_path / "coco", tmp_path / "d.json", TABLES, config.Data(sources=sources, workers=1)
    )
    names = [c["name"] for c in panoptic.read(tmp_path / "coco/val").categories]
    assert len(names) == len(set(names))
    found = files.read_json(tmp_path / "coco/statistics.json")
    assert found["val"]["images_by_source"] == {"b": 1, "c": 1}


@pytest.mark.parametrize("chosen", [*WRITERS, Format.ade20k_full])
def test_make_data_takes_each_and_prints_what_it_found(tmp_path: Path, chosen: Format) -> None:
    root = (WRITERS | {Format.ade20k_full: sets.ade20k_full})[chosen](tmp_path / "set")
    findings, problems = check.check_set(root, config.Source())
    assert problems == []
    assert findings[0].startswith(f"{chosen.value}: train {3 if chosen is Format.kitti else 2}")
    assert ("no val: set data.splits" in findings[0]) == (chosen is Format.kitti)
    # In an archive too.
    assert formats.found_in(zipfile.Path(pack(root, tmp_path / "set.zip"))) == [chosen]


def test_make_data_lists_the_problems(tmp_path: Path) -> None:
    root = sets.kitti(tmp_path / "set")
    rewrite(root / "training/instance/000000_10.png", lambda pixels: (pixels >> 8).astype(np.uint8))
    _, problems = check.check_set(root, config.Source())
    assert len(problems) == 1
    assert "8-bit grey, expected 16-bit grey" in problems[0]


def test_things_that_a_table_makes_stuff_have_no_crowds(tmp_path: Path) -> None:
    rows = [f"{label.name},{'all' if label.evaluate else 'void'},,0" for label in classes.load("cityscapes").labels]
    folder = table(tmp_path, "source,target,crowd,isthing\n" + "\n".join(rows) + "\n")
    cfg = config.Data(sources={"a": config.Source(taxonomy="mine")}, workers=1)
    convert.build(sets.cityscapes(tmp_path / "set"), tmp_path / "coco", tmp_path / "d.json", folder, cfg)
    (segment,) = panoptic.read(tmp_path / "coco/val").entries[0].segments
    assert (segment["iscrowd"], segment["area"]) == (0, sets.WIDTH * (sets.HEIGHT - 2))


def test_the_tables_name_every_class_of_their_format() -> None:
    for name in ("ade20k", "bdd100k", "cityscapes", "coco_stuff", "idd", "voc"):
        labels = classes.load(name).labels
        rows = taxonomy.read(TABLES / f"{name}.csv", labels)
        assert [row.target for row in rows] == [x.name if x.evaluate else "void" for x in labels]
        assert [row.isthing for row in rows] == [int(x.instances) if x.evaluate else None for x in labels]
    assert sum(label.instances for label in classes.load("ade20k").labels) == 100


def converted(root: Path, out: Path, chosen: Format, workers: int = 1) -> dict[str, bytes]:
    """Convert a set with all of its pictures, and return the bytes of each file."""
    # KITTI has no split val. ADE20K full needs a table.
    splits = config.Splits.fraction if chosen is Format.kitti else config.Splits.folders
    rows = [f'"{name}",{short},,1' for short, name in sets.FULL_NAMES.items()]
    tables = out.parent / "tables"
    tables.mkdir(exist_ok=True)
    (tables / "mine.csv").write_text("\n".join(["source,target,crowd,isthing", *rows]), encoding="utf-8")
    source = config.Source(format=chosen, taxonomy="mine" if chosen is Format.ade20k_full else "")
    # By this seed two pictures are for training.
    cfg = config.Data(sources={"a": source}, splits=splits, val_fraction=0.5, split_seed=25, workers=workers)
    convert.build(root, out, out.parent / "data.json", tables, cfg)
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("chosen", sets.WRITERS)
def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path, chosen: Format) -> None:
    root = sets.WRITERS[chosen](tmp_path / "set", None)
    found = [converted(root, tmp_path / "coco", chosen, workers) for workers in (1, 2)]
    assert found[0] == found[1]


def damage(path: Path) -> tuple[bytes, int]:
    """Overwrite the end of a picture, as a bad sector does: size and times stay. Returns what `mend` needs."""
    content, time_ns = path.read_bytes(), path.stat().st_mtime_ns
    path.write_bytes(content[:-16] + bytes(16))
    os.utime(path, ns=(time_ns, time_ns))
    return content, time_ns


def mend(path: Path, before: tuple[bytes, int]) -> None:
    path.write_bytes(before[0])
    os.utime(path, ns=(before[1], before[1]))


@pytest.mark.parametrize("chosen", sets.WRITERS)
def test_an_interrupted_run_of_every_format_goes_on(tmp_path: Path, chosen: Format) -> None:
    """The second picture stops the run. Then only it is converted: the first, damaged since, is not looked at again."""
    root = sets.WRITERS[chosen](tmp_path / "set", None)
    whole = converted(root, tmp_path / "coco", chosen)
    (tmp_path / "coco").rename(tmp_path / "kept")
    images = json.loads(whole["train/panoptic.json"])["images"]
    first, second = (tmp_path / "kept/train" / image["file_name"] for image in images[:2])
    before = damage(second)
    with pytest.raises(ValueError, match=rf"{re.escape(second.name)}: "):
        converted(root, tmp_path / "coco", chosen)
    mend(second, before)
    damage(first)
    assert converted(root, tmp_path / "coco", chosen) == whole


@pytest.mark.parametrize("chosen", sets.WRITERS)
def test_a_set_holds_nothing_that_grows_with_its_pictures(tmp_path: Path, chosen: Format) -> None:
    """Each task for a worker, and the set that each worker gets, stay small: no JSON, no raster."""
    root = sets.WRITERS[chosen](tmp_path / "set", None)
    raw = formats.find(config.Source(format=chosen), root, "data.sources.a")
    scenes = list(raw.scenes("train"))
    [raw.raster(scene) for scene in scenes if isinstance(scene, Scene)]
    # The labels of Vistas' config take most of it.
    assert len(pickle.dumps(raw)) < 30_000
    assert max(len(pickle.dumps(scene)) for scene in scenes) < 1500


def test_an_interrupted_run_goes_on_only_with_the_same_annotations(tmp_path: Path) -> None:
    """The journal knows every file that a picture depends on, the JSON too."""
    root = sets.coco_panoptic(tmp_path / "set")
    broken = root / "annotations/panoptic_train2017/000000000001.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    with pytest.raises(ValueError, match="not a PNG"):
        build(root, tmp_path / "coco")
    broken.write_bytes(whole)
    change_json(
        root / "annotations/panoptic_train2017.json",
        lambda c: c["annotations"][0]["segments_info"][0].update(category_id=149),
    )
    out = build(root, tmp_path / "coco")
    written = panoptic.read(out / "train")
    names = {c["id"]: c["name"] for c in written.categories}
    assert "sky-other-merged" not in [names[s["category_id"]] for s in written.entries[0].segments]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["annotations"][0].update(image_id=None), "image id None, expected a whole number"),
        (lambda c: c["annotations"].append({"image_id": "a"}), r"annotations of images \['a'\], which"),
        (lambda c: c["images"][0].update(id=1.5), "image id 1.5, expected a whole number"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id=float("inf")), "OverflowError"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id=1.5), "ValueError: id 1.5"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(iscrowd="no"), "iscrowd 'no'"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(category_id=True), "category True, which"),
        (lambda c: c["annotations"][0]["segments_info"].append(1), "TypeError"),
        *((lambda c, name=name: c["images"][0].update(file_name=name), "expected a bare name")
          for name in ("", "..", "a\0.jpg", "a\nb.jpg", "\ud800.jpg")),
    ],
)  # fmt: skip
def test_a_panoptic_json_with_values_of_other_kinds(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    root = sets.coco_panoptic(tmp_path / "set")
    change_json(root / "annotations/panoptic_val2017.json", change)
    with pytest.raises(ValueError, match=rf"panoptic_val2017\.json: .*{words}") as caught:
        build(root, tmp_path / "coco")
    assert len(str(caught.value).splitlines()) == 1


def test_an_annotation_nested_too_deeply_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" * 200_000)
    with pytest.raises(ValueError, match=r"a\.json: an annotation can't be read"):
        json_index.entries(path, [0, 200_000])


def test_an_error_early_in_a_json_ends_the_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that the whole file would be held in memory, and parsed again with each block."""
    monkeypatch.setattr(json_index, "_BLOCK", 100)
    path = tmp_path / "a.json"
    path.write_text('{"images": [{"id": 1 oh no}' + " " * 10_000 + "]}")
    with path.open("rb") as file:
        stream = json_index._Stream(file)
        with pytest.raises(json.JSONDecodeError):
            list(json_index._entries(stream))
        assert file.tell() <= 200


@pytest.mark.parametrize("number", ["1.5", "-1e5", "12345", "-0.25E-3"])
def test_a_number_may_lie_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"version":' + number + ',"more":[1.5,' + number + '],"images":[{"id":1}]}')
    for block in range(1, 30):
        monkeypatch.setattr(json_index, "_BLOCK", block)
        with path.open("rb") as file:
            found = [value for _, value, _, _ in json_index._entries(json_index._Stream(file))]
        assert found == [1.5, float(number), {"id": 1}]
