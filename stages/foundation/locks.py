"""One writer for each output, by a lock that an open file holds: the system frees it when the writer's process ends.

The lock is flock(2) on a file beside the output, .NAME.lock, which names its holder. On a file system without flock,
such as some network file systems, a warning takes its place.
"""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

_UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
"""Errors of flock(2) on a file system that has no such locks."""
_held: dict[tuple[int, str], int] = {}
"""(Thread, path of the lock) -> descriptor of the locks of this process. A thread may take a lock again."""


class LockedError(RuntimeError):
    """Another process, or another thread, writes the same output."""


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Hold the lock of the output `out` in the block. A lock that this thread holds already may be taken again.

    Raises LockedError, which names the holder, if another process or thread has it, and OSError if the lock's file
    can't be made.
    """
    path = out.absolute().with_name(f".{out.name}.lock")
    key = threading.get_ident(), str(path)
    if key in _held:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _taken(path, out)
    _held[key] = descriptor
    try:
        yield
    finally:
        # Deleted before it is freed: a process that opened the file before sees that it is gone, and opens it again.
        with contextlib.suppress(OSError):
            path.unlink()
        del _held[key]
        os.close(descriptor)


def _taken(path: Path, out: Path) -> int:
    """Return the descriptor of a lock that is taken. Raises as `held`."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except PermissionError:
            if not path.exists():
                raise
            # Another user's process was killed and left the file.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 1024, 0).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise LockedError(
                f"{out} is being written by {holder}; wait until that ends, or stop it, and run the command again"
            ) from error
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                os.close(descriptor)
                raise
            log.warning("%s: the file system has no locks; let only one process at a time write it", out)
            return descriptor
        if _is(descriptor, path):
            with contextlib.suppress(OSError):  # The name is a courtesy: a full disk must not end the run here.
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, _me().encode(errors="replace"), 0)
            return descriptor
        # Its holder deleted the file between our open and our lock.
        os.close(descriptor)


def _is(descriptor: int, path: Path) -> bool:
    """Return whether a descriptor is of the file that lies at `path` now."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _me() -> str:
    """Return what the message of another process says about this one. Arguments are left out: they may hold secrets."""
    command = Path(sys.argv[0] or "python").stem
    return f"process {os.getpid()} ({command}) on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"


def _forget() -> None:
    """Close the locks in a forked process. Otherwise it would hold them after its parent was killed."""
    for descriptor in _held.values():
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
