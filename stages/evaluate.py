"""evaluate: TAO checkpoint -> its maps of the validation set, and the figures of what the network learned.

By TAO's PyTorch network and TAO's own post-processing, as deployed: maps are made at the size of deploy's frames, and
brought to each picture's own size to be compared with the truth. A network that learned panoptic has all figures: PQ,
SQ and RQ; mIoU and pixel accuracy of semantic inference; COCO's AP of instance inference, with the same weights. One of
another mode has its own. TAO's figures of its last validation stand beside them. On the GPU where there is one; on a
CPU seconds a picture. Deterministic.
"""

import csv
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stages import config
from stages.coco import panoptic
from stages.foundation import command_line, files
from stages.inference import frames
from stages.metrics.average_precision import AveragePrecision
from stages.metrics.panoptic_quality import PanopticQuality
from stages.metrics.semantic import CONFUSION, MeanIoU

if TYPE_CHECKING:
    from stages.reference.tao_model import Prediction

log = logging.getLogger(__name__)

COLUMNS = ("class", "isthing", "pq", "sq", "rq", "tp", "fp", "fn", "iou", "ap")
TAO_FIGURES = ("val_miou", "val_pixel_accuracy", "val_map", "val_map50")


def build(checkpoint: Path, coco: Path, out: Path, metrics: Path, cfg: config.Config) -> None:
    """Evaluate checkpoint/model.pth on the split that convert wrote to `coco`.

    Writes the maps of deploy.mode as out/panoptic.json and out/panoptic/*.png, out/per_class.csv, out/confusion.csv
    unless the network learned instances, and the JSON file `metrics`.
    """
    from stages.reference.tao_model import Checkpoint, best_device

    truth = panoptic.read(coco)
    device = best_device()
    model = Checkpoint(checkpoint, truth.num_things, cfg.deploy, device)
    log.info("%d pictures on the %s", len(truth.entries), "CPU" if device == "cpu" else "GPU")
    figures = Figures(coco, truth.categories, cfg.model.mode)
    with files.aside(out) as draft:
        writer = panoptic.Writer(draft, truth.categories)
        for number, entry in enumerate(truth.entries, start=1):
            predicted = model.predict(frames.read_rgb(entry.image), *figures.modes)
            figures.add(entry, predicted)
            deployed = predicted.segments[cfg.deploy.mode]
            writer.add(entry, deployed.ids, deployed.category_ids)
            if number % 20 == 0 or number == len(truth.entries):
                log.info("%d of %d pictures", number, len(truth.entries))
        writer.close()
        rows = figures.per_class()
        _write_table(draft / "per_class.csv", COLUMNS, rows)
        if config.Mode.semantic in figures.modes:
            names = [category["name"] for category in truth.categories]
            _write_table(draft / "confusion.csv", CONFUSION, figures.iou.shares(names))
    result = {**figures.summary(), "tao": _of_tao(checkpoint / "history.csv"), "device": device}
    files.write_json(metrics, result)
    log.info("%s", headline(result))


class Figures:
    """The figures that a network which learned `mode` has."""

    def __init__(self, coco: Path, categories: list[dict[str, Any]], mode: config.Mode) -> None:
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

    def summary(self) -> dict[str, Any]:
        """The figures over all classes, in 0 to 100."""
        result: dict[str, Any] = {}
        if config.Mode.panoptic in self.modes:
            result |= self.quality.summary(self.categories)
        if config.Mode.semantic in self.modes:
            result["semantic"] = self.iou.summary()
        if config.Mode.instance in self.modes:
            result["instance"] = self.precision.evaluate()[0]
        return result

    def per_class(self) -> list[dict[str, Any]]:
        """A row of COLUMNS, in 0 to 100, for each class that truth or prediction holds; empty where there is none."""
        rows = []
        by_class = self.precision.evaluate()[1] if config.Mode.instance in self.modes else {}
        for category, class_iou in zip(self.categories, self.iou.iou_by_class(), strict=True):
            tally = self.quality.tallies[category["id"]]
            row = {"class": category["name"], "isthing": category["isthing"]}
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


def headline(result: dict[str, Any]) -> str:
    """The one figure of each kind that there is, of the content of evaluate.json."""
    found = [("PQ", "all", "pq"), ("mIoU", "semantic", "miou"), ("AP", "instance", "ap")]
    parts = [f"{name} {result[part][key]:.1f}" for name, part, key in found if key in result.get(part, {})]
    return ", ".join(parts)


def _of_tao(history: Path) -> dict[str, float]:
    """TAO's figures of the last validation, in 0 to 100: of its crops, mIoU at a quarter of their resolution."""
    with history.open(newline="") as file:
        validated = [row for row in csv.DictReader(file) if row.get("val_loss")]
    return {name: 100 * float(validated[-1][name]) for name in TAO_FIGURES if validated and validated[-1].get(name)}


def _write_table(path: Path, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, columns, restval="")
        table.writeheader()
        table.writerows(rows)


def main() -> None:
    """Command line of the stage."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that train wrote")
    parser.add_argument("--coco", type=Path, required=True, help="split that convert wrote, such as data/coco/val")
    parser.add_argument("--out", type=Path, required=True, help="folder for the predicted maps")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for the figures")
    args = parser.parse_args()
    build(args.checkpoint, args.coco, args.out, args.metrics, config.load())


if __name__ == "__main__":
    command_line.run(main)
