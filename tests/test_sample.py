"""The generated scenes: determinism, the Vistas v2.0 encodings pixel by pixel, and an atomic write."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from stages import config, sample
from stages.foundation import parallel
from stages.scenes import compose
from stages.vistas import writer
from stages.vistas.labels import CONFIG, CROWD_OF, LABELS, UNLABELED

HEIGHT, WIDTH = 128, 192
SMALL = config.Sample(seed=7, train_images=2, val_images=1, height_px=HEIGHT, width_px=WIDTH)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("sample") / "out"
    sample.build(out, SMALL)
    return out


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def scenes(root: Path) -> list[tuple[Path, str]]:
    found = [(root / split, p.stem) for split in sample.SPLITS for p in sorted((root / split / "images").iterdir())]
    assert len(found) == SMALL.train_images + SMALL.val_images
    return found


def instances_of(split: Path, key: str) -> npt.NDArray[np.uint16]:
    image = cv2.imread(str(split / "v2.0/instances" / f"{key}.png"), cv2.IMREAD_UNCHANGED)
    assert image is not None
    assert image.dtype == np.uint16
    assert image.shape == (HEIGHT, WIDTH)
    return image.astype(np.uint16)


def panoptic_json(split: Path) -> Any:
    return json.loads((split / "v2.0/panoptic/panoptic_2020.json").read_text())


def test_same_seed_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    sample.build(tmp_path / "again", SMALL)
    assert files(tmp_path / "again") == files(built)


def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    cfg = config.Sample(7, 2 * parallel.ITEMS_PER_WORKER, 1, HEIGHT, WIDTH)
    for workers in (1, 2):
        sample.build(tmp_path / str(workers), cfg, workers)
    assert files(tmp_path / "1") == files(tmp_path / "2")


def test_other_seed_differs(built: Path, tmp_path: Path) -> None:
    sample.build(tmp_path / "other", config.Sample(8, 1, 1, HEIGHT, WIDTH))
    ours, theirs = scenes(built)[0], next((tmp_path / "other/training/images").iterdir())
    assert theirs.stem != ours[1]
    assert theirs.read_bytes() not in files(built).values()


def test_tree_is_the_vistas_one(built: Path) -> None:
    assert (built / CONFIG.name).read_bytes() == CONFIG.read_bytes()
    for split, key in scenes(built):
        assert len(key) == 22
        with Image.open(split / "images" / f"{key}.jpg") as image:
            assert image.format == "JPEG"
            assert image.mode == "RGB"
            assert image.size == (WIDTH, HEIGHT)
        for content in writer.CONTENTS:
            assert list((split / "v2.0" / content).glob(f"{key}.*"))


def test_labels_are_the_high_byte_of_instances(built: Path) -> None:
    palette = [channel for label in LABELS for channel in label.color]
    for split, key in scenes(built):
        with Image.open(split / "v2.0/labels" / f"{key}.png") as image:
            assert image.mode == "P"
            assert (image.getpalette() or [])[: len(palette)] == palette
            labels = np.array(image)
        instances = instances_of(split, key)
        np.testing.assert_array_equal(labels, instances // 256)
        for label in np.unique(labels).tolist():
            numbers = np.unique(instances[labels == label] % 256)
            np.testing.assert_array_equal(numbers, np.arange(len(numbers)))
            assert LABELS[label].instances or len(numbers) == 1


def test_panoptic_agrees_with_instances(built: Path) -> None:
    high = 0
    for split in sample.SPLITS:
        content = panoptic_json(built / split)
        known = {c["id"]: c for c in content["categories"]}
        assert len(known) == sum(label.evaluate for label in LABELS)
        assert {i["id"] for i in content["images"]} == {p.stem for p in (built / split / "images").iterdir()}
        assert all((i["width"], i["height"]) == (WIDTH, HEIGHT) for i in content["images"])
        for annotation in content["annotations"]:
            key = annotation["image_id"]
            png = cv2.imread(str(built / split / "v2.0/panoptic" / annotation["file_name"]))
            assert png is not None
            ids = png[..., 2] + 256 * png[..., 1].astype(np.int64) + 65536 * png[..., 0].astype(np.int64)
            instances = instances_of(built / split, key)
            info = {s["id"]: s for s in annotation["segments_info"]}
            assert set(info) == set(np.unique(ids).tolist()) - {0}
            void = [n for n, label in enumerate(LABELS) if not label.evaluate and n not in CROWD_OF]
            np.testing.assert_array_equal(ids == 0, np.isin(instances // 256, void))
            for number, segment in info.items():
                mask = ids == number
                (value,) = np.unique(instances[mask]).tolist()
                assert mask.sum() == segment["area"] == (instances == value).sum()
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                x, y, w, h = segment["bbox"]
                assert (x, y, x + w - 1, y + h - 1) == (columns[0], rows[0], columns[-1], rows[-1])
                label = value // 256
                assert segment["iscrowd"] == (label in CROWD_OF)
                assert segment["category_id"] == CROWD_OF.get(label, label) + 1
                assert segment["category_id"] in known
                high = max(high, number)
    assert high > 255


def test_polygons_cover_their_labels(built: Path) -> None:
    names = {label.name: label.id for label in LABELS}
    for split, key in scenes(built):
        content = json.loads((split / "v2.0/polygons" / f"{key}.json").read_text())
        assert (content["width"], content["height"]) == (WIDTH, HEIGHT)
        labels = instances_of(split, key) // 256
        covered = np.zeros((len(LABELS), HEIGHT, WIDTH), np.uint8)
        for number, thing in enumerate(content["objects"]):
            points = np.array(thing["polygon"], np.int32)
            assert thing["id"] == number
            assert points.shape[0] >= 3
            assert points.shape[1] == 2
            assert (points >= 0).all()
            assert (points <= (WIDTH, HEIGHT)).all()
            cv2.fillPoly(covered[names[thing["label"]]], [points], 1)
        for label in np.unique(labels).tolist():
            assert label == UNLABELED or covered[label][labels == label].all()


def test_some_segments_have_holes(built: Path) -> None:
    holes = 0
    for split, key in scenes(built):
        instances = instances_of(split, key)
        for value in np.unique(instances).tolist():
            tree = cv2.findContours((instances == value).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[1]
            holes += 0 if tree is None else int((tree[0, :, 3] >= 0).sum())
    assert holes > 20


def test_first_training_scene_exceeds_255_segments_at_the_default_size() -> None:
    default = config.Sample()
    scene = compose.paint((default.seed, 0, 0), default.height_px, default.width_px, plaza=True)
    assert len(np.unique(writer.encode_instances(scene))) > 255


def test_too_many_instances_are_refused() -> None:
    car = next(label.id for label in LABELS if label.name == "object--vehicle--car")
    segments = np.arange(257, dtype=np.uint16)[None]
    scene = writer.PaintedScene(np.zeros((1, 257, 3), np.uint8), segments, [car] * 257)
    with pytest.raises(ValueError, match=r"object--vehicle--car: more than 256 instances"):
        writer.encode_instances(scene)


def test_failure_midway_keeps_the_former_output(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    sample.build(out, config.Sample(9, 1, 1, HEIGHT, WIDTH))
    before = files(out)
    write, calls = writer.write_scene, []

    def failing(split: Path, name: str, scene: writer.PaintedScene) -> dict[str, Any]:
        calls.append(name)
        if len(calls) == 2:
            raise OSError("disk full")
        return write(split, name, scene)

    monkeypatch.setattr(writer, "write_scene", failing)
    with pytest.raises(OSError, match="disk full"):
        sample.build(out, SMALL)
    assert files(out) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
