"""A stage ends with the dvc or the make that runs it, also where a shell stands between the two."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.foundation import processes
from tests.conftest import REPO
from tests.support.processes import alive

STAGE = """
import os, sys, time
from pathlib import Path
from stages.foundation import command_line
def main():
    Path(sys.argv[1]).write_text(str(os.getpid()))
    time.sleep(60)
command_line.run(main)
"""


def ends(pid: int) -> bool:
    for _ in range(300):
        if not alive(pid):
            return True
        time.sleep(0.1)
    return False


def told(path: Path) -> int:
    while not path.exists() or not path.read_text():
        time.sleep(0.02)
    return int(path.read_text())


@pytest.mark.parametrize("shell", ["python stage.py pid", "true; python stage.py pid; true"])
@pytest.mark.parametrize("owned", [True, False])
def test_a_stage_ends_with_its_owner(tmp_path: Path, shell: str, owned: bool) -> None:
    (tmp_path / "stage.py").write_text(STAGE)
    env = {k: v for k, v in os.environ.items() if k not in ("MAKELEVEL", "DVC_STAGE")} | {"PYTHONPATH": str(REPO)}
    if owned:
        env["DVC_STAGE"] = "train"
    owner = f"import subprocess, sys; subprocess.run({['bash', '-c', shell]!r})"
    started = subprocess.Popen([sys.executable, "-c", owner], cwd=tmp_path, env=env)
    pid = told(tmp_path / "pid")
    time.sleep(0.5)
    started.kill()
    started.wait()
    try:
        if owned:
            assert ends(pid)
        else:
            time.sleep(1)
            assert alive(pid), "a stage that a user starts is its own"
    finally:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_dvc_takes_its_stage_with_it(tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "dvc.yaml").write_text("stages: {s: {cmd: python stage.py pid}}")
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    env = {k: v for k, v in os.environ.items() if k != "MAKELEVEL"} | {"PYTHONPATH": str(REPO)}
    with (tmp_path / "log").open("w") as log:
        started = subprocess.Popen(["dvc", "repro"], cwd=tmp_path, env=env, stdout=log, stderr=log)
    pid = told(tmp_path / "pid")
    started.kill()
    started.wait()
    assert ends(pid)


def test_a_command_ends_with_the_process_that_runs_it(tmp_path: Path) -> None:
    code = f"from stages.foundation import processes; processes.run(['sh', '-c', 'echo $$ > {tmp_path}/pid; sleep 60'])"
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPO) as started:
        pid = told(tmp_path / "pid")
        started.kill()
    assert ends(pid)


@pytest.mark.parametrize(("script", "status"), [("exit 3", 3), ("kill -TERM $$", 143), ("exit 0", 0)])
def test_the_status_of_a_command(script: str, status: int) -> None:
    done = processes.run(["sh", "-c", f"echo said; {script}"], capture=True)
    assert (done.returncode, done.stdout) == (status, "said\n")
