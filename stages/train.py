"""train: COCO files -> TAO checkpoint, by the unmodified nvidia-tao-pytorch wheel.

Output folder: model.pth (TAO's own checkpoint), spec.yaml (the spec that TAO validated, without which the
checkpoint can't be read), history.csv (a row per epoch), provenance.json
(hashes of data, spec and weights). Cost: nearly all of the pipeline's time. Deterministic
on one machine: the same data, parameters and number of threads give the same metrics.
"""

import argparse
import csv
import json
import logging
import shutil
from pathlib import Path

from stages import config, files
from stages.tao import spec, wheel

COLUMNS = ("epoch", "train_loss", "val_loss", "val_miou")


def build(coco: Path, out: Path, metrics: Path, cfg: config.Config) -> None:
    """Train from the COCO folder `coco`; write `out` and `metrics`.

    Raises FileNotFoundError for missing pretrained weights, ValueError for a batch larger than the split,
    RuntimeError when TAO ends before the last epoch, and whatever TAO raises.
    """
    from omegaconf import OmegaConf

    pretrained = cfg.model.backbone.pretrained_weights
    if pretrained and not Path(pretrained).exists():
        raise FileNotFoundError(
            f"{pretrained} not found (model.backbone.pretrained_weights); put the file there, or set it to '' and "
            "train.backbone_multiplier to 1 to start from random weights"
        )
    pictures = len(files.read_json(coco / "train" / "panoptic.json")["images"])
    if cfg.train.batch_size > pictures:
        raise ValueError(f"train.batch_size {cfg.train.batch_size} is more than the {pictures} training pictures")
    classes = files.read_json(coco / "label_map.json")
    # One name for all runs: TAO writes it into its checkpoint.
    work = out.with_name(f".{out.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    with files.aside(out) as draft:
        draft.mkdir()
        OmegaConf.save(spec.train_spec(coco, len(classes), cfg), draft / "spec.yaml")
        wheel.train(draft / "spec.yaml", work)
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
        with (draft / "history.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(rows)
        sources = {"label_map": coco / "label_map.json", "spec": draft / "spec.yaml", "checkpoint": draft / "model.pth"}
        for split in ("train", "val"):
            sources[f"{split}_panoptic"] = coco / split / "panoptic.json"
        if pretrained:
            sources["pretrained_weights"] = Path(pretrained)
        files.write_json(draft / "provenance.json", {f"{k}_sha256": files.sha256(v) for k, v in sources.items()})
    shutil.rmtree(work)
    files.write_json(metrics, {**rows[-1], "epochs": len(rows)})


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
