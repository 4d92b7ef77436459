"""train: COCO files -> TAO checkpoint, by the unmodified nvidia-tao-pytorch wheel or TAO's container, or an import.

Output folder: model.pth (TAO's own checkpoint), spec.yaml (the spec that TAO validated, without which the checkpoint
can't be read), history.csv (a row per epoch), provenance.json (hashes of data, spec and weights). Cost: nearly all of
the pipeline's time; seconds for train.runner: import. Deterministic on one machine: the same data, parameters and
number of threads give the same metrics, also after a kill: a training that was interrupted goes on from its last
checkpoint in the work folder, where its curves are, too (`tensorboard --logdir`).
"""

import argparse
import csv
import json
import logging
import shlex
import shutil
import traceback
from pathlib import Path
from typing import Any

from stages import config
from stages.foundation import files, parallel
from stages.tao import runners, spec
from stages.training import program, resume
from stages.weights import reader


def build(coco: Path, out: Path, work: Path, metrics: Path, cfg: config.Config) -> None:
    """Train from the COCO folder `coco`, or import; write `out` and `metrics`. `work` is a folder for the way there.

    Raises FileNotFoundError for missing weights, ValueError for those that don't fit and for a batch larger than the
    split, RuntimeError when TAO ends with an error or before the last epoch, or a container can't be run.
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
    with files.atomic_write(out) as draft:
        draft.mkdir()
        sources |= {"spec": draft / "spec.yaml", "checkpoint": draft / "model.pth"}
        OmegaConf.save(spec.train_spec(coco, len(classes), cfg), sources["spec"])
        rows: list[dict[str, Any]] = []
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
            # A container's checkpoint has TAO's own parameter groups, the wheel's has callbacks.merge_param_groups.
            identity = resume.identity(known, _pictures(coco)) | {"runner": cfg.train.runner.value}
            rows, kept = _train(coco, draft, work, identity, cfg)
            sources |= labels
            summary = {**next(row for row in rows if row["epoch"] == kept), "epochs": len(rows)}
        with (draft / "history.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["epoch", "train_loss", *dict.fromkeys(resume.COLUMNS.values())], restval="")
            writer.writeheader()
            writer.writerows(rows)
        files.write_json(draft / "provenance.json", {f"{k}_sha256": files.sha256(v) for k, v in sources.items()})
    files.write_json(metrics, summary)


def _pictures(coco: Path) -> list[Path]:
    """The pictures and masks that TAO reads, in a stable order."""
    found = []
    for split in ("train", "val"):
        with (coco / split / "semantic.jsonl").open(encoding="utf-8") as lines:
            found += [coco / split / name for line in lines for name in json.loads(line).values()]
    return found


def _train(
    coco: Path, draft: Path, work: Path, identity: dict[str, str], cfg: config.Config
) -> tuple[list[dict[str, Any]], int]:
    """Train by draft/spec.yaml in the folder `work`; write draft/model.pth.

    Returns the rows of the history, and the epoch that was kept.
    """
    from stages.weights import importer

    train = cfg.train
    pictures = len(files.read_json(coco / "train" / "panoptic.json")["images"])
    batch = train.batch_size * len(train.gpus) * train.nodes
    if batch > pictures:
        raise ValueError(
            f"train.batch_size {train.batch_size} on {len(train.gpus) * train.nodes} GPUs is {batch} pictures a step, "
            f"more than the {pictures} training pictures"
        )
    if train.runner is config.Runner.wheel and train.workers:
        # A batch of each loader process, without its masks: float32 [B, 3, H, W]. Containers have their own /dev/shm.
        workers = train.workers * len(train.gpus)
        batch_bytes = train.batch_size * 3 * train.crop_height_px * train.crop_width_px * 4
        parallel.check_shared_memory("train.workers", workers, 0, workers * batch_bytes)
    checkpoint = resume.prepare(work, identity)
    run = _run(coco, work, cfg, checkpoint)
    shutil.copyfile(draft / "spec.yaml", run.spec)
    if run.start:
        importer.write_initial_weights(files.read_json(coco / "label_map.json"), cfg.model, draft, run.start)
    _start(run, cfg)
    results = work / "train"
    rows = resume.history(results / "status.json")
    found = resume.trained(results, train.keep is config.Keep.best)
    # TAO swallows an interruption and leaves what it had, which must not pass for a trained network.
    if found is None or not rows or (rows[-1]["epoch"] != train.epochs and not ended_early(rows, cfg)):
        raise RuntimeError(
            f"TAO ended after {len(rows)} of {train.epochs} epochs (train.epochs), and left "
            f"{'a' if found else 'no'} checkpoint; its messages are above; run it again to go on"
        )
    if defect := resume.defect(found):
        raise RuntimeError(f"{found}: {defect}; run it again to go on from the checkpoint before it")
    shutil.copyfile(found, draft / "model.pth")
    kept = resume.epoch(found)
    resume.finish(work)
    return rows, kept


def ended_early(rows: list[dict[str, Any]], cfg: config.Config) -> bool:
    """Whether train.patience ended a training of these epochs, which an interruption can't be told from otherwise."""
    name, mode = spec.monitor(cfg)
    values = [row[resume.COLUMNS[name]] for row in rows if resume.COLUMNS[name] in row]
    if not values or not cfg.train.patience:
        return False
    best = values.index(min(values) if mode == "min" else max(values))
    return len(values) - 1 - best >= cfg.train.patience


def _run(coco: Path, work: Path, cfg: config.Config, checkpoint: Path | None) -> runners.Run:
    # The same names for all runs: TAO writes them into its checkpoint.
    return runners.Run(work / "spec.yaml", work, coco, work / "start.pkl" if cfg.model.weights else None, checkpoint)


def _start(run: runners.Run, cfg: config.Config) -> None:
    """Run TAO by train.runner."""
    if cfg.train.runner is config.Runner.wheel and not runners.in_processes(cfg.train):
        try:
            program.train(run, cfg)
        except SystemExit as error:
            # Hydra prints what TAO raises, and exits.
            raise RuntimeError("TAO was ended by an error; its messages are above") from error
        except Exception as error:  # With HYDRA_FULL_ERROR=1 TAO raises anything, and where it was is asked for.
            traceback.print_exc()
            raise RuntimeError(f"TAO was ended by {type(error).__name__}; its messages are above") from error
        return
    command, env = _command(run, cfg)
    if cfg.train.runner is config.Runner.docker:
        runners.require_docker(cfg.train.container.image)
    elif cfg.train.runner is config.Runner.launcher:
        runners.require_launcher()
        mounts = runners.mounts_file(cfg.train, Path.cwd(), runners.outside(run.coco, Path.cwd()))
        files.write_json(Path(env["LAUNCHER_MOUNTS"]), mounts)
    runners.call(command, **env)


def _command(run: runners.Run, cfg: config.Config) -> tuple[list[str], dict[str, str]]:
    """The command of train.runner, and what it needs in the environment."""
    if cfg.train.runner is config.Runner.docker:
        return runners.docker(run, cfg.train, Path.cwd(), runners.outside(run.coco, Path.cwd())), {}
    if cfg.train.runner is config.Runner.launcher:
        return runners.launcher(run, cfg), {"LAUNCHER_MOUNTS": str((run.results / "mounts.json").resolve())}
    return runners.wheel(run, cfg.train), {}


def describe(coco: Path, work: Path, cfg: config.Config) -> str:
    """What a training from the start would run, for a shell; for the launcher its mounts file in the line before."""
    command, env = _command(_run(coco, work, cfg, None), cfg)
    lines = [" ".join([*(f"{name}={shlex.quote(value)}" for name, value in env.items()), shlex.join(command)])]
    if cfg.train.runner is config.Runner.launcher:
        mounts = runners.mounts_file(cfg.train, Path.cwd(), runners.outside(coco, Path.cwd()))
        lines.insert(0, f"# {env['LAUNCHER_MOUNTS']}: {json.dumps(mounts)}")
    return "\n".join(lines)


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--coco", type=Path, required=True, help="folder that convert wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, spec and history")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and curves on the way")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for the last epoch's figures")
    parser.add_argument("--dry-run", action="store_true", help="print the command that would train, and end")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        cfg = config.load()
        if args.dry_run:
            print(describe(args.coco, args.work, cfg))
        else:
            build(args.coco, args.out, args.work, args.metrics, cfg)
    except runners.TrainingFailedError as error:
        parser.exit(error.status, f"{error}\n")
    except (OSError, RuntimeError, ValueError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
