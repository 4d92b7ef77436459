"""The native layout of each data set that street-scene networks are commonly trained on.

Taken from the documents and tools of the sets. Where there is a reader (stages/sets), `parts` says which files it
needs: a folder that has all of them is a set, and a message names those that are missing.
"""

import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

Folder = Path | zipfile.Path
"""A folder or a file, on the disk or in an archive."""


@dataclass(frozen=True)
class Part:
    """Files that the reader of a layout needs."""

    what: str
    patterns: tuple[str, ...]
    """Alternatives, relative to the set's folder; `*` as in a shell."""
    fix: str
    absent: bool = False
    """True if no such file may be there, because it shows another layout."""


@dataclass(frozen=True)
class SetLayout:
    """The native layout of a data set."""

    name: str
    marks: tuple[tuple[str, ...], ...]
    """Alternatives. A folder has the layout if all patterns of one alternative match; `*` as in a shell."""
    content: Callable[[Folder], bool] | None = None
    """Function that checks the content of a file that matches the last pattern, where the name does not suffice."""
    step: str = "there is no reader for it yet; convert it to Vistas' layout (docs/data.md)"
    """Advice for the user."""
    format: str = ""
    """Name of the reader (data.sources.NAME.format), or empty if there is none."""
    parts: tuple[Part, ...] = ()
    """What the reader needs. A folder with all parts is a set."""


def _has(file: Folder, *words: bytes) -> bool:
    """Return whether a file contains all words. Reads in blocks, since COCO's files have up to hundreds of MB."""
    missing, tail = set(words), b""
    with file.open("rb") as stream:
        while missing and (block := stream.read(1 << 22)):
            missing = {word for word in missing if word not in tail + block}
            tail = block[-64:]
    return not missing


def _is_coco_panoptic(file: Folder) -> bool:
    return _has(file, b'"images"', b'"annotations"', b'"segments_info"')


def _is_coco(file: Folder) -> bool:
    return _has(file, b'"images"', b'"annotations"', b'"image_id"')


def _is_labelme(file: Folder) -> bool:
    return _has(file, b'"shapes"', b'"imagePath"')


def _is_label_studio(file: Folder) -> bool:
    return _has(file, b'"annotations"', b'"result"', b'"data"')


def _is_cvat(file: Folder) -> bool:
    return _has(file, b"<annotations>", b"<meta>")


def _is_yolo(file: Folder) -> bool:
    """Return whether the first line is a class id and the coordinates of a box or a polygon, from 0 to 1."""
    with file.open("rb") as stream:
        cells = stream.readline(1 << 16).split()
    numbers = [re.fullmatch(rb"[01]?(\.\d*)?([eE]-?\d+)?", cell) for cell in cells[1:]]
    return len(cells) >= 5 and cells[0].isdigit() and all(numbers)


def _each(*patterns: str, under: tuple[str, ...] = ("",)) -> tuple[tuple[str, ...], ...]:
    """Return alternatives of one pattern each: every pattern under every folder."""
    return tuple((folder + pattern,) for pattern in patterns for folder in under)


_TOOL_PICTURES: Final = tuple(
    f"images/{place}*{end}" for place in ("", "*/") for end in (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
)
_COCO_PICTURES: Final = tuple(f"{place}{split}*/*.jpg" for place in ("", "images/") for split in ("train", "val"))

LAYOUTS: Final = (
    SetLayout(
        "a set with masks only in labels or panoptic",
        _each(
            *(f"{version}{kind}/*.png" for version in ("", "v1.2/", "v2.0/") for kind in ("labels", "panoptic")),
            under=("training/", "validation/", "train/", "val/", ""),
        ),
        step="copy the folders instances of the same archive to the same places, or name the format vistas_labels for "
        "label ids without objects (docs/data.md)",
    ),
    SetLayout(
        "Cityscapes",
        _each(
            "*/*_gtFine_instanceIds.png",
            "*/*_gtFine_labelIds.png",
            # CITY_SEQUENCE_FRAME; IDD's names have fewer parts.
            "*/*_*_*_gtFine_polygons.json",
            under=("gtFine/*/", "*/", ""),
        )
        + _each("gtCoarse/*/*/*_*_*_gtCoarse_*", "leftImg8bit/*/*/*_*_*_leftImg8bit.*"),
        format="cityscapes",
        parts=(
            Part(
                "pictures",
                ("leftImg8bit/*/*/*_*_*_leftImg8bit.png",),
                "unpack leftImg8bit_trainvaltest.zip into the same folder",
            ),
            Part(
                "instance masks",
                ("gtFine/*/*/*_*_*_gtFine_instanceIds.png",),
                "unpack gtFine_trainvaltest.zip into the same folder",
            ),
        ),
    ),
    SetLayout(
        "IDD",
        _each("*/*_gtFine_polygons.json", under=("gtFine/*/", "*/", "")) + _each("leftImg8bit/*/*/*_leftImg8bit.*"),
        format="idd",
        parts=(
            Part(
                "pictures",
                ("leftImg8bit/*/*/*_leftImg8bit.png", "leftImg8bit/*/*/*_leftImg8bit.jpg"),
                "unpack the whole archive",
            ),
            Part("polygons", ("gtFine/*/*/*_gtFine_polygons.json",), "unpack the whole archive"),
            Part("", ("gtFine/*/*/*_*_*_gtFine_*",), "these are names of Cityscapes", absent=True),
        ),
    ),
    SetLayout(
        "KITTI's semantics",
        (("training/image_2", "training/semantic"), ("training/image_2", "training/instance"))
        + (("image_2", "semantic"), ("image_2", "instance")),
        format="kitti",
        parts=(
            Part("pictures", ("training/image_2/*.png",), "unpack data_semantics.zip as a whole"),
            Part(
                "masks", ("training/instance/*.png", "training/semantic/*.png"), "unpack data_semantics.zip as a whole"
            ),
        ),
    ),
    SetLayout("KITTI-360", _each("data_2d_semantics/*/*/image_0*", "data_2d_raw/*/image_0*")),
    SetLayout("A2D2", (("class_list.json", "*/label/cam_*"), ("camera_lidar_semantic/*/label/cam_*",))),
    SetLayout(
        "CamVid",
        (("701_StillsRaw_full", "LabeledApproved_full"), ("class_dict.csv", "train_labels"), ("train", "trainannot")),
    ),
    SetLayout(
        "ADE20K (full)",
        _each("images/ADE/*/*/*/*_seg.png", "images/*/*/*/*_seg.png", "images/*/*/ADE_*_seg.png"),
        format="ade20k_full",
        parts=(
            Part("pictures", ("images/ADE/*/*/*/*.jpg",), "unpack the archive of 2021 as a whole"),
            Part("masks", ("images/ADE/*/*/*/*_seg.png",), "unpack the archive of 2021 as a whole"),
            Part(
                "descriptions",
                ("images/ADE/*/*/*/*.json",),
                "use the release of 2021: that of 2016 has _atr.txt files, which are not read",
            ),
        ),
    ),
    SetLayout(
        "ADE20K SceneParsing",
        _each("annotations/*/ADE_*.png", "annotations_instance/*/ADE_*.png")
        + (("images/training", "annotations/training"), ("images/validation", "annotations/validation")),
        format="ade20k",
        parts=(
            Part("pictures", ("images/*/ADE_*.jpg",), "unpack ADEChallengeData2016.zip as a whole"),
            Part(
                "masks",
                ("annotations/*/ADE_*.png",),
                "unpack ADEChallengeData2016.zip as a whole; annotations_instance alone has no stuff",
            ),
        ),
    ),
    SetLayout(
        "BDD100K",
        _each("labels/pan_seg", "labels/ins_seg", "labels/sem_seg", "images/10k", "images/100k"),
        format="bdd100k",
        parts=(
            Part("pictures", ("images/10k/*/*.jpg",), "unpack bdd100k_images_10k.zip into the same folder"),
            Part(
                "panoptic masks",
                ("labels/pan_seg/bitmasks/*/*.png",),
                "unpack bdd100k_pan_seg_labels_trainval.zip into the same folder",
            ),
        ),
    ),
    SetLayout(
        "Pascal VOC",
        tuple(("JPEGImages", mark) for mark in ("SegmentationClass", "SegmentationObject", "Annotations/*.xml")),
        format="voc",
        parts=(
            Part("pictures", ("JPEGImages/*.jpg",), "unpack VOCtrainval_11-May-2012.tar as a whole"),
            Part(
                "class masks",
                ("SegmentationClass/*.png",),
                "unpack VOCtrainval_11-May-2012.tar as a whole; SegmentationClassAug has no borders and no objects",
            ),
            Part("object masks", ("SegmentationObject/*.png",), "unpack VOCtrainval_11-May-2012.tar as a whole"),
            Part("lists", ("ImageSets/Segmentation/*.txt",), "unpack VOCtrainval_11-May-2012.tar as a whole"),
        ),
    ),
    SetLayout(
        "CVAT's export in COCO 1.0",
        (("label_map.json", "annotations/instances_*.json"),)
        + tuple((f"annotations/instances_{subset}.json",) for subset in ("default", "Train", "Validation", "Test")),
        _is_coco,
        format="cvat",
        parts=(
            Part("annotations", ("annotations/instances_*.json",), "unpack the export of CVAT as a whole"),
            Part("classes", ("label_map.json",), "copy the label_map.json that `make prelabels` wrote"),
            Part("pictures", _TOOL_PICTURES, "put the pictures in images, or export them too"),
        ),
    ),
    SetLayout(
        "COCO panoptic",
        _each("*/*.json", "*.json"),
        _is_coco_panoptic,
        format="coco_panoptic",
        parts=(
            Part("segments", ("annotations/panoptic_*.json",), "put panoptic_SPLIT.json in annotations"),
            Part(
                "masks",
                ("annotations/panoptic_*/*.png", "panoptic_*/*.png"),
                "unpack annotations/panoptic_SPLIT.zip beside it",
            ),
            Part("pictures", _COCO_PICTURES, "unpack SPLIT.zip, such as val2017.zip, into the set's folder"),
        ),
    ),
    SetLayout(
        "COCO stuff",
        _each("stuffthingmaps/*", "*/stuff_*.json", "stuff_*.json"),
        format="coco_stuff",
        parts=(
            Part("masks", ("stuffthingmaps/*/*.png",), "unpack stuffthingmaps_trainval2017.zip into stuffthingmaps"),
            Part("pictures", _COCO_PICTURES, "unpack SPLIT.zip, such as val2017.zip, into the set's folder"),
        ),
    ),
    SetLayout(
        "COCO instances",
        _each("*/*.json", "*.json"),
        _is_coco,
        format="coco_instances",
        parts=(
            Part("objects", ("annotations/instances_*.json",), "put instances_SPLIT.json in annotations"),
            Part("pictures", _COCO_PICTURES, "unpack SPLIT.zip, such as val2017.zip, into the set's folder"),
        ),
    ),
    SetLayout(
        "Label Studio's export in JSON",
        _each("*/*.json", "*.json"),
        _is_label_studio,
        format="label_studio",
        parts=(
            Part("annotations", ("annotations/*.json",), "put the export, in the format JSON, in annotations"),
            Part("classes", ("label_map.json",), "copy the label_map.json that `make prelabels` wrote"),
            Part("pictures", _TOOL_PICTURES, "put the pictures in images"),
            *(
                Part("", (f"annotations/{name}_*.json",), "these are files of COCO", absent=True)
                for name in ("instances", "panoptic", "stuff")
            ),
        ),
    ),
    SetLayout("a set of labelme", _each("*.json", "*/*.json"), _is_labelme),
    SetLayout("a set of CVAT", _each("*.xml", "*/*.xml"), _is_cvat),
    SetLayout(
        "a YOLO set",
        (("images", "labels/*.txt"), ("images/*", "labels/*/*.txt"), ("*/images", "*/labels/*.txt")),
        _is_yolo,
    ),
)
