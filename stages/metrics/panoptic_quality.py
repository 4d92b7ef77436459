"""Panoptic quality (Kirillov et al., arXiv:1801.00868) by the rules of COCO's evaluation.

A predicted and a true segment of one class match when IoU > 0.5, the prediction's void pixels left out of the
union. Crowd segments are neither found nor missed. An unmatched prediction that lies by more than half on void
or on crowds of its class is not counted.

panopticapi takes only the last crowd of a class in a picture; here all of them count, as the definition has it.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

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
        """PQ, SQ, RQ in 0 to 100; None for a class that neither truth nor prediction holds."""
        weight = self.tp + self.fp / 2 + self.fn / 2
        if not weight:
            return None
        sq = self.iou / self.tp if self.tp else 0.0
        return 100 * self.iou / weight, 100 * sq, 100 * self.tp / weight


@dataclass
class PanopticQuality:
    """Accumulates pictures; `summary` gives the figures."""

    tallies: dict[int, Tally] = field(default_factory=lambda: defaultdict(Tally))
    """category_id -> counts."""

    def add(
        self,
        truth: npt.NDArray[np.int32],
        segments: list[dict[str, Any]],
        predicted: npt.NDArray[np.int32],
        category_ids: dict[int, int],
    ) -> None:
        """Count one picture.

        truth: int32 [H, W] ids, 0 void, with segments_info entries {id, category_id, iscrowd}. predicted: the same
        with segment id -> category_id. Raises ValueError where sizes differ, or for an id without category.
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
            same = (true_id for true_id, c in crowd.items() if c == category_id)
            ignored = overlap[VOID_ID, segment_id] + sum(overlap[true_id, segment_id] for true_id in same)
            if ignored / area[segment_id] <= 0.5:
                self.tallies[category_id].fp += 1

    def summary(self, categories: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
        """PQ, SQ and RQ in 0 to 100 and the number of classes, for all, things and stuff.

        Means over the classes that truth or prediction holds; 0 where there is none.
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
    """Pixels that each pair of ids shares: two int32 [H, W] of ids from 0 -> (id, id) -> count."""
    pairs = (first.astype(np.int64) << 32) | second
    values, counts = np.unique(pairs, return_counts=True)
    return Counter({(int(v >> 32), int(v & 0xFFFFFFFF)): int(n) for v, n in zip(values, counts, strict=True)})


def _areas(overlap: "Counter[tuple[int, int]]", side: int) -> "Counter[int]":
    areas: Counter[int] = Counter()
    for pair, pixels in overlap.items():
        areas[pair[side]] += pixels
    return areas
