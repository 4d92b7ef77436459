"""Collects a network's panoptic, semantic and instance metrics over a validation set, in total and by class."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages import config
from stages.coco import panoptic
from stages.foundation.coco_types import Category
from stages.metrics.average_precision import AveragePrecision
from stages.metrics.panoptic_quality import PanopticQuality
from stages.metrics.semantic import MeanIoU

if TYPE_CHECKING:
    from stages.reference.tao_model import Prediction

TableRow = dict[str, str | float]
"""Cells of a CSV file by column."""


class Figures:
    """Collects the metrics of a network that learned `mode`."""

    def __init__(self, coco: Path, categories: list[Category], mode: config.Mode) -> None:
        self.categories = categories
        self.modes = tuple(config.Mode) if mode is config.Mode.panoptic else (mode,)
        self.quality, self.iou = PanopticQuality(), MeanIoU(len(categories))
        self.precision = AveragePrecision(coco / "instances.json")

    def add(self, entry: panoptic.Entry, predicted: "Prediction") -> None:
        """Count one picture."""
        true_ids = panoptic.read_ids(entry.png)
        if config.Mode.panoptic in self.modes:
            merged = predicted.segments[config.Mode.panoptic]
            self.quality.add(true_ids, entry.segments, merged.ids, merged.category_ids)
        if config.Mode.semantic in self.modes:
            classes = predicted.segments[config.Mode.semantic].ids
            self.iou.add(panoptic.class_map(true_ids, entry.segments), classes.astype(np.uint8))
        if found := predicted.instances:
            self.precision.add(entry.image_id, found.masks, found.scores, found.category_ids)

    def summary(self) -> dict[str, dict[str, float]]:
        """Return the metrics over all classes, 0 to 100."""
        result: dict[str, dict[str, float]] = {}
        if config.Mode.panoptic in self.modes:
            result |= self.quality.summary(self.categories)
        if config.Mode.semantic in self.modes:
            result["semantic"] = self.iou.summary()
        if config.Mode.instance in self.modes:
            result["instance"] = self.precision.evaluate()[0]
        return result

    def per_class(self) -> list[TableRow]:
        """Return a row for each class that annotations or predictions hold. Values are 0 to 100.

        Metrics that a class does not have are left out.
        """
        rows: list[TableRow] = []
        by_class = self.precision.evaluate()[1] if config.Mode.instance in self.modes else {}
        for category, class_iou in zip(self.categories, self.iou.iou_by_class(), strict=True):
            tally = self.quality.tallies[category["id"]]
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
