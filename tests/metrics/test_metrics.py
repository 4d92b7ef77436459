"""Hand-made cases of the definitions in Kirillov et al., arXiv:1801.00868, and COCO's rules for crowd and void."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as rle

from stages.foundation import files
from stages.metrics.agreement import agreeing_pixels
from stages.metrics.average_precision import NAMES, AveragePrecision
from stages.metrics.panoptic_quality import PanopticQuality
from stages.metrics.semantic import MeanIoU

CATEGORIES = [{"id": 1, "isthing": 1}, {"id": 2, "isthing": 1}, {"id": 3, "isthing": 0}]


def strip(*runs: tuple[int, int]) -> Any:
    """A map of one row: (id, pixels) after one another."""
    return np.concatenate([np.full(n, i, np.int32) for i, n in runs])[None]


def segment(id_: int, category_id: int, iscrowd: int = 0) -> dict[str, int]:
    return {"id": id_, "category_id": category_id, "iscrowd": iscrowd}


def quality(truth: Any, segments: list[dict[str, int]], predicted: Any, ids: dict[int, int]) -> PanopticQuality:
    result = PanopticQuality()
    result.add(truth, segments, predicted, ids)
    return result


def counts(result: PanopticQuality, category_id: int) -> tuple[int, int, int]:
    tally = result.tallies[category_id]
    return tally.tp, tally.fp, tally.fn


def test_match_by_iou() -> None:
    # 7 of 10 pixels overlap, union 10.
    result = quality(strip((5, 10), (0, 10)), [segment(5, 1)], strip((0, 2), (9, 7), (8, 11)), {9: 1, 8: 3})
    assert counts(result, 1) == (1, 0, 0)
    assert result.tallies[1].iou == pytest.approx(7 / 10)
    # The class-3 prediction lies on void by 10 of its 11 pixels.
    assert counts(result, 3) == (0, 0, 0)


def test_half_is_no_match() -> None:
    result = quality(strip((5, 10), (6, 10)), [segment(5, 1), segment(6, 3)], strip((9, 5), (8, 15)), {9: 1, 8: 3})
    assert counts(result, 1) == (0, 1, 1)
    assert counts(result, 3) == (1, 0, 0)
    assert result.tallies[3].iou == pytest.approx(10 / 15)


def test_void_is_left_out_of_the_union() -> None:
    result = quality(strip((5, 10), (0, 10)), [segment(5, 1)], strip((9, 20)), {9: 1})
    assert counts(result, 1) == (1, 0, 0)
    assert result.tallies[1].iou == 1


def test_wrong_class_counts_against_both() -> None:
    result = quality(strip((5, 10)), [segment(5, 1)], strip((9, 10)), {9: 2})
    assert counts(result, 1) == (0, 0, 1)
    assert counts(result, 2) == (0, 1, 0)


def test_crowd_is_neither_found_nor_missed() -> None:
    truth, segments = strip((5, 10), (6, 10)), [segment(5, 1, iscrowd=1), segment(6, 1)]
    nothing = quality(truth, segments, strip((0, 20)), {})
    assert counts(nothing, 1) == (0, 0, 1)
    on_crowd = quality(truth, segments, strip((9, 10), (0, 10)), {9: 1})
    assert counts(on_crowd, 1) == (0, 0, 1)
    other_class = quality(truth, segments, strip((9, 10), (0, 10)), {9: 2})
    assert counts(other_class, 2) == (0, 1, 0)
    crowd_and_void = quality(strip((5, 3), (0, 3), (6, 4)), segments, strip((9, 10)), {9: 1})
    # union 10 - 3 void = 7, intersection 4: matched, since 4 / 7 > 0.5.
    assert counts(crowd_and_void, 1) == (1, 0, 0)


def test_all_crowds_of_a_class_count_unlike_in_panopticapi_which_takes_the_last() -> None:
    segments = [segment(5, 1, iscrowd=1), segment(6, 1, iscrowd=1), segment(7, 3)]
    result = quality(strip((5, 3), (6, 3), (7, 4)), segments, strip((9, 10)), {9: 1})
    assert counts(result, 1) == (0, 0, 0)


def test_empty_picture() -> None:
    result = quality(strip((0, 10)), [], strip((0, 10)), {})
    assert result.summary(CATEGORIES)["all"] == {"pq": 0, "sq": 0, "rq": 0, "classes": 0}


def test_missing_class_does_not_count_in_the_mean() -> None:
    result = quality(strip((5, 10), (6, 10)), [segment(5, 1), segment(6, 3)], strip((9, 10), (8, 10)), {9: 1, 8: 3})
    summary = result.summary(CATEGORIES)
    assert summary["all"] == {"pq": 100, "sq": 100, "rq": 100, "classes": 2}
    assert summary["things"]["classes"] == 1


def test_summary_by_hand() -> None:
    result = PanopticQuality()
    for _ in range(2):
        result.add(strip((5, 10), (6, 2)), [segment(5, 1), segment(6, 3)], strip((9, 8), (8, 4)), {9: 1, 8: 2})
    # Class 1: two matches of IoU 0.8. Class 2: two false positives. Class 3: two misses.
    summary = result.summary(CATEGORIES)
    assert summary["things"] == {"pq": 40, "sq": 40, "rq": 50, "classes": 2}
    assert summary["all"]["pq"] == pytest.approx(80 / 3)


def test_ids_without_category_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[9\]"):
        quality(strip((5, 10)), [segment(5, 1)], strip((9, 10)), {})


def test_mean_iou() -> None:
    iou = MeanIoU(3)
    iou.add(np.array([[1, 1, 1, 1, 2, 2, 0, 0]]), np.array([[1, 1, 1, 2, 2, 2, 3, 3]]))
    assert iou.iou_by_class()[:2] == pytest.approx([75, 200 / 3])
    assert np.isnan(iou.iou_by_class()[2])  # class 3 is predicted on ignored pixels alone
    summary = iou.summary()
    assert summary["miou"] == pytest.approx((75 + 200 / 3) / 2)
    assert summary["pixel_accuracy"] == pytest.approx(500 / 6)


def test_mean_iou_counts_unpredicted_pixels_as_missed() -> None:
    iou = MeanIoU(1)
    iou.add(np.array([[1, 1]]), np.array([[1, 0]]))
    assert iou.summary()["miou"] == 50


def test_agreement_ignores_numbering_but_not_class() -> None:
    first, second = strip((1, 6), (2, 4)), strip((7, 5), (3, 5))
    assert agreeing_pixels(first, {1: 1, 2: 2}, second, {7: 1, 3: 2}) == 9
    assert agreeing_pixels(first, {1: 1, 2: 2}, second, {7: 1, 3: 1}) == 5


def test_agreement_pairs_one_to_one() -> None:
    # One object split in two: only the larger part agrees.
    assert agreeing_pixels(strip((1, 10)), {1: 1}, strip((1, 6), (2, 4)), {1: 1, 2: 1}) == 6
    assert agreeing_pixels(strip((0, 10)), {}, strip((0, 10)), {}) == 10


def test_shares_of_the_confusion_matrix() -> None:
    iou = MeanIoU(3)
    iou.add(np.array([[1, 1, 1, 1, 3]]), np.array([[1, 2, 2, 0, 3]]))
    assert iou.shares(["car", "road", "sky"]) == [
        {"actual": "car", "predicted": "nothing", "share_pct": 25.0},
        {"actual": "car", "predicted": "car", "share_pct": 25.0},
        {"actual": "car", "predicted": "road", "share_pct": 50.0},
        {"actual": "sky", "predicted": "sky", "share_pct": 100.0},
    ]


SQUARES = {1: (slice(0, 20), slice(0, 20)), 2: (slice(40, 100), slice(40, 100))}
"""Annotation id -> rows and columns: a small object of class 1, a medium one of class 2."""


def square(rows: slice, columns: slice) -> Any:
    result = np.zeros((120, 120), bool)
    result[rows, columns] = True
    return result


@pytest.fixture
def precision(tmp_path: Path) -> AveragePrecision:
    annotations = []
    for number, (rows, columns) in SQUARES.items():
        encoded = rle.encode(np.asfortranarray(square(rows, columns), np.uint8))
        encoded["counts"] = encoded["counts"].decode()
        area, box = int(rle.area(encoded)), [float(x) for x in rle.toBbox(encoded)]
        annotations.append(
            {"id": number, "image_id": 1, "category_id": number, "iscrowd": 0, "area": area, "bbox": box}
            | {"segmentation": encoded}
        )
    images = [{"id": 1, "height": 120, "width": 120, "file_name": "a.jpg"}]
    path = tmp_path / "instances.json"
    categories = [{"id": i, "name": str(i)} for i in (1, 2, 3)]
    files.write_json(path, {"images": images, "annotations": annotations, "categories": categories})
    return AveragePrecision(path)


def test_average_precision_by_threshold_size_and_class(precision: AveragePrecision) -> None:
    """The small object is found exactly, of the other 0.8: good for IoU of 0.5 to 0.75, 6 of the 10 thresholds."""
    part = square(slice(40, 88), slice(40, 100))
    masks = np.stack([square(*SQUARES[1]), part, np.zeros((120, 120), bool)])
    precision.add(1, masks, np.array([0.9, 0.8, 0.7]), np.array([1, 2, 2]))
    assert len(precision.results) == 2, "an empty mask is no result"
    figures, by_class = precision.evaluate()
    assert by_class == {1: pytest.approx(100), 2: pytest.approx(70)}
    expected = {"ap": 85, "ap50": 100, "ap75": 100, "ap_small": 100, "ap_medium": 70}
    assert figures == {name: pytest.approx(value) for name, value in expected.items()}


def test_average_precision_of_nothing_found(precision: AveragePrecision) -> None:
    assert precision.evaluate() == (dict.fromkeys(NAMES, 0.0), {1: 0.0, 2: 0.0})


def test_counts_of_one_class_add_up_in_a_picture() -> None:
    truth = strip((1, 4), (2, 4), (3, 4), (0, 4))
    segments = [segment(1, 1), segment(2, 1), segment(3, 3)]
    result = quality(truth, segments, strip((7, 4), (8, 4), (9, 4), (6, 4)), {7: 2, 8: 2, 9: 3, 6: 2})
    assert counts(result, 1) == (0, 0, 2)
    assert counts(result, 2) == (0, 2, 0)
    assert counts(result, 3) == (1, 0, 0)
    summary = result.summary(CATEGORIES)
    assert list(summary) == ["all", "things", "stuff"]
    assert summary["stuff"] == {"pq": 100, "sq": 100, "rq": 100, "classes": 1}


@pytest.mark.parametrize(("void", "fp"), [(4, 1), (5, 1), (6, 0)])
def test_a_prediction_is_not_counted_if_more_than_half_of_it_is_void(void: int, fp: int) -> None:
    truth = strip((0, void), (5, 10 - void), (5, 90))
    result = quality(truth, [segment(5, 3)], strip((9, 10), (8, 90)), {9: 1, 8: 3})
    assert counts(result, 1) == (0, fp, 0)


@pytest.mark.parametrize(("last_only", "fp"), [(False, 0), (True, 1)])
def test_of_several_crowds_panopticapi_takes_the_last(last_only: bool, fp: int) -> None:
    segments = [segment(4, 1, iscrowd=1), segment(5, 1, iscrowd=1), segment(6, 1, iscrowd=1), segment(7, 3)]
    result = PanopticQuality(last_crowd_only=last_only)
    # 8 of 10 pixels lie on crowds, 2 on the last of them, and 6 on the last two.
    result.add(strip((4, 2), (5, 4), (6, 2), (7, 2)), segments, strip((9, 10)), {9: 1})
    assert counts(result, 1) == (0, fp, 0)
    last = PanopticQuality(last_crowd_only=True)
    last.add(strip((4, 2), (5, 2), (6, 6)), segments, strip((9, 10)), {9: 1})
    assert counts(last, 1) == (0, 0, 0)


def test_parts_add_up_to_the_whole() -> None:
    pictures = [
        (strip((5, 10), (6, 2)), [segment(5, 1), segment(6, 3)], strip((9, 8), (8, 4)), {9: 1, 8: 2}),
        (strip((5, 10)), [segment(5, 1)], strip((9, 9), (0, 1)), {9: 1}),
        (strip((5, 10)), [segment(5, 2)], strip((9, 10)), {9: 1}),
    ]
    whole, parts = PanopticQuality(), []
    for picture in pictures:
        whole.add(*picture)
        parts.append(quality(*picture))
    total = PanopticQuality.total(parts)
    assert total.tallies == whole.tallies
    assert counts(total, 1) == (2, 1, 0)
    assert total.tallies[1].iou == pytest.approx(0.8 + 0.9)
    assert PanopticQuality.total([]).tallies == {}


def test_maps_of_two_sizes_and_ids_without_a_segment_are_refused() -> None:
    with pytest.raises(ValueError, match=r"truth is \(1, 10\), the prediction \(1, 9\)"):
        quality(strip((5, 10)), [segment(5, 1)], strip((9, 9)), {9: 1})
    with pytest.raises(ValueError, match=r"segment ids \[1, 2, 3, 4, 5\] are in the map"):
        quality(strip(*((i, 1) for i in range(1, 8))), [], strip((0, 7)), {})
