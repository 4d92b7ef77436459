"""Figures by source and by the sets' own rules, compared with the reference scripts on perturbed predictions."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPanopticSemanticLabeling, evalPixelLevelSemanticLabeling
from cityscapesscripts.preparation import createPanopticImgs
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stages import config, convert
from stages.coco import panoptic
from stages.config import Format, Mode
from stages.conversion import taxonomy
from stages.foundation import files
from stages.inference.segments import Segments
from stages.metrics.average_precision import NAMES
from stages.reference import protocols
from stages.reference.figures import Figures
from stages.reference.tao_model import Instances, Prediction
from stages.sets import classes
from tests.conftest import TABLES
from tests.support import sets

PICTURES = range(100, 106)
Predicted = tuple[panoptic.Entry, Segments, Segments]
"""Picture, panoptic map and semantic map."""


@pytest.fixture(autouse=True)
def several_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sets.SPLITS, "val", tuple(PICTURES))


def converted(root: Path, out: Path, sources: dict[str, config.Source], **options: Any) -> tuple[Path, config.Data]:
    cfg = config.Data(sources=sources, workers=1, **options)
    convert.build(root, out, out.parent / "data.json", TABLES, cfg)
    return out / "val", cfg


def perturbed(coco: Path, seed: int = 7) -> list[Predicted]:
    """Return each picture with its truth, whose segments are moved, dropped, swapped, split and made noisy."""
    truth = panoptic.read(coco)
    rng = np.random.default_rng(seed)
    numbers = [c["id"] for c in truth.categories]
    result = []
    for entry in truth.entries:
        ids = np.roll(panoptic.read_ids(entry.png), rng.integers(-3, 4, 2), (0, 1))
        by_id = {s["id"]: s["category_id"] for s in entry.segments}
        found, category_ids = np.zeros_like(ids), {}
        for segment_id, category_id in by_id.items():
            here, kind = ids == segment_id, rng.random()
            if kind < 0.15:
                continue
            new = len(category_ids) + 1
            found[here] = new
            category_ids[new] = int(rng.choice(numbers)) if kind < 0.3 else category_id
            if kind > 0.85:
                found[here & (rng.random(ids.shape) < 0.6)] = new + 1
                category_ids[new + 1] = category_id
        noise = rng.random(ids.shape) < 0.03
        found[noise] = 0
        # One segment of stuff for a class, as all networks predict it.
        first: dict[int, int] = {}
        for segment_id, category_id in list(category_ids.items()):
            if (
                not truth.categories[category_id - 1]["isthing"]
                and first.setdefault(category_id, segment_id) != segment_id
            ):
                found[found == segment_id] = first[category_id]
                del category_ids[segment_id]
        gone = set(category_ids) - set(np.unique(found).tolist())
        merged = Segments(found.astype(np.int32), {i: c for i, c in category_ids.items() if i not in gone})
        table = np.zeros(max(category_ids, default=0) + 1, np.int32)
        for segment_id, category_id in merged.category_ids.items():
            table[segment_id] = category_id
        flat = table[merged.ids]
        flat[noise] = rng.choice(numbers, int(noise.sum()))
        result.append((entry, merged, Segments(flat, {int(c): int(c) for c in np.unique(flat) if c})))
    return result


def prediction(merged: Segments, semantic: Segments, instances: Instances | None = None) -> Prediction:
    return Prediction(torch.zeros(0), torch.zeros(0), {Mode.panoptic: merged, Mode.semantic: semantic}, instances)


def evaluated(coco: Path, root: Path, cfg: config.Data, found: list[Predicted]) -> Figures:
    truth = panoptic.read(coco)
    labelled = panoptic.read_labelled(coco, truth)
    own, without = protocols.find(labelled, truth.categories, root, TABLES, cfg, Mode.panoptic)
    assert not without
    figures = Figures(coco, truth.categories, Mode.panoptic, labelled, own)
    for entry, merged, semantic in found:
        figures.add(entry, prediction(merged, semantic))
    return figures


def own_ids(coco: Path, name_to_id: dict[str, int]) -> list[int]:
    """category_id -> the set's id of the class of that name; 0 for none."""
    return [0, *(name_to_id[c["name"]] for c in panoptic.read(coco).categories)]


def script_miou(found: list[Predicted], truth: Callable[[panoptic.Entry], Path], ids: list[int], folder: Path) -> float:
    """Mean IoU of cityscapesscripts, 0 to 1."""
    folder.mkdir()
    for entry, _, semantic in found:
        Image.fromarray(np.array(ids, np.uint8)[semantic.ids]).save(folder / entry.png.name)
    args = evalPixelLevelSemanticLabeling.args
    args.quiet, args.JSONOutput, args.evalInstLevelScore = True, False, False
    pairs = [(str(folder / entry.png.name), str(truth(entry))) for entry, *_ in found]
    return float(
        evalPixelLevelSemanticLabeling.evaluateImgLists(*map(list, zip(*pairs, strict=True)), args)[
            "averageScoreClasses"
        ]
    )


def script_pq(
    found: list[Predicted],
    annotations: dict[str, Any],
    masks: Path,
    categories: list[Any],
    ids: list[int],
    folder: Path,
) -> dict[str, Any]:
    """PQ of panopticapi's rules as cityscapesscripts has them, 0 to 1. `annotations` are by the picture's key."""
    folder.mkdir()
    pairs = []
    for entry, merged, _ in found:
        panoptic.write_ids(folder / entry.png.name, merged.ids)
        infos = [{"id": i, "category_id": ids[c]} for i, c in merged.category_ids.items()]
        predicted = {"file_name": entry.png.name, "segments_info": infos}
        pairs.append((copy.deepcopy(annotations[entry.key]), predicted))
    by_id = {c["id"]: c for c in categories}
    counted = evalPanopticSemanticLabeling.pq_compute_single_core(0, pairs, str(masks), str(folder), by_id)
    result: dict[str, Any] = evalPanopticSemanticLabeling.average_pq(counted, by_id)
    return result


def assert_pq(found: Any, expected: dict[str, Any]) -> None:
    for part in ("all", "things", "stuff"):
        for key in ("pq", "sq", "rq"):
            assert found[part][key] == pytest.approx(100 * expected[part.title()][key], rel=1e-12)
        assert found[part]["classes"] == expected[part.title()]["n"]
    assert 5 < found["all"]["pq"] < 95


def test_cityscapes(tmp_path: Path) -> None:
    """The taxonomy merges nothing; groups and void labels are in the pictures."""
    root = sets.cityscapes(tmp_path / "set")
    coco, cfg = converted(root, tmp_path / "coco", {"city": config.Source(taxonomy="cityscapes")})
    found = perturbed(coco)
    own = evaluated(coco, root, cfg, found).by_source({})["city"]["protocol"]
    ids = own_ids(coco, sets.ids("cityscapes"))
    folder = root / "gtFine/val/ulm"
    miou = script_miou(found, lambda e: folder / f"{e.key}_gtFine_labelIds.png", ids, tmp_path / "semantic")
    assert own["semantic"]["miou"] == pytest.approx(100 * miou, rel=1e-12)
    createPanopticImgs.convert2panoptic(str(root / "gtFine"), str(tmp_path), setNames=["val"])
    content = files.read_json(tmp_path / "cityscapes_panoptic_val.json")
    annotations = {a["image_id"]: a for a in content["annotations"]}
    expected = script_pq(
        found, annotations, tmp_path / "cityscapes_panoptic_val", content["categories"], ids, tmp_path / "pq"
    )
    assert_pq(own, expected)


def test_the_truth_is_the_sets_own_at_its_own_size(tmp_path: Path) -> None:
    """What `data` scales and merges away is in the figures; predictions are scaled to it."""
    root = sets.cityscapes(tmp_path / "set")
    for path in (root / "gtFine").rglob("*.png"):
        pixels = np.asarray(Image.open(path)).repeat(4, 0).repeat(4, 1)
        Image.fromarray(pixels).save(path)
    for path in (root / "leftImg8bit").rglob("*.png"):
        with Image.open(path) as picture:
            picture.resize((4 * sets.WIDTH, 4 * sets.HEIGHT)).save(path)
    coco, cfg = converted(
        root, tmp_path / "coco", {"city": config.Source(taxonomy="cityscapes")}, max_edge_px=120, min_segment_px=400,
        small_segments=config.SmallSegments.void,
    )  # fmt: skip
    found = perturbed(coco)
    assert found[0][2].ids.shape == (2 * sets.HEIGHT, 2 * sets.WIDTH)
    own = evaluated(coco, root, cfg, found).by_source({})["city"]["protocol"]
    large = [(e, m, Segments(s.ids.repeat(2, 0).repeat(2, 1), s.category_ids)) for e, m, s in found]
    folder = root / "gtFine/val/ulm"
    ids = own_ids(coco, sets.ids("cityscapes"))
    miou = script_miou(large, lambda e: folder / f"{e.key}_gtFine_labelIds.png", ids, tmp_path / "semantic")
    assert own["semantic"]["miou"] == pytest.approx(100 * miou, rel=1e-12)


def test_kitti(tmp_path: Path) -> None:
    root = sets.kitti(tmp_path / "set")
    (tmp_path / "tables").mkdir()
    shutil.copytree(TABLES, tmp_path / "tables", dirs_exist_ok=True)
    lines = [f"{s:06}_10,train\n" for s in sets.SPLITS["train"]] + [f"{s:06}_10,val\n" for s in PICTURES]
    (tmp_path / "tables/mine.csv").write_text("".join(lines))
    cfg = config.Data(
        sources={"kitti": config.Source(taxonomy="cityscapes")}, workers=1, splits=config.Splits.file, split_file="mine"
    )
    convert.build(root, tmp_path / "coco", tmp_path / "data.json", tmp_path / "tables", cfg)
    coco = tmp_path / "coco/val"
    found = perturbed(coco)
    own = evaluated(coco, root, cfg, found).by_source({})["kitti"]["protocol"]
    ids = own_ids(coco, sets.ids("cityscapes"))
    folder = root / "training/semantic"
    miou = script_miou(found, lambda e: folder / f"{e.key}.png", ids, tmp_path / "semantic")
    assert own["semantic"]["miou"] == pytest.approx(100 * miou, rel=1e-12)
    assert "all" not in own


def confusion_iou(found: list[tuple[Any, Any]], num_classes: int) -> list[float]:
    """IoU of the classes 0 to num_classes - 1 of pairs (truth, predicted); truth above them is void."""
    result = []
    for number in range(num_classes):
        hits = union = 0
        for truth, predicted in found:
            counted = truth < num_classes
            hits += int(((truth == number) & (predicted == number) & counted).sum())
            union += int((((truth == number) | (predicted == number)) & counted).sum())
        result.append(hits / union if union else np.nan)
    return result


def test_voc_counts_background(tmp_path: Path) -> None:
    """As VOC's development kit: 21 classes, 255 ignored. What the network finds nothing in is background."""
    root = sets.voc(tmp_path / "set")
    coco, cfg = converted(root, tmp_path / "coco", {"voc": config.Source(taxonomy="voc")})
    found = perturbed(coco)
    own = evaluated(coco, root, cfg, found).by_source({})["voc"]["protocol"]
    ids = own_ids(coco, sets.ids("voc"))
    pairs = []
    for entry, merged, _ in found:
        by_id = np.zeros(256, np.int64)
        for segment_id, category_id in merged.category_ids.items():
            by_id[segment_id] = ids[category_id]
        truth = np.asarray(Image.open(root / f"SegmentationClass/{entry.key}.png"))
        assert {0, 255} <= set(np.unique(truth).tolist())
        pairs.append((truth, by_id[merged.ids]))
    iou = confusion_iou(pairs, 21)
    assert own["semantic"]["miou"] == pytest.approx(100 * np.nanmean(iou), rel=1e-12)
    assert own["semantic"]["classes_present"] == np.isfinite(iou).sum()
    assert iou[0] > 0.5


def test_ade20k_has_no_crowds(tmp_path: Path) -> None:
    """As in the panoptic sets that are made from it: pixels of a thing class outside of all objects are void."""
    root = sets.ade20k(tmp_path / "set")
    coco, cfg = converted(root, tmp_path / "coco", {"ade": config.Source(taxonomy="ade20k")})
    found = perturbed(coco)
    own = evaluated(coco, root, cfg, found).by_source({})["ade"]["protocol"]
    numbers = sets.ids("ade20k")
    ids = own_ids(coco, numbers)
    masks = tmp_path / "masks"
    masks.mkdir()
    annotations = {}
    for seed in PICTURES:
        key = f"ADE_val_{seed:08}"
        pixels, segments = sets.scene(seed)
        used = [0 if not s.name or s.iscrowd else place + 1 for place, s in enumerate(segments)]
        panoptic.write_ids(masks / f"{key}.png", np.array(used)[pixels])
        infos = [
            {"id": i, "category_id": numbers[s.name], "iscrowd": 0, "area": int((pixels == i - 1).sum())}
            for i, s in zip(used, segments, strict=True)
            if i
        ]
        annotations[key] = {"image_id": key, "file_name": f"{key}.png", "segments_info": infos}
    labels = classes.load("ade20k").labels
    categories = [{"id": numbers[x.name], "name": x.name, "isthing": int(x.instances)} for x in labels]
    assert_pq(own, script_pq(found, annotations, masks, categories, ids, tmp_path / "pq"))
    table = np.array(ids)
    pairs = [
        (np.asarray(Image.open(root / f"annotations/validation/{e.key}.png"), np.int64) - 1, table[s.ids] - 1)
        for e, _, s in found
    ]
    pairs = [(np.where(truth < 0, 255, truth), predicted) for truth, predicted in pairs]
    assert own["semantic"]["miou"] == pytest.approx(100 * np.nanmean(confusion_iou(pairs, 150)), rel=1e-12)


def test_coco_panoptic_counts_the_last_crowd_of_a_class(tmp_path: Path) -> None:
    root = sets.coco_panoptic(tmp_path / "set")
    path = root / "annotations/panoptic_val2017.json"
    content = files.read_json(path)
    for annotation in content["annotations"]:
        # The crowd's left half becomes another crowd, before it in the file, with a greater id.
        mask = root / "annotations/panoptic_val2017" / annotation["file_name"]
        ids = panoptic.read_ids(mask)
        (crowd,) = [s for s in annotation["segments_info"] if s["iscrowd"]]
        other = {**crowd, "id": max(s["id"] for s in annotation["segments_info"]) + 1}
        columns = np.flatnonzero((ids == crowd["id"]).any(0))
        left = (ids == crowd["id"]) & (np.arange(ids.shape[1]) < columns.mean())
        ids[left] = other["id"]
        crowd["area"], other["area"] = crowd["area"] - int(left.sum()), int(left.sum())
        panoptic.write_ids(mask, ids)
        annotation["segments_info"].insert(0, other)
    files.write_json(path, content)
    coco, cfg = converted(root, tmp_path / "coco", {"coco": config.Source(format=Format.coco_panoptic)})
    found = perturbed(coco)
    # Exactly the first crowd is found: panopticapi takes that for a wrong car.
    entry, merged, semantic = found[0]
    truth = panoptic.read_ids(entry.png)
    crowds = [s for s in entry.segments if s["iscrowd"]]
    assert len(crowds) == 2
    first = min(crowds, key=lambda s: int(np.flatnonzero((truth == s["id"]).any(0))[0]))
    ids, new = merged.ids.copy(), max(merged.category_ids) + 1
    ids[truth == first["id"]] = new
    kept = {i: c for i, c in {**merged.category_ids, new: first["category_id"]}.items() if (ids == i).any()}
    found[0] = (entry, Segments(ids, kept), semantic)
    figures = evaluated(coco, root, cfg, found)
    own = figures.by_source({})["coco"]["protocol"]
    to_own = own_ids(coco, {c["name"]: c["id"] for c in content["categories"]})
    annotations = {Path(a["file_name"]).stem: a for a in content["annotations"]}
    masks = root / "annotations/panoptic_val2017"
    assert_pq(own, script_pq(found, annotations, masks, content["categories"], to_own, tmp_path / "pq"))
    assert figures.summary()["all"]["pq"] > own["all"]["pq"], "all crowds count in our own figure"


def test_a_class_of_which_all_objects_are_crowds_has_an_iou(tmp_path: Path) -> None:
    """ADE20K without annotations_instance: its things are crowds, whose class is known all the same."""
    root = sets.ade20k(tmp_path / "set", objects=False)
    coco, cfg = converted(root, tmp_path / "coco", {"ade": config.Source(taxonomy="ade20k")})
    truth = panoptic.read(coco)
    found = []
    for entry in truth.entries:
        ids = panoptic.read_ids(entry.png)
        by_id = {s["id"]: s["category_id"] for s in entry.segments}
        flat = np.vectorize(lambda i, by_id=by_id: by_id.get(i, 0))(ids).astype(np.int32)
        found.append((entry, Segments(ids, by_id), Segments(flat, {c: c for c in by_id.values()})))
    figures = evaluated(coco, root, cfg, found)
    assert figures.summary()["semantic"] == {"miou": 100, "classes_present": 5, "pixel_accuracy": 100}
    assert {row["class"] for row in figures.per_class() if row.get("iou") == 100} >= {"car", "person"}
    part = figures.by_source({})["ade"]
    # There is no object to be found: a PQ of things would be 0 whatever the network does.
    assert part["stuff"]["pq"] == 100
    assert not {"all", "things"} & (part.keys() | part["protocol"].keys())


@pytest.fixture
def two_sources(tmp_path: Path) -> tuple[Path, Path, config.Data]:
    """Cityscapes and VOC onto Cityscapes' classes: VOC never labels road, and person only together with rider."""
    sets.cityscapes(tmp_path / "sets/city")
    sets.voc(tmp_path / "sets/voc")
    sources = {
        "city": config.Source(root="city", taxonomy="cityscapes"),
        "voc": config.Source(root="voc", taxonomy="cityscapes19_voc"),
    }
    coco, cfg = converted(tmp_path / "sets", tmp_path / "coco", sources)
    return coco, tmp_path / "sets", cfg


def right_everywhere(coco: Path) -> list[Predicted]:
    """Return the scene itself as the prediction, also where the source labels nothing."""
    truth = panoptic.read(coco)
    ids = {c["name"]: c["id"] for c in truth.categories}
    result = []
    for entry in truth.entries:
        pixels, segments = sets.scene(int(entry.key.split("_")[1]))
        by_id = {place + 1: ids[s.name] for place, s in enumerate(segments) if s.name}
        merged = np.where(pixels == len(segments) - 1, 0, pixels + 1).astype(np.int32)
        flat = np.vectorize(lambda i, by_id=by_id: by_id.get(i, 0))(merged).astype(np.int32)
        result.append((entry, Segments(merged, by_id), Segments(flat, {c: c for c in by_id.values()})))
    return result


def test_each_source_has_figures_over_the_classes_that_it_labels(
    two_sources: tuple[Path, Path, config.Data],
) -> None:
    coco, root, cfg = two_sources
    truth = panoptic.read(coco)
    labelled = panoptic.read_labelled(coco, truth)
    own, without = protocols.find(labelled, truth.categories, root, TABLES, cfg, Mode.panoptic)
    assert set(own) == {"city"}
    assert without["voc"]["not_computed"] == "'aeroplane' is no class of the taxonomy"
    figures = Figures(coco, truth.categories, Mode.panoptic, labelled, own)
    for entry, merged, semantic in right_everywhere(coco):
        masks = np.stack([merged.ids == i for i in merged.category_ids])
        objects = Instances(masks, np.full(len(masks), 0.9, np.float32), np.array([*merged.category_ids.values()]))
        figures.add(entry, prediction(merged, semantic, objects))
    found = figures.by_source(without)
    assert found["voc"]["protocol"] == without["voc"]
    for name, names in (("city", {"car", "person", "road", "building", "sky"}), ("voc", {"car"})):
        assert found[name]["pictures"] == len(PICTURES)
        assert found[name]["all"] == {"pq": 100, "sq": 100, "rq": 100, "classes": len(names)}
        assert found[name]["semantic"]["miou"] == 100
        assert found[name]["semantic"]["classes_present"] == len(names)
    assert "partly" not in found["city"]
    # A right prediction of what a source does not label is no false positive of the whole either.
    assert figures.summary()["all"] == {"pq": 100, "sq": 100, "rq": 100, "classes": 5}
    assert found["city"]["protocol"]["semantic"]["miou"] == 100


def test_the_ap_of_a_source_is_that_of_pycocotools_on_its_pictures_and_classes(
    two_sources: tuple[Path, Path, config.Data], tmp_path: Path
) -> None:
    coco, _, _ = two_sources
    truth = panoptic.read(coco)
    labelled = panoptic.read_labelled(coco, truth)
    figures = Figures(coco, truth.categories, Mode.panoptic, labelled)
    rng = np.random.default_rng(3)
    things = [c["id"] for c in truth.categories if c["isthing"]]
    for entry, merged, semantic in perturbed(coco):
        numbers = [i for i, c in merged.category_ids.items() if c in things]
        shape = merged.ids.shape
        masks = np.stack([merged.ids == i for i in numbers]) if numbers else np.zeros((0, *shape), bool)
        kinds = np.array([merged.category_ids[i] for i in numbers], np.int64)
        scores = rng.random(len(numbers)).astype(np.float32)
        figures.add(entry, prediction(merged, semantic, Instances(masks, scores, kinds)))
    found = figures.by_source({})
    content = files.read_json(coco / "instances.json")
    sources = {i["id"]: i["source"] for i in content["images"]}
    for name in ("city", "voc"):
        kept = labelled[name].everywhere
        own = {
            "images": [i for i in content["images"] if i["source"] == name],
            "annotations": [
                a for a in content["annotations"] if sources[a["image_id"]] == name and a["category_id"] in kept
            ],
            "categories": [c for c in content["categories"] if c["id"] in kept],
        }
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(own))
        results = [
            {**r} for r in figures.precision.results if sources[r["image_id"]] == name and r["category_id"] in kept
        ]
        reference = COCO(str(path))
        script = COCOeval(reference, reference.loadRes(results), "segm")
        script.evaluate()
        script.accumulate()
        script.summarize()
        expected = {n: 100 * float(v) for n, v in zip(NAMES, script.stats, strict=False) if v >= 0}
        assert found[name]["instance"] == expected
        assert 0 < expected["ap"] < 100


def test_classes_labelled_in_part_are_apart(tmp_path: Path) -> None:
    """Road of the first label, and with others by a union, whose pixels are void."""
    sets.cityscapes(tmp_path / "sets/city")
    shutil.copytree(TABLES, tmp_path / "tables")
    table = (TABLES / "cityscapes.csv").read_text().splitlines(keepends=True)
    changed = [
        f"{line.split(',')[0]},void,,,,road; sidewalk\n" if line.startswith("building,") else line for line in table
    ]
    changed = ["source,target,crowd,isthing,color,union\n", *changed[1:]]
    (tmp_path / "tables/mine.csv").write_text("".join(changed))
    cfg = config.Data(sources={"city": config.Source(root="city", taxonomy="mine")}, workers=1)
    convert.build(tmp_path / "sets", tmp_path / "coco", tmp_path / "data.json", tmp_path / "tables", cfg)
    coco = tmp_path / "coco/val"
    truth = panoptic.read(coco)
    labelled = panoptic.read_labelled(coco, truth)
    _, without = protocols.find(labelled, truth.categories, tmp_path / "sets", tmp_path / "tables", cfg, Mode.panoptic)
    assert without["city"]["not_computed"] == "the class 'road' of the taxonomy stands for 'road' and 'building'"
    figures = Figures(coco, truth.categories, Mode.panoptic, labelled)
    for entry, merged, semantic in perturbed(coco):
        figures.add(entry, prediction(merged, semantic))
    found = figures.by_source(without)["city"]
    assert found["partly"]["all"]["classes"] == 1
    assert "instance" not in found["partly"]
    assert found["semantic"]["classes_present"] == 3, "car, person and sky"


def test_one_source_without_rules_of_its_own_has_the_figures_of_the_whole(tmp_path: Path) -> None:
    root = sets.vistas_labels(tmp_path / "set")
    coco, cfg = converted(root, tmp_path / "coco", {"a": config.Source(format=Format.vistas_labels)})
    figures = evaluated(coco, root, cfg, perturbed(coco))
    assert figures.by_source({}) == {}
    assert figures.summary()["semantic"]["classes_present"] == 5


def answers(table: str, categories: list[str], mode: Mode = Mode.panoptic, rules: Format = Format.cityscapes) -> Any:
    name = {Format.cityscapes: "cityscapes", Format.voc: "voc"}[rules]
    labels = classes.load(name).labels
    rows = taxonomy.read(TABLES / f"{table}.csv", labels)
    known = [{"id": i, "name": n, "isthing": 0, "supercategory": "", "color": []} for i, n in enumerate(categories, 1)]
    return protocols.own_classes(labels, rows, known, protocols.RULES[rules], mode)


def test_a_class_of_a_union_stands_for_its_label() -> None:
    """A network of Vistas' classes is evaluated on Cityscapes: markings are road."""
    labels = classes.load("cityscapes").labels
    rows = taxonomy.read(TABLES / "vistas_v2_0_cityscapes.csv", labels)
    names = sorted({n for row in rows for n in (row.target, *row.union)} - {"void", "drop"})
    found = answers("vistas_v2_0_cityscapes", names)
    assert not isinstance(found, str), found
    by_name = {c["name"]: c["id"] for c in found.classes}
    assert len(by_name) == 19
    (road,) = [row for row in rows if row.source == "road"]
    assert len(road.union) > 1
    for member in road.union:
        assert found.of_category[names.index(member) + 1] == by_name["road"]


def test_semantic_maps_have_no_background() -> None:
    own = [row.source for row in taxonomy.read(TABLES / "voc.csv", classes.load("voc").labels)][1:]
    assert not isinstance(answers("voc", own, Mode.panoptic, Format.voc), str)
    assert "finds a class in each pixel" in answers("voc", own, Mode.semantic, Format.voc)
    # A network that has other classes too finds them in the background.
    assert not isinstance(answers("voc", [*own, "sky"], Mode.semantic, Format.voc), str)
    assert "mode instance" in answers("voc", own, Mode.instance, Format.voc)
