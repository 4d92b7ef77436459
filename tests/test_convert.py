"""convert on generated scenes, and on small sets of every layout and defect."""

import contextlib
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask
from pycocotools.coco import COCO

from stages import config, convert
from stages.coco import panoptic
from stages.conversion import journal, picture, records, taxonomy
from stages.foundation import files, picture_files
from stages.vistas import check, labels, reader
from tests.conftest import REPO, TABLES
from tests.support import zoo

CLASSES = [
    {"name": "car", "readable": "Car", "instances": True, "evaluate": True, "color": [0, 0, 142]},
    {"name": "cars", "readable": "Cars", "instances": False, "evaluate": False, "color": [1, 0, 142]},
    {"name": "road", "readable": "Road", "instances": False, "evaluate": True, "color": [128, 64, 128]},
    {"name": "lane", "readable": "Lane", "instances": False, "evaluate": True, "color": [128, 64, 129]},
    {"name": "void", "readable": "Void", "instances": False, "evaluate": False, "color": [0, 0, 0]},
]
CAR, CARS, ROAD, LANE, VOID = (256 * i for i in range(5))


def build(root: Path, out: Path, cfg: config.Data, tables: Path = TABLES) -> None:
    convert.build(root, out, out.parent / "data.json", tables, cfg)


@pytest.fixture(scope="module")
def coco(vistas_set: Path, data_config: config.Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "coco"
    build(vistas_set, out, data_config)
    return out


def targets_of(data_config: config.Data) -> tuple[taxonomy.LabelMapping, ...]:
    rows = taxonomy.read(TABLES / f"{data_config.sources['vistas'].taxonomy}.csv", labels.LABELS)
    return taxonomy.build({"vistas": (labels.LABELS, rows)})[1]["vistas"]


def rasters(root: Path, split: str) -> list[Any]:
    found = reader.find(config.Source(version="v2.0"), root, "data.sources.vistas")
    return [reader.instances(s.instances, 124) for s in reader.scenes(found, split) if isinstance(s, reader.Scene)]


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_segment_is_exact(coco: Path, vistas_set: Path, split: str) -> None:
    written = panoptic.read(coco / split)
    instance_set = json.loads((coco / split / "instances.json").read_text())
    seen = set()
    for entry, raster in zip(written.entries, rasters(vistas_set, split), strict=True):
        assert entry.image.exists()
        ids = panoptic.read_ids(entry.png)
        assert set(np.unique(ids)) - {0} == {s["id"] for s in entry.segments}
        for segment in entry.segments:
            here = raster == segment["id"] - 1
            assert np.array_equal(ids == segment["id"], here)
            assert segment["area"] == here.sum()
            rows, columns = np.flatnonzero(here.any(1)), np.flatnonzero(here.any(0))
            x, y, w, h = segment["bbox"]
            assert (x, y, x + w - 1, y + h - 1) == (columns[0], rows[0], columns[-1], rows[-1])
        things = [s for s in entry.segments if s["category_id"] <= written.num_things]
        instances = [a for a in instance_set["annotations"] if a["image_id"] == entry.image_id]
        assert len(instances) == len(things)
        for thing, instance in zip(things, instances, strict=True):
            assert np.array_equal(mask.decode(instance["segmentation"]), ids == thing["id"])
            keys = ("category_id", "iscrowd", "area", "bbox")
            assert [instance[k] for k in keys] == [thing[k] for k in keys]
            seen.add(instance["iscrowd"])
    assert [a["id"] for a in instance_set["annotations"]] == list(range(1, len(instance_set["annotations"]) + 1))
    assert 0 in seen


def test_semantic_masks(coco: Path, vistas_set: Path, data_config: config.Data) -> None:
    targets = targets_of(data_config)
    records = [json.loads(line) for line in (coco / "train/semantic.jsonl").read_text().splitlines()]
    for record, raster in zip(records, rasters(vistas_set, "train"), strict=True):
        assert (coco / "train" / record["img"]).resolve().exists()
        classes = cv2.imread(str(coco / "train" / record["segm"]), cv2.IMREAD_UNCHANGED)
        assert classes.dtype == np.uint8
        for label in np.unique(raster >> 8):
            target = targets[label]
            expected = 0 if target.iscrowd else target.category_id
            assert set(np.unique(classes[raster >> 8 == label])) == {expected}


def test_pycocotools_reads_it(coco: Path) -> None:
    loaded = COCO(str(coco / "train/instances.json"))
    assert len(loaded.getImgIds()) == 2
    assert len(loaded.getCatIds()) == 116
    assert all(loaded.annToMask(a).sum() == a["area"] for a in loaded.dataset["annotations"])


def test_panopticapi_would_read_it(coco: Path) -> None:
    """Its evaluation's rules: ids of the PNG and of the JSON are the same, and categories are known."""
    content = files.read_json(coco / "train/panoptic.json")
    known = {c["id"] for c in content["categories"]}
    by_image = {a["image_id"]: a for a in content["annotations"]}
    assert {type(i["id"]) for i in content["images"]} == {int}
    for image in content["images"]:
        annotation = by_image[image["id"]]
        rgb = np.array(Image.open(coco / "train/panoptic" / annotation["file_name"]), np.uint32)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        assert set(np.unique(ids)) - {0} == {s["id"] for s in annotation["segments_info"]}
        assert {s["category_id"] for s in annotation["segments_info"]} <= known


def test_statistics_count_what_is_there(coco: Path) -> None:
    found = files.read_json(coco / "statistics.json")
    written = panoptic.read(coco / "train")
    segments = [s for entry in written.entries for s in entry.segments]
    assert found["train"]["segments"] == len(segments)
    assert found["train"]["images_by_source"] == {"vistas": 2}
    for row, category in zip(found["train"]["by_class"], written.categories, strict=True):
        of_class = [s for s in segments if s["category_id"] == category["id"]]
        assert (row["class"], row["segments"]) == (category["name"], len(of_class))
        assert row["pixels"] == sum(s["area"] for s in of_class)
    assert sum(found["train"]["instances_by_size"].values()) == found["train"]["instances"]
    areas = [a["area"] for a in files.read_json(coco / "train/instances.json")["annotations"]]
    sides = Counter(2 ** math.floor(math.log2(area) / 2) for area in areas)
    assert found["train"]["instances_by_side_px"] == {str(side): sides[side] for side in sorted(sides)}
    assert found["sources"]["vistas"]["version"] == "v2.0"


@pytest.mark.parametrize("max_edge_px", [0, 64])
def test_statistics_count_what_each_source_labels(tmp_path: Path, max_edge_px: int) -> None:
    whole = "source,target\ncar,car\ncars,void\nroad,road\nlane,lane\nvoid,void\n"
    united = "source,target,union\ncar,car\ncars,void\nroad,void,road; lane\nlane,void,road; lane\nvoid,void\n"
    for name, content_ in (("a", whole), ("b", united)):
        write_set(tmp_path / "sets" / name, training=2, validation=1)
        (tmp_path / f"{name}.csv").write_text(content_)
    for path in (tmp_path / "sets").glob("*/training/*/*"):
        write_png(path, cv2.imread(str(path), cv2.IMREAD_UNCHANGED).repeat(2, 0).repeat(2, 1))
    repeats = {"a": 1.0, "b": 2.5}
    sources = {name: config.Source(root=name, taxonomy=name, repeat=repeats[name]) for name in ("a", "b")}
    cfg = config.Data(sources=sources, max_edge_px=max_edge_px)
    build(tmp_path / "sets", tmp_path / "coco", cfg, tmp_path)
    found = files.read_json(tmp_path / "coco/statistics.json")
    assert found["sources"]["b"]["classes_never_labelled"] == ["road", "lane"]
    assert found["sources"]["a"]["classes_never_labelled"] == []
    for split in ("train", "val"):
        a, b = ({"repeat": 1.0}, {"repeat": 2.5}) if split == "train" else ({}, {})
        assert files.read_json(tmp_path / "coco" / split / "sources.json") == {
            "a": {"format": "vistas", "category_ids_everywhere": [1, 2, 3], "category_ids_partly": [], **a},
            "b": {"format": "vistas", "category_ids_everywhere": [1], "category_ids_partly": [], **b},
        }
    for name in ("a", "b"):
        counts = found["train"]["by_source"][name]
        maps = [
            cv2.imread(str(tmp_path / "coco/train/semantic" / f"{i['source']}_{i['key']}.png"), cv2.IMREAD_UNCHANGED)
            for i in images(tmp_path / "coco")
            if i["source"] == name
        ]
        assert (counts["images"], counts["pixels"]) == (2, sum(m.size for m in maps))
        assert counts["void_pixels"] == sum((m == 0).sum() for m in maps)
        pixels = {c: sum(int((m == i).sum()) for m in maps) for i, c in enumerate(("car", "road", "lane"), start=1)}
        assert counts["pixels_by_class"] == pixels
    by_source = found["train"]["by_source"]
    roads = [by_source["a"]["pixels_by_class"][c] for c in ("road", "lane")]
    assert by_source["b"]["void_pixels_of_unions"] == sum(roads) > 0
    assert by_source["a"]["void_pixels_of_unions"] == 0


def test_own_panoptic_pngs_are_used_where_they_say_the_same(coco: Path, vistas_set: Path) -> None:
    for entry in panoptic.read(coco / "val").entries:
        original = vistas_set / "validation/v2.0/panoptic" / entry.png.name
        assert entry.png.read_bytes() == original.read_bytes()


# Small sets.


def raster(seed: int = 0, height: int = 40, width: int = 60) -> Any:
    """Road, a lane, three cars, a group of cars and void."""
    rng = np.random.default_rng(seed)
    result = np.full((height, width), ROAD, np.uint16)
    result[:, 10:14], result[:5] = LANE, VOID
    for instance in range(3):
        y, x = int(rng.integers(5, height - 8)), int(rng.integers(0, width - 12))
        result[y : y + 6, x : x + 9] = CAR + instance
    result[-2:, -10:] = CARS
    return result


def write_png(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def write_set(root: Path, version: str = "flat", training: int = 3, validation: int = 2, folders: bool = True) -> Path:
    """A set in a layout; without `folders` all pictures are at its root."""
    (root).mkdir(parents=True, exist_ok=True)
    name = "config.json" if version == "flat" else f"config_{version}.json"
    (root / name).write_text(json.dumps({"labels": CLASSES}))
    for split, count, start in (("training", training, 0), ("validation", validation, 100)):
        folder = root / split if folders else root
        for number in range(start, start + count):
            pixels = raster(number)
            write_png(folder / "images" / f"p{number:03}.jpg", np.zeros((*pixels.shape, 3), np.uint8))
            write_png(folder / ("" if version == "flat" else version) / "instances" / f"p{number:03}.png", pixels)
    return root


def assert_exact(out: Path, split: str = "train") -> None:
    """Panoptic PNG, segments_info, instance masks and semantic PNG say the same, pixel by pixel."""
    written = panoptic.read(out / split)
    instances = files.read_json(out / split / "instances.json")["annotations"]
    for entry in written.entries:
        ids = panoptic.read_ids(entry.png)
        classes = cv2.imread(str(out / split / "semantic" / entry.png.name), cv2.IMREAD_UNCHANGED)
        assert set(np.unique(ids)) - {0} == {s["id"] for s in entry.segments}
        expected = np.zeros_like(classes)
        for segment in entry.segments:
            if not segment["iscrowd"]:
                expected[ids == segment["id"]] = segment["category_id"]
        assert np.array_equal(classes, expected)
        things = [s for s in entry.segments if s["category_id"] <= written.num_things]
        masks = [a for a in instances if a["image_id"] == entry.image_id]
        for segment, instance in zip(things, masks, strict=True):
            here = ids == segment["id"]
            assert np.array_equal(mask.decode(instance["segmentation"]), here)
            assert [instance[k] for k in ("category_id", "iscrowd")] == [segment[k] for k in ("category_id", "iscrowd")]
        for segment in entry.segments:
            here = (ids == segment["id"]).astype(np.uint8)
            assert (segment["area"], segment["bbox"]) == (here.sum(), list(cv2.boundingRect(here)))


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def images(out: Path, split: str = "train") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = files.read_json(out / split / "panoptic.json")["images"]
    return found


@pytest.mark.parametrize("version", ["flat", "v1.2", "v2.0"])
def test_layouts_are_found(tmp_path: Path, version: str) -> None:
    build(write_set(tmp_path / "set", version), tmp_path / "coco", config.Data())
    assert [len(images(tmp_path / "coco", split)) for split in ("train", "val")] == [3, 2]
    assert files.read_json(tmp_path / "coco/statistics.json")["sources"]["vistas"]["version"] == version


def test_of_two_versions_one_must_be_chosen(tmp_path: Path) -> None:
    root = write_set(write_set(tmp_path / "set", "v1.2"), "v2.0")
    with pytest.raises(ValueError, match=r"found v1\.2, v2\.0, expected one version;.*data\.sources\.vistas\.version"):
        build(root, tmp_path / "coco", config.Data())
    build(root, tmp_path / "coco", config.Data(sources={"a": config.Source(version="v1.2")}))
    assert not (tmp_path / ".coco.draft").exists()


def test_a_config_of_ones_own(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    (root / "config.json").rename(root / "mine.json")
    with pytest.raises(FileNotFoundError, match=r"config\.json not found \(found: \['mine\.json'\]\)"):
        build(root, tmp_path / "coco", config.Data())
    build(root, tmp_path / "coco", config.Data(sources={"a": config.Source(config="mine.json")}))


def test_splits_by_file(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", training=3, validation=0, folders=False)
    listed = tmp_path / "mine.csv"
    cfg = config.Data(splits=config.Splits.file, split_file="mine")
    listed.write_text("p000,val\np001,train\np002,\n")
    build(root, tmp_path / "coco", cfg, tmp_path)
    assert [i["key"] for i in images(tmp_path / "coco")] == ["p001"]
    assert [i["key"] for i in images(tmp_path / "coco", "val")] == ["p000"]
    good = listed.read_text()
    for text, words in (
        ("p000,test\n", r"mine\.csv:1: found \['p000', 'test'\], expected"),
        (good + "p001,val\n", r"mine\.csv:4: found"),
        (good + "p009,val\n", "1 lines name no picture, such as 'p009'"),
        (good + "../x,val\n", r"mine\.csv:4: '\.\./x' is a path"),
        ("p000,val\np001,train\n", "no line for 'p002'; add one"),
        ("p000,train\np001,train\np002,\n", "val: none of 0 pictures can be used.*data.splits"),
    ):
        listed.write_text(text)
        with pytest.raises(ValueError, match=words):
            build(root, tmp_path / "coco", cfg, tmp_path)


def test_splits_by_fraction(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", training=20, folders=False)
    cfg = config.Data(splits=config.Splits.fraction, val_fraction=0.4, split_seed=1)
    build(root, tmp_path / "parts", cfg)
    val = {i["key"] for i in images(tmp_path / "parts", "val")}
    assert 3 < len(val) < 15
    assert val.isdisjoint(i["key"] for i in images(tmp_path / "parts"))
    # A picture stays in its split when others come.
    write_set(root, training=30, folders=False)
    build(root, tmp_path / "parts", cfg)
    assert val <= {i["key"] for i in images(tmp_path / "parts", "val")}


def test_several_sources_become_one_set(tmp_path: Path) -> None:
    write_set(tmp_path / "sets/a", "v2.0")
    write_set(tmp_path / "sets/b", "flat")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/roads.csv").write_text(
        "source,target,crowd\ncar,car,\ncars,car,crowd\nroad,road,\nlane,road,\nvoid,void,\n"
    )
    sources = {"north": config.Source("a", taxonomy="roads"), "south": config.Source("b")}
    build(tmp_path / "sets", tmp_path / "coco", config.Data(sources=sources), tmp_path / "tables")
    found = images(tmp_path / "coco")
    assert [(i["id"], i["source"], i["key"]) for i in found] == [
        *((n + 1, "north", f"p{n:03}") for n in range(3)),
        *((n + 4, "south", f"p{n:03}") for n in range(3)),
    ]
    written = panoptic.read(tmp_path / "coco/train")
    assert [c["name"] for c in written.categories] == ["car", "road", "lane"]
    assert all(entry.image.exists() for entry in written.entries)
    assert len({entry.png for entry in written.entries}) == 6
    north, south = written.entries[0], written.entries[3]
    ids = panoptic.read_ids(north.png)
    # Road and lane are one segment of stuff; the group is a crowd.
    (road,) = [s for s in north.segments if s["category_id"] == 2]
    assert np.array_equal(ids == road["id"], np.isin(raster(0), [ROAD, LANE]))
    assert [s["area"] for s in north.segments if s["iscrowd"]] == [20]
    assert sorted(s["category_id"] for s in south.segments if s["category_id"] > 1) == [2, 3]
    annotations = files.read_json(tmp_path / "coco/train/instances.json")["annotations"]
    assert [a["id"] for a in annotations] == list(range(1, len(annotations) + 1))
    assert_exact(tmp_path / "coco")


def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", training=34)
    for workers in (1, 2):
        build(root, tmp_path / f"coco{workers}", config.Data(workers=workers))
    assert content(tmp_path / "coco1") == content(tmp_path / "coco2")


def test_unicode_and_spaces_in_paths(tmp_path: Path) -> None:
    root = write_set(tmp_path / "große Straßen")
    for path in [*root.rglob("p000.*")]:
        path.rename(path.with_stem("пешеход 1"))
    build(root, tmp_path / "coco", config.Data())
    entry = panoptic.read(tmp_path / "coco/train").entries[-1]
    assert entry.image.exists()
    assert entry.png.name == "пешеход 1.png"
    assert COCO(str(tmp_path / "coco/train/instances.json")).imgs[3]["key"] == "пешеход 1"


def test_scaled_down(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    big = raster(0, 200, 300)
    write_png(root / "training/instances/p000.png", big)
    pixels = np.arange(200 * 300 * 3, dtype=np.uint32).reshape(200, 300, 3).astype(np.uint8)
    write_png(root / "training/images/p000.jpg", pixels)
    build(root, tmp_path / "coco", config.Data(max_edge_px=100))
    first, second, _ = panoptic.read(tmp_path / "coco/train").entries
    assert first.image == tmp_path / "coco/train/images/p000.jpg"
    assert cv2.imread(str(first.image)).shape == (67, 100, 3)
    assert second.image.resolve() == root / "training/images/p001.jpg"
    ids = panoptic.read_ids(first.png)
    expected = cv2.resize(big, (100, 67), interpolation=cv2.INTER_NEAREST_EXACT)
    for segment in first.segments:
        assert np.array_equal(ids == segment["id"], expected == segment["id"] - 1)
        assert segment["area"] == (ids == segment["id"]).sum()
    assert_exact(tmp_path / "coco")


@pytest.mark.parametrize("policy", list(config.SmallSegments))
def test_small_segments(tmp_path: Path, policy: config.SmallSegments) -> None:
    root = write_set(tmp_path / "set")
    pixels = raster(0)
    pixels[20, 20:23] = CAR + 9
    write_png(root / "training/instances/p000.png", pixels)
    build(root, tmp_path / "coco", config.Data(min_segment_px=4, small_segments=policy))
    entry = panoptic.read(tmp_path / "coco/train").entries[0]
    small = [s for s in entry.segments if s["area"] == 3]
    assert [s["iscrowd"] for s in small] == {"keep": [0], "crowd": [1], "void": []}[policy.value]
    ids, classes = panoptic.read_ids(entry.png), cv2.imread(str(tmp_path / "coco/train/semantic/p000.png"), -1)
    assert bool(ids[20, 20]) is (policy is not config.SmallSegments.void)
    # As of all crowds, it is not told what each pixel is.
    assert bool(classes[20, 20]) is (policy is config.SmallSegments.keep)
    counted = files.read_json(tmp_path / "coco/statistics.json")["train"]
    assert counted["segments_below_min_segment_px"] == 1
    assert_exact(tmp_path / "coco")


def test_a_turned_picture_is_written_as_its_mask_lies(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    for name, size in (("p000", (60, 40)), ("p001", (40, 60))):
        shown = Image.new("RGB", size)
        shown.paste((255, 0, 0), (0, 0, 10, 10))
        exif = shown.getexif()
        exif[0x0112] = 6  # to be turned by 90 degrees to the right
        shown.save(root / f"training/images/{name}.jpg", exif=exif, quality=95)
    build(root, tmp_path / "coco", config.Data())
    stored, turned, _ = panoptic.read(tmp_path / "coco/train").entries
    for entry, corner in ((stored, (2, 2)), (turned, (2, 57))):
        found = cv2.imread(str(entry.image))
        assert found.shape == (40, 60, 3)
        assert found[corner].tolist()[2] > 200
        with Image.open(entry.image) as written:
            assert 0x0112 not in written.getexif()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(tmp_path: Path, orientation: int) -> None:
    """A picture whose mask was drawn as it is shown, and one whose mask lies as it is stored."""
    root = write_set(tmp_path / "set")
    shown = (
        np.random.default_rng(1).integers(0, 2, (5, 8, 1)).repeat(8, 0).repeat(8, 1).repeat(3, 2).astype(np.uint8) * 255
    )
    turns = {5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE}
    turns[8] = Image.Transpose.ROTATE_270
    stored = Image.fromarray(shown)
    stored = stored.transpose(turns[orientation]) if orientation in turns else stored
    exif = stored.getexif()
    exif[0x0112] = orientation
    stored.save(root / "training/images/p000.jpg", exif=exif, quality=100, subsampling=0)
    write_png(root / "training/instances/p000.png", raster(0, 40, 64))
    build(root, tmp_path / "coco", config.Data())
    entry = panoptic.read(tmp_path / "coco/train").entries[0]
    found = cv2.imread(str(entry.image), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)[..., ::-1]
    assert found.shape == shown.shape
    assert np.abs(found.astype(int) - shown).mean() < 8
    counted = files.read_json(tmp_path / "coco/statistics.json")["train"]
    assert counted["images_with_exif_orientation"] == int(orientation != 1)


def test_a_camera_may_write_more_behind_its_picture(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    with (root / PICTURE).open("ab") as file:
        file.write(bytes(6000))
    build(root, tmp_path / "coco", config.Data())
    assert len(images(tmp_path / "coco")) == 3


def test_a_broken_panoptic_png_of_the_set_is_written_anew(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    (root / "training/panoptic").mkdir()
    for name, found in (("p000", b""), ("p001", b"no PNG"), ("p002", (root / MASK).read_bytes())):
        (root / f"training/panoptic/{name}.png").write_bytes(found)
    build(root, tmp_path / "coco", config.Data())
    for number, entry in enumerate(panoptic.read(tmp_path / "coco/train").entries):
        ids = panoptic.read_ids(entry.png)
        assert np.array_equal(ids > 0, ~np.isin(raster(number), [CARS, VOID]))


def test_a_linked_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "far/away/data").mkdir(parents=True)
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo/data").symlink_to(tmp_path / "far/away/data")
    monkeypatch.chdir(tmp_path / "repo")
    write_set(Path("data/raw/set"))
    build(Path("data/raw/set"), Path("data/coco"), config.Data())
    assert all(entry.image.exists() for entry in panoptic.read(Path("data/coco/train")).entries)


def test_a_picture_without_classes_is_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_set(tmp_path / "set")
    write_png(root / "training/instances/p001.png", np.full((40, 60), VOID, np.uint16))
    build(root, tmp_path / "coco", config.Data())
    assert [i["key"] for i in images(tmp_path / "coco")] == ["p000", "p002"]
    assert "p001.png: no segment of any class" in caplog.text
    assert len(files.read_json(tmp_path / "coco/statistics.json")["train"]["empty_images"]) == 1


def spoil(path: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        pixels = cv2.imread(str(root / path), cv2.IMREAD_UNCHANGED)
        assert cv2.imwrite(str(root / path), change(pixels))

    return act


def truncate(path: str, size: int) -> Callable[[Path], None]:
    return lambda root: os.truncate(root / path, size + (size < 0) * (root / path).stat().st_size)


NAMES = [
    "10:30", "a\nb", "quote\" and '", "-rf", "blank ", "with.dot", "\N{POUTING CAT FACE}", "x" * 251, "$(touch x)",
]  # fmt: skip


def test_names_that_people_have(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", training=len(NAMES))
    for number, name in enumerate(NAMES):
        rename(root, f"p{number:03}", name)
    # Written anew, so that its name is written too.
    (root / "training/images/a\nb.jpg").write_bytes(zoo.PICTURES["JPEG CMYK"])
    build(root, tmp_path / "coco", config.Data())
    assert sorted(i["key"] for i in images(tmp_path / "coco")) == sorted(NAMES)
    for entry in panoptic.read(tmp_path / "coco/train").entries:
        assert picture_files.read_rgb(entry.image).shape == (40, 60, 3)
    assert_exact(tmp_path / "coco")


def test_a_name_that_is_no_text_is_left_out_by_the_command(tmp_path: Path) -> None:
    """OpenCV 5.0 ends the process by a signal on it, and JSON can't hold it."""
    root = write_set(tmp_path / "set")
    # Turned, so that it would be written anew.
    (root / PICTURE).write_bytes(zoo.turned("JPEG", 3))
    rename(root, "p001", os.fsdecode(b"p001 caf\xe9"))
    (report,) = check.check(root)
    (problem,) = report.problems
    assert problem.isprintable()
    assert "p001 caf\\xe9.jpg: the name is not UTF-8" in problem
    skip = {"on_error": config.OnError.skip, "max_skipped": 1, "val_fraction": 0.5}
    for splits in (config.Splits.folders, config.Splits.fraction):
        process = start(command(root, tmp_path / "coco", splits=splits, **skip), tmp_path)
        _, messages = process.communicate(timeout=60)
        assert process.returncode == 0, messages
        assert "p001 caf\\xe9.jpg: the name is not UTF-8" in messages
    for path in (tmp_path / "coco").rglob("*.json*"):
        assert "\\udc" not in path.read_text()
        assert path.read_text().isascii()


def test_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(b"caf\xe9")
    place.mkdir()
    write_set(tmp_path / "plain").rename(place / "set")
    (tmp_path / "set").symlink_to(place / "set")
    with pytest.raises(ValueError, match=r"caf\\xe9/set/training/images/p000\.jpg: a folder's name is not UTF-8"):
        build(tmp_path / "set", tmp_path / "coco", config.Data())


def test_hidden_files_are_no_pictures(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", "v2.0")
    for folder in ("training/images", "training/v2.0/instances", "training/v2.0/panoptic", "validation/images"):
        (root / folder).mkdir(exist_ok=True)
        for name in ("._p000.jpg", "._p000.png", ".DS_Store", "Thumbs.db", "desktop.ini", "._panoptic.json"):
            (root / folder / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
        (root / folder / "@eaDir/p000.jpg").mkdir(parents=True)
    (report,) = check.check(root)
    assert report.problems == []
    build(root, tmp_path / "coco", config.Data())
    assert [len(images(tmp_path / "coco", split)) for split in ("train", "val")] == [3, 2]


def test_decomposed_names_of_macos(tmp_path: Path) -> None:
    """A picture, its mask, its panoptic PNG and its line in a list, each in one of two normal forms."""
    root = write_set(tmp_path / "set", training=3, validation=0, folders=False)
    composed, decomposed = "Stra\u00dfe \u00fc", "Stra\u00dfe u\u0308"
    (root / "images/p000.jpg").rename(root / f"images/{decomposed}.jpg")
    (root / "instances/p000.png").rename(root / f"instances/{composed}.png")
    rename(root, "p001", f"{decomposed} 1")
    (tmp_path / "mine.csv").write_text(f"{decomposed},train\n{composed} 1,train\np002,val\n")
    cfg = config.Data(splits=config.Splits.file, split_file="mine")
    build(root, tmp_path / "coco", cfg, tmp_path)
    assert [i["key"] for i in images(tmp_path / "coco")] == [composed, f"{composed} 1"]
    assert all(entry.image.exists() and entry.png.exists() for entry in panoptic.read(tmp_path / "coco/train").entries)
    assert_exact(tmp_path / "coco")
    (tmp_path / "mine.csv").write_text(f"{decomposed},train\n{composed},train\n{composed} 1,train\np002,val\n")
    with pytest.raises(ValueError, match=r"mine\.csv:2: found"):
        build(root, tmp_path / "coco", cfg, tmp_path)


@pytest.mark.parametrize("interlaced", [False, True])
def test_other_chunks_of_a_mask_change_nothing(tmp_path: Path, interlaced: bool) -> None:
    root = write_set(tmp_path / "set")
    plain = tmp_path / "plain"
    build(root, plain, config.Data())
    more = {
        "p000": zoo.chunk(b"tRNS", ROAD, code="H"),
        "p001": zoo.chunk(b"gAMA", 30000, code="I") + zoo.chunk(b"sBIT", 10) + zoo.chunk(b"bKGD", 7, code="H"),
        "p002": zoo.chunk(b"eXIf", *b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")
        + zoo.chunk(b"tEXt", *b"Comment\0mask")
        + zoo.chunk(b"pHYs", 1, 1, code="I"),
    }
    for number, (name, chunks) in enumerate(more.items()):
        path = root / f"training/instances/{name}.png"
        path.write_bytes(zoo.write_png(raster(number), 0, 16, chunks, interlaced))
    build(root, tmp_path / "coco", config.Data())
    assert content(tmp_path / "coco") == content(plain)


def test_a_panoptic_png_of_the_set_with_other_chunks_or_cut(tmp_path: Path) -> None:
    """Only its critical chunks are written, and a truncated one is written anew."""
    root = write_set(tmp_path / "set")
    (root / "training/panoptic").mkdir()
    for number in range(3):
        values, places = np.unique(raster(number), return_inverse=True)
        ids = np.where(np.isin(values, [CARS, VOID]), 0, np.arange(len(values)) + 1000)[places]
        rgb = np.dstack([ids.reshape(40, 60) >> shift & 255 for shift in (0, 8, 16)]).astype(np.uint8)
        with_alpha = zoo.write_png(rgb, 2, 8, zoo.chunk(b"tRNS", *rgb[0, 0].tolist(), code="H"))
        (root / f"training/panoptic/p{number:03}.png").write_bytes(with_alpha[: -5 if number == 1 else None])
    build(root, tmp_path / "coco", config.Data())
    for number, entry in enumerate(panoptic.read(tmp_path / "coco/train").entries):
        assert b"tRNS" not in entry.png.read_bytes()
        assert (min(s["id"] for s in entry.segments) >= 1000) is (number != 1)
    assert_exact(tmp_path / "coco")


def test_a_picture_that_tao_reads_otherwise_is_written_without_loss(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    (root / PICTURE).write_bytes(zoo.PICTURES["JPEG CMYK"])
    (root / "training/images/p002.jpg").write_bytes(zoo.PICTURES["PNG grey 16"])
    build(root, tmp_path / "coco", config.Data())
    _, *entries = panoptic.read(tmp_path / "coco/train").entries
    for entry, original in zip(entries, (PICTURE, "training/images/p002.jpg"), strict=True):
        assert entry.image.parent == tmp_path / "coco/train/images"
        assert np.array_equal(np.asarray(Image.open(entry.image)), picture_files.read_rgb(root / original))
    assert files.read_json(tmp_path / "coco/statistics.json")["train"]["images_written_anew"] == 2


def palette(root: Path) -> None:
    indexed = Image.fromarray((raster(1) >> 8).astype(np.uint8), mode="L").convert("P")
    indexed.save(root / "training/instances/p001.png")


def link_out(root: Path) -> None:
    path = root / "training/images/p001.jpg"
    path.rename(root.parent / "elsewhere.jpg")
    path.symlink_to(root.parent / "elsewhere.jpg")


MASK, PICTURE = "training/instances/p001.png", "training/images/p001.jpg"


def rename(root: Path, key: str, name: str) -> None:
    for path in [*root.rglob(f"{key}.*")]:
        path.rename(path.with_name(name + path.suffix))


PHONE = zoo.PICTURES["JPEG MPO"]
DEFECTS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "no mask": (lambda root: (root / MASK).unlink(), [PICTURE, "no mask at", MASK, "restore"]),
    "no picture": (lambda root: (root / PICTURE).unlink(), [MASK, "no picture of that name", "restore"]),
    "another size": (spoil(MASK, lambda r: r[:30]), [PICTURE, "60x40, but its mask is 60x30", "restore"]),
    "truncated mask": (truncate(MASK, 90), [MASK, "a broken PNG", "restore"]),
    "truncated picture": (truncate(PICTURE, -20), [PICTURE, "not a complete picture", "restore"]),
    "mask without its end": (truncate(MASK, -4), [MASK, "a broken PNG (cut short", "restore"]),
    "mask with a wrong checksum": (
        lambda root: (root / MASK).write_bytes((root / MASK).read_bytes()[:-1] + b"x"),
        [MASK, "a broken PNG (wrong checksum", "restore"],
    ),
    "mask of a short stream": (
        lambda root: (root / MASK).write_bytes(zoo.write_png(raster(1), 0, 16, cut=40)),
        [MASK, "a broken PNG", "restore"],
    ),
    "truncated phone picture": (
        lambda root: (root / PICTURE).write_bytes(PHONE[: PHONE.index(b"\xff\xd9\xff\xd8") - 100]),
        [PICTURE, "not a complete picture", "restore"],
    ),
    "picture ended early": (
        lambda root: (root / PICTURE).write_bytes(PHONE[: PHONE.index(b"\xff\xd9\xff\xd8") - 100] + b"\xff\xd9"),
        [PICTURE, "damaged", "restore"],
    ),
    "PNG picture without its end": (
        lambda root: (root / PICTURE).write_bytes(zoo.PICTURES["PNG RGB"][:-8]),
        [PICTURE, "not a complete picture", "restore"],
    ),
    "picture that TAO can't read": (
        lambda root: (root / PICTURE).write_bytes(zoo.UNREADABLE["JPEG 12"]),
        [PICTURE, "a format that Pillow can't read"],
    ),
    "picture that engines can't read": (
        lambda root: (root / PICTURE).write_bytes(zoo.UNREADABLE["TGA"]),
        [PICTURE, "OpenCV can't read it"],
    ),
    "name in Latin-1": (
        lambda root: rename(root, "p001", os.fsdecode(b"p001 caf\xe9\n")),
        ["/training/images/p001 caf\\xe9\\n.jpg", "the name is not UTF-8; rename"],
    ),
    "two normal forms": (
        lambda root: (
            rename(root, "p001", "p001 \u00e9"),
            shutil.copy(root / "training/images/p001 \u00e9.jpg", root / "training/images/p001 e\u0301.jpg"),
        ),
        ["p001", "differ only in Unicode's normal form", "rename or delete one"],
    ),
    "folder": (
        lambda root: ((root / PICTURE).unlink(), (root / PICTURE).mkdir()),
        [PICTURE, "not a file"],
    ),
    "empty mask": (truncate(MASK, 0), [MASK, "0 bytes that are not a PNG", "restore"]),
    "empty picture": (truncate(PICTURE, 0), [PICTURE, "0 bytes that are not a complete picture", "restore"]),
    "text": (lambda root: (root / MASK).write_text("no PNG at all"), [MASK, "not a PNG"]),
    "8-bit": (spoil(MASK, lambda r: (r >> 8).astype(np.uint8)), [MASK, "8-bit grey, expected 16-bit grey"]),
    "RGB": (spoil(MASK, lambda r: np.zeros((*r.shape, 3), np.uint8)), [MASK, "8-bit RGB", "instances, not labels"]),
    "palette": (palette, [MASK, "-bit palette", "instances, not labels"]),
    "label": (spoil(MASK, lambda r: r + 5 * 256), [MASK, "label ", "the config has 5", "version"]),
    "instances": (
        spoil(MASK, lambda r: np.minimum(np.arange(r.size), CAR + 255).reshape(r.shape).astype(np.uint16)),
        [MASK, "256 objects of label 0", "overflowed into"],
    ),
    "two of a key": (lambda root: shutil.copy(root / PICTURE, root / "training/images/p001.png"), ["p001", "same key"]),
    "link": (link_out, [PICTURE, "a link to", "replace it by a copy"]),
    "dangling link": (
        lambda root: (link_out(root), (root.parent / "elsewhere.jpg").unlink()),
        ["p001.jpg", "broken link"],
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_told_in_a_line_and_costs_no_data(name: str, tmp_path: Path) -> None:
    root, out = write_set(tmp_path / "set"), tmp_path / "coco"
    build(root, out, config.Data())
    before = content(out)
    act, words = DEFECTS[name]
    act(root)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        build(root, out, config.Data())
    assert [w for w in words if w not in str(caught.value)] == []
    assert content(out) == before

    skip = {"on_error": config.OnError.skip}
    with pytest.raises(ValueError, match=r"1 pictures can't be converted, expected at most 0 \(data\.max_skipped\)"):
        build(root, out, config.Data(**skip))
    assert content(out) == before
    build(root, out, config.Data(**skip, max_skipped=1))
    assert [i["key"] for i in images(out)] == ["p000", "p002"]
    (skipped,) = files.read_json(out / "statistics.json")["train"]["skipped_images"]
    assert [w for w in words if w not in skipped] == []


def command(root: Path, out: Path, **changes: Any) -> list[str]:
    """The stage's command line, in a folder of its own with these parameters."""
    cfg = config.load(REPO / "params.yaml")
    cfg.data = config.Data(root=str(root), **changes)
    (out.parent / "params.yaml").write_text(json.dumps(config.plain(cfg)))
    paths = ["--root", str(root), "--tables", str(TABLES), "--out", str(out), "--metrics", str(out.parent / "m.json")]
    return [sys.executable, "-m", "stages.convert", *paths]


def start(arguments: list[str], folder: Path, **options: Any) -> "subprocess.Popen[str]":
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    if "preexec_fn" in options:  # A file may have few bytes, and `make coverage` would write its own.
        env.pop("COVERAGE_PROCESS_CONFIG", None)
    return subprocess.Popen(arguments, cwd=folder, env=env, stderr=subprocess.PIPE, text=True, **options)


@pytest.fixture(scope="module")
def slow_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rasters that take a while."""
    root = write_set(tmp_path_factory.mktemp("slow") / "set", training=3, validation=1)
    noise = np.random.default_rng(0).integers(0, 3, (500, 800)).astype(np.uint16) * 256
    for number in range(48):
        write_png(root / f"training/instances/p{number:03}.png", noise)
        write_png(root / f"training/images/p{number:03}.jpg", np.zeros((500, 800, 3), np.uint8))
    return root


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_started_again_it_goes_on_and_ends_with_the_same_bytes(
    slow_set: Path, tmp_path: Path, workers: int
) -> None:
    whole, out = tmp_path / "whole/coco", tmp_path / "killed/coco"
    for path in (whole, out):
        path.parent.mkdir()
    build(slow_set, whole, config.Data())
    out.mkdir()
    (out / "statistics.json").touch()
    process = start(command(slow_set, out, workers=workers), out.parent, start_new_session=True)
    written = out.parent / ".coco.draft/train" / journal.FILE_NAME
    while not written.exists() or written.read_bytes().count(b"\n") < 6:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert [p.name for p in out.iterdir()] == ["statistics.json"]
    done = written.read_bytes().count(b"\n") - 1
    assert 5 <= done < 48
    with written.open("a") as file:
        file.write('{"half": ')
    again = start(command(slow_set, out, workers=workers), out.parent)
    _, messages = again.communicate()
    assert again.returncode == 0
    assert f"train: {done} of 48 pictures were converted by an interrupted run" in messages
    assert content(out) == content(whole)


def test_of_two_at_once_the_second_is_refused(slow_set: Path, tmp_path: Path) -> None:
    """Both wrote to one draft before, and the result was a mixture of the two."""
    whole, out = tmp_path / "whole/coco", tmp_path / "two/coco"
    for path in (whole, out):
        path.parent.mkdir()
    build(slow_set, whole, config.Data())
    first = start(command(slow_set, out), out.parent)
    written = out.parent / ".coco.draft/train" / journal.FILE_NAME
    while not written.exists() or written.read_bytes().count(b"\n") < 2:
        assert first.poll() is None
        time.sleep(0.02)
    second = start(command(slow_set, out, min_segment_px=5), out.parent)
    _, messages = second.communicate()
    assert second.returncode == 1
    assert f"{out} is being written by process {first.pid} (convert) on " in messages.splitlines()[-1]
    first.communicate()
    assert first.returncode == 0
    assert content(out) == content(whole)
    assert sorted(path.name for path in out.parent.iterdir()) == ["coco", "m.json", "params.yaml"]


def test_other_work_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = write_set(tmp_path / "set"), tmp_path / "again"
    build(root, tmp_path / "coco", config.Data())

    def fail(task: picture.Task, settings: picture.Settings) -> records.Record:
        if task.scene.key == "p002":
            raise OSError(28, "No space left on device", "x.png")
        return picture_convert(task, settings)

    picture_convert = picture.convert
    monkeypatch.setattr(picture, "convert", fail)
    with pytest.raises(OSError, match="No space left"):
        build(root, out, config.Data(min_segment_px=60, small_segments=config.SmallSegments.void))
    assert (tmp_path / ".again.draft/train/records.jsonl").read_text().count("\n") == 3
    monkeypatch.undo()
    build(root, out, config.Data())
    assert content(out) == content(tmp_path / "coco")


def test_workers_end_with_a_parent_that_is_killed(slow_set: Path, tmp_path: Path) -> None:
    process, worker = started(slow_set, tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    end = time.perf_counter() + 10
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while "Z" not in Path(f"/proc/{worker}/stat").read_text().split()[2]:
            assert time.perf_counter() < end
            time.sleep(0.05)


def started(root: Path, folder: Path) -> tuple["subprocess.Popen[str]", int]:
    """A run over a former output that has begun to convert, and one of its workers."""
    (folder / "coco").mkdir()
    (folder / "coco/old").touch()
    process = start(command(root, folder / "coco", workers=2), folder)
    written = folder / ".coco.draft/train" / journal.FILE_NAME
    while not written.exists() or written.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return process, int(next(c for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()))


def test_a_worker_that_dies_is_told(slow_set: Path, tmp_path: Path) -> None:
    process, worker = started(slow_set, tmp_path)
    os.kill(worker, signal.SIGKILL)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 1
    assert messages.splitlines()[-1].startswith("train: a worker died")
    assert "data.workers" in messages
    assert [p.name for p in (tmp_path / "coco").iterdir()] == ["old"]


def test_a_full_disk_is_told_and_the_old_output_stays(tmp_path: Path) -> None:
    root, out = write_set(tmp_path / "set", training=40), tmp_path / "coco"
    build(root, out, config.Data())
    before = content(out)
    limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))}
    process = start(command(root, out, workers=1), tmp_path, **limited)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 1
    assert messages.splitlines()[-1].endswith("fix that and run the same command again: it continues where it stopped")
    assert f"{out}: " in messages
    assert "File too large" in messages
    assert content(out) == before
    assert convert_again(root, out) == before


def convert_again(root: Path, out: Path) -> dict[str, bytes]:
    """The result of a second run, without limits, in the same folder."""
    process = start(command(root, out), out.parent)
    _, messages = process.communicate(timeout=60)
    assert "pictures were converted by an interrupted run" in messages
    return content(out)


def test_killed_between_two_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = write_set(tmp_path / "set"), tmp_path / "coco"
    build(root, out, config.Data())
    before = content(out)
    move = Path.replace

    def die(path: Path, target: Path) -> Path:
        if path.name == ".coco.draft":
            raise KeyboardInterrupt
        return move(path, target)

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        build(root, out, config.Data())
    monkeypatch.undo()
    assert not out.exists()
    (root / PICTURE).write_bytes(b"")
    with pytest.raises(ValueError, match="not a complete picture"):
        build(root, out, config.Data())
    assert content(out) == before


def test_an_output_that_cant_be_written_is_told(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    process = start([*command(root, tmp_path / "coco")[:-4], "--out", "/sys/coco", "--metrics", "m.json"], tmp_path)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "/sys/" in messages.splitlines()[-1]
    assert "fix that" in messages
