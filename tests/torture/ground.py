"""The undisturbed pipeline with which every row compares, copies of it to disturb, and what a copy must look like."""

import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import yaml

from stages.foundation import files
from tests.conftest import OUTER_MAKE, REPO, committed_copy
from tests.support.processes import alive

OVERRIDES = "~targets.rtx data.workers=2"
"""A builder of the CPU and one of GPUs are enough. Two workers where a stage has workers."""
PATIENCE_S = 30.0
"""Time for the processes of a command to end after it."""
LIMIT_S = 3600.0
"""A command that takes longer hangs."""
VARIES = re.compile(
    r"data/metrics/(benchmark|engine)_.*|data/engines/.*|data/report/index\.html|data/training.*|data/predict/.*"
)
"""Paths whose bytes differ between two undisturbed runs: timings, and engines, whose builders choose by timings."""
DRAFT = re.compile(r"/\.([^/]+\.(lock|draft|old)|part\.[^/]+)$")
"""Paths of locks and drafts."""
MARK = "TORTURE"
"""Environment variable that all processes of a trial have, so that the ones that were left behind are found."""


@dataclass(frozen=True)
class Subject:
    """A command that is disturbed."""

    name: str
    """A stage as DVC names it, or `predict video`."""
    command: str
    outs: tuple[str, ...]
    seconds: float = 0.0
    """Duration undisturbed."""


@dataclass
class Ended:
    """A command that ended, or was ended."""

    status: int
    seconds: float
    said: str
    left: list[str]
    """Commands of processes that outlived it by PATIENCE_S. They were killed."""


class Running:
    """A command in a session of its own, whose processes can be found by their mark."""

    def __init__(self, command: str, cwd: Path, **env: str) -> None:
        self.mark = uuid.uuid4().hex
        self._log = cwd / f".torture-{self.mark}.log"
        outer = {k: v for k, v in os.environ.items() if k not in OUTER_MAKE and not k.startswith("DVC_")}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], str(REPO / ".tools/bin")])
        full = {**outer, "PATH": path, "PYTHONPATH": str(cwd), **env, MARK: self.mark}
        self.start, self.start_time = time.monotonic(), time.time()
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                shlex.split(command), cwd=cwd, env=full, stdout=log, stderr=log, start_new_session=True
            )

    def signal(self, number: int, group: bool = False) -> bool:
        """Send a signal, with `group` to all processes as a terminal's Ctrl-C; return False if it had ended before."""
        if self.process.poll() is not None:
            return False
        (os.killpg if group else os.kill)(self.process.pid, number)
        return True

    def marked(self) -> dict[int, str]:
        """Return the commands of the processes that live, by process id."""
        found = {}
        for place in Path("/proc").iterdir():
            if not place.name.isdigit():
                continue
            try:
                if f"{MARK}={self.mark}".encode() in (place / "environ").read_bytes().split(b"\0"):
                    command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    if command:  # A zombie has none.
                        found[int(place.name)] = command
            except OSError:
                continue
        return found

    def end(self, limit_s: float = LIMIT_S, patience_s: float = PATIENCE_S) -> Ended:
        """Wait for the command, then for all that it started."""
        try:
            status = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = -999
            for pid in self.marked():
                os.kill(pid, signal.SIGKILL)
            self.process.wait()
        seconds = time.monotonic() - self.start
        until = time.monotonic() + patience_s
        while (left := self.marked()) and time.monotonic() < until:
            time.sleep(0.1)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        until = time.monotonic() + patience_s
        while any(map(alive, left)) and time.monotonic() < until:  # A killed process needs a moment to go.
            time.sleep(0.01)
        said = self._log.read_text(errors="replace")
        self._log.unlink()
        return Ended(status, seconds, said, sorted(set(left.values())))


def run(command: str, cwd: Path, **env: str) -> Ended:
    """Run a command undisturbed."""
    return Running(command, cwd, **env).end()


def must(command: str, cwd: Path, **env: str) -> Ended:
    """Run a command that has to succeed."""
    done = run(command, cwd, **env)
    if done.status:
        raise RuntimeError(f"{command}: exit status {done.status}\n{done.said[-3000:]}")
    return done


class Ground:
    """The folder in which the program works."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.base = self.folder / "base"
        self._subjects = self.folder / "subjects.json"
        if not self._subjects.exists():
            self._build()
        self.subjects = [Subject(**{**s, "outs": tuple(s["outs"])}) for s in files.read_json(self._subjects)]

    def _build(self) -> None:
        """Build the pipeline once through DVC, then run each command directly, which times it."""
        shutil.rmtree(self.base, ignore_errors=True)
        committed_copy(self.base)
        must(f"python -m stages.commands.params --profile=smoke --overrides={shlex.quote(OVERRIDES)}", self.base)
        must("dvc repro --quiet report", self.base)
        source = self.base / "data/source"
        pictures = sorted(self.base.glob("data/raw/sample/*/images/*.jpg"))
        (source / "pictures").mkdir(parents=True)
        video = cv2.VideoWriter(str(source / "street.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 20, (192, 128))
        for number in range(120):
            path = pictures[number % len(pictures)]
            shutil.copy(path, source / f"pictures/{number:03}.jpg")
            picture = cv2.imread(str(path))
            assert picture is not None
            video.write(picture)
        video.release()
        found = [
            Subject(name, stage["cmd"], tuple(out["path"] for out in stage["outs"]))
            for name, stage in locked(self.base).items()
        ]
        predict = "python -m stages.commands.predict --engine data/engines/cpu --source data/source"
        for kind, file in (("video", "street.mp4"), ("pictures", "pictures")):
            out = f"data/predict/{kind}"
            found.append(Subject(f"predict {kind}", f"{predict}/{file} --out {out}", (out,)))
        for subject in found[-2:]:
            must(subject.command, self.base)
        timed = []
        with self.copied("control") as control:
            for subject in found:
                done = must(subject.command, control)
                if faults := self.faults(control, subject):
                    raise RuntimeError(f"{subject.name} differs without any disturbance: {faults}")
                timed.append({**subject.__dict__, "seconds": round(done.seconds, 2)})
        files.write_json(self._subjects, timed)

    @contextmanager
    def copied(self, name: str) -> Iterator[Path]:
        """Yield a copy of the undisturbed workspace, and delete it after the block."""
        copy = self.folder / re.sub(r"[^\w.-]", "_", name)
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.base, copy, symlinks=True)
        try:
            yield copy
        finally:
            shutil.rmtree(copy, ignore_errors=True)

    def faults(self, workspace: Path, subject: Subject, may_lack: bool = False) -> list[str]:
        """Return how the outputs of a command differ from the undisturbed ones.

        With `may_lack` they may be absent, and drafts may be in them, as after a kill.
        """
        found = []
        for out in subject.outs:
            here, there = hashes(workspace, out), hashes(self.base, out)
            if may_lack:
                here = {name: sha256 for name, sha256 in here.items() if not DRAFT.search(name)}
                if not here:
                    continue
            # Each picture of `predict` is an output of its own.
            lacks = [name for name in there if name not in here and not (may_lack and "predict/pictures" in name)]
            more = [name for name in here if name not in there]
            other = [name for name in here if name in there and here[name] != there[name] and not VARIES.match(name)]
            found += [f"{word} {', '.join(names[:3])}" for word, names in
                      (("lacks", lacks), ("has also", more), ("differs in", other)) if names]  # fmt: skip
            found += broken(workspace / out)
        return found


def broken(out: Path) -> list[str]:
    """Return what is wrong with an output whose bytes vary: an engine, a recording, JSON."""
    found = []
    if (out / "engine.json").exists():
        about = json.loads((out / "engine.json").read_text())["engine"]
        if files.sha256(out / about["file"]) != about["sha256"]:
            found.append(f"{about['file']} is not the file that engine.json describes")
    if (out / "segments.jsonl").exists():
        try:
            lines = [json.loads(line) for line in (out / "segments.jsonl").read_text().splitlines()]
        except ValueError:
            return [*found, "segments.jsonl is broken"]
        pictures = list(out.glob("*.png"))
        if (out / "overlay.mp4").exists() and not pictures:
            capture, frames = cv2.VideoCapture(str(out / "overlay.mp4")), 0
            while capture.read()[0]:
                frames += 1
            if frames != len(lines):
                found.append(f"overlay.mp4 has {frames} frames, segments.jsonl {len(lines)}")
        found += [f"{path.name} is broken" for path in pictures if cv2.imread(str(path)) is None]
    if out.suffix == ".json" and out.exists():
        try:
            json.loads(out.read_text())
        except ValueError:
            found.append(f"{out.name} is broken")
    return found


def hashes(workspace: Path, out: str) -> dict[str, str]:
    """Return the SHA-256 of each file of an output by its path in the workspace; empty where there is none."""
    place = workspace / out
    found = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    return {path.relative_to(workspace).as_posix(): files.sha256(path) for path in found}


def leftovers(workspace: Path) -> list[str]:
    """Return the locks and drafts of ours that lie in a workspace, and whether DVC still counts anything as locked."""
    found = [str(p.relative_to(workspace)) for p in (workspace / "data").rglob(".*") if DRAFT.search(f"/{p.name}")]
    rwlock = workspace / ".dvc/tmp/rwlock"
    # DVC leaves the entries of a process that was killed, and ignores them: the process is gone.
    text = rwlock.read_text() if rwlock.exists() else ""
    found += [
        f"DVC's lock of process {pid}" for pid in re.findall(r'"pid": (\d+)', text) if Path("/proc", pid).exists()
    ]
    return found


@functools.cache
def _md5(path: Path, size: int, changed_ns: int) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def wrong_objects(workspace: Path) -> list[str]:
    """Return the objects of DVC's cache whose content is not what their name says."""
    found = []
    for path in (workspace / ".dvc/cache/files/md5").glob("??/*"):
        if path.name.startswith("."):  # DVC's own draft of an object. It leaves drafts behind where the disk is full.
            continue
        about = path.stat()
        if path.parent.name + path.name.removesuffix(".dir") != _md5(path, about.st_size, about.st_mtime_ns):
            found.append(f"cache object {path.parent.name}/{path.name} has another content")
    return found


def locked(workspace: Path) -> dict[str, Any]:
    """Return the stages of dvc.lock."""
    content: dict[str, Any] = yaml.safe_load((workspace / "dvc.lock").read_text())["stages"]
    return content
