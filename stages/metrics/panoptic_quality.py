"""Panoptic quality (Kirillov et al., arXiv:1801.00868) by the rules of COCO's evaluation.

A predicted and a true segment of one class match when their IoU is above 0.5. The union does not count the pixels of
the prediction that are void in the truth. A crowd segment is neither found nor missed. A prediction without a match is
not counted when more than half of it lies on void or on crowds of its class.

panopticapi counts only the last crowd of a class in a picture. Here all of them count, as the definition says, unless
`last_crowd_only` is set. With data.small_segments: crowd a picture has many crowds of a class, and on such a set the PQ
was about 1 point above panopticapi's. Compare figures of that setting only with each other.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stages.foundation.coco_types import Category, SegmentInfo
from stages.foundation.panoptic_ids import VOID_ID


@dataclass
class Tally:
    """Counts of one class."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    iou: float = 0.0
    """Sum of IoU over the matches."""

    @property
    def quality(self) -> tuple[float, float, float] | None:
        """PQ, SQ and RQ, 0 to 100; None for a class that neither truth nor prediction holds."""
        weight = self.tp + self.fp / 2 + self.fn / 2
        if not weight:
            return None
        sq = self.iou / self.tp if self.tp else 0.0
        return 100 * self.iou / weight, 100 * sq, 100 * self.tp / weight


@dataclass
class PanopticQuality:
    """Counts the segments of pictures. `summary` returns the figures."""

    tallies: dict[int, Tally] = field(default_factory=lambda: defaultdict(Tally))
    """category_id -> counts."""
    last_crowd_only: bool = False
    """Whether only the last crowd of a class in `segments` counts, as in panopticapi."""

    def add(
        self,
        truth: npt.NDArray[np.int32],
        segments: Sequence[SegmentInfo],
        predicted: npt.NDArray[np.int32],
        category_ids: dict[int, int],
    ) -> None:
        """Count one picture.

        truth: ids int32 [H, W], VOID_ID for void, described by `segments`. predicted: ids int32 [H, W], described by
        `category_ids`, segment id -> category_id. Raises ValueError where the sizes differ or an id has no category.
        """
        if truth.shape != predicted.shape:
            raise ValueError(f"the truth is {truth.shape}, the prediction {predicted.shape}; they must be equal")
        true_category = {s["id"]: s["category_id"] for s in segments}
        crowd = {s["id"]: s["category_id"] for s in segments if s.get("iscrowd")}
        overlap = intersections(truth, predicted)
        true_area, area = _areas(overlap, 0), _areas(overlap, 1)
        unknown = (area.keys() - category_ids.keys() - {VOID_ID}) | (
            true_area.keys() - true_category.keys() - {VOID_ID}
        )
        if unknown:
            raise ValueError(f"segment ids {sorted(unknown)[:5]} are in the map but not in its segments_info")

        found: set[int] = set()
        matched: set[int] = set()
        for (true_id, segment_id), pixels in overlap.items():
            if VOID_ID in (true_id, segment_id) or true_id in crowd:
                continue
            category_id = true_category[true_id]
            if category_id != category_ids[segment_id]:
                continue
            union = true_area[true_id] + area[segment_id] - pixels - overlap[VOID_ID, segment_id]
            if pixels / union > 0.5:
                self.tallies[category_id].tp += 1
                self.tallies[category_id].iou += pixels / union
                found.add(true_id)
                matched.add(segment_id)

        for true_id in true_area.keys() - found - crowd.keys() - {VOID_ID}:
            self.tallies[true_category[true_id]].fn += 1
        for segment_id in area.keys() - matched - {VOID_ID}:
            category_id = category_ids[segment_id]
            same = [true_id for true_id, c in crowd.items() if c == category_id]
            same = same[-1:] if self.last_crowd_only else same
            ignored = overlap[VOID_ID, segment_id] + sum(overlap[true_id, segment_id] for true_id in same)
            if ignored / area[segment_id] <= 0.5:
                self.tallies[category_id].fp += 1

    @classmethod
    def total(cls, parts: Iterable["PanopticQuality"]) -> "PanopticQuality":
        """Return the counts of several together."""
        result = cls()
        for part in parts:
            for category_id, tally in part.tallies.items():
                into = result.tallies[category_id]
                into.tp, into.fp, into.fn = into.tp + tally.tp, into.fp + tally.fp, into.fn + tally.fn
                into.iou += tally.iou
        return result

    def summary(self, categories: Sequence[Category]) -> dict[str, dict[str, float]]:
        """Return PQ, SQ and RQ, 0 to 100, and the number of classes, for the groups all, things and stuff.

        A figure is the mean over the classes that truth or prediction holds, and 0 where there are none.
        """
        groups = {
            "all": categories,
            "things": [c for c in categories if c["isthing"]],
            "stuff": [c for c in categories if not c["isthing"]],
        }
        result = {}
        for name, group in groups.items():
            rows = [q for c in group if (q := self.tallies[c["id"]].quality) is not None]
            pq, sq, rq = (float(x) for x in np.mean(rows, axis=0)) if rows else (0.0, 0.0, 0.0)
            result[name] = {"pq": pq, "sq": sq, "rq": rq, "classes": len(rows)}
        return result


def intersections(first: npt.NDArray[np.int32], second: npt.NDArray[np.int32]) -> "Counter[tuple[int, int]]":
    """Return the number of pixels of each pair of ids, (first, second) -> count, in two maps int32 [H, W]."""
    pairs = (first.astype(np.int64) << 32) | second
    values, counts = np.unique(pairs, return_counts=True)
    return Counter({(int(v >> 32), int(v & 0xFFFFFFFF)): int(n) for v, n in zip(values, counts, strict=True)})


def _areas(overlap: "Counter[tuple[int, int]]", side: int) -> "Counter[int]":
    areas: Counter[int] = Counter()
    for pair, pixels in overlap.items():
        areas[pair[side]] += pixels
    return areas
