"""What the program would report: it must see the faults that it looks for. The whole program runs as `make torture`."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from stages.foundation import files
from tests.conftest import REPO
from tests.support.processes import alive
from tests.torture import ground, long_runs
from tests.torture.table import Row, Table


def test_a_process_that_outlives_its_command_is_found_and_ended(tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text("import time\nprint('up', flush=True)\ntime.sleep(60)\n")
    code = (
        "import subprocess, sys; "
        "child = subprocess.Popen([sys.executable, 'child.py'], stdout=subprocess.PIPE, start_new_session=True); "
        "child.stdout.readline(); print(child.pid)"
    )
    ended = ground.Running(f'{shlex.quote(sys.executable)} -c "{code}"', tmp_path).end(patience_s=1)
    assert ended.status == 0
    assert [command for command in ended.left if "child.py" in command]
    assert not alive(int(ended.said))


def test_signals_and_hangs(tmp_path: Path) -> None:
    running = ground.Running("sleep 60", tmp_path)
    assert running.signal(signal.SIGTERM)
    ended = running.end()
    assert (ended.status, ended.left) == (-signal.SIGTERM, [])
    assert not running.signal(signal.SIGTERM)
    assert ground.Running("sleep 60", tmp_path).end(limit_s=0.2).status == -999


def test_broken_outputs_are_seen(tmp_path: Path) -> None:
    video = cv2.VideoWriter(str(tmp_path / "overlay.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 20, (64, 48))
    for _ in range(3):
        video.write(np.zeros((48, 64, 3), np.uint8))
    video.release()
    (tmp_path / "segments.jsonl").write_text("{}\n" * 3)
    (tmp_path / "x.engine").write_bytes(b"engine")
    about = {"file": "x.engine", "sha256": files.sha256(tmp_path / "x.engine")}
    (tmp_path / "engine.json").write_text(json.dumps({"engine": about}))
    assert ground.broken(tmp_path) == []
    (tmp_path / "x.engine").write_bytes(b"other")
    (tmp_path / "segments.jsonl").write_text("{}\n" * 4)
    assert ground.broken(tmp_path) == [
        "x.engine is not the file that engine.json describes", "overlay.mp4 has 3 frames, segments.jsonl 4",
    ]  # fmt: skip
    (tmp_path / "a.json").write_text("{")
    assert ground.broken(tmp_path / "a.json") == ["a.json is broken"]


def test_what_is_left_and_wrong_objects_are_seen(tmp_path: Path) -> None:
    objects = tmp_path / ".dvc/cache/files/md5/5d"
    objects.mkdir(parents=True)
    (objects / "41402abc4b2a76b9719d911017c592").write_text("hello")
    (tmp_path / "data").mkdir()
    assert (ground.leftovers(tmp_path), ground.wrong_objects(tmp_path)) == ([], [])
    (objects / "41402abc4b2a76b9719d911017c593").write_text("hello")
    (tmp_path / "data/.coco.lock").touch()
    assert ground.leftovers(tmp_path) == ["data/.coco.lock"]
    assert len(ground.wrong_objects(tmp_path)) == 1


def test_growth_of_memory_and_of_descriptors_is_seen() -> None:
    def samples(mib: float, descriptors: int) -> list[long_runs.Sample]:
        return [long_runs.Sample(100 + mib * i, 9 + descriptors * i) for i in range(40)]

    assert long_runs.growth(samples(0, 0)) == ("memory 100 then 100 MiB, descriptors 9 then 9", [])
    assert long_runs.growth(samples(2, 0))[1] == ["not flat: memory 129 then 169 MiB, descriptors 9 then 9"]
    assert long_runs.growth(samples(0, 1))[1] == ["not flat: memory 100 then 100 MiB, descriptors 28 then 48"]


def test_the_table(tmp_path: Path) -> None:
    table = Table(tmp_path / "table", {"cpus": 2})
    row = Row("Kills", "SIGTERM", "convert", "python -m stages.convert")
    row.add("ended by the signal", [])
    row.add("ended by the signal", ["lacks a|b"])
    table.add(row)
    assert table.failed() == 1
    assert json.loads((tmp_path / "table.json").read_text())["rows"][0]["outcomes"] == {"ended by the signal": 2}
    text = (tmp_path / "table.md").read_text()
    assert "| SIGTERM | convert | 2 | 1 | ended by the signal: 2; WRONG: lacks a\\|b |" in text
    assert "python -m stages.convert  # convert" in text


@pytest.mark.slow
def test_the_program(tmp_path: Path) -> None:
    """Three rows of it in which nothing may be wrong. It builds its pipeline first."""
    command = [sys.executable, "-m", "tests.torture", "--moments", "1"]
    done = subprocess.run(
        [*command, "--rows", "kill sample, directly|pair convert$|wrong bytes", "--work", str(tmp_path / "work"),
         "--out", str(tmp_path / "table")],
        cwd=REPO, env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(json.loads((tmp_path / "table.json").read_text())["rows"]) == 3
