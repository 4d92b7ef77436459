"""prelabels, and the way back: an engine's segments go to each tool, are corrected there, and are a data set again."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from stages import config, convert
from stages.coco import panoptic
from stages.commands import prelabels
from stages.config import Format
from stages.engines import loading
from stages.foundation.picture_files import read_rgb
from stages.sets import brush_rle, label_maps
from tests.conftest import REPO, TABLES, run
from tests.support import bright

CPU = config.Target(builder=config.Builder.onnxruntime, builder_version="1.32")
CATEGORIES: list[Any] = [
    {"id": 1, "name": "object--car", "isthing": 1, "color": [255, 0, 0]},
    {"id": 2, "name": 'a "quoted" & <strange> name, é', "isthing": 1, "color": [0, 255, 9]},
    {"id": 3, "name": "nature--sky", "isthing": 0, "color": [0, 0, 255]},
]
SIZE = (37, 53)
NAMES = ("a.jpg", "b b.png", "c.jpg", "dé.png")


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions for four pictures, with cars that touch, and pixels of no segment."""
    root = tmp_path_factory.mktemp("predicted")
    (root / "pictures").mkdir()
    writer = panoptic.Writer(root / "infer", CATEGORIES)
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES, start=1):
        cv2.imwrite(str(root / "pictures" / name), rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
        ids = np.zeros(SIZE, np.int32)
        ids[:15] = 7
        ids[10:30, 5:20], ids[12:28, 20:40], ids[20:, 44:] = 300, 2, 4
        ids[np.random.default_rng(number).random(SIZE) < 0.1] = 0
        entry = panoptic.Entry(number, Path(name), Path(f"{number}.png"), [])
        writer.add(entry, ids, {7: 3, 300: 1, 2: 1, 4: 2, 9: 1})  # 9 has no pixel
    writer.close()
    return root


@pytest.fixture
def written(predicted: Path, tmp_path: Path) -> Path:
    assert prelabels.build(prelabels.of_folder(predicted / "infer"), tmp_path / "out") == 4
    return tmp_path / "out"


def truth(predicted: Path, place: int) -> tuple[Any, dict[int, int]]:
    entry = panoptic.read(predicted / "infer").entries[place]
    return panoptic.read_ids(entry.png), {s["id"]: s["category_id"] for s in entry.segments}


def test_every_file_has_the_masks_of_the_map(predicted: Path, written: Path) -> None:
    coco = COCO(str(written / prelabels.COCO))
    tasks = json.loads((written / prelabels.TASKS).read_text())
    own = panoptic.read(written / "coco")
    names = {c["id"]: c["name"] for c in CATEGORIES}
    assert [coco.imgs[i]["file_name"] for i in sorted(coco.imgs)] == list(NAMES)
    for place, name in enumerate(NAMES):
        ids, category_ids = truth(predicted, place)
        expected = {(names[c], (ids == i).tobytes()) for i, c in category_ids.items() if i != 9}
        annotations = coco.imgToAnns[place + 1]
        assert len(annotations) == 4
        for one in annotations:
            assert one["iscrowd"] == 0
            assert isinstance(one["segmentation"]["counts"], list)
            assert one["area"] == coco.annToMask(one).sum()
        assert {(names[a["category_id"]], coco.annToMask(a).astype(bool).tobytes()) for a in annotations} == expected
        data, ((prediction),) = tasks[place]["data"], tasks[place]["predictions"]
        assert data["picture"] == name
        assert prediction["model_version"] == "infer"
        found = set()
        for region in prediction["result"]:
            assert (region["original_height"], region["original_width"]) == SIZE
            mask = brush_rle.decode(region["value"]["rle"], *SIZE)
            found.add((region["value"]["brushlabels"][0], mask.tobytes()))
        assert found == expected
        assert np.array_equal(panoptic.read_ids(own.entries[place].png), ids)
    assert tasks[3]["data"]["image"] == "/data/local-files/?d=d%C3%A9.png"


def test_the_tools_get_the_classes_with_their_colours(written: Path) -> None:
    labels = json.loads((written / prelabels.CVAT_LABELS).read_text())
    view = ElementTree.parse(written / prelabels.LABELING).getroot()
    found = [(one.get("value"), one.get("background")) for one in view.iter("Label")]
    assert found == [(one["name"], one["color"]) for one in labels]
    assert found == [(c["name"], "#" + bytes(c["color"]).hex()) for c in CATEGORIES]
    (brushes,), (image,) = view.iter("BrushLabels"), view.iter("Image")
    (region, *_) = json.loads((written / prelabels.TASKS).read_text())[0]["predictions"][0]["result"]
    assert (brushes.get("name"), brushes.get("toName")) == (region["from_name"], region["to_name"])
    assert image.get("name") == region["to_name"]


def test_an_engine_labels_a_folder_of_pictures(tmp_path: Path) -> None:
    engine = bright.build(tmp_path, CPU)
    (tmp_path / "in").mkdir()
    for name, width in (("b.png", 16), ("a.png", 32)):
        cv2.imwrite(str(tmp_path / "in" / name), bright.picture(width)[..., ::-1])
    arguments = ["--engine", str(engine), "--source", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "stages.commands.prelabels", *arguments]
    done = run(*command, cwd=REPO, PYTHONPATH=str(REPO))
    assert done.returncode == 0, done.stderr
    coco = COCO(str(tmp_path / "out" / prelabels.COCO))
    (car, sky) = coco.imgToAnns[1]
    assert coco.imgs[1]["file_name"] == "a.png"
    assert (car["area"], car["bbox"], round(car["score"], 3)) == (32 * 48, [0, 0, 32, 48], 0.9)
    assert round(sky["score"], 3) == 0.8
    (task, _) = json.loads((tmp_path / "out" / prelabels.TASKS).read_text())
    sha256 = loading.load(engine, "cpu", CPU).engine_sha256
    assert task["predictions"][0]["model_version"] == f"cpu {sha256[:12]}"
    assert [round(region["score"], 3) for region in task["predictions"][0]["result"]] == [0.9, 0.8]
    # A picture that can't be read would be missing without a word in the tools.
    (tmp_path / "in/c.png").write_bytes(b"no picture")
    done = run(*command, cwd=REPO, PYTHONPATH=str(REPO))
    assert done.returncode == 1
    message = f"1 of 3 pictures of {tmp_path}/in could not be read; restore or remove them"
    assert done.stderr.splitlines()[-1].endswith(message)
    assert len(COCO(str(tmp_path / "out" / prelabels.COCO)).imgs) == 2, "the former output is there"


def edited(place: int, ids: Any, category_ids: dict[int, int]) -> tuple[Any, dict[int, int]]:
    """What a person corrects: a border, a class, an object that is none."""
    result, classes = ids.copy(), {i: c for i, c in category_ids.items() if i != 9}
    if place % 2:
        result[10:33, 5:20] = 300
        result[result == 4] = 0
        classes[2] = 2
        del classes[4]
    return result, classes


def as_cvat(out: Path, root: Path, predicted: Path) -> None:
    """What CVAT exports after the correction: its own category ids, iscrowd 1 for masks, attributes, no scores."""
    content = json.loads((out / prelabels.COCO).read_text())
    own = {c["id"]: len(CATEGORIES) + 1 - c["id"] for c in CATEGORIES}
    annotations = []
    for image in content["images"]:
        ids, classes = edited(image["id"] - 1, *truth(predicted, image["id"] - 1))
        for i, c in classes.items():
            flat = (ids == i).ravel(order="F")
            counts = np.diff([0, *np.flatnonzero(np.diff(flat, prepend=False)).tolist(), flat.size]).tolist()
            one = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": own[c], "iscrowd": 1}
            shape = {"counts": counts, "size": list(ids.shape)}
            annotations.append({**one, "segmentation": shape, "attributes": {"occluded": False}})
    names = [{"id": own[c["id"]], "name": c["name"], "supercategory": ""} for c in CATEGORIES]
    content |= {"annotations": annotations, "categories": names}
    (root / "annotations").mkdir(parents=True)
    (root / "annotations/instances_default.json").write_text(json.dumps(content))


def as_label_studio(out: Path, root: Path, predicted: Path) -> None:
    """What Label Studio exports after the predictions were taken over and corrected."""
    tasks = json.loads((out / prelabels.TASKS).read_text())
    names = {c["id"]: c["name"] for c in CATEGORIES}
    for place, task in enumerate(tasks):
        ids, classes = edited(place, *truth(predicted, place))
        regions = {region["id"]: region for region in task["predictions"][0]["result"]}
        result = [regions[f"segment{i}"] for i in classes]
        for region, (i, c) in zip(result, classes.items(), strict=True):
            region["value"] |= {"rle": brush_rle.encode(ids == i), "brushlabels": [names[c]]}
        task |= {"id": place + 5, "annotations": [{"id": place, "was_cancelled": False, "result": result}]}
    (root / "annotations").mkdir(parents=True)
    (root / "annotations/project-1-at-2026.json").write_text(json.dumps(tasks))


Tool = Callable[[Path, Path, Path], None]
TOOLS: dict[Format, Tool] = {Format.cvat: as_cvat, Format.label_studio: as_label_studio}


def assert_comes_back(root: Path, out: Path, predicted: Path, tmp_path: Path, corrected: bool = True) -> None:
    """The set in `root` converts to the segments of the predictions, corrected or not."""
    shutil.copytree(predicted / "pictures", root / "images", dirs_exist_ok=True)
    shutil.copy(out / label_maps.NAME, root)
    cfg = config.Data(splits=config.Splits.fraction, val_fraction=0.5, split_seed=1, workers=1)
    convert.build(root, tmp_path / "coco", tmp_path / "data.json", TABLES, cfg)
    found = {}
    for split in ("train", "val"):
        written = panoptic.read(tmp_path / "coco" / split)
        names = {c["id"]: (c["name"], c["isthing"]) for c in written.categories}
        for entry in written.entries:
            ids = panoptic.read_ids(entry.png)
            found[entry.key] = {
                (*names[s["category_id"]], s["iscrowd"], (ids == s["id"]).tobytes()) for s in entry.segments
            }
    kinds = {c["id"]: (c["name"], c["isthing"], 0) for c in CATEGORIES}
    expected = {}
    for place, name in enumerate(NAMES):
        ids, classes = truth(predicted, place)
        ids, classes = edited(place, ids, classes) if corrected else (ids, {i: c for i, c in classes.items() if i != 9})
        expected[Path(name).stem] = {(*kinds[c], (ids == i).tobytes()) for i, c in classes.items()}
    assert found == expected


@pytest.mark.parametrize("chosen", TOOLS)
def test_corrected_labels_come_back_pixel_by_pixel(
    predicted: Path, written: Path, tmp_path: Path, chosen: Format
) -> None:
    TOOLS[chosen](written, tmp_path / "set", predicted)
    assert_comes_back(tmp_path / "set", written, predicted, tmp_path)


def test_what_can_not_be_labelled_is_said(predicted: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt, which this command did not write"):
        prelabels.build(prelabels.of_folder(predicted / "infer"), tmp_path / "mine")
    with pytest.raises(FileNotFoundError, match=r"panoptic\.json"):
        prelabels.of_folder(tmp_path)
    twins = [CATEGORIES[0], {**CATEGORIES[1], "name": "object--car"}]
    with pytest.raises(ValueError, match="two classes have one name, by which the tools tell labels apart"):
        prelabels.build(prelabels.Predictions(twins, "", iter(())), tmp_path / "out")
    with pytest.raises(ValueError, match="no picture has predictions"):
        prelabels.build(prelabels.Predictions(CATEGORIES, "", iter(())), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    video = tmp_path / "a.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"mp4v"), 20, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    with pytest.raises(ValueError, match="found a video, a camera or a stream, expected pictures; extract its"):
        prelabels.of_engine(tmp_path, str(video))


def environment(folder: Path, *packages: str) -> Path:
    """The interpreter of a new environment with packages, whose requirements are not those of ours."""
    uv = shutil.which("uv") or str(REPO / ".tools/bin/uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    python = folder / "bin/python"
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *packages], check=True)
    return python


def run_in(python: Path, code: str, *arguments: object) -> str:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-W", "ignore", "-c", code, *map(str, arguments)], capture_output=True, text=True, env=kept
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_label_studios_own_package_reads_and_writes_the_same_masks(
    predicted: Path, written: Path, tmp_path: Path
) -> None:
    python = environment(tmp_path / "venv", "label-studio-converter==0.0.59", "numpy")
    code = (
        "import json, sys, numpy as np\n"
        "from label_studio_converter import brush\n"
        "for task in json.load(open(sys.argv[1])):\n"
        "    for region in task['predictions'][0]['result']:\n"
        "        h, w = region['original_height'], region['original_width']\n"
        "        alpha = np.reshape(brush.decode_rle(region['value']['rle']), [h, w, 4])[:, :, 3]\n"
        "        assert set(np.unique(alpha)) <= {0, 255}\n"
        "        same = brush.mask2rle(alpha) == region['value']['rle']\n"
        "        print(json.dumps([same, np.packbits(alpha > 0).tolist()]))\n"
    )
    lines = [json.loads(line) for line in run_in(python, code, written / prelabels.TASKS).splitlines()]
    expected = []
    for place in range(len(NAMES)):
        ids, category_ids = truth(predicted, place)
        expected += [np.packbits(ids == i).tolist() for i in category_ids if i != 9]
    assert lines == [[True, one] for one in expected]


@pytest.mark.slow
def test_datumaro_reads_the_labels_and_its_export_comes_back(predicted: Path, written: Path, tmp_path: Path) -> None:
    """CVAT reads and writes COCO by Datumaro. In between it drops attributes that a label does not have."""
    python = environment(tmp_path / "venv", "datumaro==1.13.12")
    (tmp_path / "in").mkdir()
    shutil.copytree(written / "annotations", tmp_path / "in/annotations")
    shutil.copytree(predicted / "pictures", tmp_path / "in/images/default")
    code = (
        "import sys\n"
        "from datumaro.components.dataset import Dataset\n"
        "dataset = Dataset.import_from(sys.argv[1], 'coco_instances')\n"
        "for item in dataset:\n"
        "    assert sum(one.type.name == 'mask' for one in item.annotations) == 4\n"
        "    for one in item.annotations:\n"
        "        one.attributes.clear()\n"
        "        one.attributes['occluded'] = False\n"
        "dataset.export(sys.argv[2], 'coco_instances', save_media=False)\n"
    )
    run_in(python, code, tmp_path / "in", tmp_path / "set")
    (found,) = (tmp_path / "set/annotations").iterdir()
    annotations = json.loads(found.read_text())["annotations"]
    assert {one["iscrowd"] for one in annotations} == {1}, "what the reader of CVAT's exports is for"
    assert_comes_back(tmp_path / "set", written, predicted, tmp_path, corrected=False)


@pytest.mark.slow
def test_fiftyone_reads_the_labels(predicted: Path, written: Path, tmp_path: Path) -> None:
    """By its reader of COCO alone: its database is a program that PyPI does not have."""
    python = environment(tmp_path / "venv", "fiftyone==1.22.1", "pycocotools==2.0.11")
    code = (
        "import json, sys, numpy as np\n"
        "from fiftyone.utils.coco import COCODetectionDatasetImporter\n"
        "reader = COCODetectionDatasetImporter(data_path=sys.argv[1], labels_path=sys.argv[2],\n"
        "                                      label_types='segmentations')\n"
        "with reader:\n"
        "    for path, metadata, label in reader:\n"
        "        found = [[d.label, d.bounding_box, d.mask.astype(int).tolist()] for d in label.detections]\n"
        "        print('found', json.dumps([path, found]))\n"
    )
    output = run_in(python, code, predicted / "pictures", written / prelabels.COCO)
    lines = [json.loads(line.removeprefix("found ")) for line in output.splitlines() if line.startswith("found ")]
    assert [Path(path).name for path, _ in lines] == sorted(NAMES)
    names = {c["id"]: c["name"] for c in CATEGORIES}
    for path, detections in lines:
        ids, category_ids = truth(predicted, NAMES.index(Path(path).name))
        assert read_rgb(Path(path)).shape[:2] == SIZE
        found = set()
        for label, (x, y, _, _), part in detections:
            mask = np.zeros(SIZE, np.bool_)
            top, left = round(y * SIZE[0]), round(x * SIZE[1])
            mask[top : top + len(part), left : left + len(part[0])] = part
            found.add((label, mask.tobytes()))
        assert found == {(names[c], (ids == i).tobytes()) for i, c in category_ids.items() if i != 9}
