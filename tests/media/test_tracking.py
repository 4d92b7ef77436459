"""Track ids: against a plain implementation with whole masks, and on a street that moves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from benchmarks import moving_street
from benchmarks import tracking as measured
from benchmarks.video_quality import LinkedMap, VideoQuality
from stages.inference.segments import Segments
from stages.media.tracking import Tracker
from stages.metrics.panoptic_quality import PanopticQuality

CATEGORIES: dict[int, Any] = {
    c: {"id": c, "name": f"class {c}", "isthing": int(c < 4), "color": [c, c, c]} for c in range(1, 6)
}
"""1 to 3 are things, 4 and 5 stuff."""


class Plain:
    """What Tracker does, with a mask for each object and a loop over all pairs."""

    def __init__(self, max_missed: int, min_iou: float) -> None:
        self.max_missed, self.min_iou, self.last_id = max_missed, min_iou, 0
        self.known: list[list[Any]] = []
        """Track id, class, mask, frames since it was found."""
        self.stuff: dict[int, int] = {}

    def new_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def update(self, found: Segments) -> dict[int, int]:
        things = {i: found.ids == i for i, c in found.category_ids.items() if CATEGORIES[c]["isthing"]}
        pairs = []
        for place, (_, category_id, mask, _) in enumerate(self.known):
            for number, (i, other) in enumerate(things.items()):
                if found.category_ids[i] == category_id and (mask & other).any():
                    pairs.append((-(mask & other).sum() / (mask | other).sum(), place, number, i))
        result: dict[int, int] = {}
        used = set()
        for negative, place, _, i in sorted(pairs):
            if -negative >= self.min_iou and place not in used and i not in result:
                used.add(place)
                result[i] = self.known[place][0]
        for i in things:
            if i not in result:
                result[i] = self.new_id()
        missed = [[*one[:3], one[3] + 1] for place, one in enumerate(self.known) if place not in used]
        self.known = [[result[i], found.category_ids[i], mask, 0] for i, mask in things.items()]
        self.known += [one for one in missed if one[3] <= self.max_missed]
        for i, c in found.category_ids.items():
            if not CATEGORIES[c]["isthing"]:
                if c not in self.stuff:
                    self.stuff[c] = self.new_id()
                result[i] = self.stuff[c]
        return result


def made(seed: int, count: int) -> list[Segments]:
    """Frames of boxes that move and disappear, in numbers that change from frame to frame."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 50, (9, 2))
    speeds, sizes, classes = rng.normal(0, 2, (9, 2)), rng.integers(4, 24, (9, 2)), rng.integers(1, 6, 9)
    frames = []
    for time in range(count):
        ids = np.zeros((60, 80), np.int32)
        numbers = rng.permutation(9) + 1
        shown = rng.random(9) > 0.2
        for k in np.flatnonzero(shown):
            row, column = np.rint(corners[k] + time * speeds[k]).astype(int) % (50, 70)
            ids[row : row + sizes[k][0], column : column + sizes[k][1]] = numbers[k]
        frames.append(Segments(ids, {int(numbers[k]): int(classes[k]) for k in np.flatnonzero(shown)}))
    return frames


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("max_missed", "min_iou"), [(0, 0.02), (3, 0.02), (20, 0.3)])
def test_ids_are_those_of_whole_masks(seed: int, max_missed: int, min_iou: float) -> None:
    tracker, plain = Tracker(CATEGORIES, max_missed, min_iou), Plain(max_missed, min_iou)
    for found in made(seed, 40):
        assert tracker.update(found) == plain.update(found)
        # The engine may write its next map there.
        found.ids[:] = 0
    assert plain.last_id > 9


def box(column: int, category_id: int = 1, size: tuple[int, int] = (40, 60), number: int = 1) -> Segments:
    ids = np.zeros(size, np.int32)
    ids[10:30, column : column + 20] = number
    return Segments(ids, {number: category_id})


def test_an_object_that_is_missed_keeps_its_number_for_some_frames() -> None:
    nothing = Segments(np.zeros((40, 60), np.int32), {})
    for missed, same in ((0, True), (4, True), (5, False)):
        tracker = Tracker(CATEGORIES, max_missed=4)
        assert tracker.update(box(5, number=7)) == {7: 1}
        for _ in range(missed):
            assert tracker.update(nothing) == {}
        assert tracker.update(box(8, number=3)) == {3: 1 if same else 2}


def test_another_class_or_size_is_another_object_and_stuff_has_one_number() -> None:
    tracker = Tracker(CATEGORIES)
    assert tracker.update(box(5)) == {1: 1}
    assert tracker.update(box(5, category_id=2)) == {1: 2}
    assert tracker.update(box(5, category_id=4)) == {1: 3}
    assert tracker.update(box(5)) == {1: 1}
    assert tracker.update(box(40, category_id=4)) == {1: 3}, "stuff that nothing overlaps with"
    assert tracker.update(box(5, size=(80, 60))) == {1: 4}
    assert tracker.update(box(5)) == {1: 5}, "ids are not used twice"


def as_maps(frames: Sequence[moving_street.Frame]) -> list[LinkedMap]:
    return [LinkedMap(frame.ids, frame.category_ids) for frame in frames]


@pytest.fixture(scope="module")
def street() -> list[moving_street.Frame]:
    return list(moving_street.paint(180, 320, 50))


@pytest.mark.parametrize("name", measured.FAULTS)
def test_objects_of_a_moving_street_keep_their_numbers(street: list[moving_street.Frame], name: str) -> None:
    found = measured.degraded(street, measured.FAULTS[name], seed=3)
    links = measured.linked(found, Tracker(measured.CATEGORIES))
    figures = measured.quality(street, links, (1, 10))
    never = measured.linked(found, Tracker(measured.CATEGORIES, min_iou=2.0))
    unlinked = measured.quality(street, never, (1, 10))
    assert unlinked["found"] == figures["found"] > 200
    assert unlinked["vpq"][1] == figures["vpq"][1]
    assert unlinked["switches"] > 0.8 * unlinked["found"]
    assert figures["switches"] < 0.06 * figures["found"]
    assert figures["vpq"][10]["all"] > 0.8 * figures["vpq"][1]["all"]
    again = measured.linked(found, Tracker(measured.CATEGORIES))
    assert all(np.array_equal(one.ids, other.ids) for one, other in zip(links, again, strict=True))


def test_the_truth_itself_has_no_switch_and_full_quality(street: list[moving_street.Frame]) -> None:
    figures = measured.quality(street, as_maps(street), (1, 10))
    assert figures["switches"] == 0
    assert figures["vpq"] == {k: {"all": 100.0, "things": 100.0} for k in (1, 10)}


@pytest.mark.parametrize("window", [1, 4])
def test_vpq_is_the_pq_of_tubes(street: list[moving_street.Frame], window: int) -> None:
    """The PQ of pictures that hold the frames of a window one below the other."""
    categories = list(measured.CATEGORIES.values())
    truth = as_maps(street[:12])
    for one in truth:
        one.ids[:9] = 0  # void
    found = measured.linked(measured.degraded(street[:12], measured.FAULTS["many"]), Tracker(measured.CATEGORIES))
    counted = PanopticQuality()
    for start in range(len(truth) - window + 1):
        true, part = truth[start : start + window], found[start : start + window]
        names = {i: c for one in true for i, c in one.category_ids.items()}
        segments: list[Any] = [{"id": i, "category_id": c, "iscrowd": 0} for i, c in names.items()]
        classes = {i: c for one in part for i, c in one.category_ids.items()}
        counted.add(np.concatenate([o.ids for o in true]), segments, np.concatenate([o.ids for o in part]), classes)
    assert 20 < counted.summary(categories)["all"]["pq"] < 99
    for name, row in VideoQuality(truth, found).vpq(window, categories).items():
        assert row == pytest.approx(counted.summary(categories)[name])
