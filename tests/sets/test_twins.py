"""Generated streets in every native layout: each converts to the same segments, and public tools read the same.

datumaro is not among these tools: it needs older versions of NumPy, OpenCV and Pillow than the pipeline has, and drops
instances of Cityscapes and the kinds of COCO's categories. panopticapi is not on PyPI.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

from stages import config, convert
from stages.coco import panoptic
from stages.config import Format
from stages.sets import classes
from tests.conftest import TABLES
from tests.support import sets, streets

CROWDED = (Format.cityscapes, Format.kitti, Format.coco_panoptic, Format.coco_instances, Format.bdd100k, Format.idd)
"""Formats that hold the square with more than 250 objects."""
OF_TOOLS = (Format.cvat, Format.label_studio)
WITHOUT_OBJECTS = (Format.vistas_labels, Format.coco_stuff)
TAXONOMY = {Format.vistas: "vistas_v2_0", Format.ade20k_full: "mine"}
FULL_THINGS = ("car", "person", "bus", "bicycle")

Segments = dict[tuple[str, bool, int], Any]
"""(class, whether a crowd, number of the object) -> mask."""


@pytest.fixture(scope="module")
def scenes() -> sets.Scenes:
    return streets.streets(2, 1)


@pytest.fixture(scope="module")
def crowded(scenes: sets.Scenes) -> sets.Scenes:
    return {**scenes, "train": [*scenes["train"], streets.street(0, plaza=True)]}


def things(chosen: Format) -> dict[str, bool]:
    """Class of a format -> whether it is a thing."""
    if chosen is Format.vistas_labels:
        return {name: sets.Segment(name).isthing for name in sets.VISTAS_NAMES}
    if chosen in (Format.coco_panoptic, Format.coco_instances, *OF_TOOLS):
        return {str(c["name"]): bool(c["isthing"]) for c in sets.STREET_CATEGORIES}
    if chosen is Format.ade20k_full:
        return {name: short in FULL_THINGS for short, name in sets.STREET_FULL_NAMES.items()}
    if chosen is Format.vistas:
        return {name: sets.labels.BY_NAME[name].instances for name in sets.VISTAS_NAMES.values()}
    name = "cityscapes" if chosen is Format.kitti else chosen.value
    return {label.name: label.instances for label in classes.load(name).labels if label.evaluate}


def expected(scene: sets.Scene, chosen: Format) -> Segments:
    """The segments of a scene that a format can hold."""
    known, result = things(chosen), dict[tuple[str, bool, int], Any]()
    if chosen is Format.coco_instances:
        known = {name: True for name, thing in known.items() if thing}
    for index, segment in enumerate(scene.segments):
        name = sets.NAMES.get(chosen, {}).get(segment.name, segment.name)
        number = segment.number if chosen not in WITHOUT_OBJECTS else 0
        crowd = known.get(name, False) and not number
        if chosen is Format.ade20k_full and crowd:
            crowd, number = False, -index  # It has no crowds, so the group is an object.
        if (chosen in (Format.voc, *OF_TOOLS) and crowd) or (chosen is Format.vistas and crowd and name not in GROUPED):
            continue  # VOC has 255 for crowds, tools have none, and Vistas has no label for most.
        if name in known and (mask := scene.pixels == index).any():
            key = (name, crowd, number if known[name] else 0)
            result[key] = result.get(key, False) | mask
    return result


GROUPED = [sets.VISTAS_NAMES[name] for name in sets.VISTAS_GROUPS]


def built(root: Path, out: Path, chosen: Format, scenes: sets.Scenes) -> Path:
    """Convert the set of a format; KITTI's split is a list."""
    tables = out.parent / "tables"
    tables.mkdir(exist_ok=True)
    for path in TABLES.glob("*.csv"):
        (tables / path.name).write_bytes(path.read_bytes())
    rows = [f'"{name}","{name}",,{int(short in FULL_THINGS)}' for short, name in sets.STREET_FULL_NAMES.items()]
    (tables / "mine.csv").write_text("\n".join(["source,target,crowd,isthing", *rows]), encoding="utf-8")
    lines = [f"{one.number:06}_10,{split}" for split, each in scenes.items() for one in each]
    (tables / "kitti_split.csv").write_text("\n".join(lines))
    source = config.Source(format=chosen, taxonomy=TAXONOMY.get(chosen, ""))
    listed = {"splits": config.Splits.file, "split_file": "kitti_split"} if chosen is Format.kitti else {}
    cfg = config.Data(sources={"a": source}, workers=1, **listed)  # type: ignore[arg-type]
    convert.build(root, out, out.parent / "data.json", tables, cfg)
    return out


def found(out: Path, split: str) -> list[list[tuple[str, bool, Any]]]:
    """The segments of each picture that convert wrote: class, whether a crowd, mask."""
    written = panoptic.read(out / split)
    names = {category["id"]: category["name"] for category in written.categories}
    result = []
    for entry in written.entries:
        ids = panoptic.read_ids(entry.png)
        result.append([(names[s["category_id"]], bool(s["iscrowd"]), ids == s["id"]) for s in entry.segments])
    return result


def one_crowd(segments: list[tuple[str, bool, Any]]) -> list[tuple[str, bool, Any]]:
    """Join the crowds of a class: in IDD each polygon of a group is one."""
    crowds: dict[str, Any] = {}
    for name, crowd, mask in segments:
        if crowd:
            crowds[name] = crowds.get(name, False) | mask
    return [one for one in segments if not one[1]] + [(name, True, mask) for name, mask in crowds.items()]


def assert_alike(segments: list[tuple[str, bool, Any]], wanted: Segments) -> None:
    """Both have the same segments, whatever their order and ids."""
    plain = {(name, crowd, mask.tobytes()) for name, crowd, mask in segments}
    assert len(plain) == len(segments)
    assert plain == {(name, crowd, mask.tobytes()) for (name, crowd, _), mask in wanted.items()}


@pytest.mark.parametrize("chosen", sets.WRITERS)
def test_every_layout_gives_the_same_segments(
    tmp_path: Path, scenes: sets.Scenes, crowded: sets.Scenes, chosen: Format
) -> None:
    used = crowded if chosen in CROWDED else scenes
    out = built(sets.WRITERS[chosen](tmp_path / "set", used), tmp_path / "coco", chosen, used)
    objects = crowds = 0
    for split, each in used.items():
        for segments, scene in zip(found(out, split), sorted(each, key=lambda one: one.number), strict=True):
            wanted = expected(scene, chosen)
            assert_alike(one_crowd(segments) if chosen is Format.idd else segments, wanted)
            objects += sum(number != 0 for _, _, number in wanted)
            crowds += sum(crowd for _, crowd, _ in wanted)
    # The streets have what the comparison is about.
    assert (objects > (250 if chosen in CROWDED else 20)) == (chosen not in WITHOUT_OBJECTS)
    assert (crowds > 0) == (chosen not in (Format.voc, Format.ade20k_full, *OF_TOOLS))


def test_polygons_cover_the_same_pixels_in_pillow_and_opencv(crowded: sets.Scenes) -> None:
    """IDD's reader draws by Pillow, as the set's own tools do. The streets were drawn by OpenCV."""
    for scene in crowded["train"]:
        height, width = scene.pixels.shape
        canvas = Image.new("I", (width, height), len(scene.segments) - 1)
        pen = ImageDraw.Draw(canvas)
        for index, points in scene.polygons:
            pen.polygon([tuple(point) for point in points], fill=index)
        assert np.array_equal(np.asarray(canvas), scene.pixels)


def test_cityscapesscripts_makes_the_same_panoptic_set(tmp_path: Path, crowded: sets.Scenes) -> None:
    """The set's own tool: the same segments, classes and crowds. Its iscrowd is for groups of things too."""
    from cityscapesscripts.helpers.labels import id2label
    from cityscapesscripts.preparation import createPanopticImgs

    root = sets.cityscapes(tmp_path / "set", crowded)
    out = built(root, tmp_path / "coco", Format.cityscapes, crowded)
    (tmp_path / "theirs").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        createPanopticImgs.convert2panoptic(
            str(root / "gtFine"), str(tmp_path / "theirs"), useTrainId=False, setNames=list(crowded)
        )
    for split in crowded:
        theirs = json.loads((tmp_path / f"theirs/cityscapes_panoptic_{split}.json").read_text())
        ours = found(out, split)
        assert len(ours) == len(theirs["annotations"])
        for segments, entry in zip(ours, theirs["annotations"], strict=True):
            rgb = np.array(Image.open(tmp_path / f"theirs/cityscapes_panoptic_{split}" / entry["file_name"]))
            ids = rgb.astype(np.int32) @ [1, 256, 65536]
            wanted = {
                (id2label[s["category_id"]].name, bool(s["iscrowd"]), s["id"]): ids == s["id"]
                for s in entry["segments_info"]
            }
            assert_alike(segments, wanted)


def test_cityscapesscripts_counts_the_same_objects(tmp_path: Path, crowded: sets.Scenes) -> None:
    from cityscapesscripts.evaluation import instances2dict

    root = sets.cityscapes(tmp_path / "set", crowded)
    paths = sorted(map(str, root.glob("gtFine/train/*/*_instanceIds.png")))
    theirs = instances2dict.instances2dict(paths)
    out = built(root, tmp_path / "coco", Format.cityscapes, crowded)
    for path, segments in zip(paths, found(out, "train"), strict=True):
        for name in ("car", "person", "bicycle"):
            areas = sorted(i["pixelCount"] for i in theirs[path][name] if i["instID"] >= 1000)
            assert areas == sorted(int(mask.sum()) for n, crowd, mask in segments if n == name and not crowd)


def test_pycocotools_reads_the_same_objects(tmp_path: Path, crowded: sets.Scenes) -> None:
    """The set's file and ours have the same masks and crowds; polygons and both kinds of run lengths are among them."""
    root = sets.coco_instances(tmp_path / "set", crowded)
    out = built(root, tmp_path / "coco", Format.coco_instances, crowded)
    for split in crowded:
        both = []
        for path in (root / f"annotations/instances_{split}2017.json", out / split / "instances.json"):
            read = COCO(str(path))
            both.append(
                sorted(
                    (read.cats[a["category_id"]]["name"], a["iscrowd"], read.annToMask(a).tobytes())
                    for a in read.loadAnns(read.getAnnIds())
                )
            )
        assert both[0] == both[1]


def test_torchvision_reads_the_same_pictures(tmp_path: Path, scenes: sets.Scenes) -> None:
    """Its readers of Cityscapes, VOC and COCO find every picture, with the values of the scene."""
    from torchvision import datasets

    root = sets.cityscapes(tmp_path / "cityscapes", scenes)
    own = sets.ids("cityscapes")
    read: Any = datasets.Cityscapes(
        str(root), split="train", mode="fine", target_type=["semantic", "instance", "polygon"]
    )
    assert len(read) == len(scenes["train"])
    for (image, (semantic, instance, polygon)), scene in zip(read, scenes["train"], strict=True):
        assert np.array_equal(np.array(image), scene.rgb)
        labels = scene.painted(lambda s: own[s.name or "unlabeled"], np.int32)
        values = np.array(instance)
        assert np.array_equal(np.array(semantic), labels)
        assert np.array_equal(np.where(values >= 1000, values // 1000, values), labels)
        assert (polygon["imgHeight"], polygon["imgWidth"]) == labels.shape

    sets.voc(tmp_path / "VOCdevkit/VOC2012", scenes)
    out = built(tmp_path / "VOCdevkit/VOC2012", tmp_path / "coco", Format.voc, scenes)
    read = datasets.VOCSegmentation(str(tmp_path), year="2012", image_set="train")
    voc = sets.ids("voc")
    for (_, target), segments in zip(read, found(out, "train"), strict=True):
        indices = np.array(target)
        for name, value in voc.items():
            masks = [mask for n, _, mask in segments if n == name]
            assert name == "background" or np.array_equal(np.any([*masks, np.zeros_like(indices)], 0), indices == value)

    sets.coco_instances(tmp_path / "coco_set", scenes)
    path = tmp_path / "coco_set/annotations/instances_train2017.json"
    read = datasets.CocoDetection(str(tmp_path / "coco_set/train2017"), str(path))
    for (image, objects), scene in zip(read, scenes["train"], strict=True):
        assert image.size == scene.pixels.shape[::-1]
        assert len(objects) == len(expected(scene, Format.coco_instances))


def test_ade20k_is_read_as_its_own_scripts_read_it(tmp_path: Path, scenes: sets.Scenes) -> None:
    """By the two lines of the set's own readers: the class, and the object where green is not 0."""
    root = sets.ade20k(tmp_path / "set", scenes)
    out = built(root, tmp_path / "coco", Format.ade20k, scenes)
    own = sets.ids("ade20k")
    for segments, scene in zip(found(out, "train"), scenes["train"], strict=True):
        name = f"training/ADE_train_{scene.number:08}.png"
        kinds = np.array(Image.open(root / "annotations" / name))
        numbers = np.array(Image.open(root / "annotations_instance" / name))[..., 1]
        for label, value in own.items():
            masks = [mask for n, _, mask in segments if n == label]
            assert np.array_equal(np.any([*masks, np.zeros(kinds.shape, bool)], 0), kinds == value)
        objects = {mask.tobytes() for n, crowd, mask in segments if not crowd and things(Format.ade20k)[n]}
        assert objects == {(numbers == n).tobytes() for n in np.unique(numbers) if n}
