"""Finds the checkpoint that an interrupted training can resume from, and reads TAO's history of the epochs."""

import hashlib
import json
import logging
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from stages.foundation import files, torch_file

log = logging.getLogger(__name__)

RUN = "run.json"
"""File in the work folder that identifies the training of its files."""
_BEST = "model_best_"
"""Start of the name of a checkpoint that TAO keeps as the best one."""
_OURS = {RUN, "spec.yaml", "start.pkl", "mounts.json", "train"}
"""Names in a work folder."""


@dataclass(frozen=True)
class Progress:
    """What a training has done. It decides both where a training goes on and whether it is finished.

    An epoch is done once its row is in TAO's history and its checkpoint is whole. TAO writes the two one after the
    other, and after an interruption also checkpoints of epochs that have no row.
    """

    rows: list[dict[str, float]]
    """The history up to the last epoch that is done; see `history`."""
    checkpoint: Path | None
    """The checkpoint of that epoch."""


def identity(sources: dict[str, Path], pictures: list[Path]) -> dict[str, str]:
    """Return what identifies a training: SHA-256 of its files, and of the names and sizes of its pictures."""
    about = [(str(path), path.stat().st_size) for path in pictures]
    digests = {name: files.sha256(path) for name, path in sources.items()}
    return {**digests, "pictures": hashlib.sha256(json.dumps(about).encode()).hexdigest()}


def prepare(work: Path, wanted: dict[str, str]) -> Progress:
    """Prepare the folder `work` for the training with the identity `wanted`, and return what of it is done already.

    Deletes the files of trainings with another identity, and checkpoints that can't be resumed from. Raises ValueError
    for a folder that is none of ours.
    """
    there = {path.name for path in work.iterdir()} if work.exists() else set()
    if RUN not in there and there - _OURS:
        raise ValueError(
            f"{files.printable(work)} has {min(there - _OURS)}, which is of no training, and would be deleted; choose "
            "another folder"
        )
    if _same(work / RUN, wanted):
        done = progress(work / "train")
        if done.checkpoint:
            for path in checkpoints(work / "train"):
                if path == done.checkpoint:
                    log.info("%d epochs are done; resuming from %s", len(done.rows), path)
                    return done
                path.unlink()
    if work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True)
    files.write_json(work / RUN, wanted)
    return Progress([], None)


def progress(results: Path) -> Progress:
    """Return what the training in TAO's folder `results` has done."""
    rows = history(results / "status.json")
    for path in checkpoints(results):
        reason = defect(path)
        if not reason:
            last = epoch(path)
            if any(row["epoch"] == last for row in rows):
                return Progress([row for row in rows if row["epoch"] <= last], path)
            reason = f"TAO was interrupted before it wrote down epoch {last}"
        log.warning("%s: %s; trying the checkpoint before it", path, reason)
    return Progress([], None)


def _same(path: Path, wanted: dict[str, str]) -> bool:
    """Return whether a JSON file holds `wanted`; False if it is missing or damaged."""
    try:
        return bool(files.read_json(path) == wanted)
    except (OSError, ValueError):
        return False


def checkpoints(folder: Path) -> list[Path]:
    """List TAO's periodic checkpoints, model_epoch_EPOCH_step_STEP.pth, newest first."""
    found = [
        (int(m[2]), p) for p in folder.glob("*.pth") if (m := re.fullmatch(r"model_epoch_(\d+)_step_(\d+)", p.stem))
    ]
    return [path for _, path in sorted(found, reverse=True)]


def defect(checkpoint: Path) -> str:
    """Return why a training can't be resumed exactly from a checkpoint, or an empty string if it can."""
    try:
        content: files.Json = torch_file.read(checkpoint)
        # TAO in a container also writes a checkpoint when an exception ends an epoch early.
        loop = content["loops"]["fit_loop"]
        whole = loop["epoch_loop.batch_progress"]["is_last_batch"]
        # Or it ends the epoch in the moment in which Lightning sets back its count of steps to log the epoch's figures.
        # A best checkpoint is written in the validation, when the last step is not counted yet.
        counted = loop["epoch_loop.state_dict"]["_batches_that_stepped"]
        whole &= counted == content["global_step"] or checkpoint.name.startswith(_BEST)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it can't be read ({str(error).splitlines()[0] or type(error).__name__})"
    return "" if whole else "it was written in the middle of an epoch"


def publish(checkpoint: Path, out: Path) -> None:
    """Copy a checkpoint without the state of Lightning's ModelCheckpoint, which only a training that goes on needs.

    That state has the absolute paths of the work folder: the same training in two clones would write two files. So
    would the same training with and without an interruption, but for `_interned`.
    """
    import torch

    content: files.Json = torch_file.read(checkpoint)
    kept = {name: state for name, state in content["callbacks"].items() if not name.startswith("ModelCheckpoint")}
    torch.save(_interned({**content, "callbacks": kept}), out)


def _interned(value: files.Json) -> files.Json:
    """Return an equal value in which equal strings are one object.

    Pickle writes an object that comes again as a reference to the first. Which equal strings are one object depends on
    whether Lightning made the values or loaded them.
    """
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, dict):
        copy = type(value)({_interned(key): _interned(item) for key, item in value.items()})
        if hasattr(value, "__dict__"):  # An OrderedDict of weights has their versions, _metadata.
            vars(copy).update(_interned(vars(value)))
        return copy
    if type(value) in (list, tuple):
        return type(value)(_interned(item) for item in value)
    return value


def epoch(checkpoint: Path) -> int:
    """Return the number of the last epoch, from 1, that a checkpoint has finished."""
    content: files.Json = torch_file.read(checkpoint)
    return int(content["epoch"]) + 1


def finish(work: Path) -> None:
    """Delete what only a resumption needs, once the output stands. Curves and logs stay until the next training."""
    for path in [*work.glob("*.pkl"), *(work / "train").glob("*.pth")]:
        path.unlink()


def forget(work: Path) -> None:
    """Let the next training in `work` start from the beginning, as the best checkpoint is lost."""
    (work / RUN).unlink(missing_ok=True)


def best(results: Path, done: Progress) -> Path | None:
    """Return the newest whole checkpoint that TAO kept as the best one and whose epoch is done; None without one."""
    for path in sorted(results.glob(f"{_BEST}*.pth"), key=os.path.getmtime, reverse=True):
        if not defect(path) and any(row["epoch"] == epoch(path) for row in done.rows):
            return path
    return None


def history(status: Path) -> list[dict[str, float]]:
    """Read TAO's status.json: a row per epoch with epoch (from 1), train_loss and, if it was validated, COLUMNS.

    TAO appends a JSON line per event and repeats old figures in unrelated events. Within an epoch the validation's line
    comes first, then the line with the epoch's number, then the training's. A resumption names its checkpoint; rows of
    later epochs were lost then. Without a file there are no rows.
    """
    if not status.exists():
        return []
    rows: dict[int, dict[str, float]] = {}
    validated: dict[str, float] = {}
    epoch = 0
    for line in status.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:  # The line is incomplete because the training was killed.
            continue
        if not isinstance(event, dict):
            continue
        message, kpi = event.get("message", ""), event.get("kpi") or {}
        if message.startswith("Starting Training Loop"):
            validated = {}
        elif message.startswith("Resuming training") and (name := re.search(r"model_epoch_(\d+)_step_", message)):
            rows = {number: row for number, row in rows.items() if number <= int(name[1]) + 1}
        elif message.startswith("Eval metrics"):
            validated = {COLUMNS[name]: kpi[name] for name in COLUMNS if name in kpi}
        elif message.startswith("Training loop in progress"):
            epoch = int(event["epoch"]) + 1
        elif message.startswith("Train metrics"):
            rows[epoch] = {"epoch": epoch, "train_loss": kpi["train_loss"], **validated}
            validated = {}
    return [rows[number] for number in sorted(rows)]


COLUMNS = {
    "val_loss": "val_loss",
    "mIoU": "val_miou",
    "all_acc": "val_pixel_accuracy",
    "ACC_all": "val_pixel_accuracy",
    "val_mAP": "val_map",
    "val_mAP50": "val_map50",
}
"""TAO's name of a validation metric -> column. Values are in [0, 1], at a quarter of the crop's resolution."""
