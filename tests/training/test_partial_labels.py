"""train.partial_labels: TAO's losses against a plain reference, and what TAO's loaders bring of void and of sources."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from stages import config, convert
from stages.coco import panoptic
from stages.foundation import files
from stages.tao import spec
from tests.conftest import REPO, TABLES

QUERIES, CLASSES, HEIGHT, WIDTH = 6, 4, 6, 8
NO_OBJECT = 0.1
WEIGHTS = {"loss_ce": 2.0, "loss_mask": 5.0, "loss_dice": 3.0}
KEYS = [*WEIGHTS, *(f"{name}_0" for name in WEIGHTS)]


@pytest.fixture
def partial(tao_wheel: None) -> ModuleType:
    from stages.training import partial_labels

    return partial_labels


def criterion(criterion_class: Any, matcher_class: Any) -> Any:
    matcher = matcher_class(cost_class=2.0, cost_mask=5.0, cost_dice=3.0)
    return criterion_class(CLASSES, matcher, WEIGHTS, NO_OBJECT, ["labels", "masks"], 10, 3.0, 0.75)


def flags(*classes: int) -> torch.Tensor:
    return torch.tensor([i in classes for i in range(1 + CLASSES)])


def scene(never: tuple[int, ...] = (), partly: tuple[int, ...] = ()) -> dict[str, torch.Tensor]:
    """Three segments of the classes 1, 3 and 4, and void on the right."""
    masks = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.int64)
    masks[0, :3, :4], masks[1, 3:, :3], masks[2, 3:, 3:5] = 1, 1, 1
    found = {"labels": torch.tensor([1, 3, 4]), "masks": masks, "never": flags(*never), "partly": flags(*partly)}
    return found | ({"void": masks.sum(0) == 0} if partly else {})


def predictions(seed: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)

    def layer() -> dict[str, torch.Tensor]:
        logits = 2 * torch.randn(2, QUERIES, 1 + CLASSES, generator=generator)
        masks = 3 * torch.randn(2, QUERIES, HEIGHT, WIDTH, generator=generator)
        # Half of the queries look at the void on the right.
        masks[:, ::2, :, 5:] += 4
        return {"pred_logits": logits.requires_grad_(), "pred_masks": masks.requires_grad_()}

    return {**layer(), "aux_outputs": [layer()]}


def leaves(outputs: dict[str, Any]) -> list[torch.Tensor]:
    return [layer[name] for layer in (outputs, *outputs["aux_outputs"]) for name in ("pred_logits", "pred_masks")]


def gradients(losses: dict[str, torch.Tensor], outputs: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    total = sum(losses[key] * WEIGHTS[key.removesuffix("_0")] for key in KEYS)
    return torch.autograd.grad(total, leaves(outputs))


def focal(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The sum over pixels of the focal loss (arXiv:1708.02002, alpha 0.25, gamma 2)."""
    right = torch.where(truth, logits.sigmoid(), 1 - logits.sigmoid())
    return (torch.where(truth, 0.25, 0.75) * (1 - right) ** 2 * -right.log()).sum()


def dice(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    found = logits.sigmoid()
    return 1 - (2 * found[truth].sum() + 1) / (found.sum() + truth.sum() + 1)


def reference(layer: dict[str, Any], targets: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The rules of stages/training/partial_labels.py, query by query and pixel by pixel, in float64."""
    class_sum, weight_sum, focal_sum, dice_sum = (torch.zeros((), dtype=torch.float64) for _ in range(4))
    segments = sum(len(target["labels"]) for target in targets)
    for target, logits, masks in zip(targets, layer["pred_logits"].double(), layer["pred_masks"].double(), strict=True):
        p = logits.softmax(-1)
        void = target.get("void", torch.zeros(HEIGHT, WIDTH, dtype=torch.bool))
        labels, truth = target["labels"].tolist(), target["masks"] == 1
        counted = [~void if target["partly"][label] else torch.ones_like(void) for label in labels]

        def pixels(query: int, n: int, masks: Any = masks, counted: Any = counted, truth: Any = truth) -> Any:
            return masks[query][counted[n]], truth[n][counted[n]]

        cost = [
            [
                5 * focal(*pixels(q, n)) / void.numel() - 2 * p[q, label] + 3 * dice(*pixels(q, n))
                for n, label in enumerate(labels)
            ]
            for q in range(QUERIES)
        ]
        chosen = min(
            itertools.permutations(range(QUERIES), len(labels)),
            key=lambda queries: sum(cost[q][n].item() for n, q in enumerate(queries)),
        )
        for q in range(QUERIES):
            if q in chosen:
                n = chosen.index(q)
                class_sum, weight_sum = class_sum - p[q, labels[n]].log(), weight_sum + 1
                focal_sum = focal_sum + focal(*pixels(q, n)) / void.numel()
                dice_sum = dice_sum + dice(*pixels(q, n))
                continue
            inside = masks[q] > 0
            on_void = bool((inside & void).sum() * 2 >= inside.sum()) and bool((inside & void).any())
            free = [c for c in range(1 + CLASSES) if target["never"][c] or (target["partly"][c] and on_void)]
            class_sum = class_sum - NO_OBJECT * (p[q, 0] + p[q, free].sum()).log()
            weight_sum = weight_sum + NO_OBJECT
    return {
        "loss_ce": class_sum / weight_sum,
        "loss_mask": focal_sum / segments,
        "loss_dice": dice_sum / segments,
    }


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("never", "partly"), [((2,), ()), ((), (3,)), ((2,), (1, 4)), ((2,), (1, 3, 4)), ((), ())], ids=str
)
def test_losses_and_gradients_of_all_layers_equal_the_reference(
    partial: ModuleType, never: tuple[int, ...], partly: tuple[int, ...], seed: int
) -> None:
    outputs, targets = predictions(seed), [scene(never, partly), scene()]
    losses = criterion(partial.Criterion, partial.Matcher)(outputs, targets)
    expected = reference(outputs, targets)
    expected |= {f"{name}_0": value for name, value in reference(outputs["aux_outputs"][0], targets).items()}
    assert losses.keys() == expected.keys()
    for key in KEYS:
        assert losses[key].item() == pytest.approx(expected[key].item(), rel=1e-5), key
    for found, wanted in zip(gradients(losses, outputs), gradients(expected, outputs), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_where_all_classes_are_labelled_the_losses_are_taos_to_the_last_bit(partial: ModuleType, seed: int) -> None:
    ours = criterion(partial.Criterion, partial.Matcher)
    taos = criterion(partial._criterion.SetCriterion, partial._matcher.HungarianMatcher)
    outputs, targets = predictions(seed), [scene(), scene()]
    found, wanted = (one(outputs, targets) for one in (ours, taos))
    assert all(torch.equal(found[key], wanted[key]) for key in KEYS)
    for ours_, taos_ in zip(gradients(found, outputs), gradients(wanted, outputs), strict=True):
        assert torch.equal(ours_, taos_)


def stairs(on_void: bool) -> dict[str, Any]:
    """Queries 0 to 2 find the three segments, 3 and 4 are sure of the classes 2 and 1: on void, or on segment 0."""
    masks = torch.full((1, QUERIES, HEIGHT, WIDTH), -6.0)
    logits = torch.zeros(1, QUERIES, 1 + CLASSES)
    for query, (label, mask) in enumerate(zip((1, 3, 4), scene()["masks"], strict=True)):
        masks[0, query][mask == 1] = 6.0
        logits[0, query, label] = 8.0
    masks[0, 3:5, :, 5:] = 6.0
    if not on_void:
        masks[0, 3:5] = masks[0, 0]
    logits[0, 3, 2] = logits[0, 4, 1] = 8.0
    logits[0, 5, 0] = 8.0
    return {"pred_logits": logits.requires_grad_(), "pred_masks": masks.requires_grad_()}


@pytest.mark.parametrize(
    ("never", "partly", "on_void", "punished"),
    [
        ((), (), True, {3, 4}),
        ((2,), (), True, {4}),
        ((2,), (), False, {4}),
        ((), (2,), True, {4}),
        ((), (2,), False, {3, 4}),
        ((), (1, 2), True, set()),
    ],
)
def test_a_class_that_the_source_does_not_label_is_not_punished(
    partial: ModuleType, never: tuple[int, ...], partly: tuple[int, ...], on_void: bool, punished: set[int]
) -> None:
    outputs = stairs(on_void)
    loss = criterion(partial.Criterion, partial.Matcher)(outputs, [scene(never, partly)])["loss_ce"]
    (gradient,) = torch.autograd.grad(loss, [outputs["pred_logits"]])
    pushed = {query for query in (3, 4) if gradient[0, query].abs().max() > 1e-3}
    assert pushed == punished


def test_void_counts_against_no_class_that_is_labelled_in_part(partial: ModuleType) -> None:
    outputs, target = stairs(True), scene(partly=(3,))
    losses = criterion(partial.Criterion, partial.Matcher)(outputs, [target])
    (gradient,) = torch.autograd.grad(losses["loss_mask"] + losses["loss_dice"], [outputs["pred_masks"]])
    on_void = gradient[0, :, target["void"]].abs().sum(1)
    assert on_void[1] == 0, "segment 1 is of class 3"
    assert on_void[0] > 0
    assert on_void[2] > 0
    assert gradient[0, 1][~target["void"]].abs().min() > 0


@pytest.fixture(scope="module")
def two_sources(vistas_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same scenes as two sources: a labels all; b has no sky, its curbs and buses are unions with other classes."""
    folder = tmp_path_factory.mktemp("partial")
    lines = (TABLES / "vistas_v2_0.csv").read_text().splitlines()
    (folder / "a.csv").write_text("\n".join(lines) + "\n")
    unions = {
        "construction--barrier--curb": "construction--barrier--curb; construction--flat--sidewalk",
        "object--vehicle--bus": "object--vehicle--bus; object--vehicle--car",
        "nature--sky": "",
    }
    rows = ["source,target,crowd,union"]
    for line in lines[1:]:
        label = line.split(",")[0]
        rows.append(f"{label},void,,{unions[label]}" if label in unions else f"{line},")
    (folder / "b.csv").write_text("\n".join(rows) + "\n")
    sources = {name: config.Source(root=vistas_set.name, taxonomy=name, repeat=1.5) for name in ("a", "b")}
    convert.build(vistas_set.parent, folder / "coco", folder / "data.json", folder, config.Data(sources=sources))
    return folder / "coco"


def loaded(coco: Path, mode: config.Mode, split: str) -> list[dict[str, Any]]:
    """All samples of a split as TAO's data module now gives them, with the random numbers of seed 0."""
    from nvidia_tao_pytorch.config.mask2former.default_config import ExperimentConfig
    from nvidia_tao_pytorch.cv.mask2former.dataloader.pl_data_module import SemSegmDataModule

    cfg = config.load(REPO / "params.yaml")
    cfg.model.mode = mode
    # Crops are narrower than the scenes, which are padded at the bottom.
    cfg.train.crop_height_px, cfg.train.crop_width_px = 160, 128
    cfg.train.min_sizes_px, cfg.train.max_size_px = [96, 128], 256
    content = spec.train_spec(coco, len(files.read_json(coco / "label_map.json")), cfg)
    full: Any = OmegaConf.merge(OmegaConf.structured(ExperimentConfig), content)
    dataset = SemSegmDataModule(full.dataset)._build_dataset(split, is_training=split == "train")
    random.seed(0)
    np.random.seed(0)
    return [dataset[index] for index in range(len(dataset))]


@pytest.fixture
def restored(partial: ModuleType) -> Iterator[None]:
    before = [getattr(module, name) for module, name, _ in partial.REPLACED]
    yield
    assert [getattr(module, name) for module, name, _ in partial.REPLACED] == before


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("mode", list(config.Mode))
def test_samples_are_taos_with_void_and_what_the_source_labels(
    partial: ModuleType, two_sources: Path, mode: config.Mode, split: str
) -> None:
    with partial.installed(two_sources):
        found = loaded(two_sources, mode, split)
    wanted = loaded(two_sources, mode, split)
    names = [category["name"] for category in files.read_json(two_sources / "label_map.json")]
    entries = panoptic.read(two_sources / split).entries
    images = files.read_json(two_sources / split / "panoptic.json")["images"]
    assert {image["source"] for image in images} == {"a", "b"}
    for ours, taos, entry, image in zip(found, wanted, entries, images, strict=True):
        target = ours.pop("target")
        assert target["labels"].tolist() == taos["target"]["labels"].tolist()
        assert torch.equal(target["masks"], taos["target"]["masks"])
        assert target["masks"].dtype == taos["target"]["masks"].dtype
        del taos["target"]
        assert ours.keys() == taos.keys()
        for name in ("image", "segm"):
            assert torch.equal(ours[name], taos[name]), name
        never, partly = ({names[i - 1] for i in torch.nonzero(target[key])[:, 0]} for key in ("never", "partly"))
        if image["source"] == "a":
            assert not never | partly
            assert "void" not in target
            continue
        assert never == {"construction--barrier--curb", "object--vehicle--bus", "nature--sky"}
        assert partly == {"construction--flat--sidewalk", "object--vehicle--car"}
        assert not (target["void"] & (target["masks"] > 0).any(0)).any()
        if split == "val":
            # TAO scales the scenes of 128x192 to 106x160 here, and pads that to 128x160.
            size = (160, round(128 * 160 / 192))
            ids: Any = panoptic.read_ids(entry.png)
            if mode is config.Mode.semantic:
                # Groups are void there.
                ids = cv2.imread(str(entry.semantic), cv2.IMREAD_UNCHANGED)
            void = np.zeros((128, 160), bool)
            void[: size[1]] = cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST) == 0
            assert target["void"].shape == (32, 40)
            assert np.array_equal(target["void"].numpy(), void[::4, ::4])
            assert target["void"].any()
            assert not target["void"][28:].any(), "padding is not void"


def test_the_log_says_where_nothing_changes(
    partial: ModuleType, two_sources: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with partial.installed(two_sources):
        pass
    assert caplog.messages == []
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        content = files.read_json(two_sources / split / "panoptic.json")
        about = files.read_json(two_sources / split / "sources.json")
        files.write_json(tmp_path / split / "panoptic.json", content)
        files.write_json(tmp_path / split / "sources.json", dict.fromkeys(about, about["a"]))
    with partial.installed(tmp_path):
        pass
    assert caplog.messages == ["train.partial_labels changes nothing: every source labels every class"]
