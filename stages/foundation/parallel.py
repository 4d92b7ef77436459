"""Applies a function to many items in several processes, with a progress bar. Results keep the order of the items."""

import ctypes
import itertools
import os
import shutil
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

from tqdm import tqdm

# From glibc's malloc.h and Linux' prctl.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_PR_SET_PDEATHSIG = 1

AHEAD = 3
"""Portions in flight per worker. Bounds the memory for results, whatever the number of items."""
ITEMS_PER_WORKER = 8
"""Fewest items that justify one more worker, whose start takes a second."""
PORTION = 4
"""Items per message to a worker. A message costs as much time as a picture's JSON."""


def count(wanted: int, items: int) -> int:
    """Return how many workers to start: `wanted`, or for 0 one per core, but fewer if there are few items."""
    return min(wanted or len(os.sched_getaffinity(0)), max(1, items // ITEMS_PER_WORKER))


def check_shared_memory(key: str, workers: int, without: int, needed_bytes: int = 0) -> None:
    """Raise RuntimeError where processes can't share locks and `needed_bytes`; on Linux those are files in /dev/shm.

    `key` is the parameter of their number, `workers`, and `without` its value for none.
    """
    try:
        # A lock of this kind needs no process that cleans up.
        get_context("fork").Lock()
        found = ""
        if needed_bytes and (free_bytes := shutil.disk_usage("/dev/shm").free) < needed_bytes:
            found = f"{free_bytes / 1e6:.0f} MB are free"
    except OSError as error:
        found = str(error.strerror)
    if found:
        expected = f"{needed_bytes / 1e6:.0f} MB" if needed_bytes else "a folder that can be written to"
        raise RuntimeError(
            f"/dev/shm, by which {workers} processes ({key}) share memory: found {found}, expected {expected}; mount "
            f"one (docker run --shm-size=16g), or set {key}: {without}"
        )


def ordered[Item, Result](
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, label: str, done: int = 0
) -> Iterator[Result]:
    """Yield function(item) for each item, in order. One worker means this process, more mean processes of their own.

    On a terminal a progress bar begins at `done` of done + len(items). Raises what the function raises, and
    RuntimeError if a worker dies or if processes can't share memory, which is checked before anything is done.
    """
    with tqdm(total=done + len(items), initial=done, desc=label, unit="image", disable=None) as bar:
        if workers == 1:
            keep_memory()
            for item in items:
                yield function(item)
                bar.update()
            return
        # Not forked: libraries of the parent may have threads.
        check_shared_memory("data.workers", workers, 1)
        pool = ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=_start, initargs=(os.getpid(), function)
        )
        try:
            waiting: deque[Future[list[Result]]] = deque()
            portions = itertools.batched(items, PORTION)
            while True:
                for portion in itertools.islice(portions, AHEAD * workers - len(waiting)):
                    waiting.append(pool.submit(_call, portion))
                if not waiting:
                    return
                for result in waiting.popleft().result():
                    yield result
                    bar.update()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"{label}: a worker died, as when memory runs out; run it again, with a lower data.workers (now "
                f"{workers}) if it dies again"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


_function: Callable[[Any], Any]
"""The function of a worker process. It is sent once, since what it holds may be large."""


def _call(portion: Sequence[Any]) -> list[Any]:
    return [_function(item) for item in portion]


def _start(parent: int, function: Callable[[Any], Any]) -> None:
    """Initialise a worker: it uses one thread, leaves Ctrl-C to the parent, and ends when the parent ends."""
    import cv2

    global _function
    _function = function
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    keep_memory()


def keep_memory() -> None:
    """Make malloc keep freed memory. Page faults of large new arrays took a quarter of the time per picture."""
    libc = ctypes.CDLL(None)
    for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        libc.mallopt(option, 1 << 30)
