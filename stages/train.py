"""train: COCO files -> TAO checkpoint, by the unmodified nvidia-tao-pytorch wheel, or weights from elsewhere as one.

Output folder: model.pth (TAO's own checkpoint), spec.yaml (the spec that TAO validated, without which the checkpoint
can't be read), history.csv (a row per epoch), provenance.json (hashes of data, spec and weights). Cost: nearly all of
the pipeline's time; seconds for train.runner: import. Deterministic on one machine: the same data, parameters and
number of threads give the same metrics.
"""

import argparse
import csv
import json
import logging
import shutil
from pathlib import Path

from stages import config, files
from stages.tao import spec, weights_file, wheel

COLUMNS = ("epoch", "train_loss", "val_loss", "val_miou")


def build(coco: Path, out: Path, metrics: Path, cfg: config.Config) -> None:
    """Train from the COCO folder `coco`, or import; write `out` and `metrics`.

    Raises FileNotFoundError for missing weights, ValueError for those that don't fit and for a batch larger than the
    split, RuntimeError when TAO ends before the last epoch, and whatever TAO raises.
    """
    from omegaconf import OmegaConf

    from stages.tao import imported

    pretrained = cfg.model.backbone.pretrained_weights
    sources = {"label_map": coco / "label_map.json"}
    classes = files.read_json(sources["label_map"])
    if cfg.model.weights:
        sources["weights"] = weights_file.main_file(Path(cfg.model.weights))
    elif pretrained:
        sources["pretrained_weights"] = Path(pretrained)
        imported.check_hash(
            Path(pretrained), cfg.model.backbone.pretrained_weights_sha256, "model.backbone.pretrained_weights"
        )
    with files.aside(out) as draft:
        draft.mkdir()
        sources |= {"spec": draft / "spec.yaml", "checkpoint": draft / "model.pth"}
        OmegaConf.save(spec.train_spec(coco, len(classes), cfg), sources["spec"])
        rows: list[dict[str, float]] = []
        summary: dict[str, float] = {"epochs": 0}
        if cfg.train.runner is config.Runner.imported:
            summary["parameters"] = imported.checkpoint(classes, cfg.model, draft)
        else:
            sources |= {f"{split}_panoptic": coco / split / "panoptic.json" for split in ("train", "val")}
            rows = _train(coco, out, draft, cfg)
            summary = {**rows[-1], "epochs": len(rows)}
        with (draft / "history.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(rows)
        files.write_json(draft / "provenance.json", {f"{k}_sha256": files.sha256(v) for k, v in sources.items()})
    files.write_json(metrics, summary)


def _train(coco: Path, out: Path, draft: Path, cfg: config.Config) -> list[dict[str, float]]:
    """Train by draft/spec.yaml; write draft/model.pth and return the rows of `history`."""
    from stages.tao import imported

    pictures = len(files.read_json(coco / "train" / "panoptic.json")["images"])
    if cfg.train.batch_size > pictures:
        raise ValueError(f"train.batch_size {cfg.train.batch_size} is more than the {pictures} training pictures")
    # One name for all runs: TAO writes it into its checkpoint.
    work = out.with_name(f".{out.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    start = work / "start.pkl" if cfg.model.weights else None
    if start:
        imported.start(files.read_json(coco / "label_map.json"), cfg.model, draft, start)
    wheel.train(draft / "spec.yaml", work, start)
    results = work / "train"
    rows = history(results / "status.json")
    latest = sorted(results.glob("*.pth"), key=lambda p: p.stat().st_mtime)
    # TAO swallows an interruption and leaves what it had, which must not pass for a trained network.
    if len(rows) != cfg.train.epochs or not latest:
        raise RuntimeError(
            f"TAO ended after {len(rows)} of {cfg.train.epochs} epochs (train.epochs) with {len(latest)} "
            "checkpoints; its messages are above"
        )
    shutil.copyfile(latest[-1].resolve(), draft / "model.pth")
    shutil.rmtree(work)
    return rows


def history(status: Path) -> list[dict[str, float]]:
    """Rows of epoch (from 1), train_loss and, where it was validated, val_loss and val_miou, from TAO's status.json.

    TAO appends a JSON line per event, and repeats the last figures in events that are not about them; on an epoch
    with validation, its line comes before the training one.
    """
    rows: list[dict[str, float]] = []
    validated: dict[str, float] = {}
    for line in status.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        message, kpi = event.get("message", ""), event.get("kpi") or {}
        if message.startswith("Train metrics"):
            rows.append({"epoch": len(rows) + 1, "train_loss": kpi["train_loss"], **validated})
            validated = {}
        elif message.startswith("Eval metrics"):
            validated = {"val_loss": kpi["val_loss"], "val_miou": kpi["mIoU"]}
    return rows


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--coco", type=Path, required=True, help="folder that convert wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, spec and history")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for the last epoch's figures")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(args.coco, args.out, args.metrics, config.load())


if __name__ == "__main__":
    main()
