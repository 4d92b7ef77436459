"""Repeats pictures within an epoch: by source (data.sources.NAME.repeat) and by rare classes (train.repeat_threshold).

The repeat factor of a picture, in times per epoch, is that of its source times the largest of its classes' factors
max(1, sqrt(t / f)), where t is train.repeat_threshold and f is the share of the training pictures that have the class.
Source of the rule: Gupta et al., LVIS: A Dataset for Large Vocabulary Instance Segmentation, CVPR 2019.

A picture comes as often as the whole part of its factor says, and once more with the probability of the rest. Which
ones come once more changes from epoch to epoch; how many do not, so that all epochs have the same number of steps. The
order depends on the seed, the epoch and the factors alone: it is the same for any number of loader processes and on
every GPU, of which each takes its share, and a resumed training continues with it.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import distributed
from torch.utils.data import Dataset, DistributedSampler

from stages import config
from stages.foundation import files
from stages.tao.wheel import TaoModule
from stages.training.callbacks import SeededLoader

log = logging.getLogger(__name__)


def factors(folder: Path, mode: config.Mode, threshold: float) -> list[float]:
    """Return the repeat factor of each picture of the training split that convert wrote to `folder`, in its order.

    With the mode instance only things count as classes; crowds never do, since TAO does not learn from them.
    """
    content, sources = files.read_json(folder / "panoptic.json"), _sources(folder)
    learned = {c["id"] for c in content["categories"] if c["isthing"] or mode is not config.Mode.instance}
    present = [
        {s["category_id"] for s in annotation["segments_info"] if not s["iscrowd"]} & learned
        for annotation in content["annotations"]
    ]
    counts = {category: sum(category in found for found in present) for category in learned}
    of_class = {c: max(1.0, math.sqrt(threshold * len(present) / count)) for c, count in counts.items() if count}
    images = zip(content["images"], present, strict=True)
    return [
        sources[image["source"]]["repeat"] * max((of_class[c] for c in found), default=1.0) for image, found in images
    ]


def _sources(folder: Path) -> dict[str, dict[str, float]]:
    """Read what convert wrote of the sources of a split."""
    found: dict[str, dict[str, float]] = files.read_json(folder / "sources.json")
    return found


class RepeatSampler(DistributedSampler[object]):
    """Draws the pictures of an epoch by their repeat factors. Lightning leaves a DistributedSampler as it is."""

    def __init__(
        self, dataset: Dataset[object], factors: Sequence[float], seed: Callable[[], int], replicas: int, rank: int
    ) -> None:
        """`seed` returns the seed of the epoch that begins; `rank` is the number of this process among `replicas`."""
        super().__init__(dataset, replicas, rank)
        self._whole = np.floor(factors).astype(np.int64)
        self._rest = np.asarray(factors) - self._whole
        self._more = round(float(self._rest.sum()))
        self._seed = seed
        self.num_samples = math.ceil((int(self._whole.sum()) + self._more) / replicas)
        self.total_size = self.num_samples * replicas

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng(self._seed())
        # A comb of equally distant points over the rests, in random order and from a random start.
        order = rng.permutation(len(self._rest))
        ends = np.cumsum(self._rest[order])
        points = (rng.random() + np.arange(self._more)) * (ends[-1] / max(1, self._more))
        more = order[np.minimum(np.searchsorted(ends, points, side="right"), len(order) - 1)]
        drawn = rng.permutation(np.concatenate([np.repeat(np.arange(len(self._whole)), self._whole), more]))
        # As torch does: the first ones come again, so that all processes get equally many.
        drawn = np.resize(drawn, self.total_size)
        return iter(drawn[self.rank :: self.num_replicas].tolist())


def loader(base: type[SeededLoader], folder: Path, cfg: config.Config) -> Callable[..., SeededLoader]:
    """Return the function that TAO calls in place of DataLoader: `base` with a RepeatSampler for the training split.

    Returns `base` if nothing is to be repeated. `folder`: convert's folder of the training split.
    """
    if not cfg.train.repeat_threshold and all(s["repeat"] == 1 for s in _sources(folder).values()):
        return base
    found = factors(folder, cfg.model.mode, cfg.train.repeat_threshold)
    log.info("an epoch has %.0f pictures, of %d that come 1 to %.1f times", sum(found), len(found), max(found))

    def make(dataset: TaoModule, **kwargs: Any) -> SeededLoader:
        if dataset.is_training:
            several = distributed.is_available() and distributed.is_initialized()
            replicas, rank = (distributed.get_world_size(), distributed.get_rank()) if several else (1, 0)
            kwargs["sampler"] = RepeatSampler(dataset, found, lambda: base.seed(), replicas, rank)
        return base(dataset, **kwargs)

    return make
