"""evaluate: TAO checkpoint -> its maps of the validation set, and PQ, SQ, RQ and mIoU.

By TAO's PyTorch network and TAO's own post-processing, as deployed: maps are made at the size of deploy's frames, and
brought to each picture's own size to be compared with the truth. mIoU is of TAO's semantic inference with the same
weights. Cost: seconds a picture on a CPU. Deterministic.
"""

import argparse
import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np

from stages import config, files
from stages.coco import panoptic
from stages.metrics.panoptic_quality import PanopticQuality
from stages.metrics.semantic import MeanIoU
from stages.runtime import frames

log = logging.getLogger(__name__)

COLUMNS = ("class", "isthing", "pq", "sq", "rq", "tp", "fp", "fn", "iou")


def build(checkpoint: Path, coco: Path, out: Path, metrics: Path, cfg: config.Deploy) -> None:
    """Evaluate checkpoint/model.pth on the split that convert wrote to `coco`.

    Writes the maps of deploy.mode as out/panoptic.json and out/panoptic/*.png, out/per_class.csv and the JSON file
    `metrics`; PQ is of the panoptic maps in every mode.
    """
    from stages.tao.predict import Checkpoint

    truth = panoptic.read(coco)
    model = Checkpoint(checkpoint, truth.num_things, cfg)
    quality, iou = PanopticQuality(), MeanIoU(len(truth.categories))
    with files.aside(out) as draft:
        writer = panoptic.Writer(draft, truth.categories)
        for number, entry in enumerate(truth.entries, start=1):
            picture = frames.read_rgb(entry.image)
            predicted = model.predict(picture, config.Mode.panoptic, config.Mode.semantic).segments
            true_ids = panoptic.read_ids(entry.png)
            merged, classes = predicted[config.Mode.panoptic], predicted[config.Mode.semantic].ids
            quality.add(true_ids, entry.segments, merged.ids, merged.category_ids)
            iou.add(panoptic.class_map(true_ids, entry.segments), classes.astype(np.uint8))
            deployed = predicted[cfg.mode]
            writer.add(entry, deployed.ids, deployed.category_ids)
            if number % 20 == 0 or number == len(truth.entries):
                log.info("%d of %d pictures", number, len(truth.entries))
        writer.close()
        with (draft / "per_class.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, COLUMNS)
            table.writeheader()
            table.writerows(per_class(truth.categories, quality, iou))
    result = {**quality.summary(truth.categories), "semantic": iou.summary()}
    files.write_json(metrics, result)
    log.info("PQ %.2f, mIoU %.2f", result["all"]["pq"], result["semantic"]["miou"])


def per_class(categories: list[dict[str, Any]], quality: PanopticQuality, iou: MeanIoU) -> list[dict[str, Any]]:
    """A row of COLUMNS, in 0 to 100, for each class that truth or prediction holds."""
    rows = []
    for category, class_iou in zip(categories, iou.iou_by_class(), strict=True):
        tally = quality.tallies[category["id"]]
        if tally.quality is None:
            continue
        pq, sq, rq = (round(x, 2) for x in tally.quality)
        row = {"class": category["name"], "isthing": category["isthing"], "pq": pq, "sq": sq, "rq": rq}
        rows.append({**row, "tp": tally.tp, "fp": tally.fp, "fn": tally.fn, "iou": round(float(class_iou), 2)})
    return rows


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that train wrote")
    parser.add_argument("--coco", type=Path, required=True, help="split that convert wrote, such as data/coco/val")
    parser.add_argument("--out", type=Path, required=True, help="folder for the predicted maps")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for the figures")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(args.checkpoint, args.coco, args.out, args.metrics, config.load().deploy)


if __name__ == "__main__":
    main()
