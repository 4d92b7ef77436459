"""A small file system that fills at random moments of each writer. Needs root, to mount a tmpfs.

The command ends non-zero with one line that is no traceback, and the former outputs are as they were. With room it ends
with the bytes of the undisturbed run.
"""

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.torture.ground import Ground, Running, Subject, hashes, leftovers, run, wrong_objects
from tests.torture.table import Row, Rows

SECTION = "Full disks"
ROOM_BYTES = 2 << 30
PAGE_BYTES = 4096


def rows(ground: Ground, moments: int, seed: int) -> Rows:
    """Return a function for each row by its name; none where this process may not mount."""
    if os.geteuid():
        print("not run: full disks need root, to mount a tmpfs", flush=True)
        return {}
    found: Rows = {f"full {s.name}": partial(_row, ground, s, moments, seed) for s in ground.subjects}
    return found | {"full cache": partial(_cache, ground, moments, seed)}


@contextmanager
def _mounted(place: Path) -> Iterator[None]:
    """Put a folder's content on a tmpfs that is mounted at its place."""
    aside = place.with_name(f"{place.name}.aside")
    place.rename(aside)
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM_BYTES}", "torture", str(place)], check=True)
    try:
        shutil.copytree(aside, place, symlinks=True, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()
        aside.rename(place)


def _resize(place: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


def _used(place: Path) -> int:
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def _growth(command: str, workspace: Path, place: Path) -> int:
    """Return by how many bytes a folder grows at most while a command runs undisturbed."""
    before, most = _used(place), 0
    running = Running(command, workspace)
    while running.process.poll() is None:
        most = max(most, _used(place) - before)
        time.sleep(0.002)
    if running.end().status:
        raise RuntimeError(f"{command} failed with room on the disk")
    return most


def _row(ground: Ground, subject: Subject, moments: int, seed: int) -> Row:
    row = Row(SECTION, f"disk full at {moments} random moments", subject.name, subject.command)
    chance = random.Random(f"{seed} full {subject.name}")
    with ground.copied(f"full {subject.name}") as workspace, _mounted(workspace / "data"):
        place = workspace / "data"
        growth = _growth(subject.command, workspace, place)
        for _ in range(moments):
            shutil.rmtree(place / "training", ignore_errors=True)
            before = {out: hashes(workspace, out) for out in subject.outs}
            _resize(place, _used(place) + max(PAGE_BYTES, int(chance.uniform(0, 0.95) * growth)))
            ended = run(subject.command, workspace)
            _resize(place, ROOM_BYTES)
            faults = []
            if ended.status:
                # Tracebacks of TAO's own come before the line of `train`.
                said = ended.said.strip().splitlines()[-1:] if subject.name == "train" else [ended.said]
                faults += _message_faults("".join(said))
                # A picture of predict is an output of its own. Metrics and folder are two outputs, one after the other.
                faults += [
                    f"{out} is not as it was"
                    for out, content in before.items()
                    if "pictures" not in out and hashes(workspace, out) != content and ground.faults(workspace, subject)
                ]
            faults += [f"left running: {each}" for each in ended.left]
            faults += ground.faults(workspace, subject)
            again = run(subject.command, workspace)
            if again.status:
                faults.append(f"again: exit status {again.status}: {again.said.strip()[-300:]}")
            faults += [f"again: {each}" for each in ground.faults(workspace, subject)]
            faults += [f"again: {each} is left" for each in leftovers(workspace)]
            row.add("refused in one line" if ended.status else "there was room, whole", faults)
    return row


def _message_faults(said: str) -> list[str]:
    """Return what is wrong with a failed command's output."""
    lines = [line for line in said.splitlines() if line.strip()]
    if not lines:
        return ["it says nothing"]
    if "Traceback (most recent call last)" in said:
        return [f"a traceback: {lines[-1][:200]}"]
    words = ("No space left on device", "disk full", "could not store", "room")
    return [] if any(word in said for word in words) else [f"it does not say why: {lines[-1][:200]}"]


def _cache(ground: Ground, moments: int, seed: int) -> Row:
    """Fill the file system of DVC's cache while it stores outputs."""
    command = "python -m stages.commands.reproduce"
    row = Row(SECTION, f"DVC's cache full at {moments} random moments", "make all", command)
    chance = random.Random(f"{seed} cache")
    names = ("sample", "convert")
    subjects = [subject for subject in ground.subjects if subject.name in names]
    with ground.copied("full cache") as workspace:
        objects = workspace / ".dvc/cache"
        for _ in range(moments):
            with _mounted(objects):
                # Only what the first two stages made is missing, so that they run again.
                for name in ("files", "runs"):
                    shutil.rmtree(objects / name, ignore_errors=True)
                for subject in subjects:
                    for out in subject.outs:
                        shutil.rmtree(workspace / out, ignore_errors=True)
                _resize(objects, _used(objects) + int(chance.uniform(1 << 16, 9 << 20)))
                ended = run(command, workspace)
                faults = []
                if ended.status:
                    faults += _message_faults(ended.said)
                for subject in subjects:
                    faults += ground.faults(workspace, subject, may_lack=True)
                faults += wrong_objects(workspace)
                _resize(objects, ROOM_BYTES)
                run("dvc commit --force", workspace)
                again = run(command, workspace)
                if again.status:
                    faults.append(f"again: exit status {again.status}: {again.said.strip()[-300:]}")
                for subject in subjects:
                    faults += [f"again: {each}" for each in ground.faults(workspace, subject)]
                faults += wrong_objects(workspace)
                row.add("refused, and says what to free" if ended.status else "there was room, whole", faults)
    return row
