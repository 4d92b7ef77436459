"""Two writers of one output: the second is told who the first one is, and a killed one leaves nothing locked."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stages.foundation import files, locks
from tests.conftest import REPO

HOLDER = """
import os, sys, time
from pathlib import Path
from stages.foundation import files
with files.atomic_write(Path(sys.argv[1])) as draft:
    draft.write_text("half")
    if sys.argv[2] == "alone" or os.fork() == 0:
        print(os.getpid(), flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(out: Path, how: str = "alone") -> Iterator[tuple[int, int]]:
    """Run a process that writes `out` in the block, and yield the ids of it and of its child. End it with SIGKILL."""
    command = [sys.executable, "-c", HOLDER, str(out), how]
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            yield process.pid, child
        finally:
            process.kill()


def test_a_second_writer_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("former")
    with holder(out) as (pid, _):
        with pytest.raises(locks.LockedError, match=rf"/out is being written by process {pid} \(.*since 20"):
            files.write_json(out, 1)
        assert out.read_text() == "former"
    files.write_json(out, 1)
    assert out.read_text() == "1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_forked_child_holds_no_lock(tmp_path: Path) -> None:
    """A data loader's process may live on for seconds after its parent was killed."""
    with holder(tmp_path / "out", "fork") as (_, child):
        pass
    try:
        files.write_json(tmp_path / "out", 1)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_thread_may_take_its_lock_again_and_another_one_may_not(tmp_path: Path) -> None:
    found: list[str] = []

    def other() -> None:
        try:
            with locks.held(tmp_path / "out"):
                pass
        except locks.LockedError as error:
            found.append(str(error))

    with locks.held(tmp_path / "out"):
        files.write_json(tmp_path / "out", 1)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(found) == 1
    assert f"process {os.getpid()} " in found[0]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_many_writers_one_after_another(tmp_path: Path) -> None:
    """The lock's file is deleted while others open it. Whoever has the lock is alone."""
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(REPO)!r})
from stages.foundation import locks
out, done = Path(sys.argv[1]), 0
while done < 200:
    try:
        with locks.held(out):
            number = int(out.read_text())
            out.write_text(str(number + 1))
            done += 1
    except locks.LockedError:
        pass
"""
    out = tmp_path / "count"
    out.write_text("0")
    started = [subprocess.Popen([sys.executable, "-c", code, str(out)]) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert out.read_text() == "600"
