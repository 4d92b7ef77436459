"""Decoding of engine outputs into segments."""

from typing import Any

import numpy as np
import pytest

from stages import config
from stages.inference import segments
from stages.inference.segments import VOID_QUERY, decode


def tao_outputs(classes: list[int], masks: np.ndarray, scores: list[float]) -> dict[str, Any]:
    """Outputs of TAO's panoptic graph for queries with certain masks [Q, H, W]."""
    score = np.array(scores, np.float32)
    probabilities = np.where(masks, np.float32(0.99), np.float32(0.01))
    found = {"pred_masks": probabilities, "prob_masks": probabilities * score[:, None, None]}
    found |= {"pred_scores": score, "pred_classes": np.array(classes)}
    return {name: array[None] for name, array in found.items()}


def boxes(*columns: tuple[int, int]) -> np.ndarray:
    masks = np.zeros((len(columns), 4, 8), bool)
    for mask, (left, right) in zip(masks, columns, strict=True):
        mask[:, left:right] = True
    return masks


def merged(outputs: dict[str, Any], **changes: Any) -> segments.Segments:
    return decode(outputs, 0, config.Deploy(graph=config.GraphKind.tao, **changes), num_things=1)


def test_things_are_told_apart_and_stuff_is_merged() -> None:
    found = merged(tao_outputs([0, 0, 1, 1], boxes((0, 2), (2, 4), (4, 6), (6, 8)), [0.9] * 4))
    assert found.ids[0].tolist() == [1, 1, 2, 2, 3, 3, 3, 3]
    assert found.category_ids == {1: 1, 2: 1, 3: 2}


def test_unsure_and_empty_queries_are_dropped() -> None:
    found = merged(tao_outputs([0, 0], boxes((0, 8), (0, 3)), [0.1, 0.9]))
    assert found.ids[0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    nothing = merged(tao_outputs([0, 0], boxes((0, 8), (0, 3)), [0.1, 0.1]))
    assert not nothing.ids.any()
    assert nothing.category_ids == {}


def test_a_query_that_loses_most_of_its_mask_is_dropped() -> None:
    outputs = tao_outputs([0, 0], boxes((0, 6), (0, 8)), [0.95, 0.6])
    # The second wins 2 of its 8 columns.
    assert merged(outputs).category_ids == {1: 1}
    assert merged(outputs, overlap_threshold=0.2).category_ids == {1: 1, 2: 1}


def test_fused_map_is_numbered_from_one() -> None:
    query_ids = np.full((1, 2, 4), VOID_QUERY, np.uint8)
    query_ids[0, :, 1] = 7
    query_ids[0, :, 2:] = 3
    areas, category_ids = np.zeros((1, 9), np.int32), np.arange(10, 19, dtype=np.int32)[None]
    areas[0, 7], areas[0, 3] = 2, 4
    outputs = {"query_ids": query_ids, "areas": areas, "category_ids": category_ids, "scores": areas}
    found = decode(outputs, 0, config.Deploy(), num_things=1)
    assert found.ids[0].tolist() == [0, 2, 1, 1]
    assert found.category_ids == {1: 13, 2: 17}


def test_the_best_instance_is_on_top() -> None:
    masks = boxes((0, 4), (2, 8), (0, 8))
    cfg = config.Deploy(mode=config.Mode.instance, object_mask_threshold=0.3)
    found = segments.instances(masks, np.array([0.9, 0.5, 0.2]), np.array([4, 5, 6]), cfg)
    assert found.ids[0].tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    assert found.category_ids == {1: 4, 2: 5}


def test_classes_are_segments_in_semantic_mode() -> None:
    found = segments.semantic(np.array([[1, 1, 9]], np.uint8))
    assert found.ids.tolist() == [[1, 1, 9]]
    assert found.category_ids == {1: 1, 9: 9}


def test_each_segment_has_the_score_of_its_query() -> None:
    masks = boxes((0, 2), (2, 4), (4, 6), (6, 8))
    found = merged(tao_outputs([0, 0, 1, 1], masks, [0.9, 0.85, 0.95, 0.99]))
    # The last two are one segment of stuff, under the first of its queries, as in the fused graph.
    assert found.scores == pytest.approx({1: 0.9, 2: 0.85, 3: 0.95})

    query_ids = np.array([[[7, 3, 3, VOID_QUERY]]], np.uint8)
    areas, scores = np.zeros((1, 9), np.int32), np.linspace(0.1, 0.9, 9, dtype=np.float32)[None]
    areas[0, 7], areas[0, 3] = 1, 2
    outputs = {"query_ids": query_ids, "areas": areas, "category_ids": np.full((1, 9), 5), "scores": scores}
    fused = decode(outputs, 0, config.Deploy(), num_things=9)
    assert fused.scores == pytest.approx({1: 0.4, 2: 0.8})

    cfg = config.Deploy(object_mask_threshold=0.65)
    instances = segments.instances(masks, np.array([0.6, 0.9, 0.7, 0.1]), np.array([1, 2, 3, 4]), cfg)
    assert [instances.scores.get(i) for i in instances.ids[0, ::2].tolist()] == [None, 0.9, 0.7, None]
    assert segments.semantic(np.ones((2, 2), np.uint8)).scores == {}
