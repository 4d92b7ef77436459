"""SIGTERM, SIGINT and SIGKILL at random moments, to a stage and to the `dvc` or `make` that runs it.

After each: no process is left, and the outputs are whole or absent. The same command again ends with the bytes of the
undisturbed run, and leaves neither locks nor drafts; every object of DVC's cache is what its name says.
"""

import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import rmtree

from stages.training import resume
from tests.torture.ground import Ended, Ground, Running, Subject, leftovers, run, wrong_objects
from tests.torture.table import Row, Rows

SECTION = "Kills"
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
FINISHES = ("predict video", "predict pictures")
"""Ctrl-C and SIGTERM end these with complete files and exit status 0."""
MAKE = "make --no-print-directory --assume-old=.venv/.locked all"
"""Without the installation of the environment, which the program itself runs in."""


def rows(ground: Ground, moments: int, seed: int) -> Rows:
    """Return a function for each row by its name."""
    found: Rows = {}
    for subject in ground.subjects:
        commands = {f"kill {subject.name}, directly": subject.command}
        if subject.name not in FINISHES:
            commands[f"kill {subject.name}, dvc"] = f"dvc repro --force --single-item {subject.name}"
        for name, command in commands.items():
            found[name] = partial(_random_moments, ground, subject, command, moments, seed)
            if subject.name == "train":
                for when, reach in MOMENTS.items():
                    found[f"{name}, {when}"] = partial(
                        _moments_of_training, ground, subject, command, when, reach, moments, seed
                    )
    found["kill make"] = partial(_whole_pipeline, ground, moments, seed)
    return found


def _signal_words(moments: int, when: str) -> str:
    return f"SIGTERM, SIGINT, SIGKILL, {moments} {when} each"


def _random_moments(ground: Ground, subject: Subject, command: str, moments: int, seed: int) -> Row:
    """Kill at moments between start and end; with the former output in place and, every other time, without it."""
    how = "dvc" if command.startswith("dvc") else "directly"
    row = Row(SECTION, _signal_words(moments, "random moments"), f"{subject.name}, {how}", command)
    expected_s = subject.seconds + (2.0 if how == "dvc" else 0.0)
    with ground.copied(f"kill {subject.name} {how}") as workspace:
        for number in SIGNALS:
            chance = random.Random(f"{seed} {subject.name} {how} {number}")
            for moment in range(moments):
                if moment % 2:
                    _delete(workspace, subject)
                if subject.name == "train":
                    rmtree(workspace / "data/training", ignore_errors=True)
                running = Running(command, workspace)
                time.sleep(chance.uniform(0.02, 0.98) * expected_s)
                # Other work on the machine makes it faster or slower from trial to trial.
                expected_s = _finish(ground, subject, command, workspace, running, number, row)
    return row


def _delete(workspace: Path, subject: Subject) -> None:
    for out in subject.outs:
        place = workspace / out
        if place.is_dir():
            rmtree(place)
        else:
            place.unlink(missing_ok=True)


def _finish(
    ground: Ground, subject: Subject, command: str, workspace: Path, running: Running, number: int, row: Row
) -> float:
    """Send the signal, check what is left, run the command again and check all. Returns the seconds of that run."""
    # Ctrl-C goes to all processes of the terminal. The others go to the one that is killed.
    sent = running.signal(number, group=number == signal.SIGINT and command.startswith(("dvc", "make")))
    ended = running.end()
    name = signal.Signals(number).name
    faults = [f"left running: {each}" for each in ended.left]
    # A signal that comes when the outputs stand, and Python is being shut down, changes nothing any more.
    sent = sent and not _finished(ground, subject, workspace, running, ended)
    faults += _status_faults(subject, command, ended, number, sent)
    faults += [f"after the signal: {each}" for each in ground.faults(workspace, subject, may_lack=True)]
    again = run(command, workspace)
    if again.status:
        faults.append(f"again: exit status {again.status}: {again.said.strip()[-300:]}")
    faults += [f"again: left running: {each}" for each in again.left]
    faults += [f"again: {each}" for each in ground.faults(workspace, subject)]
    faults += [f"again: {each} is left" for each in leftovers(workspace)]
    faults += wrong_objects(workspace)
    words = "had finished" if not sent else "ended as asked, whole" if not ended.status else "ended by the signal"
    row.add(words, [f"{name}: {fault}" for fault in faults])
    return again.seconds


def _finished(ground: Ground, subject: Subject, workspace: Path, running: Running, ended: Ended) -> bool:
    """Return whether a command put its outputs in place, all of them, and said that it succeeded.

    What those of FINISHES write after a signal is whole too, and not all.
    """
    if subject.name in FINISHES:
        return False
    places = [workspace / out for out in subject.outs]
    new = all(place.exists() and place.stat().st_ctime >= running.start_time for place in places)
    return not ended.status and new and not ground.faults(workspace, subject)


def _status_faults(subject: Subject, command: str, ended: Ended, number: int, sent: bool) -> list[str]:
    """Return what is wrong with an exit status. A killed command must not pass for one that succeeded."""
    allowed = {-number, 128 + number}
    if not sent or subject.name in FINISHES:
        allowed |= {0}
    if command.startswith(("dvc", "make")):
        # DVC answers Ctrl-C by 252 (dvc.cli), 255 where its stage failed; make by 2.
        allowed |= {252, 255, 254, 1, 2}
    if subject.name in FINISHES and "stopped before the first frame" in ended.said:
        allowed |= {1}
    return [] if ended.status in allowed else [f"exit status {ended.status}: {ended.said.strip()[-200:]}"]


def _events(workspace: Path, message: str) -> int:
    status = workspace / "data/training/train/status.json"
    return status.read_text(errors="replace").count(message) if status.exists() else 0


def _wait(running: Running, reached: Callable[[], bool]) -> None:
    while running.process.poll() is None and not reached():
        time.sleep(0.002)


def _in_validation(workspace: Path, running: Running, chance: random.Random) -> None:
    """The first epoch's time from its start to the figures of its validation tells where the last one's is."""
    _wait(running, lambda: _events(workspace, "Starting Training Loop") > 0)
    start = time.monotonic()
    _wait(running, lambda: _events(workspace, "Eval metrics") > 0)
    lasts_s = time.monotonic() - start
    _wait(running, lambda: _events(workspace, "Train metrics") > 0)
    time.sleep(chance.uniform(0.5, 0.9) * lasts_s)


def _before_the_row(workspace: Path, running: Running, chance: random.Random) -> None:
    """TAO has begun to write the checkpoint of an epoch, and not yet its row of status.json."""
    results, epoch = workspace / "data/training/train", chance.choice((1, 2))

    def reached() -> bool:
        names = [path.name for path in resume.checkpoints(results)]
        return any(name.startswith(f"model_epoch_{epoch - 1:03}") for name in names)

    _wait(running, reached)
    time.sleep(chance.uniform(0, 0.03))


def _in_the_last_epoch(workspace: Path, running: Running, chance: random.Random) -> None:
    _wait(running, lambda: _events(workspace, "Train metrics") > 0)
    time.sleep(chance.uniform(0, 1.0))


MOMENTS = {
    "in the last validation": _in_validation,
    "between checkpoint and row": _before_the_row,
    "in the last epoch": _in_the_last_epoch,
}


def _moments_of_training(
    ground: Ground,
    subject: Subject,
    command: str,
    name: str,
    reach: Callable[[Path, Running, random.Random], None],
    moments: int,
    seed: int,
) -> Row:
    how = "dvc" if command.startswith("dvc") else "directly"
    row = Row(SECTION, _signal_words(moments, f"times {name}"), f"train, {how}", command)
    with ground.copied(f"kill train {name} {how}") as workspace:
        for number in SIGNALS:
            chance = random.Random(f"{seed} {name} {how} {number}")
            for _ in range(moments):
                rmtree(workspace / "data/training", ignore_errors=True)
                running = Running(command, workspace)
                reach(workspace, running, chance)
                _finish(ground, subject, command, workspace, running, number, row)
    return row


def _whole_pipeline(ground: Ground, moments: int, seed: int) -> Row:
    """Kill `make` at a random moment of the whole pipeline, which has no former outputs and no run cache."""
    row = Row(SECTION, _signal_words(moments, "random moments"), "make all, the whole pipeline", MAKE)
    outs = tuple(out for subject in ground.subjects if subject.name not in FINISHES for out in subject.outs)
    seconds = sum(subject.seconds for subject in ground.subjects)
    whole = Subject("make all", MAKE, outs, seconds)
    for number in SIGNALS:
        chance = random.Random(f"{seed} make {number}")
        for _ in range(moments):
            with ground.copied("kill make") as workspace:
                _delete(workspace, whole)
                rmtree(workspace / ".dvc/cache")
                (workspace / "dvc.lock").unlink()
                running = Running(MAKE, workspace)
                time.sleep(chance.uniform(0.02, 0.98) * seconds)
                _finish(ground, whole, MAKE, workspace, running, number, row)
    return row
