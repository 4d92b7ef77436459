"""evaluate: run a TAO checkpoint on the validation set; write its maps and its metrics.

TAO's PyTorch network and post-processing run at the deployed sizes: maps have the size of deploy's frames, and are
scaled to each picture's size to be compared with the annotations. A panoptic network gets the metrics of all modes: PQ,
SQ and RQ; mIoU and pixel accuracy of semantic inference; COCO's AP of instance inference. Networks of other modes get
the metrics of their mode. With several sources each has its metrics too, and sets with an evaluation of their own, such
as Cityscapes, have those by its rules. The metrics of TAO's last validation are written beside them.

Cost: seconds per picture on a CPU. A GPU is used if there is one. Deterministic.
"""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

from stages import config
from stages.coco import panoptic
from stages.foundation import command_line, files, picture_files
from stages.metrics.semantic import CONFUSION
from stages.reference import protocols
from stages.reference.figures import Figures, TableRow

log = logging.getLogger(__name__)

COLUMNS = ("class", "isthing", "pq", "sq", "rq", "tp", "fp", "fn", "iou", "ap")
"""Columns of per_class.csv."""
TAO_FIGURES = ("val_miou", "val_pixel_accuracy", "val_map", "val_map50")
"""Columns of history.csv that hold TAO's metrics."""


def build(checkpoint: Path, coco: Path, root: Path, tables: Path, out: Path, metrics: Path, cfg: config.Config) -> None:
    """Evaluate checkpoint/model.pth on the validation set that convert wrote to `coco`.

    `root` is the folder of the sources and `tables` that of the taxonomies, for sets with an evaluation of their own.
    Writes the maps of deploy.mode as out/panoptic.json and out/panoptic/*.png, out/per_class.csv, the JSON file
    `metrics`, and out/confusion.csv unless the network learned instances only. Raises FileNotFoundError or ValueError
    if an input is missing or can't be read.
    """
    from stages.reference.tao_model import Checkpoint, best_device

    truth = panoptic.read(coco)
    # Read before the evaluation, which takes hours on a CPU: a folder without it is none that train wrote.
    by_tao = _tao_figures(checkpoint / "history.csv")
    labelled = panoptic.read_labelled(coco, truth)
    own, not_computed = protocols.find(labelled, truth.categories, root, tables, cfg.data, cfg.model.mode)
    device = best_device()
    model = Checkpoint(checkpoint, truth.num_things, cfg.deploy, device)
    log.info("%d pictures on the %s", len(truth.entries), "CPU" if device == "cpu" else "GPU")
    figures = Figures(coco, truth.categories, cfg.model.mode, labelled, own)
    with files.atomic_write(out) as draft:
        writer = panoptic.Writer(draft, truth.categories)
        for number, entry in enumerate(truth.entries, start=1):
            predicted = model.predict(picture_files.read_rgb(entry.image), *figures.modes)
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
    found, by_source = figures.summary(), figures.by_source(not_computed)
    result = {**found, **({"by_source": by_source} if by_source else {})}
    files.write_json(metrics, {**result, "tao": by_tao, "device": device})
    log.info("%s", headline(found))
    for name, of in by_source.items():
        log.info("%s: %s", name, headline(of))
    for name, why in not_computed.items():
        log.info("%s: no figures by the set's own rules: %s", name, why["not_computed"])


def headline(result: files.Json) -> str:
    """Return PQ, mIoU and AP as text, as far as `result`, the content of evaluate.json or of a source, has them."""
    figures = [("PQ", "all", "pq"), ("mIoU", "semantic", "miou"), ("AP", "instance", "ap")]
    parts = [f"{name} {result[part][key]:.1f}" for name, part, key in figures if key in result.get(part, {})]
    return ", ".join(parts)


def _tao_figures(history: Path) -> dict[str, float]:
    """Return the metrics of TAO's last validation, 0 to 100.

    TAO computes them on its crops, and mIoU at a quarter of their resolution.
    """
    if not history.is_file():
        raise FileNotFoundError(f"{history} not found; expected a folder that `train` wrote: run `make all`")
    with history.open(newline="") as file:
        validated = [row for row in csv.DictReader(file) if row.get("val_loss")]
    return {name: 100 * float(validated[-1][name]) for name in TAO_FIGURES if validated and validated[-1].get(name)}


def _write_table(path: Path, columns: tuple[str, ...], rows: Sequence[TableRow]) -> None:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, columns, restval="")
        table.writeheader()
        table.writerows(rows)


def main() -> None:
    """Command line of the stage."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that train wrote")
    parser.add_argument("--coco", type=Path, required=True, help="split that convert wrote, such as data/coco/val")
    parser.add_argument("--root", type=Path, required=True, help="folder that holds the folders of the sources")
    parser.add_argument("--tables", type=Path, required=True, help="folder of taxonomies: conf/tables")
    parser.add_argument("--out", type=Path, required=True, help="folder for the predicted maps")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for the metrics")
    args = parser.parse_args()
    build(args.checkpoint, args.coco, args.root, args.tables, args.out, args.metrics, config.load())


if __name__ == "__main__":
    command_line.run(main)
