"""Masks in other encodings than Vistas', made from generated scenes and written as PNG files."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from stages import config, sample
from stages.coco import rle
from stages.vistas import check, labels, plausibility
from tests.test_convert import CAR, CARS, CLASSES, ROAD, build, write_png, write_set
from tests.test_convert import raster as small_raster

SIZE = {"height_px": 128, "width_px": 192}
THING = np.array([label.instances for label in labels.LABELS] + [False] * 132)
STUFF = np.array([not label.instances and label.evaluate for label in labels.LABELS] + [False] * 132)
Mask = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes") / "set"
    sample.build(root, config.Sample(train_images=12, val_images=2, **SIZE))
    return root


def masks(root: Path) -> dict[Path, Mask]:
    paths = sorted(root.glob("*/v2.0/instances/*.png"))
    return {path: cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.int64) for path in paths}


@pytest.fixture
def recoded(scenes: Path, tmp_path: Path) -> Callable[[Callable[[Mask], Mask]], Path]:
    """A copy of the set, its masks in another coding."""

    def make(change: Callable[[Mask], Mask]) -> Path:
        root = tmp_path / "set"
        for path, mask in masks(scenes).items():
            out = root / path.relative_to(scenes)
            write_png(out, change(mask).astype(np.uint16))
            image = out.parents[2] / "images" / f"{out.stem}.jpg"
            write_png(image, np.zeros((*change(mask).shape, 3), np.uint8))
        (root / "config_v2.0.json").write_bytes((scenes / "config_v2.0.json").read_bytes())
        return root

    return make


def cityscapes(mask: Mask) -> Mask:
    """Labels below 60, as Cityscapes' are below 34: label * 1000 + instance for things, the label alone for stuff."""
    label = np.where(THING[mask >> 8], 30 + (mask >> 8) % 5, (mask >> 8) % 24)
    return np.where(THING[mask >> 8], label * 1000 + (mask & 255), label)


def kitti(mask: Mask) -> Mask:
    """Things are numbered from 1; every third kind of them is a group, 0."""
    thing, grouped = THING[mask >> 8], (mask >> 8) % 3 == 0
    return np.where(thing, np.where(grouped, mask - (mask & 255), mask + 1), mask)


def numbered_over_the_picture(mask: Mask) -> Mask:
    out, values = mask.copy(), np.unique(mask)
    for number, value in enumerate(value for value in values.tolist() if THING[value >> 8]):
        out[mask == value] = (value >> 8) * 256 + number % 256
    return out


LAST = 123 * 256
CODINGS: dict[str, tuple[Callable[[Mask], Mask], str]] = {
    "label ids": (lambda m: m >> 8, "below 256, so that every pixel is label 0, 'animal--bird'.*like label ids only"),
    "label ids from 1": (lambda m: (m >> 8) + 1, "below 256.*like label ids only.*write id \\* 256"),
    "a foreground": (lambda m: (m >= CAR + 256 * 30).astype(np.int64), "below 256.*label ids only"),
    "Cityscapes": (cityscapes, "look like Cityscapes' instanceIds.*label \\* 1000 \\+ instance"),
    "swapped bytes": (lambda m: (m & 255) << 8 | m >> 8, r"look like label \+ 256 \* instance, or swapped bytes"),
    "scaled ids": (lambda m: (m >> 8) * 257, r"look like label ids scaled .*write v // 257 \* 256"),
    "labels from 1": (lambda m: np.where(m >= LAST, m, m + 256), "look like labels that count from 1: write v - 256"),
    "KITTI": (kitti, r"numbered from 1 in \d+ of \d+ cases and from 0 in \d+.*as in KITTI.*group"),
    "numbers over the picture": (numbered_over_the_picture, "objects' numbers have gaps: of those from 0"),
    "stuff with objects": (
        lambda m: np.where(STUFF[m >> 8], m + np.arange(m.shape[1]) // 64, m),
        "is stuff in the config, but has objects in",
    ),
    "numbers with gaps": (lambda m: np.where(THING[m >> 8], m + 7 * (m & 15), m), "objects' numbers have gaps"),
    "one class": (
        lambda m: np.where(np.arange(m.shape[1]) < 3, LAST, 108 * 256) + 0 * m,
        "label 108, 'object--vehicle--car', has 98 % of all",
    ),
    "no coding at all": (
        lambda m: np.random.default_rng(1).permutation(124 * 256)[m],
        r"in \d+ of \d+ masks, such as .*\.png, most pixels .*Expected each label's objects numbered from 0",
    ),
}


@pytest.mark.parametrize("name", CODINGS)
def test_make_data_and_convert_stop_at_masks_of_another_coding(
    name: str, recoded: Callable[..., Path], data_config: config.Data, tmp_path: Path
) -> None:
    change, words = CODINGS[name]
    root = recoded(change)
    ((problem,),) = ([p for p in report.problems if "training" in p] for report in check.check(root))
    assert "\n" not in problem
    assert "set data.check_masks to warn" in problem
    assert_matches(words, problem)
    out = tmp_path / "coco"
    with pytest.raises(ValueError, match="label") as caught:
        build(root, out, data_config)
    assert not out.exists()
    if "the config has" not in str(caught.value):
        assert_matches(words, str(caught.value))


def assert_matches(words: str, message: str) -> None:
    assert re.search(words, message), message


ACCEPTED: dict[str, Callable[[Mask], Mask]] = {
    "as it is": lambda m: m,
    "no objects told apart": lambda m: m & 0xFF00,
    "numbered from 1": lambda m: m + THING[m >> 8],
    "stuff numbered 1": lambda m: m + STUFF[m >> 8],
    "scaled down": lambda m: m[::6, ::6],
    "a quarter cut out": lambda m: m[64:, 96:],
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_sets_that_are_right_or_read_rightly_pass(
    name: str, recoded: Callable[..., Path], data_config: config.Data, tmp_path: Path
) -> None:
    root = recoded(ACCEPTED[name])
    assert [report.problems for report in check.check(root)] == [[]]
    build(root, tmp_path / "coco", data_config)


def test_one_picture_may_be_of_one_label(tmp_path: Path) -> None:
    """Two birds that fill one of five pictures, and a picture of nothing but road."""
    root = write_set(tmp_path / "set")
    pixels = np.zeros((40, 60), np.uint16)
    pixels[:, 30:] = 1
    write_png(root / "training/instances/p001.png", pixels)
    write_png(root / "training/instances/p002.png", np.full((40, 60), ROAD, np.uint16))
    assert [report.problems for report in check.check(root)] == [[]]
    build(root, tmp_path / "coco", config.Data())


def test_a_set_of_one_picture(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", training=1, validation=1)
    assert [report.problems for report in check.check(root)] == [[]]
    build(root, tmp_path / "coco", config.Data())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m >> 8, "below 256.*label ids only"),
        (lambda m: m + 256, "label 5 in .*the config has 5.*labels that count from 1"),
        (lambda m: m << 8 | m >> 8, "label 0, 'car', has 96 % of all pixels"),
        (lambda m: (m >> 8) * 257, "label ids scaled"),
        (lambda m: np.where(m < CARS, 9 * m + 3, m), "numbers have gaps: of those from 1"),
    ],
)
def test_sets_of_one_picture_in_other_codings(tmp_path: Path, change: Callable[[Mask], Mask], words: str) -> None:
    root = write_set(tmp_path / "set", training=1, validation=0)
    path = root / "training/instances/p000.png"
    write_png(path, change(small_raster()).astype(np.uint16))
    ((problem,),) = (report.problems for report in check.check(root))
    assert_matches(words, problem)


def test_one_mask_of_another_coding_among_many_is_found(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set", training=20)
    path = root / "training/instances/p013.png"
    write_png(path, (small_raster(13) >> 8) + np.uint16(40) * (small_raster(13) >= ROAD))
    with pytest.raises(ValueError, match=r"train of source vistas: .*in 1 of 20 masks, such as .*p013\.png"):
        build(root, tmp_path / "coco", config.Data())


CLASS_IDS = {label.name: label.id * 256 for label in labels.LABELS}
AUTO, SKY = CLASS_IDS["object--vehicle--car"], CLASS_IDS["nature--sky"]


def problem_of(*rasters: Any) -> str:
    """Return the message about these masks with the packaged config of 124 labels."""
    masks = plausibility.MaskStatistics(labels.LABELS)
    for number, mask in enumerate(rasters):
        masks.add(f"m{number}.png", *np.unique(mask, return_counts=True))
    return masks.problem()


def street(seed: int) -> Mask:
    """A mask in Vistas' coding: sky, road, sidewalk, and cars, persons and poles numbered from 0."""
    rng = np.random.default_rng(seed)
    out = np.full((60, 80), SKY)
    out[30:] = CLASS_IDS["construction--flat--road"]
    out[30:, :9] = CLASS_IDS["construction--flat--sidewalk"]
    for name in ("object--vehicle--car", "human--person--individual", "object--support--pole"):
        for number in range(3):
            y, x = rng.integers(10, 50), rng.integers(0, 70)
            out[y : y + 6, x : x + 6] = CLASS_IDS[name] + number
    return out


def lost_car() -> Mask:
    """A close-up of the cars 0 and 2 of three. The second one is hidden."""
    out = np.full((60, 80), AUTO)
    out[:, 40:] = AUTO + 2
    out[50:] = CLASS_IDS["construction--flat--road"]
    return out


def numbered_stuff() -> Mask:
    """A street with two pixels of a rare stuff label, as two objects."""
    out = street(99)
    out[0, 0], out[0, 5] = CLASS_IDS["nature--snow"], CLASS_IDS["nature--snow"] + 1
    return out


def renumbered() -> Mask:
    """A street with a typing error: one car has number 200."""
    out = street(98)
    out[5:9, 5:9] = AUTO + 200
    return out


@pytest.mark.parametrize("others", [0, 1, 2, 30, 63, 399])
@pytest.mark.parametrize(
    "slip",
    [
        lost_car,
        numbered_stuff,
        renumbered,
        lambda: np.full((60, 80), AUTO),
        lambda: np.where(np.arange(100) < 3, AUTO, SKY) + np.zeros((60, 1), int),
        lambda: np.zeros((60, 80), int),
        lambda: np.where(np.arange(80) < 40, 0, 2) + np.zeros((60, 1), int),
    ],
)
def test_one_slip_or_close_up_blocks_no_set_of_any_size(slip: Callable[[], Mask], others: int) -> None:
    assert problem_of(slip(), *(street(seed) for seed in range(min(others, 40)))) == ""
    if others > 40:
        many = [street(seed) for seed in range(40)]
        assert problem_of(slip(), *(many[seed % 40] for seed in range(others))) == ""


def test_the_same_fault_in_many_masks_is_a_problem() -> None:
    good = [street(seed) for seed in range(20)]
    assert_matches("in 3 of 23 masks, such as m0.png, most pixels", problem_of(*3 * [lost_car()], *good))
    assert_matches("'nature--snow', is stuff .* in 3 of 3 masks", problem_of(*3 * [numbered_stuff()], *good))
    assert_matches("'object--vehicle--car', has 100 % of", problem_of(*20 * [np.full((60, 80), AUTO)]))


@pytest.mark.parametrize("count", [1, 2, 3, 20])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m >> 8, "below 256.*They look like label ids only: "),
        (cityscapes, "They look like Cityscapes'"),
        (lambda m: m & 255 << 8 | m >> 8, ""),
        (lambda m: (m >> 8) * 257, "They look like label ids scaled"),
        (lambda m: np.random.default_rng(1).permutation(124 * 256)[m], "Expected each label's objects numbered from 0"),
    ],
)
def test_a_set_of_few_masks_in_another_coding_is_refused(
    count: int, change: Callable[[Mask], Mask], words: str
) -> None:
    assert_matches(f"can't be label .*{words}", problem_of(*(change(street(seed)) for seed in range(count))))


def running(mask: Mask) -> Mask:
    return np.unique(mask, return_inverse=True)[1].reshape(mask.shape)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: np.where(m < SKY, m >> 8, 65535), r"label 255 in m\d\.png, but the config has 124.*, 65535\. Exp"),
        (lambda m: np.where(m < SKY, m >> 8, 255), "go to 255, beyond .* only, but not those of this config: use the"),
        (lambda m: (running(m) + 120) * 256, "label 13[0-9] in .*Expected each label's objects numbered from 0"),
        (lambda m: m * 3 % 65536, "Expected each label's objects numbered from 0"),
    ],
)
def test_a_coding_is_named_only_if_it_explains_every_value(change: Callable[[Mask], Mask], words: str) -> None:
    masks = [change(street(seed)) for seed in range(12)]
    assert_matches(words, problem_of(*masks))
    worst = max(masks, key=lambda mask: int(mask.max()))
    if worst.max() > 255:
        assert "look like" not in problem_of(*masks)
        assert "look like" not in plausibility.looks_like(np.unique(worst), len(labels.LABELS))


def test_masks_that_are_said_to_be_right_are_a_warning(
    recoded: Callable[..., Path], data_config: config.Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = recoded(numbered_over_the_picture)
    with pytest.raises(ValueError, match=r"train of source vistas: masks that can't be"):
        build(root, tmp_path / "coco", data_config)
    data_config = config.Data(**{**vars(data_config), "check_masks": config.CheckMasks.warn})
    build(root, tmp_path / "coco", data_config)
    assert "train of source vistas: masks that can't be label * 256 + instance" in caplog.text
    assert (tmp_path / "coco/train/panoptic.json").exists()


def test_the_former_output_stays(tmp_path: Path) -> None:
    root, out = write_set(tmp_path / "set"), tmp_path / "coco"
    build(root, out, config.Data())
    before = (out / "train/panoptic.json").read_bytes()
    for path in root.glob("training/instances/*.png"):
        write_png(path, cv2.imread(str(path), cv2.IMREAD_UNCHANGED) >> 8)
    with pytest.raises(ValueError, match="below 256"):
        build(root, out, config.Data())
    assert (out / "train/panoptic.json").read_bytes() == before


def test_pictures_without_a_class_count_too(tmp_path: Path) -> None:
    """Label 0 is void, so that masks of ids leave no segment; the coding is told, not that no picture is left."""
    root = write_set(tmp_path / "set")
    text = (root / "config.json").read_text().replace('"evaluate": true', '"evaluate": false', 1)
    (root / "config.json").write_text(text)
    for path in root.glob("*/instances/*.png"):
        write_png(path, cv2.imread(str(path), cv2.IMREAD_UNCHANGED) >> 8)
    with pytest.raises(ValueError, match="below 256, so that every pixel is label 0"):
        build(root, tmp_path / "coco", config.Data())


def test_a_label_beyond_the_config_tells_the_coding(tmp_path: Path) -> None:
    root = write_set(tmp_path / "set")
    for path in root.glob("*/instances/*.png"):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        write_png(path, np.where(mask < CARS, 4000 + mask, 4 - (mask >> 8)).astype(np.uint16))
    (root / "config.json").write_text(json.dumps({"labels": CLASSES[::-1]}))
    with pytest.raises(ValueError, match=r"p000\.png: label \d+, but the config has 5.*Cityscapes"):
        build(root, tmp_path / "coco", config.Data())
    ((problem, _),) = (report.problems for report in check.check(root))
    assert_matches(r"label 15 in .*\(3 of 3 masks have such labels\)\. They look like Cityscapes'", problem)


def test_wrong_masks_anywhere_in_a_folder_are_found(tmp_path: Path) -> None:
    """Every mask is checked, not only the first of a folder."""
    root = write_set(tmp_path / "set", training=5)
    mask = root / "training/instances/p003.png"
    write_png(mask, np.zeros((40, 60), np.uint8))
    ((problem,),) = (report.problems for report in check.check(root))
    assert problem.startswith(f"{mask}: 8-bit grey")


def test_pixels_of_each_value(scenes: Path) -> None:
    for mask in masks(scenes).values():
        values, pixels = np.unique(mask, return_counts=True)
        found = rle.runs(mask.astype(np.uint16)).pixels()
        assert np.array_equal(np.flatnonzero(found), values)
        assert np.array_equal(found[values], pixels)
