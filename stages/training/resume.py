"""Finds the checkpoint that an interrupted training can resume from, and reads TAO's history of the epochs."""

import hashlib
import json
import logging
import os
import re
import shutil
from pathlib import Path

from stages.foundation import files, torch_file

log = logging.getLogger(__name__)

RUN = "run.json"
"""File in the work folder that identifies the training of its checkpoints. Deleted when the training ends."""


def identity(sources: dict[str, Path], pictures: list[Path]) -> dict[str, str]:
    """Return what identifies a training: SHA-256 of its files, and of the names and sizes of its pictures."""
    about = [(str(path), path.stat().st_size) for path in pictures]
    digests = {name: files.sha256(path) for name, path in sources.items()}
    return {**digests, "pictures": hashlib.sha256(json.dumps(about).encode()).hexdigest()}


def prepare(work: Path, wanted: dict[str, str]) -> Path | None:
    """Prepare the folder `work` for the training with the identity `wanted`.

    Returns the checkpoint to resume from, or None to start from the beginning. Deletes files of trainings with another
    identity, and checkpoints that can't be resumed from.
    """
    if _same(work / RUN, wanted):
        for path in checkpoints(work / "train"):
            reason = defect(path)
            if not reason:
                log.info("resuming from %s, which an interrupted training left", path)
                return path
            log.warning("%s: %s; trying the checkpoint before it", path, reason)
            path.unlink()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    files.write_json(work / RUN, wanted)
    return None


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
        # TAO also writes a checkpoint when an exception ends an epoch early.
        whole = content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it can't be read ({str(error).splitlines()[0] or type(error).__name__})"
    return "" if whole else "it was written in the middle of an epoch"


def publish(checkpoint: Path, out: Path) -> None:
    """Copy a checkpoint without the state of Lightning's ModelCheckpoint, which only a training that goes on needs.

    That state has the absolute paths of the work folder: the same training in two clones would write two files.
    """
    import torch

    content: files.Json = torch_file.read(checkpoint)
    kept = {name: state for name, state in content["callbacks"].items() if not name.startswith("ModelCheckpoint")}
    torch.save({**content, "callbacks": kept}, out)


def epoch(checkpoint: Path) -> int:
    """Return the number of the last epoch, from 1, that a checkpoint has finished."""
    content: files.Json = torch_file.read(checkpoint)
    return int(content["epoch"]) + 1


def finish(work: Path) -> None:
    """Delete what only a resumption needs. Curves and logs stay until the next training."""
    (work / RUN).unlink(missing_ok=True)
    for path in [*work.glob("*.pkl"), *(work / "train").glob("*.pth")]:
        path.unlink()


def trained(results: Path, best: bool) -> Path | None:
    """Return the newest checkpoint, or with `best` the one that TAO kept as the best; None if there is none."""
    found = sorted(results.glob("model_best_*.pth"), key=os.path.getmtime) if best else checkpoints(results)[:1]
    return found[-1] if found else None


def history(status: Path) -> list[dict[str, float]]:
    """Read TAO's status.json: a row per epoch with epoch (from 1), train_loss and, if it was validated, COLUMNS.

    TAO appends a JSON line per event and repeats old figures in unrelated events. Within an epoch the validation's line
    comes first, then the line with the epoch's number, then the training's. If a resumption repeats an epoch, the last
    row counts.
    """
    rows: dict[int, dict[str, float]] = {}
    validated: dict[str, float] = {}
    epoch = 0
    for line in status.read_text(encoding="utf-8").splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:  # The line is incomplete because the training was killed.
            continue
        message, kpi = event.get("message", ""), event.get("kpi") or {}
        if message.startswith("Starting Training Loop"):
            validated = {}
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
