from pathlib import Path

import numpy as np
import pytest

from stages.runtime import frames


def test_fit_keeps_the_aspect_ratio_and_pads_below_and_right() -> None:
    picture = np.full((100, 400, 3), 200, np.uint8)
    padded, used = frames.fit(picture, 64, 128)
    assert padded.shape == (64, 128, 3)
    assert used == (32, 128)
    assert (padded[:32] == 200).all()
    assert (padded[32:] == 0).all()


def test_fit_of_the_right_size_changes_nothing() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    padded, used = frames.fit(picture, 64, 96)
    assert used == (64, 96)
    assert np.array_equal(padded, picture)


def logits(*classes: int | None, strength: float = 9.0) -> np.ndarray:
    """Class logits of queries that are sure of a class, or of no-object (None), among 3 classes."""
    rows = np.zeros((len(classes), 4), np.float32)
    for row, c in zip(rows, classes, strict=True):
        row[c or 0] = strength
    return rows


def boxes(*columns: tuple[int, int]) -> np.ndarray:
    """Mask logits of queries [Q, 4, 8], each sure of a span of columns."""
    masks = np.full((len(columns), 4, 8), -9, np.float32)
    for mask, (left, right) in zip(masks, columns, strict=True):
        mask[:, left:right] = 9
    return masks


def merged(class_logits: np.ndarray, mask_logits: np.ndarray, **changes: float) -> frames.Panoptic:
    size = (4, 8)
    options = {"num_things": 1, "object_mask_threshold": 0.4, "overlap_threshold": 0.5, **changes}
    return frames.merge(class_logits, mask_logits, input_size=size, used=size, output_size=size, **options)


def test_things_are_told_apart_and_stuff_is_merged() -> None:
    result = merged(logits(1, 1, 2, 2), boxes((0, 2), (2, 4), (4, 6), (6, 8)))
    assert result.ids[0].tolist() == [1, 1, 2, 2, 3, 3, 3, 3]
    assert result.category_ids == {1: 1, 2: 1, 3: 2}


def test_unsure_and_empty_queries_are_dropped() -> None:
    result = merged(logits(None, 1), boxes((0, 8), (0, 3)))
    assert result.ids[0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    nothing = merged(logits(None, None), boxes((0, 8), (0, 3)))
    assert not nothing.ids.any()
    assert nothing.category_ids == {}


def test_a_query_that_loses_most_of_its_mask_is_dropped() -> None:
    sure, covered = logits(1, strength=12), logits(1, strength=5)
    rows, masks = np.concatenate([sure, covered]), boxes((0, 6), (0, 8))
    # The second wins 2 of its 8 columns.
    assert merged(rows, masks).category_ids == {1: 1}
    assert merged(rows, masks, overlap_threshold=0.2).category_ids == {1: 1, 2: 1}


def test_padding_is_cut_off() -> None:
    options = {"num_things": 1, "object_mask_threshold": 0.4, "overlap_threshold": 0.5}
    result = frames.merge(logits(1), boxes((0, 4)), input_size=(16, 32), used=(16, 16), output_size=(16, 16), **options)
    assert (result.ids == 1).all()


def test_unreadable_picture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"x\.jpg"):
        frames.read_rgb(path)
