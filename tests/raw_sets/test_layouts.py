"""Messages of `make data` and convert about folders and archives that are not sets in Vistas' layout."""

import io
import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages import config
from stages.commands import data
from stages.raw_sets import layouts
from stages.sets import formats
from stages.vistas import reader
from tests.raw_sets.test_archives import pack
from tests.test_convert import write_set

COCO = {"images": [{"id": 1, "file_name": "1.jpg"}], "categories": [{"id": 1, "name": "person"}]}
INSTANCES = {**COCO, "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 1, 0, 1, 1]]}]}
PANOPTIC = {**COCO, "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": [{"id": 1}]}]}
YOLO = "0 0.5 0.5 0.25 0.1\n"
NO_READER = "there is no reader for it yet; convert it to Vistas' layout (docs/data.md)"

SETS: dict[str, tuple[dict[str, object], str]] = {
    "Cityscapes": (
        {
            "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png": None,
            "gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png": None,
            "gtFine/train/aachen/aachen_000000_000019_gtFine_polygons.json": {"objects": []},
        },
        r"it looks like Cityscapes \(gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds\.png\)",
    ),
    "Cityscapes, polygons": (
        {"gtFine/val/ulm/ulm_000000_000019_gtFine_polygons.json": {"objects": []}},
        "it looks like Cityscapes ",
    ),
    "Cityscapes, annotations": ({"val/ulm/ulm_000000_000019_gtFine_labelIds.png": None}, "it looks like Cityscapes "),
    "Cityscapes, pictures": (
        {"leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png": None},
        "it looks like Cityscapes ",
    ),
    "IDD": (
        {
            "leftImg8bit/train/0/frame0029_leftImg8bit.jpg": None,
            "gtFine/train/0/frame0029_gtFine_polygons.json": {"objects": []},
        },
        r"it looks like IDD \(gtFine/train/0/frame0029_gtFine_polygons\.json\)",
    ),
    "KITTI": (
        {"training/image_2/000000_10.png": None, "training/instance/000000_10.png": None},
        "it looks like KITTI's semantics ",
    ),
    "KITTI, semantic": (
        {"training/image_2/000000_10.png": None, "training/semantic/000000_10.png": None},
        "it looks like KITTI's semantics ",
    ),
    "KITTI-360": (
        {"data_2d_semantics/train/2013_05_28_drive_0000_sync/image_00/instance/0000000250.png": None},
        "it looks like KITTI-360 ",
    ),
    "A2D2": (
        {
            "camera_lidar_semantic/class_list.json": {"#ff0000": "Car 1"},
            "camera_lidar_semantic/20180807_145028/label/cam_front_center/20180807145028_label_frontcenter_1.png": None,
        },
        "it looks like A2D2 ",
    ),
    "CamVid": (
        {"701_StillsRaw_full/0001TP_006690.png": None, "LabeledApproved_full/0001TP_006690_L.png": None},
        "it looks like CamVid ",
    ),
    "CamVid, splits": (
        {"CamVid/class_dict.csv": "name,r,g,b", "CamVid/train/1.png": None, "CamVid/train_labels/1_L.png": None},
        "it looks like CamVid in CamVid ",
    ),
    "labelme": (
        {"a.jpg": None, "a.json": {"version": "5.2.1", "shapes": [], "imagePath": "a.jpg"}},
        r"it looks like a set of labelme \(a\.json\)",
    ),
    "CVAT": (
        {"images/a.jpg": None, "annotations.xml": "<annotations><version>1.1</version><meta></meta></annotations>"},
        r"it looks like a set of CVAT \(annotations\.xml\)",
    ),
    "CVAT, COCO 1.0": (
        {
            "images/default/a.jpg": None,
            "annotations/instances_default.json": {"images": [], "annotations": [{"image_id": 1}]},
        },
        r"it looks like CVAT's export in COCO 1\.0 \(annotations/instances_default\.json\)",
    ),
    "Label Studio": (
        {"images/a.jpg": None, "project-1-at-2026.json": [{"data": {}, "annotations": [{"result": []}]}]},
        r"it looks like Label Studio's export in JSON \(project-1-at-2026\.json\)",
    ),
    "ADE20K SceneParsing": (
        {
            "ADEChallengeData2016/images/training/ADE_train_00000001.jpg": None,
            "ADEChallengeData2016/annotations/training/ADE_train_00000001.png": None,
            "ADEChallengeData2016/objectInfo150.txt": "Idx\n",
        },
        "it looks like ADE20K SceneParsing in ADEChallengeData2016 ",
    ),
    "ADE20K full, 2021": (
        {
            "images/ADE/training/urban/street/ADE_train_00016964.jpg": None,
            "images/ADE/training/urban/street/ADE_train_00016964_seg.png": None,
            "images/ADE/training/urban/street/ADE_train_00016964.json": {"annotation": {}},
        },
        r"it looks like ADE20K \(full\) ",
    ),
    "ADE20K full, 2016": (
        {"images/training/s/street/ADE_train_1_seg.png": None, "images/training/s/street/ADE_train_1_atr.txt": "1\n"},
        r"it looks like ADE20K \(full\) ",
    ),
    "BDD100K": (
        {"images/10k/train/a.jpg": None, "labels/pan_seg/bitmasks/train/a.png": None},
        r"it looks like BDD100K \(labels/pan_seg\)",
    ),
    "Pascal VOC": (
        {"VOCdevkit/VOC2012/JPEGImages/1.jpg": None, "VOCdevkit/VOC2012/SegmentationClass/1.png": None},
        r"it looks like Pascal VOC in VOCdevkit/VOC2012 \(.*JPEGImages, .*SegmentationClass\)",
    ),
    "COCO panoptic": (
        {"annotations/panoptic_val2017.json": PANOPTIC, "val2017/1.jpg": None},
        r"it looks like COCO panoptic \(annotations/panoptic_val2017\.json\)",
    ),
    "COCO instances": (
        {"annotations/anything.json": INSTANCES, "val2017/1.jpg": None},
        r"it looks like COCO instances \(annotations/anything\.json\)",
    ),
    "COCO stuff": (
        {"annotations/stuff_val2017.json": INSTANCES, "val2017/1.jpg": None},
        "it looks like COCO stuff ",
    ),
    "YOLO": ({"images/train/1.jpg": None, "labels/train/1.txt": YOLO}, "it looks like a YOLO set "),
    "YOLO, splits first": ({"train/images/1.jpg": None, "train/labels/1.txt": YOLO}, "it looks like a YOLO set "),
}
OTHERS: dict[str, tuple[dict[str, object], str]] = {
    "labels alone": (
        {"training/images/a.jpg": None, "training/v2.0/labels/a.png": None},
        r"masks only in labels or panoptic \(training/v2\.0/labels/a\.png\); copy the folders inst",
    ),
    "panoptic alone": (
        {"images/a.jpg": None, "panoptic/a.png": None, "panoptic/panoptic_2020.json": PANOPTIC},
        r"masks only in labels or panoptic \(panoptic/a\.png\)",
    ),
    "empty": ({}, "it is empty; give the folder into which the set was unpacked"),
    "hidden files alone": ({".DS_Store": "x", "__MACOSX/._a": "x"}, "it is empty"),
    "pictures alone": (
        {"images/a.jpg": None, "images/b.jpg": None},
        r"found pictures \(2 in images\) and no folder instances with their masks; expected PNGs in instances beside",
    ),
    "archives": (
        {"training.zip": "PK", "val.tar.gz": "x", "README": "x"},
        r"found archives, training\.zip, val\.tar\.gz; unpack the set's archive",
    ),
    "another case": (
        {"Training/Instances/a.png": None, "Training/images/a.jpg": None, "README": "x"},
        "; rename Training/Instances to Training/instances and Training to training$",
    ),
    "another case, both splits": (
        {f"{split}/{kind}": None for split in ("Training", "val") for kind in ("Images/a.jpg", "V2.0/instance/a.png")},
        "; rename Training/V2.0/instance to Training/V2.0/instances, val/V2.0/instance to val/V2.0/instances, "
        "Training/Images to Training/images, Training/V2.0 to Training/v2.0, val/Images to val/images, "
        "val/V2.0 to val/v2.0, Training to training and val to validation$",
    ),
    "splits inside": (
        {
            f"{kind}/{split}/a{end}": None
            for kind, end in (("images", ".jpg"), ("instances", ".png"))
            for split in ("train", "val")
        },
        "; move images/train to training/images, instances/train to training/instances, "
        "images/val to validation/images and instances/val to validation/instances$",
    ),
    "no PNGs": (
        {"images/a.jpg": None, "instances/train/a.png": None},
        "found instances, with train/ in it; expected PNGs in instances beside images",
    ),
    "anything": ({"a/b.txt": "x", "c.doc": "x"}, r"found a/, c\.doc; expected PNGs"),
}
MISSING = {
    "Cityscapes": "",
    "Cityscapes, polygons": "no pictures at .* and instance masks at .*; unpack leftImg8bit_.*; unpack gtFine_",
    "Cityscapes, annotations": "no pictures at leftImg8bit/.* and instance masks at gtFine/",
    "Cityscapes, pictures": "no instance masks at gtFine/.*; unpack gtFine_trainvaltest.zip into the same folder",
    "IDD": "",
    "KITTI": "",
    "KITTI, semantic": "",
    "ADE20K SceneParsing": "",
    "ADE20K full, 2021": "",
    "ADE20K full, 2016": "no pictures at .* and descriptions at .*the release of 2021: that of 2016 has _atr.txt",
    "BDD100K": "",
    "Pascal VOC": "no object masks at SegmentationObject/.* and lists at ImageSets/Segmentation/",
    "COCO panoptic": r"no masks at annotations/panoptic_\*/\*\.png; unpack annotations/panoptic_SPLIT.zip beside it",
    "CVAT, COCO 1.0": r"no classes at label_map\.json; copy the label_map\.json that `make prelabels` wrote",
    "Label Studio": r"no annotations at annotations/\*\.json and classes at label_map\.json; put the export",
    "COCO instances": "no objects at annotations/instances_",
    "COCO stuff": "no masks at stuffthingmaps/",
}
"""What sets that have a reader lack; empty: nothing."""
COMPLETE = [name for name, words in MISSING.items() if not words]
ALL = {
    **{
        name: (files, f"{words}.*{MISSING.get(name, re.escape(NO_READER))}")
        for name, (files, words) in SETS.items()
        if name not in COMPLETE
    },
    **OTHERS,
}


def picture(suffix: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(stream, "PNG" if suffix == ".png" else "JPEG")
    return stream.getvalue()


def draw(root: Path, files: dict[str, object]) -> Path:
    root.mkdir(parents=True)
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.write_bytes(picture(path.suffix))
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def refusal(src: Path) -> str:
    """Return the message of `make data`, which leaves no files."""
    with pytest.raises(ValueError, match="is no set in Vistas' layout: ") as caught:
        data.build(src, src.parent / "raw/new", config.OnError.fail)
    assert not (src.parent / "raw").exists()
    text = str(caught.value)
    assert "\n" not in text
    return text


def told_by_convert(root: Path) -> str:
    with pytest.raises(ValueError, match="is no set in Vistas' layout: ") as caught:
        formats.find(config.Source(), root, "data.sources.vistas")
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", ALL)
def test_a_folder_of_another_layout(tmp_path: Path, name: str) -> None:
    files, words = ALL[name]
    src = draw(tmp_path / "set", files)
    text = refusal(src)
    assert re.search(words, text), text
    assert told_by_convert(src) == text


@pytest.mark.parametrize("name", ALL)
def test_an_archive_of_another_layout(tmp_path: Path, name: str) -> None:
    files, words = ALL[name]
    text = refusal(pack(draw(tmp_path / "set", files), tmp_path / "set.zip"))
    assert re.search(words, text), text


@pytest.mark.parametrize("name", COMPLETE)
def test_a_set_of_another_layout_that_can_be_read(tmp_path: Path, name: str) -> None:
    src = draw(tmp_path / "set", SETS[name][0])
    inner = next(path for path in (src, *src.iterdir()) if formats.lies_at(path))
    layout = layouts.complete(inner)[0]
    assert layout.name == name.partition(",")[0].replace("KITTI", "KITTI's semantics").replace("full", "(full)")
    if inner != src:
        assert refusal(src).endswith(f": found a set in the layout of {layout.name} in it; give SRC={inner}")


@pytest.mark.parametrize("version", ["flat", "v2.0"])
@pytest.mark.parametrize("place", ["vistas", "download/vistas", "a/download/vistas"])
def test_a_set_that_lies_deeper(tmp_path: Path, version: str, place: str) -> None:
    src = tmp_path / "parent"
    write_set(src / place, version)
    assert refusal(src).endswith(f": found a set in Vistas' layout in it; give SRC={src / place}")
    assert told_by_convert(src).endswith(
        f"set data.root or data.sources.vistas.root in conf/data so that the set's folder is {src / place}"
    )
    (src / "README").write_text("beside it")
    assert refusal(pack(src, tmp_path / "set.zip")).endswith(f"unpack the archive and give SRC its {place}")


def test_several_sets_in_a_folder(tmp_path: Path) -> None:
    src = tmp_path / "parent"
    for name in ("b", "a"):
        write_set(src / name)
    assert refusal(src).endswith(f": found 2 sets in Vistas' layout (a, b); give SRC={src / 'a'}, or another")


@pytest.mark.parametrize(("place", "version"), [(".", "flat"), (".", "v1.2"), ("vistas", "flat")])
def test_splits_of_other_names(tmp_path: Path, place: str, version: str) -> None:
    src = tmp_path / "parent"
    root = write_set(src / place, version)
    for here, other in (("training", "train"), ("validation", "Val")):
        shutil.move(root / here, root / other)
    prefix = "" if place == "." else f"{place}/"
    words = f"rename {prefix}Val to {prefix}validation and {prefix}train to {prefix}training"
    assert refusal(src).endswith(words if place == "." else f"{words}; then give SRC={root}")
    own = f"; then set data.root or data.sources.vistas.root in conf/data so that the set's folder is {root}"
    assert told_by_convert(src).endswith(words if place == "." else words + own)


@pytest.mark.parametrize("version", ["flat", "v1.2"])
@pytest.mark.parametrize("folders", [True, False])
def test_a_part_of_a_set_names_the_set(tmp_path: Path, version: str, folders: bool) -> None:
    root = write_set(tmp_path / "set", version, folders=folders)
    base = root / "training" if folders else root
    parts = ["images", "instances"] if version == "flat" else ["images", "v1.2", "v1.2/instances"]
    for part in parts:
        assert refusal(base / part).endswith(f": it is a part of a set in Vistas' layout; give SRC={root}")


def test_archives_in_an_archive(tmp_path: Path) -> None:
    inner = pack(write_set(tmp_path / "set"), tmp_path / "training.zip")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as content:
        content.write(inner, "vistas/training.zip")
    assert refusal(tmp_path / "outer.zip").endswith(
        "found archives, vistas/training.zip; unpack the set's archive and give its folder"
    )


@pytest.mark.parametrize("version", ["flat", "v1.2", "v2.0"])
@pytest.mark.parametrize("folders", [True, False])
def test_what_the_reader_takes_is_no_other_layout(tmp_path: Path, version: str, folders: bool) -> None:
    src = write_set(tmp_path / "set", version, folders=folders)
    assert reader.lies_at(src)
    assert reader.lies_at(zipfile.Path(pack(src, tmp_path / "set.zip")))
    assert layouts.recognise(src) is None


def test_a_split_or_an_archive_in_place_of_the_set(tmp_path: Path) -> None:
    src = write_set(tmp_path / "set")
    with pytest.raises(FileNotFoundError, match=rf"config\.json not found .*; give the folder of {src}/config\.json"):
        reader.find(config.Source(), src / "training", "data.sources.vistas")
    archive = pack(src, tmp_path / "set.zip")
    with pytest.raises(FileNotFoundError, match=rf"is a file, .*import the set by `make data SRC={archive}`"):
        reader.find(config.Source(), archive, "data.sources.vistas")
