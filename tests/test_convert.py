import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask
from pycocotools.coco import COCO

from stages import config, convert
from stages.coco import categories, panoptic
from stages.vistas import labels, reader


@pytest.fixture(scope="module")
def coco(vistas_set: Path, data_config: config.Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "coco"
    convert.build(vistas_set, out, out.parent / "data.json", data_config)
    return out


def rasters(root: Path, split: str) -> list[Any]:
    return [reader.instances(s.instances, 124) for s in reader.scenes(root, "v2.0", split)]


def test_classes_are_the_evaluated_labels_things_first(data_config: config.Data) -> None:
    cats, targets = categories.from_vistas(labels.LABELS, data_config.crowd_of)
    assert [c["id"] for c in cats] == list(range(1, 117))
    assert [c["isthing"] for c in cats] == [1] * 70 + [0] * 46
    by_name = {c["name"]: c["id"] for c in cats}
    for i, label in enumerate(labels.LABELS):
        if label.evaluate:
            assert targets[i] == categories.Target(by_name[label.name])
    assert targets[31] == categories.Target(by_name["human--person--individual"], iscrowd=True)
    assert targets[123] == categories.Target(0)


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_segment_is_exact(coco: Path, vistas_set: Path, split: str) -> None:
    written = panoptic.read(coco / split)
    instance_set = json.loads((coco / split / "instances.json").read_text())
    seen = set()
    for entry, raster in zip(written.entries, rasters(vistas_set, split), strict=True):
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
    _, targets = categories.from_vistas(labels.LABELS, data_config.crowd_of)
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


def test_byte_identical_twice(coco: Path, vistas_set: Path, data_config: config.Data, tmp_path: Path) -> None:
    again = tmp_path / "coco"
    convert.build(vistas_set, again, tmp_path / "data.json", data_config)
    names = [p.relative_to(coco) for p in sorted(coco.rglob("*")) if p.is_file() and p.name != "semantic.jsonl"]
    assert [n for n in names if (coco / n).read_bytes() != (again / n).read_bytes()] == []


def spoil_raster(root: Path, change: Callable[[Any], Any]) -> None:
    path = next((root / "training/v2.0/instances").iterdir())
    cv2.imwrite(str(path), change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / "config_v2.0.json").unlink(), ["config_v2.0.json", "data.version"]),
        (lambda root: next((root / "training/images").iterdir()).unlink(), ["missing in images"]),
        (lambda root: shutil.rmtree(root / "validation/images"), ["validation/images", "no .jpg"]),
        (lambda root: spoil_raster(root, lambda r: (r >> 8).astype(np.uint8)), ["uint8", "16-bit"]),
        (lambda root: spoil_raster(root, lambda r: r + 200 * 256), ["label", "config has 124"]),
        (lambda root: next((root / "training/v2.0/instances").iterdir()).write_bytes(b"no"), ["can't be read"]),
    ],
    ids=["config", "image", "split", "8-bit", "label", "broken"],
)
def test_a_broken_set_names_the_file_and_keeps_the_old_output(
    vistas_set: Path, data_config: config.Data, tmp_path: Path, spoil: Callable[[Path], None], words: list[str]
) -> None:
    root, out = tmp_path / "set", tmp_path / "coco"
    shutil.copytree(vistas_set, root)
    out.mkdir()
    (out / "old").touch()
    spoil(root)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        convert.build(root, out, tmp_path / "data.json", data_config)
    assert [w for w in words if w not in str(caught.value)] == []
    assert [p.name for p in out.iterdir()] == ["old"]


@pytest.mark.parametrize(
    ("crowd_of", "word"),
    [
        ({"human--person--mob": "human--person--individual"}, "mob"),
        ({"human--person--person-group": "construction--flat--road"}, "no evaluated thing"),
    ],
)
def test_bad_crowds_are_refused(crowd_of: dict[str, str], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        categories.from_vistas(labels.LABELS, crowd_of)


def test_a_turned_or_unequal_picture_is_refused(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "x.jpg"
    picture = Image.new("RGB", (40, 30))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(path, exif=exif)
    with pytest.raises(ValueError, match=r"x\.jpg: EXIF orientation 6"):
        reader.check_picture(path, (30, 40))
    with pytest.raises(ValueError, match=r"x\.jpg: 40x30, but its raster is 30x40"):
        reader.check_picture(path, (40, 30))
