"""Our panoptic merge against TAO's own post-processing."""

from typing import Any

import numpy as np
import pytest
import torch

from stages import config
from stages.runtime import frames


@pytest.fixture(scope="module")
def checkpoint(tao_wheel: None) -> Any:
    """A Checkpoint without a network: what it does with the network's output is TAO's."""
    from stages.tao import predict

    return predict.Checkpoint


def outputs(seed: int, queries: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Class and mask logits of queries that overlap, compete, share stuff classes and are partly unsure."""
    rng = np.random.default_rng(seed)
    class_logits = rng.normal(0, 1, (queries, 1 + classes)).astype(np.float32)
    class_logits[np.arange(queries), rng.integers(0, 1 + classes, queries)] += rng.uniform(0, 9, queries)
    y, x = np.mgrid[:24, :40]
    middle, reach = rng.uniform((0, 0), (24, 32), (queries, 2)), rng.uniform(2, 8, (queries, 1, 1))
    away = np.hypot(y - middle[:, :1, None], x - middle[:, 1:, None]) / reach
    masks = (6 * (1 - away) + rng.normal(0, 0.5, away.shape)).astype(np.float32)
    return class_logits, masks


@pytest.mark.parametrize("seed", range(8))
def test_merge_equals_tao(checkpoint: Any, seed: int) -> None:
    deploy = config.Deploy(height_px=96, width_px=160)
    class_logits, mask_logits = outputs(seed, queries=30, classes=8)
    reference = checkpoint.__new__(checkpoint)
    reference.use_post_processing(3, deploy)
    reference.logits = lambda frame: (torch.from_numpy(class_logits), torch.from_numpy(mask_logits))
    picture = np.zeros((150, 200, 3), np.uint8)  # narrower than the input: padded at the right

    expected = reference.panoptic(picture)
    found = frames.panoptic(lambda frame: (class_logits[None], mask_logits[None]), picture, 3, deploy)
    assert found.category_ids == expected.category_ids
    assert (found.ids == expected.ids).mean() > 0.9999
    kinds = [c <= 3 for c in expected.category_ids.values()]
    assert len(kinds) >= 3
    assert any(kinds)
    assert not all(kinds)
