"""The failures that another merge of Vistas and ADE20K met, and where each ends here, as docs/troubleshooting.md says.

Each test is named in the table there. Sets, DVC and files of weights are real; weights have the shapes of the published
networks and no values.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from stages import config, convert
from stages.coco import panoptic
from stages.commands import params
from stages.conversion import taxonomy
from stages.foundation import files
from stages.sets import classes
from stages.tao import spec
from stages.vistas import labels
from tests.conftest import REPO, TABLES, copy_working_tree, must, run
from tests.support import sets
from tests.test_convert import CLASSES, write_set

DOC = "docs/troubleshooting.md"
SWIN = {
    "tiny": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24]},
    "large": {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48]},
}


def compose(tmp_path: Path, *overrides: str, profile: str = "merged222") -> config.Config:
    """Compose conf/ in a workspace of its own, so that files of weights can lie beside it."""
    if not (tmp_path / "conf").exists():
        shutil.copytree(REPO / "conf", tmp_path / "conf")
    out = tmp_path / "params.yaml"
    params.build(tmp_path / "conf", out, [f"profile={profile}", *overrides])
    return config.load(out)


def build(root: Path, out: Path, **options: Any) -> Path:
    options.setdefault("sources", {"a": config.Source()})
    convert.build(root, out, out.parent / "data.json", TABLES, config.Data(workers=1, **options))
    return out


def refused(root: Path, out: Path, words: str, **options: Any) -> None:
    """The set is refused with one line, and nothing is written."""
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        build(root, out, **options)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def change_json(path: Path, change: Any) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_table_names_each_test_of_this_file() -> None:
    rows = (REPO / DOC).read_text().partition("## A merged set")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(test_\w+)`", rows))
    assert named == {name for name in globals() if name.startswith("test_")} - {
        "test_the_table_names_each_test_of_this_file"
    }


@pytest.mark.parametrize("mode", ["panoptic", "instance", "semantic"])
def test_isthing_is_in_every_label_map(tmp_path: Path, mode: str) -> None:
    """By construction: TAO's label map is convert's, whatever the mode; and no parameter puts another in its place."""
    cfg = compose(tmp_path, f"model.mode={mode}")
    made = spec.train_spec(tmp_path / "coco", 222, cfg)
    assert OmegaConf.select(OmegaConf.create(made), "dataset.label_map") == str(tmp_path / "coco/label_map.json")
    out = build(sets.ade20k(tmp_path / "set"), tmp_path / "coco", sources={"a": config.Source(taxonomy="ade20k")})
    label_map = files.read_json(out / "label_map.json")
    assert sum(entry["isthing"] for entry in label_map) == 100
    assert {entry["isthing"] for entry in label_map} == {0, 1}
    with pytest.raises(ValueError, match=r"train\.tao_spec\.dataset\.label_map: must be left out, because a parameter"):
        compose(tmp_path, "+train.tao_spec.dataset.label_map=mine.json")


def test_a_set_without_isthing_is_refused(tmp_path: Path) -> None:
    """The other way to lose it: in the categories, the config or the table that the label map is made from."""
    root = sets.coco_panoptic(tmp_path / "coco_set")
    for path in root.glob("annotations/*.json"):
        change_json(path, lambda content: [category.pop("isthing") for category in content["categories"]])
    refused(root, tmp_path / "coco", r"panoptic_val2017\.json: categories\[0\] lacks isthing.*; correct the categories")
    entries = [{k: v for k, v in entry.items() if k != "instances" or i} for i, entry in enumerate(CLASSES)]
    root = write_set(tmp_path / "vistas_set")
    (root / "config.json").write_text(json.dumps({"labels": entries}))
    refused(
        root, tmp_path / "coco",
        r"config\.json: labels\[0\] 'car': no instances, expected true or false; correct the set's config",
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["panoptic", "instance", "semantic"])
def test_each_loader_gets_its_own_files(tmp_path: Path, mode: str) -> None:
    """By construction: model.mode chooses loader and files together, and no parameter sets one of them alone."""
    kinds = {
        "panoptic": ("coco_panoptic", "panoptic_json", "panoptic.json"),
        "instance": ("coco", "instance_json", "instances.json"),
        "semantic": ("ade", "annot_file", "semantic.jsonl"),
    }
    kind, key, name = kinds[mode]
    made: Any = spec.train_spec(tmp_path / "coco", 222, compose(tmp_path, f"model.mode={mode}"))
    for split in ("train", "val"):
        found = made["dataset"][split]
        assert (found["type"], found[key]) == (kind, str(tmp_path / "coco" / split / name))
        assert not {other for _, other, _ in kinds.values()} & found.keys() - {key}
    for _, field, _ in kinds.values():
        words = rf"train\.tao_spec\.dataset\.train\.{field}: must be left out"
        with pytest.raises(ValueError, match=words):
            compose(tmp_path, f"model.mode={mode}", f"+train.tao_spec.dataset.train.{field}=mine.json")


@pytest.mark.parametrize(
    ("chosen", "other", "found", "expected"),
    [
        ("coco_panoptic", "coco_instances", "segmentation", "segments_info"),
        ("coco_instances", "coco_panoptic", "segments_info", "segmentation"),
    ],
)
@pytest.mark.parametrize("ours", [False, True])
def test_a_json_of_the_other_kind_is_refused(
    tmp_path: Path, chosen: str, other: str, found: str, expected: str, ours: bool
) -> None:
    """An instance JSON under a panoptic one's name, and the reverse; also those that convert writes, with isthing."""
    root = sets.coco_instances(sets.coco_panoptic(tmp_path / "set"))
    written = build(root, tmp_path / "own", sources={"a": config.Source(format=config.Format[other])})
    kinds = {"coco_panoptic": "panoptic", "coco_instances": "instances"}
    for split in ("train", "val"):
        theirs = root / f"annotations/{kinds[other]}_{split}2017.json"
        own = written / split / f"{kinds[other]}.json"
        shutil.copy(own if ours else theirs, root / f"annotations/{kinds[chosen]}_{split}2017.json")
    refused(
        root, tmp_path / "coco",
        rf"{kinds[chosen]}_val2017\.json: its annotations have {found}, expected {expected}.*"
        rf"set data\.sources\.NAME\.format to {other}$",
        sources={"a": config.Source(format=config.Format[chosen])},
    )  # fmt: skip


def test_the_number_of_classes_is_that_of_the_label_map(tmp_path: Path) -> None:
    """By construction, for any gaps in a set's ids; and no parameter sets another number."""
    root = sets.coco_panoptic(tmp_path / "set")
    out = build(root, tmp_path / "coco")
    label_map = files.read_json(out / "label_map.json")
    made: Any = spec.train_spec(out, len(label_map), compose(tmp_path))
    assert made["model"]["sem_seg_head"]["num_classes"] == len(sets.CATEGORIES) < sets.CATEGORIES[-1]["id"]
    assert [entry["id"] for entry in label_map] == list(range(1, len(label_map) + 1))
    with pytest.raises(ValueError, match=r"train\.tao_spec\.model\.sem_seg_head\.num_classes: must be left out"):
        compose(tmp_path, "+train.tao_spec.model.sem_seg_head.num_classes=150")


def test_masks_with_more_labels_than_the_config_are_refused(tmp_path: Path) -> None:
    root = sets.vistas_labels(tmp_path / "set")
    change_json(root / "config.json", lambda content: content["labels"].pop())
    words = r"p\d+\.png: found values 4; expected 0 to 3, the 4 labels of .*config\.json, and 255 for void"
    refused(root, tmp_path / "coco", words)


def swin(path: Path, size: str, window: int, old: bool = False, whole: bool = False) -> None:
    """Write a file with the names and shapes of the original Swin's; with `whole` those of a Mask2Former around it."""
    sizes: Any = SWIN[size]
    state = {"patch_embed.proj.weight": torch.zeros(sizes["embed_dim"], 3, 4, 4)}
    for stage, (depth, heads) in enumerate(zip(sizes["depths"], sizes["num_heads"], strict=True)):
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}.attn"
            state[f"{name}.relative_position_bias_table"] = torch.zeros((2 * window - 1) ** 2, heads)
            state[f"{name}.relative_position_index"] = torch.zeros(window**2, window**2, dtype=torch.int64)
    if whole:
        state = {f"backbone.{name}": value for name, value in state.items()}
        state["sem_seg_head.predictor.class_embed.bias"] = torch.zeros(223)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": state}, path, _use_new_zipfile_serialization=not old)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("size", "theirs", "ours"), [("large", 7, 12), ("tiny", 12, 7)])
def test_weights_of_another_window_are_refused(tmp_path: Path, size: str, theirs: int, ours: int, old: bool) -> None:
    """529 rows in place of 169, and the reverse. `make params` says it, before convert and training."""
    cfg = compose(tmp_path, f"model=swin_{size}", "model.backbone.pretrained_weights_sha256=''")
    path = tmp_path / cfg.model.backbone.pretrained_weights
    swin(path, size, ours, old)
    compose(tmp_path, f"model=swin_{size}")
    swin(path, size, theirs, old)
    words = (
        rf"{path.name} \(model\.backbone\.pretrained_weights\) has a Swin of other sizes .* window_size {ours}: set "
    )
    with pytest.raises(ValueError, match=words + rf"model\.backbone\.window_size={theirs}, or ") as caught:
        compose(tmp_path, f"model=swin_{size}")
    assert "\n" not in str(caught.value)
    compose(tmp_path, f"model=swin_{size}", f"model.backbone.window_size={theirs}")


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    """Of the backbone and of a whole network; the message has all keys to set."""
    path = tmp_path / "mine.pth"
    keys = (
        r"model\.backbone\.embed_dim=192 model\.backbone\.depths=\[2,2,18,2\] model\.backbone\.num_heads=\[6,12,24,48\]"
    )
    for key, whole in (("model.backbone.pretrained_weights", False), ("model.weights", True)):
        swin(path, "large", 7, whole=whole)
        with pytest.raises(ValueError, match=rf"mine\.pth \({re.escape(key)}\) .*: set {keys}, or {re.escape(key)} to"):
            compose(tmp_path, f"{key}=mine.pth")
        swin(path, "tiny", 7, whole=whole)
        compose(tmp_path, f"{key}=mine.pth")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"mine\.pth is empty; download or copy it again"):
        compose(tmp_path, "model.weights=mine.pth")


def test_missing_sets_are_told_before_any_stage(tmp_path: Path) -> None:
    """`make all` in a fresh clone without the pictures; DVC alone would say [Errno 2]."""
    folder = copy_working_tree(tmp_path / "clone")
    must("git", "init", "-q", cwd=folder)
    must("python", "-m", "stages.commands.params", "--profile", "merged222", cwd=folder)

    def told() -> str:
        done = run("python", "-m", "stages.commands.reproduce", cwd=folder)
        assert done.returncode == 1
        return done.stderr.strip()

    fix = r"add the set by `make data SRC=/path/to/set NAME=merged222/{0}`, or set data\.root in conf/data$"
    words = r"data/raw/merged222/{0} not found \(data\.sources\.{0}\); " + fix
    assert re.fullmatch(words.format("vistas"), told())
    sets.vistas_labels(folder / "data/raw/merged222/vistas")
    assert re.fullmatch(words.format("ade20k"), told())
    (folder / "data/raw/merged222/ade20k.dvc").write_text("outs: [{path: ade20k}]\n")
    assert told().endswith("; `make pull` brings it from the remote")


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("images/training/ADE_train_00000001.jpg", "no picture of that name; restore it or delete the file"),
        ("annotations/validation/ADE_val_00000100.png", "no mask of that name; restore it or delete the file"),
        ("annotations", r"no set in the layout of ADE20K.*annotations"),
        ("images", r"no set in the layout of ADE20K.*images"),
    ],
)
def test_missing_pictures_and_masks_are_refused(tmp_path: Path, lost: str, words: str) -> None:
    root = sets.ade20k(tmp_path / "set")
    if (root / lost).is_dir():
        shutil.rmtree(root / lost)
    else:
        (root / lost).unlink()
    refused(root, tmp_path / "coco", words, sources={"a": config.Source(format=config.Format.ade20k)})


@pytest.mark.parametrize("chosen", ["coco_panoptic", "coco_instances"])
def test_the_same_json_for_both_splits_is_refused(tmp_path: Path, chosen: str) -> None:
    root = {"coco_panoptic": sets.coco_panoptic, "coco_instances": sets.coco_instances}[chosen](tmp_path / "set")
    kind = chosen.removeprefix("coco_")
    shutil.copy(root / f"annotations/{kind}_train2017.json", root / f"annotations/{kind}_val2017.json")
    words = rf"{kind}_val2017\.json is the same file as .*{kind}_train2017\.json, expected those of two splits; restore"
    refused(root, tmp_path / "coco", words)


def test_validation_pictures_that_are_training_pictures_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The folder of the training pictures, copied; a single one among many is a warning."""
    root = sets.vistas_labels(tmp_path / "set")
    shutil.rmtree(root / "validation")
    shutil.copytree(root / "training", root / "validation")
    words = r"2 of 2 validation pictures are training pictures too, such as .*validation/images/p0\.jpg, which is .*"
    words += r"training/images/p0\.jpg; restore the set's own validation pictures, or set data\.splits .* fraction"
    refused(root, tmp_path / "coco", words)
    build(root, tmp_path / "warned", check_splits=config.CheckSplits.warn)
    assert "2 of 2 validation pictures are training pictures too" in caplog.text
    # Another picture of the same name is another picture; one in three is a warning.
    for seed in (1, 2):
        sets.picture(root / f"validation/images/p{seed}.jpg", 200 + seed)
        shutil.copy(root / "training/labels/p0.png", root / f"validation/labels/p{seed}.png")
    build(root, tmp_path / "few")
    assert "1 of 3 validation pictures are training pictures too" in caplog.text


def test_ids_are_the_same_in_every_file(tmp_path: Path) -> None:
    """By construction: names alone meet, and one label map has the ids of all files."""
    first, other = sets.coco_panoptic(tmp_path / "sets/a"), sets.coco_panoptic(tmp_path / "sets/b")
    swapped = {category["id"]: 500 - category["id"] for category in sets.CATEGORIES}

    def renumber(content: Any) -> None:
        content["categories"].reverse()
        for one in [*content["categories"], *(s for a in content["annotations"] for s in a["segments_info"])]:
            key = "category_id" if "category_id" in one else "id"
            one[key] = swapped[one[key]]

    for path in other.glob("annotations/*.json"):
        change_json(path, renumber)
    for path in other.rglob("*.jpg"):
        sets.picture(path, 300)
    assert files.read_json(first / "annotations/panoptic_val2017.json")["categories"][0]["id"] == 1
    out = build(tmp_path / "sets", tmp_path / "coco", sources={n: config.Source(n) for n in "ab"})
    label_map = {entry["id"]: entry["name"] for entry in files.read_json(out / "label_map.json")}
    for split in ("train", "val"):
        written = panoptic.read(out / split)
        assert {c["id"]: c["name"] for c in written.categories} == label_map
        instances = files.read_json(out / split / "instances.json")
        assert {c["id"]: c["name"] for c in instances["categories"]} == label_map
        half = len(written.entries) // 2
        for a, b in zip(written.entries[:half], written.entries[half:], strict=True):
            assert [s["category_id"] for s in a.segments] == [s["category_id"] for s in b.segments]


def test_both_tables_of_the_merged_set_give_a_class_one_id() -> None:
    ade = classes.load("ade20k").labels
    rows = {
        "vistas": (labels.LABELS, taxonomy.read(TABLES / "merged222_v2_0.csv", labels.LABELS)),
        "ade20k": (ade, taxonomy.read(TABLES / "merged222_ade20k.csv", ade)),
    }
    categories, mappings = taxonomy.build(rows)
    by_id = {category["id"]: category["name"] for category in categories}
    assert len(by_id) == len(set(by_id.values())) == 222
    for name, (_, table) in rows.items():
        assert [by_id[m.category_id] for m in mappings[name]] == [row.target for row in table]
