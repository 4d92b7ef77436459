"""Repeated pictures: LVIS' rule, and epochs that are the same for any number of workers and processes."""

import functools
import itertools
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from stages import config
from stages.foundation import files
from tests.conftest import REPO


@pytest.fixture
def sampling(tao_wheel: None) -> ModuleType:
    from stages.training import sampling

    return sampling


def write_split(folder: Path, pictures: list[tuple[str, set[int]]]) -> Path:
    """Write what is read of a training split; a picture has a source and classes. 1 and 2 are things, 3 is stuff."""
    images = [{"id": i, "source": source} for i, (source, _) in enumerate(pictures)]
    annotations = [
        {"image_id": i, "segments_info": [{"category_id": abs(c), "iscrowd": int(c < 0)} for c in sorted(classes)]}
        for i, (_, classes) in enumerate(pictures)
    ]
    categories = [{"id": 1, "isthing": 1}, {"id": 2, "isthing": 1}, {"id": 3, "isthing": 0}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    files.write_json(folder / "panoptic.json", content)
    files.write_json(folder / "sources.json", {"a": {"repeat": 1.0}, "b": {"repeat": 2.5}})
    return folder


def test_factors_are_those_of_lvis_times_the_sources(sampling: ModuleType, tmp_path: Path) -> None:
    # Of 8 pictures 1 has class 1, 2 have class 2, 8 have class 3. A crowd (-1) is not learned.
    pictures = [("a", {1, 3}), ("a", {2, 3}), ("b", {2, 3}), ("a", {-1, 3}), *[("a", {3})] * 4]
    folder = write_split(tmp_path, pictures)
    rare, medium = (0.5 / (1 / 8)) ** 0.5, (0.5 / (2 / 8)) ** 0.5
    expected = [rare, medium, 2.5 * medium, 1, 1, 1, 1, 1]
    assert sampling.factors(folder, config.Mode.panoptic, 0.5) == pytest.approx(expected)
    assert sampling.factors(folder, config.Mode.panoptic, 0.0) == [1, 1, 2.5, 1, 1, 1, 1, 1]
    pictures[4:] = [("a", {1}), ("a", {1, 2}), ("a", {1, 2}), ("a", {1, 2})]
    folder = write_split(tmp_path, pictures)
    stuff = (0.75 / 0.5) ** 0.5
    assert max(sampling.factors(folder, config.Mode.panoptic, 0.75)) == pytest.approx(2.5 * stuff)
    assert sampling.factors(folder, config.Mode.instance, 0.6) == [1, 1, 2.5, 1, 1, 1, 1, 1]


def epoch(sampling: ModuleType, factors: list[float], seed: int, replicas: int = 1) -> list[list[int]]:
    data: Any = range(len(factors))
    return [list(sampling.RepeatSampler(data, factors, lambda: seed, replicas, rank)) for rank in range(replicas)]


def test_every_epoch_has_its_own_pictures_and_the_same_length(sampling: ModuleType) -> None:
    factors = [1.0, 1.0, 1.3, 1.3, 2.5, 2.6, 4.0]
    counts = []
    for seed in range(2000):
        (drawn,) = epoch(sampling, factors, seed)
        assert len(drawn) == round(sum(factors))
        found = Counter(drawn)
        assert all(int(factor) <= found[i] <= int(factor) + 1 for i, factor in enumerate(factors))
        assert (found[0], found[1], found[6]) == (1, 1, 4)
        counts.append([found[i] for i in range(len(factors))])
    means = torch.tensor(counts, dtype=torch.float64).mean(0)
    # The rests add up to 1.7, of which an epoch has 2.
    expected = [int(f) + (f - int(f)) * 2 / 1.7 for f in factors]
    assert means.tolist() == pytest.approx(expected, abs=0.05)
    assert epoch(sampling, factors, 7) == epoch(sampling, factors, 7)
    assert epoch(sampling, factors, 7) != epoch(sampling, factors, 8)


@pytest.mark.parametrize("replicas", [2, 3])
def test_processes_share_the_pictures_of_one_epoch(sampling: ModuleType, replicas: int) -> None:
    factors = [1.0, 2.0, 1.5, 1.5, 1.0]
    (alone,) = epoch(sampling, factors, 5)
    shares = epoch(sampling, factors, 5, replicas)
    assert len({len(share) for share in shares}) == 1
    together = [i for turn in zip(*shares, strict=True) for i in turn]
    assert together[: len(alone)] == alone
    assert together[len(alone) :] == alone[: len(together) - len(alone)]


def test_no_repeats_leave_taos_loader(sampling: ModuleType, tmp_path: Path) -> None:
    from stages.training import callbacks

    cfg = config.load(REPO / "params.yaml")
    folder = write_split(tmp_path, [("a", {1}), ("a", {3})])
    files.write_json(folder / "sources.json", {"a": {"repeat": 1.0}})
    assert sampling.loader(callbacks.SeededLoader, folder, cfg) is callbacks.SeededLoader
    cfg.train.repeat_threshold = 0.9
    assert sampling.loader(callbacks.SeededLoader, folder, cfg) is not callbacks.SeededLoader


class Numbers(torch.utils.data.Dataset[int]):
    is_training = True

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return index


# Lightning's seed_everything needs no warning, and loaders fork.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_order_is_the_same_for_any_number_of_workers(
    sampling: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.training import callbacks

    cfg = config.load(REPO / "params.yaml")
    folder = write_split(tmp_path, [("a", {1}), ("b", {3}), ("b", {2, 3}), ("a", {3})])
    make = sampling.loader(callbacks.SeededLoader, folder, cfg)
    orders = []
    for workers in (0, 2):
        seeds = itertools.count(10)
        monkeypatch.setattr(callbacks.SeededLoader, "seed", staticmethod(functools.partial(next, seeds)))
        loader = make(Numbers(), batch_size=1, num_workers=workers, shuffle=False, sampler=None)
        orders.append([[int(batch) for batch in loader] for _ in range(3)])
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders[0]}) == 3
    assert {len(order) for order in orders[0]} == {7}
