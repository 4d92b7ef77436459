"""Processes that end with the one that started them, however that ended.

A killed `dvc repro` or `make` would otherwise leave its stage running, and the stage would replace what a second run
made. On Linux the kernel ends a process with its parent (prctl(2), PR_SET_PDEATHSIG). Where a shell stands between the
two, and on other systems, a thread watches.
"""

import contextlib
import ctypes
import functools
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.foundation import signals

_PR_SET_PDEATHSIG = 1
"""Linux's prctl.h."""
_SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh", "busybox"}
_PATIENCE_S = 60.0
"""Time for a child to end by SIGTERM. torchrun gives its own processes 30 s."""
_POLL_S = 1.0


def end_with(parent: int, number: int = signal.SIGKILL) -> None:
    """Let the kernel send this process the signal `number` when its parent, the process `parent`, ends.

    Ends this process if the parent has ended already. Does nothing on systems other than Linux.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def end_with_owner() -> None:
    """End this process by SIGKILL when the `dvc` or the `make` that runs it ends. Does nothing without one.

    A stage that a user starts with nohup in a shell thus outlives the shell.
    """
    if not os.environ.keys() & {"DVC_STAGE", "MAKELEVEL"}:
        return
    parent = os.getppid()
    owner = _owner(parent)
    if owner == parent and sys.platform == "linux":
        end_with(parent)
    else:
        threading.Thread(target=_watch, args=(owner, parent), daemon=True).start()


def _owner(pid: int) -> int:
    """Return the nearest process from `pid` upwards that is no shell; `pid` where that can't be found out."""
    place = pid
    with contextlib.suppress(OSError, ValueError, IndexError):
        while place > 1:
            about = Path(f"/proc/{place}/stat").read_text(encoding="utf-8", errors="replace")
            # PID (NAME) STATE PARENT ...; the name may hold any character (proc(5)).
            name, rest = about[about.index("(") + 1 : about.rindex(")")], about[about.rindex(")") + 1 :].split()
            if name not in _SHELLS:
                return place
            place = int(rest[1])
    return pid


def _watch(owner: int, parent: int) -> None:
    """Wait until the process `owner`, or the parent, ends; then end this process."""
    try:
        descriptor = os.pidfd_open(owner)
    except (OSError, AttributeError):
        # No Linux, or one before 5.3. An orphan gets another parent.
        while os.getppid() == parent:
            time.sleep(_POLL_S)
    else:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        waiting.poll()
    os.kill(os.getpid(), signal.SIGKILL)


def run(
    command: Sequence[str], *, capture: bool = False, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command that gets SIGTERM when this process ends or is interrupted; wait until it has ended.

    With `capture` its output is returned as text, else it is passed through. The status of a command that a signal
    ended is 128 + signal, as in shells. Raises OSError if it can't be started.
    """
    pipe = subprocess.PIPE if capture else None
    preexec = functools.partial(end_with, os.getpid(), signal.SIGTERM)
    with signals.deferred():  # Python swallows exceptions between fork and exec.
        process = subprocess.Popen(
            command, stdout=pipe, stderr=pipe, text=True, errors="replace", cwd=cwd, env=env, preexec_fn=preexec
        )
    with process:
        try:
            signals.stop_if_received()
            stdout, stderr = process.communicate()
        except BaseException:
            process.terminate()
            try:
                process.communicate(timeout=_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    status = process.returncode
    return subprocess.CompletedProcess(command, 128 - status if status < 0 else status, stdout, stderr)
