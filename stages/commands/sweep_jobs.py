"""Runs the points of a sweep as jobs of submitit: on SLURM, or as processes of this machine by the same code.

A job works in a clone of its own, with the workspace's commit, its uncommitted changes and its DVC cache, and hands
its experiment back by `dvc exp push`. The nodes must see the workspace and its .venv at the same paths.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from stages.foundation import git, processes


def run(names: list[str], found: list[list[str]], stage: str, jobs: int, launcher: str, options: list[str]) -> None:
    """Run each point as a job of submitit, at most `jobs` at once, and wait for all.

    options: parameters of submitit.AutoExecutor as key=value, such as slurm_partition=gpu or timeout_min=600.
    """
    import submitit

    parameters = dict(option(each) for each in options)
    work = Path("outputs/sweeps", names[0]).resolve()
    if work.exists():
        raise ValueError(f"NAME: {work} exists, from an earlier sweep of that name; choose another NAME, or delete it")
    work.mkdir(parents=True)
    changes = work / "changes.patch"
    changes.write_bytes(
        git.run(Path(), "diff", "--binary", "--no-color", "--no-ext-diff", "--src-prefix=a/", "--dst-prefix=b/", "HEAD")
    )
    head = git.text(Path(), "rev-parse", "HEAD")
    executor = submitit.AutoExecutor(folder=work / "logs", cluster=launcher)
    executor.update_parameters(name="sweep", **parameters)
    # SLURM keeps to the number by itself; the local executor starts all that it is given.
    size = jobs if launcher == "local" else len(found)
    if launcher == "slurm":
        executor.update_parameters(slurm_array_parallelism=jobs)
    for i in range(0, len(found), size):
        with executor.batch():
            started = [
                executor.submit(run_point, Path.cwd(), head, changes, work / name, name, point, stage)
                for name, point in list(zip(names, found, strict=True))[i : i + size]
            ]
        for job in started:
            print(f"job {job.job_id}: {job.paths.stdout}", flush=True)
            if error := job.exception():
                print(f"job {job.job_id} failed: {str(error).strip().splitlines()[-1]}", file=sys.stderr)


def run_point(origin: Path, head: str, changes: Path, clone: Path, name: str, point: list[str], stage: str) -> None:
    """Run one point in a new clone of the workspace `origin`, with its uncommitted changes; hand the result back."""
    must("git", "clone", "--quiet", "--no-checkout", str(origin), str(clone))
    must("git", "checkout", "--quiet", "--detach", head, cwd=clone)
    if changes.stat().st_size:
        must("git", "apply", str(changes), cwd=clone)
    cache = subprocess.run(
        ["dvc", "cache", "dir"], cwd=origin, check=True, capture_output=True, text=True
    ).stdout.strip()
    must("dvc", "config", "--local", "cache.dir", cache, cwd=clone)
    must("dvc", "checkout", "--quiet", "--force", "--allow-missing", cwd=clone)
    overrides = [word for each in point for word in ("-S", each)]
    must("dvc", "exp", "run", "--name", name, *overrides, stage, cwd=clone)
    must("dvc", "exp", "push", "--no-cache", "origin", name, cwd=clone)
    shutil.rmtree(clone)


def option(written: str) -> tuple[str, Any]:
    """Parse a parameter of submitit, key=value. Raises ValueError for another form."""
    key, equals, value = written.partition("=")
    if not equals:
        raise ValueError(f"ARGS: must be key=value, such as slurm_partition=gpu, found {written!r}")
    return key, int(value) if value.isdecimal() else value


def must(*command: str, cwd: Path | None = None) -> None:
    """Run a command with this environment's programs first, and a clone's own code. Raises RuntimeError if it fails."""
    folder = cwd or Path.cwd()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    done = processes.run(command, cwd=folder, env={**os.environ, "PATH": path, "PYTHONPATH": str(folder)})
    if done.returncode:
        raise RuntimeError(
            f"`{' '.join(command[:3])}` failed with exit status {done.returncode}; its messages are above"
        )
