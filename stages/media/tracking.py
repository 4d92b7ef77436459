"""Links the segments of a video from frame to frame, so that an object keeps one number. Needs only NumPy.

An object of a thing class takes the number of the object of its class with which its mask overlaps most, by IoU. A
joint histogram of two maps has all overlaps at once. The pairs are taken greedily, the best first. An object that is
not found keeps its last mask for some frames, so that it gets its number back when it is found again there. Stuff has
one number for each class.

The maps are compared at samples: each third row and column of a map of 720 rows. docs/tracking.md has the figures.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from stages.foundation.coco_types import Category
from stages.inference.segments import Segments

MAX_MISSED: Final = 20
"""Frames for which an object that is not found keeps its number."""
MIN_IOU: Final = 0.02
"""Least IoU of two masks of the same object."""
SAMPLED_ROWS: Final = 240
"""Least number of rows of a map that are compared, if it has that many."""

_Ints = npt.NDArray[np.intp]
_Samples = npt.NDArray[np.int32]


class Tracker:
    """Gives the segments of the frames of one video their track ids. Frames come in their order."""

    def __init__(
        self,
        categories: Mapping[int, Category],
        max_missed: int = MAX_MISSED,
        min_iou: float = MIN_IOU,
        sampled_rows: int = SAMPLED_ROWS,
    ) -> None:
        """`categories` are by category_id. The settings have the meaning of the constants above."""
        self._things = {i for i, category in categories.items() if category["isthing"]}
        self._max_missed, self._min_iou, self._sampled_rows = max_missed, min_iou, sampled_rows
        self._stuff: dict[int, int] = {}
        self._last_id = 0
        self._forget(())

    def _forget(self, shape: tuple[int, ...]) -> None:
        """Start anew with objects of frames of a shape. Ids go on."""
        self._shape = shape
        # Place 0 of these lists is no object.
        self._track_ids, self._classes, self._areas, self._missed = (np.zeros(1, np.intp) for _ in range(4))
        self._before: _Samples | None = None
        """Segment ids of the frame before, at the samples."""
        self._place_of: _Ints = np.zeros(1, np.intp)
        """Segment id of the frame before -> place in the lists."""
        self._lost: list[tuple[int, _Ints]] = []
        """Objects that were not found in it: place in the lists, and indices of the samples where they were last."""

    def update(self, found: Segments) -> dict[int, int]:
        """Return the track id, from 1, of each segment of the next frame: segment id -> track id.

        A frame of another size, as after a camera was exchanged, has no objects of those before.
        """
        if found.ids.shape != self._shape:
            self._forget(found.ids.shape)
        step = max(1, found.ids.shape[0] // self._sampled_rows)
        ids = found.ids[step // 2 :: step, step // 2 :: step].flatten()
        things = [i for i, category_id in found.category_ids.items() if category_id in self._things]
        classes = np.array([0, *(found.category_ids[i] for i in things)], np.intp)
        number_of = np.zeros(max(int(ids.max(initial=0)), *found.category_ids, 0) + 1, np.intp)
        number_of[things] = np.arange(1, len(classes))
        overlap, areas = self._overlap(ids, number_of, len(classes))
        matches = self._matches(overlap, classes, areas)
        track_ids = np.zeros(len(classes), np.intp)
        for place, number in matches:
            track_ids[number] = self._track_ids[place]
        new = np.flatnonzero(track_ids[1:] == 0) + 1
        track_ids[new] = self._last_id + 1 + np.arange(len(new))
        self._last_id += len(new)
        self._keep(track_ids, classes, areas, [place for place, _ in matches])
        self._before, self._place_of = ids, number_of
        result = dict(zip(things, track_ids[1:].tolist(), strict=True))
        for segment, category_id in found.category_ids.items():
            if category_id not in self._things:
                if category_id not in self._stuff:
                    self._last_id += 1
                    self._stuff[category_id] = self._last_id
                result[segment] = self._stuff[category_id]
        return result

    def _overlap(self, ids: _Samples, number_of: _Ints, count: int) -> tuple[_Ints, _Ints]:
        """Return the samples that known objects share with those of the frame, [places, count], and areas [count].

        Works on the runs of samples that are equal in both frames, which are far fewer than samples.
        """
        before = ids if self._before is None else self._before
        starts_run = np.ones(len(ids), np.bool_)
        starts_run[1:] = (ids[1:] != ids[:-1]) | (before[1:] != before[:-1])
        starts = np.flatnonzero(starts_run)
        lengths = np.diff(starts, append=len(ids))
        numbers = number_of[ids[starts]]
        areas = np.bincount(numbers, lengths, count).astype(np.intp)
        shape = len(self._classes), count
        if self._before is None:
            return np.zeros(shape, np.intp), areas
        pairs = self._place_of[before[starts]] * count + numbers
        overlap = np.bincount(pairs, lengths, shape[0] * count).astype(np.intp).reshape(shape)
        for place, samples in self._lost:
            overlap[place] = np.bincount(number_of[ids[samples]], minlength=count)
        return overlap, areas

    def _matches(self, overlap: _Ints, classes: _Ints, areas: _Ints) -> list[tuple[int, int]]:
        """Return pairs of a known object's place and a number of the frame: the best IoU first, each at most once."""
        places, numbers = np.nonzero(overlap[1:, 1:] * (self._classes[1:, None] == classes[1:]))
        places, numbers = places + 1, numbers + 1
        pixels = overlap[places, numbers]
        iou = pixels / (self._areas[places] + areas[numbers] - pixels)
        order = [k for k in np.argsort(-iou, kind="stable").tolist() if iou[k] >= self._min_iou]
        result: dict[int, int] = {}
        taken: set[int] = set()
        for place, number in zip(places[order].tolist(), numbers[order].tolist(), strict=True):
            if place not in result and number not in taken:
                result[place] = number
                taken.add(number)
        return list(result.items())

    def _keep(self, track_ids: _Ints, classes: _Ints, areas: _Ints, matched: list[int]) -> None:
        """Remember the objects of the frame, and those that were not found for at most max_missed frames."""
        missed = self._missed + 1
        missed[matched] = self._max_missed + 1
        lost = np.flatnonzero(missed[1:] <= self._max_missed) + 1
        former = dict(self._lost)
        segment_of = {place: segment for segment, place in enumerate(self._place_of.tolist())}
        self._lost = []
        for place in lost.tolist():
            samples = former[place] if place in former else np.flatnonzero(self._before == segment_of[place])
            self._lost.append((len(classes) + len(self._lost), samples))
        self._track_ids = np.append(track_ids, self._track_ids[lost])
        self._classes = np.append(classes, self._classes[lost])
        self._areas = np.append(areas, self._areas[lost])
        self._missed = np.append(np.zeros(len(classes), np.intp), missed[lost])
