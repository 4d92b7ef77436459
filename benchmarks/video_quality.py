"""Figures of segments that are linked over time: video panoptic quality, and identity switches."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stages.foundation.coco_types import Category
from stages.foundation.panoptic_ids import VOID_ID
from stages.metrics.panoptic_quality import PanopticQuality, intersections


@dataclass(frozen=True)
class LinkedMap:
    """The segments of a frame, with ids that are the same in all frames."""

    ids: npt.NDArray[np.int32]
    """int32 [H, W]; VOID_ID for no segment."""
    category_ids: dict[int, int]
    """Id -> category_id."""


@dataclass
class _Areas:
    """Pixels of true and found segments in some frames."""

    overlap: "Counter[tuple[int, int]]"
    true: "Counter[int]" = field(default_factory=Counter)
    found: "Counter[int]" = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for (i, k), pixels in self.overlap.items():
            self.true[i] += pixels
            self.found[k] += pixels

    def iou(self, i: int, k: int) -> float:
        """Return the IoU of a true and a found segment. The union does not count what is void in the truth."""
        shared = self.overlap[i, k]
        return shared / (self.true[i] + self.found[k] - shared - self.overlap[VOID_ID, k])


class VideoQuality:
    """Compares the segments of a video with their truth."""

    def __init__(self, truth: Sequence[LinkedMap], found: Sequence[LinkedMap]) -> None:
        """Both have the same frames."""
        self._overlaps = [intersections(a.ids, b.ids) for a, b in zip(truth, found, strict=True)]
        self._true_classes = {i: c for one in truth for i, c in one.category_ids.items()}
        self._classes = {i: c for one in found for i, c in one.category_ids.items()}

    def vpq(self, window: int, categories: Sequence[Category]) -> dict[str, dict[str, float]]:
        """Return video panoptic quality (Kim et al., arXiv:2006.11339), 0 to 100, as PanopticQuality.summary does.

        The pixels that have one id in `window` frames in a row are a tube. This is the PQ of tubes; the counts of a
        class are summed over all windows.
        """
        counted = PanopticQuality()
        for start in range(len(self._overlaps) - window + 1):
            areas = _Areas(sum(self._overlaps[start : start + window], Counter()))
            matched: set[int] = set()
            for (i, k), _ in areas.overlap.items():
                category_id = self._true_classes.get(i)
                if category_id is not None and self._classes.get(k) == category_id and areas.iou(i, k) > 0.5:
                    counted.tallies[category_id].tp += 1
                    counted.tallies[category_id].iou += areas.iou(i, k)
                    matched |= {i, -k}
            for i in areas.true.keys() - matched - {VOID_ID}:
                counted.tallies[self._true_classes[i]].fn += 1
            for k in areas.found.keys() - {VOID_ID}:
                if -k not in matched and areas.overlap[VOID_ID, k] <= areas.found[k] / 2:
                    counted.tallies[self._classes[k]].fp += 1
        return counted.summary(categories)

    def identity_switches(self, things: Collection[int]) -> tuple[int, int]:
        """Return the identity switches, and the objects that were found, summed over the frames.

        A true object is found by the segment of its class with which its IoU is above 0.5. It is a switch if that has
        another id than the one by which the object was found last (Bernardin and Stiefelhagen, 2008).
        """
        switches = matches = 0
        last: dict[int, int] = {}
        for overlap in self._overlaps:
            areas = _Areas(overlap)
            for i, k in overlap:
                category_id = self._true_classes.get(i)
                if category_id in things and self._classes.get(k) == category_id and areas.iou(i, k) > 0.5:
                    matches += 1
                    switches += i in last and last[i] != k
                    last[i] = k
        return switches, matches
