"""verify@TARGET: run an engine on the validation set and compare its maps and its PQ with the checkpoint's.

The stage fails where they differ by more than `verify` in the parameters allows, and names the worst pictures. Maps and
figures are written in any case. Cost: a few hundred milliseconds a picture on a CPU. As deterministic as the engine.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages import config
from stages.coco import panoptic
from stages.engines import loading
from stages.foundation import command_line, files, picture_files
from stages.metrics import agreement
from stages.metrics.panoptic_quality import PanopticQuality

log = logging.getLogger(__name__)


def build(engine: Path, predictions: Path, coco: Path, out: Path, metrics: Path, name: str, cfg: config.Config) -> None:
    """Run the engine `name` of folder `engine` on the split at `coco`; compare with the maps in `predictions`.

    Writes out/panoptic.json, out/panoptic/*.png and the JSON file `metrics`. Raises RuntimeError where the engine is
    not for this host or differs by more than cfg.verify allows, and ValueError where the sets hold different pictures.
    """
    predictor = loading.load(engine, name, config.find_target(cfg, name))
    truth, reference = panoptic.read(coco), panoptic.read(predictions)
    labelled = panoptic.read_labelled(coco, truth)
    never = {source: panoptic.unlabelled(one, truth.categories) for source, one in labelled.items()}
    ours, theirs = PanopticQuality(), PanopticQuality()
    agreeing: dict[str, float] = {}
    agreed = pixels = 0
    size = predictor.cfg.batch_size
    if [entry.image_id for entry in truth.entries] != [entry.image_id for entry in reference.entries]:
        raise ValueError(f"{predictions} has other pictures than {coco}; run `dvc repro evaluate`")
    pairs = list(zip(truth.entries, reference.entries, strict=True))
    with files.atomic_write(out) as draft:
        writer = panoptic.Writer(draft, truth.categories)
        for start in range(0, len(pairs), size):
            batch = pairs[start : start + size]
            answers = predictor.segments([picture_files.read_rgb(entry.image) for entry, _ in batch])
            for (entry, expected), found in zip(batch, answers, strict=True):
                true_ids, expected_ids = panoptic.read_ids(entry.png), panoptic.read_ids(expected.png)
                categories = {s["id"]: s["category_id"] for s in expected.segments}
                for quality, ids, by_id in ((ours, found.ids, found.category_ids), (theirs, expected_ids, categories)):
                    quality.add(true_ids, entry.segments, *panoptic.without(ids, by_id, never[entry.source]))
                same = agreement.agreeing_pixels(expected_ids, categories, found.ids, found.category_ids)
                agreeing[entry.png.stem] = 100 * same / found.ids.size
                agreed, pixels = agreed + same, pixels + found.ids.size
                writer.add(entry, found.ids, found.category_ids)
        writer.close()

    pq, expected_pq = (q.summary(truth.categories)["all"]["pq"] for q in (ours, theirs))
    result: dict[str, Any] = {
        "engine_sha256": predictor.engine_sha256,
        "pixel_agreement_pct": 100 * agreed / pixels,
        "worst_picture_agreement_pct": min(agreeing.values()),
        "pq": pq,
        "checkpoint_pq": expected_pq,
        "pq_difference": pq - expected_pq,
        "pictures": len(agreeing),
    }
    files.write_json(metrics, result)
    log.info("%s: %s", name, result)
    require_agreement(name, result, cfg.verify, agreeing)


def require_agreement(
    name: str, found: Mapping[str, float], limits: config.Verify, agreeing: Mapping[str, float]
) -> None:
    """Raise RuntimeError where the figures `found` of engine `name` are beyond the limits.

    `agreeing` holds the agreeing pixels of each picture in percent, for the message.
    """
    worst = ", ".join(f"{image} {pct:.2f} %" for image, pct in sorted(agreeing.items(), key=lambda i: i[1])[:3])
    worst = f"; worst pictures: {worst}" if worst else ""
    if found["pixel_agreement_pct"] < limits.min_pixel_agreement_pct:
        raise RuntimeError(
            f"engine {name} agrees with the checkpoint on {found['pixel_agreement_pct']:.3f} % of pixels, required: "
            f"verify.min_pixel_agreement_pct {limits.min_pixel_agreement_pct}{worst}"
        )
    if abs(found["pq_difference"]) > limits.max_pq_difference:
        raise RuntimeError(
            f"engine {name} has PQ {found['pq']:.3f}, the checkpoint {found['checkpoint_pq']:.3f}, allowed difference: "
            f"verify.max_pq_difference {limits.max_pq_difference}{worst}"
        )


def main() -> None:
    """Command line of the stage."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--engine", type=Path, required=True, help="folder that engine wrote")
    parser.add_argument("--predictions", type=Path, required=True, help="folder that evaluate wrote")
    parser.add_argument("--coco", type=Path, required=True, help="split that convert wrote, such as data/coco/val")
    parser.add_argument("--target", required=True, help="target id, a key of targets in params.yaml")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameters; .json needs no reader")
    parser.add_argument("--out", type=Path, required=True, help="folder for the engine's maps")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for the figures")
    args = parser.parse_args()
    cfg = config.load(args.params)
    build(args.engine, args.predictions, args.coco, args.out, args.metrics, args.target, cfg)


if __name__ == "__main__":
    command_line.run(main)
