"""The pipeline in another clone: folder with a space, locale, time zone, umask, order of files, number of CPUs.

From `sample` to `precision` every hash in dvc.lock is that of the undisturbed workspace.
"""

import os
import shlex
import shutil
import subprocess
from functools import partial
from pathlib import Path

from tests.torture.ground import OVERRIDES, Ground, locked, must
from tests.torture.table import Row, Rows

SECTION = "Two clones"
SAME = ("sample", "convert", "train", "evaluate", "export", "simplify", "precision")
ELSEWHERE = {"LC_ALL": "POSIX", "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "7", "COLUMNS": "40"}
COMMAND = "LC_ALL=POSIX TZ=Pacific/Kiritimati dvc repro STAGES"


def rows(ground: Ground, moments: int, seed: int) -> Rows:
    """Return a function for each row by its name."""
    what = "other folder, locale, time zone, umask, order of files"
    return {
        "clone": partial(_row, ground, what, COMMAND, one_cpu=False),
        "clone one CPU": partial(_row, ground, f"{what}, one CPU", f"taskset --cpu-list 0 {COMMAND}", one_cpu=True),
    }


def _row(ground: Ground, fault: str, command: str, *, one_cpu: bool) -> Row:
    row = Row(SECTION, fault, "sample to precision", command)
    folder = ground.folder / f"clone {'on one CPU' if one_cpu else ''} é (copy)/repo"
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.parent.mkdir(parents=True)
    prefix = f"taskset --cpu-list {min(os.sched_getaffinity(0))} " if one_cpu else ""
    try:
        subprocess.run(["git", "clone", "--quiet", str(ground.base), str(folder)], check=True)
        _shuffle(folder)
        before = os.umask(0o077)
        try:
            must(f"python -m stages.commands.params --profile=smoke --overrides={shlex.quote(OVERRIDES)}", folder)
            names = " ".join(name for name in locked(ground.base) if name.startswith(SAME))
            must(f"{prefix}dvc repro --quiet {names}", folder, **ELSEWHERE)
        finally:
            os.umask(before)
        here, there = locked(folder), locked(ground.base)
        for name in there:
            if name.startswith(SAME):
                same = [out["path"] for out in there[name]["outs"]] == [out["path"] for out in here[name]["outs"]]
                other = [o["path"] for o, t in zip(here[name]["outs"], there[name]["outs"], strict=same)
                         if o["md5"] != t["md5"]]  # fmt: skip
                row.add(
                    "same hashes" if not other else "other hashes", [f"{name}: {', '.join(other)}"] if other else []
                )
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)
    return row


def _shuffle(folder: Path) -> None:
    """Write the tracked files anew in reverse order: a file system without sorted folders lists them in another one."""
    for place in ("conf/tables", "stages"):
        for path in sorted((folder / place).rglob("*"), reverse=True):
            if path.is_file():
                content = path.read_bytes()
                path.unlink()
                path.write_bytes(content)
