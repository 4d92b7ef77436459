"""Two of each command at once, in one workspace.

One of them is refused in one line that names the other, or waits; at least one ends well. The outputs are those of the
undisturbed run, and neither locks nor drafts are left.
"""

import random
import shutil
import time
from functools import partial

from tests.torture.ground import Ground, Running, Subject, leftovers, wrong_objects
from tests.torture.kills import MAKE
from tests.torture.table import Row, Rows

SECTION = "Two at once"
REFUSALS = (
    "is being written by process",
    "is being written by another process",
    "Unable to acquire lock",  # DVC's own
    "is busy, it is being blocked by",  # DVC's own
)
THROUGH_DVC = ("sample", "convert", "train", "engine@cpu")


def rows(ground: Ground, moments: int, seed: int) -> Rows:
    """Return a function for each row by its name."""
    found: Rows = {f"pair {s.name}": partial(_row, ground, s, s.command, moments, seed) for s in ground.subjects}
    stages = [subject for subject in ground.subjects if not subject.name.startswith("predict")]
    for subject in stages:
        if subject.name in THROUGH_DVC:
            command = f"dvc repro --force --single-item {subject.name}"
            found[f"pair {subject.name}, dvc"] = partial(_row, ground, subject, command, moments, seed)
    whole = Subject("make all", MAKE, tuple(out for subject in stages for out in subject.outs))
    return found | {"pair make": partial(_row, ground, whole, MAKE, moments, seed)}


def _row(ground: Ground, subject: Subject, command: str, moments: int, seed: int) -> Row:
    how = "" if command == subject.command else ", dvc"
    row = Row(SECTION, f"{moments} times two at once", f"{subject.name}{how}", command)
    chance = random.Random(f"{seed} pair {subject.name}{how}")
    with ground.copied(f"pair {subject.name}{how}") as workspace:
        for moment in range(moments):
            shutil.rmtree(workspace / "data/training", ignore_errors=True)
            if subject.name == "make all":
                for out in ("data/raw/sample", "data/coco", "data/report"):
                    shutil.rmtree(workspace / out, ignore_errors=True)
            both = [Running(command, workspace)]
            # The first pair starts together, the others up to a second after each other.
            time.sleep(chance.uniform(0, 1) if moment else 0)
            both.append(Running(command, workspace))
            ended = [running.end() for running in both]
            faults = [f"left running: {each}" for one in ended for each in one.left]
            refused = [one for one in ended if one.status]
            for one in refused:
                if not any(words in one.said for words in REFUSALS):
                    faults.append(f"exit status {one.status} without a reason: {one.said.strip()[-300:]}")
                if "Traceback (most recent call last)" in one.said:
                    faults.append("a traceback")
            if len(refused) == 2:
                faults.append("both were refused")
            faults += ground.faults(workspace, subject)
            faults += [f"{each} is left" for each in leftovers(workspace)] + wrong_objects(workspace)
            row.add("one was refused" if refused else "one after the other", faults)
    return row
