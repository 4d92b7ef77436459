"""A training that was killed: whether it can be gone on with, and from which checkpoint."""

import hashlib
import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

from stages.foundation import files

log = logging.getLogger(__name__)

RUN = "run.json"
"""Says what the checkpoints in a folder are of; removed when the training is done."""


def identity(sources: dict[str, Path], pictures: list[Path]) -> dict[str, str]:
    """What a training depends on: the hashes of its files, and the names and sizes of its pictures."""
    about = [(str(path), path.stat().st_size) for path in pictures]
    digests = {name: files.sha256(path) for name, path in sources.items()}
    return {**digests, "pictures": hashlib.sha256(json.dumps(about).encode()).hexdigest()}


def prepare(work: Path, wanted: dict[str, str]) -> Path | None:
    """Make the folder `work` ready for the training `wanted`, and return the checkpoint to go on from.

    What another training left is removed; a checkpoint that can't be read is passed over, and the one before is taken.
    """
    if _same(work / RUN, wanted):
        for path in checkpoints(work / "train"):
            reason = defect(path)
            if not reason:
                log.info("going on from %s, which a training that was interrupted left", path)
                return path
            log.warning("%s: %s; trying the checkpoint before it", path, reason)
            path.unlink()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    files.write_json(work / RUN, wanted)
    return None


def _same(path: Path, wanted: dict[str, str]) -> bool:
    try:
        return bool(files.read_json(path) == wanted)
    except (OSError, ValueError):
        return False


def checkpoints(folder: Path) -> list[Path]:
    """TAO's periodic checkpoints, model_epoch_EPOCH_step_STEP.pth, the newest first."""
    found = [
        (int(m[2]), p) for p in folder.glob("*.pth") if (m := re.fullmatch(r"model_epoch_(\d+)_step_(\d+)", p.stem))
    ]
    return [path for _, path in sorted(found, reverse=True)]


def defect(checkpoint: Path) -> str:
    """Why a training can't go on exactly from a checkpoint; empty if it can."""
    import torch

    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        # TAO writes one, too, where an exception ends an epoch half way.
        whole = content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"]
    except Exception as error:  # PyTorch raises anything on a file that is cut short.
        return f"it can't be read ({str(error).splitlines()[0][:80] or type(error).__name__})"
    return "" if whole else "it is of the middle of an epoch"


def epoch(checkpoint: Path) -> int:
    """The epoch, from 1, that a checkpoint is of."""
    import torch

    return int(torch.load(checkpoint, map_location="cpu", weights_only=True)["epoch"]) + 1


def finish(work: Path) -> None:
    """Remove what only a resumption needs; curves and messages stay until the next training."""
    (work / RUN).unlink(missing_ok=True)
    for path in [*work.glob("*.pkl"), *(work / "train").glob("*.pth")]:
        path.unlink()


def trained(results: Path, best: bool) -> Path | None:
    """The checkpoint that a training ended with: its newest, or the one that TAO found best; None if there is none."""
    found = sorted(results.glob("model_best_*.pth"), key=os.path.getmtime) if best else checkpoints(results)[:1]
    return found[-1] if found else None


def history(status: Path) -> list[dict[str, Any]]:
    """Rows of epoch (from 1), train_loss and, where it was validated, val_loss and TAO's figures, from status.json.

    TAO appends a JSON line per event, and repeats the last figures in events that are not about them. In an epoch the
    validation's line comes first, then the one that has the epoch's number, then the training's. After a resumption
    epochs may come again; the last one counts.
    """
    rows: dict[int, dict[str, Any]] = {}
    validated: dict[str, float] = {}
    epoch = 0
    for line in status.read_text(encoding="utf-8").splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:  # a kill cut it short
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
"""TAO's names of a validation's figures -> ours. They are shares of 1, at a quarter of the crop's resolution."""
