"""infer with TAO's network of random weights, on pictures of two sizes."""

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from pycocotools import mask as rle

from stages import config
from stages.coco import panoptic
from stages.commands import infer
from stages.foundation import files, ownership, picture_files
from stages.media.drawing import Painter
from stages.reference import tao_model
from stages.tao import spec, wheel
from tests.conftest import REPO

# TAO's Swin gives it on every network.
pytestmark = [pytest.mark.filterwarnings("ignore:torch.meshgrid"), pytest.mark.usefixtures("tao_wheel")]

CATEGORIES = [
    {"id": 1, "name": "car", "isthing": 1, "color": [255, 0, 0]},
    {"id": 2, "name": "sky", "isthing": 0, "color": [0, 0, 255]},
]
SIZES = {"a b": (128, 192), "ü": (100, 90)}


@pytest.fixture
def cfg() -> config.Config:
    found = config.load(REPO / "params.yaml")
    found.deploy.object_mask_threshold = 0.0
    found.deploy.overlap_threshold = 0.0
    return found


@pytest.fixture
def checkpoint(tmp_path: Path, cfg: config.Config) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    OmegaConf.save(spec.train_spec(tmp_path, len(CATEGORIES), cfg), folder / "spec.yaml")
    torch.manual_seed(0)
    state = {f"model.{name}": value for name, value in wheel.build_network(folder / "spec.yaml").state_dict().items()}
    torch.save({"state_dict": state}, folder / "model.pth")
    files.write_json(tmp_path / "label_map.json", CATEGORIES)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, size in SIZES.items():
        picture = np.zeros((*size, 3), np.uint8)
        # Red on the left and blue on the right, in OpenCV's order.
        picture[:, : size[1] // 2, 2] = 255
        picture[:, size[1] // 2 :, 0] = 255
        (folder / f"{name}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    return folder


def read(path: Path) -> Any:
    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)


def test_every_result_is_of_the_same_answer(tmp_path: Path, checkpoint: Path, source: Path, cfg: config.Config) -> None:
    out = tmp_path / "out"
    assert infer.build(checkpoint, tmp_path / "label_map.json", str(source), out, cfg) == 2
    images = files.read_json(out / "images.json")["images"]
    assert [i["file_name"] for i in images] == ["a b.png", "ü.png"]
    results = files.read_json(out / "instances.json")
    truth = files.read_json(out / "panoptic.json")
    model = tao_model.Checkpoint(checkpoint, 1, cfg.deploy)
    for image, annotation in zip(images, truth["annotations"], strict=True):
        stem = Path(image["file_name"]).stem
        size = (image["height"], image["width"])
        assert size == SIZES[stem]
        picture = picture_files.read_rgb(source / image["file_name"])
        answer = model.predict(picture, *config.Mode)
        merged = answer.segments[config.Mode.panoptic]
        written = read(out / "panoptic" / annotation["file_name"]).astype(np.int64)
        np.testing.assert_array_equal(written[..., 2] + 256 * written[..., 1] + 65536 * written[..., 0], merged.ids)
        assert {s["id"]: s["category_id"] for s in annotation["segments_info"]} == merged.category_ids
        assert merged.category_ids, "nothing found shows nothing"
        semantic = read(out / "semantic" / f"{stem}.png")
        np.testing.assert_array_equal(semantic, answer.segments[config.Mode.semantic].ids)
        painted = Painter(CATEGORIES).draw(picture, merged, [])
        np.testing.assert_array_equal(read(out / "overlays" / f"{stem}.png")[..., ::-1], painted)
        assert answer.instances is not None
        own = [r for r in results if r["image_id"] == image["id"]]
        assert own
        masks = rle.decode([r["segmentation"] for r in own]).transpose(2, 0, 1).astype(bool)
        assert masks.shape[1:] == size
        order = [k for k in np.argsort(-answer.instances.scores, kind="stable") if answer.instances.masks[k].any()]
        np.testing.assert_array_equal(masks, answer.instances.masks[order])
        assert [r["category_id"] for r in own] == answer.instances.category_ids[order].tolist()
    content = panoptic.PanopticSet(truth["categories"], [])
    assert content.num_things == 1


def test_a_network_of_one_mode_writes_that_alone(
    tmp_path: Path, checkpoint: Path, source: Path, cfg: config.Config
) -> None:
    cfg.model.mode = cfg.deploy.mode = config.Mode.semantic
    out = tmp_path / "out"
    infer.build(checkpoint, tmp_path / "label_map.json", str(source), out, cfg)
    assert sorted(p.name for p in out.iterdir()) == [".written", "images.json", "overlays", "semantic"]


def test_pictures_that_can_not_be_read(
    tmp_path: Path, checkpoint: Path, source: Path, cfg: config.Config, caplog: pytest.LogCaptureFixture
) -> None:
    label_map, out, broken = tmp_path / "label_map.json", tmp_path / "out", tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"no picture")
    out.mkdir()
    (out / "former").write_text("kept")
    ownership.record(out)
    with pytest.raises(ValueError, match="no picture to work on"):
        infer.build(checkpoint, label_map, str(broken), out, cfg)
    assert (out / "former").read_text() == "kept"
    (source / "z.png").write_bytes(b"no picture")
    assert infer.build(checkpoint, label_map, str(source), out, cfg) == 2
    assert "z.png" in caplog.text
    assert "1 of 3 pictures could not be read and are left out" in caplog.text
    assert not (out / "former").exists()


def test_files_of_the_user_in_out_are_never_deleted(
    tmp_path: Path, checkpoint: Path, source: Path, cfg: config.Config
) -> None:
    label_map, out = tmp_path / "label_map.json", tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"out has thesis\.tex, which this command did not write.*a new or an empty"):
        infer.build(checkpoint, label_map, str(source), out, cfg)
    assert [p.name for p in out.iterdir()] == ["thesis.tex"]
    (out / "thesis.tex").unlink()
    infer.build(checkpoint, label_map, str(source), out, cfg)
    # Results of a run before are replaced, also of pictures that are gone.
    (source / "ü.png").unlink()
    infer.build(checkpoint, label_map, str(source), out, cfg)
    assert [p.name for p in (out / "overlays").iterdir()] == ["a b.png"]
    (out / "overlays" / "a b.png").write_text("corrected by hand")
    with pytest.raises(ValueError, match=r"out has overlays/a b\.png, which this command did not write"):
        infer.build(checkpoint, label_map, str(source), out, cfg)
    assert (out / "overlays" / "a b.png").read_text() == "corrected by hand"


def test_names_that_are_not_utf_8(tmp_path: Path, checkpoint: Path, source: Path, cfg: config.Config) -> None:
    (source / "a b.png").rename(source / os.fsdecode(b"caf\xe9.png"))
    out = tmp_path / "out"
    assert infer.build(checkpoint, tmp_path / "label_map.json", str(source), out, cfg) == 2
    for name in ("images.json", "panoptic.json"):
        # Valid Unicode, which no lone surrogate is.
        text = json.dumps(files.read_json(out / name), ensure_ascii=False).encode().decode()
        assert r"caf\\xe9.png" in text
    for kind in ("overlays", "panoptic", "semantic"):
        assert sorted(p.name for p in (out / kind).iterdir()) == [r"caf\xe9.png", "ü.png"]


def test_what_infer_refuses(tmp_path: Path, checkpoint: Path, source: Path, cfg: config.Config) -> None:
    label_map = tmp_path / "label_map.json"
    with pytest.raises(ValueError, match="contains the files of SOURCE"):
        infer.build(checkpoint, label_map, str(source), source, cfg)
    (source / "a b.jpg").write_bytes((source / "a b.png").read_bytes())
    with pytest.raises(ValueError, match="two pictures are named a b"):
        infer.build(checkpoint, label_map, str(source), tmp_path / "out", cfg)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [CATEGORIES[:1], [], {"labels": []}])
def test_a_label_map_of_other_classes(
    content: Any, tmp_path: Path, checkpoint: Path, source: Path, cfg: config.Config
) -> None:
    files.write_json(tmp_path / "label_map.json", content)
    with pytest.raises(
        ValueError, match=r"label_map\.json(: .* expected a list| has [01] classes, and the network of .* 2, )"
    ):
        infer.build(checkpoint, tmp_path / "label_map.json", str(source), tmp_path / "out", cfg)
    assert not (tmp_path / "out").exists()


def test_an_out_that_is_a_file_is_kept(tmp_path: Path, checkpoint: Path, source: Path, cfg: config.Config) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ValueError, match="is a file, expected a folder"):
        infer.build(checkpoint, tmp_path / "label_map.json", str(source), tmp_path / "file", cfg)
    assert (tmp_path / "file").read_text() == "kept"
    with pytest.raises(ValueError, match="too long, expected at most 248 bytes"):
        infer.build(checkpoint, tmp_path / "label_map.json", str(source), tmp_path / ("n" * 250), cfg)
