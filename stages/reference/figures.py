"""Collects a network's panoptic, semantic and instance metrics over a validation set: in total, by source, by class.

A source does not label all classes of a merged set. Predictions of a class that the picture's source never labels count
as no prediction: nobody knows whether they are right.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages import config
from stages.coco import panoptic
from stages.foundation.coco_types import Category
from stages.metrics.average_precision import AveragePrecision
from stages.metrics.panoptic_quality import PanopticQuality
from stages.metrics.semantic import MeanIoU
from stages.reference.protocols import Protocol, separate_objects
from stages.sets import pngs

if TYPE_CHECKING:
    from stages.reference.tao_model import Prediction

TableRow = dict[str, str | float]
"""Cells of a CSV file by column."""
type Tree = dict[str, float | str | Tree]
"""Figures, 0 to 100, by name; groups of them; and texts."""


@dataclass
class _Part:
    """The counts of a source."""

    labelled: panoptic.Labelled
    unlabelled: frozenset[int]
    """category_ids that the source never labels."""
    iou: MeanIoU
    quality: PanopticQuality = field(default_factory=PanopticQuality)
    image_ids: set[int] = field(default_factory=set)
    has_objects: bool = False
    """Whether the annotations separate any object."""


class Figures:
    """Collects the metrics of a network that learned `mode`."""

    def __init__(
        self,
        coco: Path,
        categories: list[Category],
        mode: config.Mode,
        labelled: Mapping[str, panoptic.Labelled],
        protocols: Mapping[str, Protocol] | None = None,
    ) -> None:
        """Begin with no picture. `labelled` says what each source labels; `protocols` has the evaluations of sets."""
        self.categories = categories
        self.modes = tuple(config.Mode) if mode is config.Mode.panoptic else (mode,)
        self._protocols = protocols or {}
        self._parts = {
            name: _Part(one, panoptic.unlabelled(one, categories), MeanIoU(len(categories)))
            for name, one in labelled.items()
        }
        self.precision = AveragePrecision(coco / "instances.json")

    @property
    def iou(self) -> MeanIoU:
        """The pixels of all sources."""
        return MeanIoU.total((part.iou for part in self._parts.values()), len(self.categories))

    def add(self, entry: panoptic.Entry, predicted: "Prediction") -> None:
        """Count one picture."""
        part = self._parts[entry.source]
        part.image_ids.add(entry.image_id)
        part.has_objects |= separate_objects(entry.segments, self.categories)
        if config.Mode.panoptic in self.modes:
            merged = predicted.segments[config.Mode.panoptic]
            known = panoptic.without(merged.ids, merged.category_ids, part.unlabelled)
            part.quality.add(panoptic.read_ids(entry.png), entry.segments, *known)
        if config.Mode.semantic in self.modes:
            found = predicted.segments[config.Mode.semantic]
            classes, _ = panoptic.without(found.ids, found.category_ids, part.unlabelled)
            truth = pngs.read(entry.semantic, 8, pngs.GREY, "run `dvc repro convert`")
            part.iou.add(truth, classes.astype(np.uint8))
        if objects := predicted.instances:
            kept = ~np.isin(objects.category_ids, list(part.unlabelled))
            self.precision.add(entry.image_id, objects.masks[kept], objects.scores[kept], objects.category_ids[kept])
        if entry.source in self._protocols:
            self._protocols[entry.source].add(entry.key, predicted.segments)

    def summary(self) -> dict[str, dict[str, float]]:
        """Return the metrics over all sources and classes, 0 to 100."""
        result: dict[str, dict[str, float]] = {}
        if config.Mode.panoptic in self.modes:
            result |= self._quality().summary(self.categories)
        if config.Mode.semantic in self.modes:
            result["semantic"] = self.iou.summary()
        if config.Mode.instance in self.modes:
            result["instance"] = self.precision.evaluate()[0]
        return result

    def by_source(self, not_computed: Mapping[str, Mapping[str, str]]) -> dict[str, Tree]:
        """Return the metrics of each source that has pictures, over the classes that it labels everywhere.

        `partly` has those over the classes that it labels in part, without AP, which knows no void; `protocol` those of
        the set's own evaluation, or the texts of `not_computed`. Empty for one source without such an evaluation.
        """
        present = {name: part for name, part in self._parts.items() if part.image_ids}
        if len(present) < 2 and not present.keys() & (self._protocols.keys() | not_computed.keys()):
            return {}
        result: dict[str, Tree] = {}
        for name, part in present.items():
            found: Tree = {"pictures": len(part.image_ids)}
            found |= self._of(part, part.labelled.everywhere)
            if config.Mode.instance in self.modes:
                things = [c["id"] for c in self._among(part.labelled.everywhere) if c["isthing"]]
                found["instance"] = {**self.precision.evaluate(part.image_ids, things)[0]}
            if part.labelled.partly and (partly := self._of(part, part.labelled.partly)):
                found["partly"] = partly
            if name in self._protocols:
                found["protocol"] = {
                    k: v if isinstance(v, str) else {**v} for k, v in self._protocols[name].summary().items()
                }
            elif name in not_computed:
                found["protocol"] = {**not_computed[name]}
            result[name] = found
        return result

    def _of(self, part: _Part, category_ids: Collection[int]) -> Tree:
        """Return PQ and mIoU of a source over some classes. Without separate objects there is no PQ of things."""
        found: Tree = {}
        if config.Mode.panoptic in self.modes:
            groups = part.quality.summary(self._among(category_ids))
            found |= {k: {**v} for k, v in groups.items() if part.has_objects or k == "stuff"}
        if config.Mode.semantic in self.modes:
            found["semantic"] = {**part.iou.summary(category_ids)}
        return found

    def _among(self, category_ids: Collection[int]) -> Sequence[Category]:
        return [c for c in self.categories if c["id"] in category_ids]

    def _quality(self) -> PanopticQuality:
        return PanopticQuality.total(part.quality for part in self._parts.values())

    def per_class(self) -> list[TableRow]:
        """Return a row for each class that annotations or predictions hold. Values are 0 to 100.

        Metrics that a class does not have are left out.
        """
        rows: list[TableRow] = []
        by_class = self.precision.evaluate()[1] if config.Mode.instance in self.modes else {}
        quality = self._quality()
        for category, class_iou in zip(self.categories, self.iou.iou_by_class(), strict=True):
            tally = quality.tallies[category["id"]]
            row: TableRow = {"class": category["name"], "isthing": category["isthing"]}
            if tally.quality is not None:
                pq, sq, rq = (round(x, 2) for x in tally.quality)
                row |= {"pq": pq, "sq": sq, "rq": rq, "tp": tally.tp, "fp": tally.fp, "fn": tally.fn}
            if not np.isnan(class_iou):
                row["iou"] = round(float(class_iou), 2)
            if category["id"] in by_class:
                row["ap"] = round(by_class[category["id"]], 2)
            if len(row) > 2:
                rows.append(row)
        return rows
