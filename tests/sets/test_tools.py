"""Sets that were labelled in CVAT and in Label Studio: what their exports mean, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from stages import config, convert
from stages.coco import panoptic
from stages.config import Format
from stages.sets import brush_rle, check, formats
from stages.sets.raw_set import Problem, Scene
from tests.conftest import TABLES
from tests.support import sets

WRITERS = {Format.cvat: sets.cvat, Format.label_studio: sets.label_studio}
JSONS = {Format.cvat: "annotations/instances_Train.json", Format.label_studio: "annotations/train.json"}


def opened(root: Path, chosen: Format = Format.auto, **source: Any) -> Any:
    return formats.find(config.Source(format=chosen, **source), root, "data.sources.a")


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(edit(content) or content))


@pytest.mark.parametrize(
    "case", json.loads(Path(__file__).with_name("brush_rle.json").read_text()), ids=lambda c: c["name"]
)
def test_brushes_are_those_of_label_studio(case: dict[str, Any]) -> None:
    """Bytes that label-studio-converter 0.0.59 wrote (tests/commands/test_prelabels.py makes more of them)."""
    height, width = case["height"], case["width"]
    if case["mask"] is None:  # Runs that are longer than 16 bits can count.
        mask = np.zeros((height, width), np.bool_)
        mask[3:] = True
    else:
        mask = np.unpackbits(np.array(case["mask"], np.uint8), count=height * width).reshape(height, width).astype(bool)
    assert np.array_equal(brush_rle.decode(case["rle"], height, width), mask)
    if case["name"] != "soft":
        assert brush_rle.encode(mask) == case["rle"]


@pytest.mark.parametrize("seed", range(20))
def test_any_mask_comes_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 90, 2)
    mask = cv2.resize(rng.random((4, 4)), size.tolist()) + rng.random() * rng.random(size[::-1]) > 0.6
    assert np.array_equal(brush_rle.decode(brush_rle.encode(mask), *mask.shape), mask)


def test_words_that_differ_are_read() -> None:
    """A token of different words, which Label Studio's editor writes and its Python package does not."""
    bits = f"{16:032b}{7:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
    bits += "0" + "01" + f"{15:04b}" + "".join(f"{v:08b}" for v in [9, 9, 9, 0, 0, 0, 0, 7, 1, 2, 3, 255, 5, 5, 5, 0])
    content = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]
    assert brush_rle.decode(content, 2, 2).tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "rle of 0 bytes"),
        ("text", "no list of bytes"),
        ([256] * 20, "no list of bytes"),
        (brush_rle.encode(np.ones((3, 5), bool)), "rle of 60 words of 8 bits, expected 64 of 8"),
        (brush_rle.encode(np.eye(4, dtype=bool))[:12], "ends within a run"),
        ([0, 0, 0, 64, 56, 159, 255, *[255] * 20], "beyond the picture"),
    ],
)
def test_a_brush_that_is_none_is_refused(content: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        brush_rle.decode(content, 4, 4)


@pytest.mark.parametrize("chosen", WRITERS)
def test_make_data_finds_the_export_by_its_files(tmp_path: Path, chosen: Format) -> None:
    root = WRITERS[chosen](tmp_path / "set")
    findings, problems = check.check_set(root, config.Source())
    assert problems == []
    assert findings[0].startswith(f"{chosen.value}: train 2, val 1 pictures; ")
    assert " stuff; 0 problems" in findings[0]
    (root / "label_map.json").unlink()
    assert not formats.found_in(root)
    for source in ({}, {"chosen": chosen}):
        with pytest.raises(ValueError, match=r"no classes at label_map\.json; copy the label_map\.json"):
            opened(root, **source)


@pytest.mark.parametrize("chosen", WRITERS)
def test_make_data_looks_at_a_set_without_splits(tmp_path: Path, chosen: Format) -> None:
    root = WRITERS[chosen](tmp_path / "set")
    path = root / JSONS[chosen]
    (root / "annotations/instances_Val.json").unlink(missing_ok=True)
    (root / "annotations/val.json").unlink(missing_ok=True)
    path = path.rename(path.with_name({Format.cvat: "instances_default.json"}.get(chosen, "project-1.json")))
    if chosen is Format.cvat:
        (root / "images/Train").rename(root / "images/default")
    findings, problems = check.check_set(root, config.Source())
    assert problems == []
    assert findings[0].startswith(
        f"{chosen.value}: in all 2 pictures (no train, val: set data.splits to fraction or file)"
    )
    image = next((root / "images").rglob("000000000000.jpg"))
    image.rename(image.with_name("lost.jpg"))
    _, problems = check.check_set(root, config.Source())
    assert len(problems) == 1
    assert "not a file" in problems[0]


def test_masks_of_cvat_are_no_crowds_of_coco(tmp_path: Path) -> None:
    """CVAT writes iscrowd 1 for every mask. Read as COCO, no object would be trained on."""
    root = sets.cvat(tmp_path / "set")
    for split in ("train", "val"):
        (root / f"annotations/instances_{split.title()}.json").rename(root / f"annotations/instances_{split}.json")
        (root / f"images/{split.title()}").rename(root / f"images/{split}")
    assert set(formats.found_in(root)) == {Format.coco_instances, Format.cvat}
    raw = opened(root, Format.coco_instances)
    scene = next(raw.scenes("train"))
    with pytest.raises(ValueError, match=r"mask of CVAT, .* not mean a group; set .*format to cvat"):
        raw.raster(scene)
    raw = opened(root, Format.cvat)
    raster = raw.raster(next(raw.scenes("train")))
    assert not raster.crowds.any()
    assert any(raw.labels[label].instances for label in raster.labels[1:])
    assert any(not raw.labels[label].instances for label in raster.labels[1:])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(40, 60), (48, 48)])
@pytest.mark.parametrize("chosen", WRITERS)
def test_masks_are_of_the_picture_as_the_tool_shows_it(
    tmp_path: Path, chosen: Format, size: tuple[int, int], orientation: int
) -> None:
    """A browser turns a picture by its EXIF orientation. The result is upright, with the mask where the object is."""
    upright = np.full((*size, 3), 20, np.uint8)
    upright[4:20, 30:42] = (220, 30, 30)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1], 7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]  # fmt: skip
    pixels = np.zeros(size, np.int64)
    pixels[4:20, 30:42] = 1
    one = sets.Scene(3, pixels, [sets.Segment("sky"), sets.Segment("car", 1)], [])
    root = WRITERS[chosen](tmp_path / "set", {"train": [one], "val": [sets.small()["val"][0]]})
    (path,) = root.rglob("000000000003.jpg")
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(path, quality=100, exif=exif)
    cfg = config.Data(sources={"a": config.Source()}, workers=1)
    convert.build(root, tmp_path / "coco", tmp_path / "data.json", TABLES, cfg)
    written = panoptic.read(tmp_path / "coco/train")
    (entry,) = written.entries
    names = {category["id"]: category["name"] for category in written.categories}
    (car,) = (s["id"] for s in entry.segments if names[s["category_id"]] == "car")
    assert np.array_equal(panoptic.read_ids(entry.png) == car, pixels == 1)
    with Image.open(entry.image) as picture:
        assert picture.getexif().get(0x0112, 1) == 1
        rgb = np.asarray(picture).astype(int)
    assert rgb.shape[:2] == size
    assert np.array_equal(rgb[..., 0] > 120, pixels == 1)


def test_a_polygon_of_cvat_and_one_of_label_studio_are_read(tmp_path: Path) -> None:
    square = [10.0, 8.0, 30.0, 8.0, 30.0, 24.0, 10.0, 24.0]
    root = sets.cvat(tmp_path / "cvat")

    def polygon(content: Any) -> None:
        content["annotations"][0] |= {"segmentation": [square], "iscrowd": 0}

    change(root / JSONS[Format.cvat], polygon)
    first = sets.label_studio(tmp_path / "label_studio")

    def region(tasks: Any) -> None:
        one = tasks[0]["annotations"][0]["result"][0]
        corners = [
            [100 * x / sets.WIDTH, 100 * y / sets.HEIGHT] for x, y in zip(square[::2], square[1::2], strict=True)
        ]
        one |= {"type": "polygonlabels", "value": {"points": corners, "polygonlabels": one["value"]["brushlabels"]}}

    change(first / JSONS[Format.label_studio], region)
    rasters = []
    for folder in (root, first):
        raw = opened(folder)
        rasters.append(raw.raster(next(raw.scenes("train"))))
    assert np.array_equal(*(raster.labels[raster.values] for raster in rasters))
    assert (rasters[0].values == rasters[0].values[16, 20]).sum() <= 20 * 16


def region(tasks: Any) -> Any:
    return tasks[0]["annotations"][0]["result"][0]


def put(**values: Any) -> Callable[[Any], Any]:
    def edit(tasks: Any) -> None:
        region(tasks).update(values)

    return edit


def annotate(*annotations: dict[str, Any]) -> Callable[[Any], Any]:
    def edit(tasks: Any) -> None:
        tasks[0]["annotations"] = [{"result": tasks[0]["annotations"][0]["result"], **one} for one in annotations]

    return edit


FAULTS: dict[str, tuple[Format, Callable[[Any], Any], str]] = {
    "another label": (
        Format.label_studio, lambda tasks: region(tasks)["value"].update(brushlabels=["Car"]),
        r"000000000000\.jpg: label 'Car' is not in .*label_map\.json \(did you mean 'car'",
    ),
    "two labels": (
        Format.label_studio, lambda tasks: region(tasks)["value"].update(brushlabels=["car", "bus"]),
        r"region 'r0' has the labels \['car', 'bus'\], expected one",
    ),
    "a box": (
        Format.label_studio, put(type="rectanglelabels", value={"x": 1, "rectanglelabels": ["car"]}),
        "region 'r0' is of the type 'rectanglelabels', expected a brush or a polygon",
    ),
    "turned": (Format.label_studio, put(image_rotation=90), "turned in Label Studio, expected image_rotation 0"),
    "another size": (Format.label_studio, put(original_width=7), "expected one size for all regions"),
    "a brush cut short": (
        Format.label_studio, lambda tasks: region(tasks)["value"]["rle"].__delitem__(9),
        "ends within a run|beyond the picture",
    ),
    "two annotations": (Format.label_studio, annotate({}, {}), "2 annotations, 0 of them ground truth, expected one"),
    "skipped": (Format.label_studio, annotate({"was_cancelled": True}), "no annotation, expected one"),
    "another format": (
        Format.label_studio, lambda tasks: [{"id": 1, "image": "a.jpg"}], "in the format JSON, not JSON-MIN",
    ),
    "uploaded by hand": (
        Format.label_studio, lambda tasks: tasks[0].update(data={"image": "/data/upload/1/ab12-000000000000.jpg"}),
        r"ab12-000000000000\.jpg: not a file",
    ),
    "no name": (Format.label_studio, lambda tasks: tasks[0].update(data={"picture": "../x"}), "no name of a picture"),
    "twice": (Format.label_studio, lambda tasks: tasks + tasks[:1], "picture 000000000000 is in two tasks"),
    "no tasks": (Format.label_studio, lambda tasks: {"tasks": tasks}, r"train\.json: not a list in JSON"),
    "another category": (
        Format.cvat, lambda content: content["categories"][0].update(name="Bus"),
        r"instances_Train\.json: label 'Bus' is not in .*label_map\.json",
    ),
    "a box of CVAT": (
        Format.cvat, lambda content: content["annotations"][0].update(segmentation=[]), "can't be drawn"
    ),
    "run lengths of another size": (
        Format.cvat, lambda content: content["annotations"][0]["segmentation"].update(size=[3, 3]), "can't be drawn"
    ),
}  # fmt: skip


def read_all(root: Path) -> None:
    raw = opened(root)
    for scene in raw.scenes("train"):
        if isinstance(scene, Problem):
            raise ValueError(scene.message)
        raw.raster(scene)


@pytest.mark.parametrize("name", FAULTS)
def test_an_export_that_can_not_be_read_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    chosen, edit, words = FAULTS[name]
    root = WRITERS[chosen](tmp_path / "set")
    change(root / JSONS[chosen], edit)
    with pytest.raises(ValueError, match=words) as caught:
        read_all(root)
    assert len(str(caught.value).splitlines()) == 1


def test_the_annotation_that_is_ground_truth_is_read(tmp_path: Path) -> None:
    root = sets.label_studio(tmp_path / "set")
    expected = opened(root).raster(next(opened(root).scenes("train")))
    change(root / JSONS[Format.label_studio], annotate({"result": []}, {"ground_truth": True}, {"was_cancelled": True}))
    found = opened(root).raster(next(opened(root).scenes("train")))
    assert np.array_equal(found.values, expected.values)


def test_a_task_without_a_region_has_no_segment(tmp_path: Path) -> None:
    root = sets.label_studio(tmp_path / "set")
    change(root / JSONS[Format.label_studio], annotate({"result": []}))
    scene = next(opened(root).scenes("train"))
    assert isinstance(scene, Scene)
    raster = opened(root).raster(scene)
    assert raster.values.shape == (sets.HEIGHT, sets.WIDTH)
    assert not raster.values.any()
