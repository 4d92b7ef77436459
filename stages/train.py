"""train: COCO files -> TAO checkpoint, by the unmodified nvidia-tao-pytorch wheel, by TAO's container, or by import.

Output folder: model.pth (TAO's own checkpoint), spec.yaml (the spec that TAO validated; the checkpoint can't be read
without it), history.csv (a row per epoch) and provenance.json (hashes of data, spec and weights).

Cost: nearly all of the pipeline's time; seconds for train.runner: import. Deterministic on one machine: the same data,
parameters and number of threads give the same metrics. An interrupted training continues from its last checkpoint in
the work folder and ends with the same metrics. Its curves are there too: `tensorboard --logdir WORK`.
"""

import csv
import json
import shutil
import sys
from pathlib import Path

from stages import config
from stages.foundation import command_line, files, locks
from stages.tao import runners, spec
from stages.training import resume, start
from stages.weights import reader


def build(coco: Path, out: Path, work: Path, metrics: Path, cfg: config.Config) -> None:
    """Train from the COCO folder `coco`, or import weights; write the folder `out` and the JSON file `metrics`.

    `work` is a folder for checkpoints and curves; a later run continues an interrupted training in it.

    Raises FileNotFoundError for missing weights; ValueError for weights that do not fit, and for a batch larger than
    the training split; RuntimeError if TAO ends with an error or before the last epoch, or a container can't run.
    """
    from omegaconf import OmegaConf

    from stages.weights import importer

    pretrained = cfg.model.backbone.pretrained_weights
    sources = {"label_map": coco / "label_map.json"}
    classes = files.read_json(sources["label_map"])
    if cfg.model.weights:
        sources["weights"] = reader.hashed_file(Path(cfg.model.weights))
    elif pretrained:
        sources["pretrained_weights"] = Path(pretrained)
        importer.check_hash(
            Path(pretrained), cfg.model.backbone.pretrained_weights_sha256, "model.backbone.pretrained_weights"
        )
    with locks.held(work), files.atomic_write(out) as draft:
        draft.mkdir()
        sources |= {"spec": draft / "spec.yaml", "checkpoint": draft / "model.pth"}
        OmegaConf.save(spec.train_spec(coco, len(classes), cfg), sources["spec"])
        rows: list[dict[str, float]] = []
        summary: dict[str, float] = {"epochs": 0}
        if cfg.train.runner is config.Runner.imported:
            summary["parameters"] = importer.write_checkpoint(classes, cfg.model, draft)
        else:
            if "pretrained_weights" in sources:
                importer.check_backbone(sources["pretrained_weights"], sources["spec"])
            labels = {
                f"{split}_{name}": coco / split / file
                for split in ("train", "val")
                for name, file in (("panoptic", "panoptic.json"), ("instances", "instances.json"))
            }
            known = {name: path for name, path in sources.items() if name != "checkpoint"} | labels
            # The runner is part of the identity: checkpoints of a container and of the wheel have other parameter
            # groups (callbacks.merge_param_groups), so one can't resume the other's. So are losses and repeats of
            # pictures, which TAO's spec does not show.
            known |= {"sources": coco / "train" / "sources.json"}
            mends = {name: str(getattr(cfg.train, name)) for name in ("partial_labels", "repeat_threshold")}
            identity = resume.identity(known, _pictures(coco)) | {"runner": cfg.train.runner.value} | mends
            rows, kept = _train(coco, draft, work, identity, cfg)
            sources |= labels
            summary = {**next(row for row in rows if row["epoch"] == kept), "epochs": len(rows)}
        with (draft / "history.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["epoch", "train_loss", *dict.fromkeys(resume.COLUMNS.values())], restval="")
            writer.writeheader()
            writer.writerows(rows)
        files.write_json(draft / "provenance.json", {f"{k}_sha256": files.sha256(v) for k, v in sources.items()})
    files.write_json(metrics, summary)
    if cfg.train.runner is not config.Runner.imported:
        resume.finish(work)


def _pictures(coco: Path) -> list[Path]:
    """Return the pictures and masks that TAO reads, in a stable order."""
    found = []
    for split in ("train", "val"):
        with (coco / split / "semantic.jsonl").open(encoding="utf-8") as lines:
            found += [coco / split / name for line in lines for name in json.loads(line).values()]
    return found


def _train(
    coco: Path, draft: Path, work: Path, identity: dict[str, str], cfg: config.Config
) -> tuple[list[dict[str, float]], int]:
    """Train by draft/spec.yaml in the folder `work`, and write draft/model.pth.

    Returns the rows of the history and the epoch whose checkpoint was kept.
    """
    from stages.weights import importer

    start.check_batch(coco, cfg.train)
    done, results = resume.prepare(work, identity), work / "train"
    if not start.finished(done.rows, cfg):
        run = start.run_files(coco, work, cfg, done.checkpoint)
        shutil.copyfile(draft / "spec.yaml", run.spec)
        if run.start:
            importer.write_initial_weights(files.read_json(coco / "label_map.json"), cfg.model, draft, run.start)
        start.start(run, cfg)
        done = resume.progress(results)
    found = resume.best(results, done) if cfg.train.keep is config.Keep.best else done.checkpoint
    # TAO reports an interruption as a success. What it left must not pass for a trained network.
    if found is None or not start.finished(done.rows, cfg):
        if start.finished(done.rows, cfg):
            resume.forget(work)
        raise RuntimeError(
            f"TAO ended after {len(done.rows)} of {cfg.train.epochs} epochs (train.epochs) and left "
            f"{'a' if found else 'no'} whole checkpoint; its messages are above; run the command again to continue"
        )
    resume.publish(found, draft / "model.pth")
    return done.rows, resume.epoch(found)


def main() -> int:
    """Command line of the stage. Returns the exit status, which is TAO's own if that ran in another process."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--coco", type=Path, required=True, help="folder that convert wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, spec and history")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and curves during training")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for the figures of the kept epoch")
    parser.add_argument("--dry-run", action="store_true", help="only print the command that would train")
    args = parser.parse_args()
    cfg = config.load()
    if args.dry_run:
        print(start.describe(args.coco, args.work, cfg))
        return 0
    try:
        build(args.coco, args.out, args.work, args.metrics, cfg)
    except runners.TrainingFailedError as error:
        print(error, file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    command_line.run(main)
