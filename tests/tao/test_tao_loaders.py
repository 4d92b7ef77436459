"""TAO's own data module reads the output of convert in each of its three modes."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from omegaconf import OmegaConf

from stages import config, convert
from stages.coco import panoptic
from stages.foundation import files, picture_files
from stages.tao import spec
from stages.vistas import labels
from tests.conftest import REPO, TABLES
from tests.support import zoo


@pytest.fixture(scope="module")
def coco(vistas_set: Path, data_config: config.Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("loaders") / "coco"
    convert.build(vistas_set, out, out.parent / "data.json", TABLES, data_config)
    return out


def first_sample(coco: Path, form: dict[str, Any]) -> dict[str, Any]:
    """The first training sample as TAO's validation loader gives it: whole, neither cropped nor flipped."""
    from nvidia_tao_pytorch.config.mask2former.default_config import ExperimentConfig
    from nvidia_tao_pytorch.cv.mask2former.dataloader.pl_data_module import SemSegmDataModule

    cfg = config.load(REPO / "params.yaml")
    cfg.train.crop_height_px, cfg.train.crop_width_px = 128, 192
    content = spec.train_spec(coco, 116, cfg)
    content["dataset"]["val"]["img_dir"] = content["dataset"]["train"]["img_dir"]
    content["dataset"]["val"].update(form)
    full = OmegaConf.merge(OmegaConf.structured(ExperimentConfig), content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader = SemSegmDataModule(full.dataset).val_dataloader()
    sample: dict[str, Any] = loader.dataset[0]
    return sample


def test_panoptic_form(coco: Path, tao_wheel: None) -> None:
    train = coco / "train"
    form = {"panoptic_json": str(train / "panoptic.json"), "panoptic_dir": str(train / "panoptic")}
    sample = first_sample(coco, form)
    segments = [s for s in panoptic.read(train).entries[0].segments if not s["iscrowd"]]
    assert sample["image"].shape == (3, 128, 192)
    assert sample["target"]["labels"].tolist() == [s["category_id"] for s in segments]


def test_instance_form(coco: Path, tao_wheel: None) -> None:
    path = coco / "train/instances.json"
    form = {"type": "coco", "instance_json": str(path)}
    sample = first_sample(coco, form)
    annotations = [a for a in files.read_json(path)["annotations"] if a["image_id"] == 1 and not a["iscrowd"]]
    assert sample["target"]["labels"].tolist() == [a["category_id"] for a in annotations]
    assert sample["info"]["original_size"] == (128, 192)


def test_semantic_form(coco: Path, tao_wheel: None) -> None:
    train = coco / "train"
    form = {"type": "ade", "annot_file": str(train / "semantic.jsonl"), "root_dir": str(train)}
    sample = first_sample(coco, form)
    entry = panoptic.read(train).entries[0]
    classes = cv2.imread(str(entry.semantic), cv2.IMREAD_UNCHANGED)
    assert sample["target"]["labels"].tolist() == sorted(set(np.unique(classes).tolist()) - {0})
    assert set(np.unique(sample["segm"].numpy()).tolist()) <= set(np.unique(classes).tolist())


def test_semantic_form_without_void(coco: Path, tao_wheel: None, tmp_path: Path) -> None:
    """TAO's own loader takes the lowest number of a mask for void; ours has every class."""
    image = panoptic.read(coco / "train").entries[0].image
    mask = np.full((128, 192), 2, np.uint8)
    mask[:, 100:] = 5
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    (tmp_path / "list.jsonl").write_text(json.dumps({"img": str(image.resolve()), "segm": "mask.png"}) + "\n")
    form = {"type": "ade", "annot_file": str(tmp_path / "list.jsonl"), "root_dir": str(tmp_path)}
    assert first_sample(coco, form)["target"]["labels"].tolist() == [2, 5]


# TAO leaves a file of several pictures open.
@pytest.mark.filterwarnings("ignore:Palette images with Transparency", "ignore:unclosed file:ResourceWarning")
def test_tao_reads_what_engines_read(tmp_path: Path, tao_wheel: None) -> None:
    """For pictures of every kind, TAO's loader on convert's output equals the engines' reader on the original."""
    from nvidia_tao_pytorch.cv.mask2former.dataloader.datasets import BaseDataset

    root, out = tmp_path / "set", tmp_path / "coco"
    for split in ("training", "validation"):
        for folder in ("images", "v2.0/instances"):
            (root / split / folder).mkdir(parents=True)
    (root / "config_v2.0.json").write_bytes(labels.CONFIG.read_bytes())
    raster = zoo.write_png((zoo.GREY % 60).astype(np.uint16) * 256, 0, 16)
    for name, content in zoo.PICTURES.items():
        for split in ("training", "validation") if name == "PNG RGB" else ("training",):
            (root / split / "images" / f"{name}.jpg").write_bytes(content)
            (root / split / "v2.0/instances" / f"{name}.png").write_bytes(raster)
    convert.build(
        root, out, tmp_path / "data.json", TABLES, config.Data(workers=1, check_splits=config.CheckSplits.warn)
    )
    listed = files.read_json(out / "train/panoptic.json")["images"]
    assert [image["key"] for image in listed] == sorted(zoo.PICTURES)
    anew = 0
    for image in listed:
        trained = BaseDataset.get_image(None, image["file_name"], root_dir=out / "train")
        path, name = (out / "train" / image["file_name"]).resolve(), image["key"]
        assert np.array_equal(trained, picture_files.read_rgb(path)), name
        original = picture_files.read_rgb(root / "training/images" / f"{name}.jpg")
        anew += path.suffix == ".png"
        if path.is_relative_to(out) and path.suffix == ".jpg":
            # TAO would rotate the original by its EXIF orientation, away from its mask, so convert wrote a new file.
            assert np.abs(trained.astype(int) - original).mean() < 9, name
        else:
            assert np.array_equal(trained, original), name
    counted = files.read_json(out / "statistics.json")["train"]
    assert counted["images"] == len(zoo.PICTURES)
    assert anew > 10
    assert counted["images_written_anew"] == anew + counted["images_with_exif_orientation"]


@pytest.fixture(scope="module")
def bare(vistas_set: Path, data_config: config.Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bare") / "coco"
    convert.build(vistas_set, out, out.parent / "data.json", TABLES, replace(data_config, bare_file_names=True))
    return out


@pytest.mark.parametrize("mode", list(config.Mode))
def test_bare_file_names_lead_every_reader_to_the_same_pictures(
    coco: Path, bare: Path, tao_wheel: None, mode: config.Mode
) -> None:
    content = files.read_json(bare / "train/panoptic.json")
    assert content["info"] == {"image_folder": "images"}
    names = [image["file_name"] for image in content["images"]]
    assert all("/" not in name for name in names)
    assert sorted(names) == sorted(path.name for path in (bare / "train/images").iterdir())
    assert names == [image["file_name"] for image in files.read_json(bare / "train/instances.json")["images"]]
    former, found = (panoptic.read(folder / "train").entries for folder in (coco, bare))
    assert [e.image.read_bytes() for e in found] == [e.image.read_bytes() for e in former]

    cfg = config.load(REPO / "params.yaml")
    cfg.model.mode = mode
    expected = first_sample(coco, spec.annotations(coco / "train", cfg))
    cfg.data.bare_file_names = True
    sample = first_sample(bare, spec.annotations(bare / "train", cfg))
    assert np.array_equal(sample["image"], expected["image"])
    assert sample["target"]["labels"].tolist() == expected["target"]["labels"].tolist()
