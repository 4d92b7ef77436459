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

from stages.foundation import picture_limit, processes

# Constants of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

AHEAD = 3
"""Portions per worker that are submitted ahead. Limits the memory for results, whatever the number of items."""
ITEMS_PER_WORKER = 8
"""Fewest items for each worker. Starting one takes about a second."""
PORTION = 4
"""Items per message to a worker. A message costs as much time as encoding a picture's JSON."""


def count(wanted: int, items: int) -> int:
    """Return the number of workers to start: `wanted`, or one per core if that is 0; fewer if there are few items."""
    return min(wanted or len(os.sched_getaffinity(0)), max(1, items // ITEMS_PER_WORKER))


def check_shared_memory(key: str, workers: int, without: int, needed_bytes: int = 0) -> None:
    """Raise RuntimeError if processes can't share locks and `needed_bytes` of memory: on Linux, files in /dev/shm.

    `key` is the parameter that sets the number of processes, `workers`; `without` is its value that starts none.
    """
    try:
        # The lock of a forked context needs no process that removes it.
        get_context("fork").Lock()
        found = ""
        if needed_bytes and (free_bytes := shutil.disk_usage("/dev/shm").free) < needed_bytes:
            found = f"{free_bytes / 1e6:.0f} MB are free"
    except OSError as error:
        found = str(error.strerror)
    if found:
        expected = f"{needed_bytes / 1e6:.0f} MB" if needed_bytes else "a folder that can be written to"
        raise RuntimeError(
            f"/dev/shm, by which {workers} processes ({key}) share memory: found {found}, expected {expected}; make it "
            f"larger (docker run --shm-size=16g), or set {key}: {without}"
        )


def ordered[Item, Result](
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, label: str, done: int = 0
) -> Iterator[Result]:
    """Yield function(item) for each item, in order. With one worker the function runs in this process.

    The progress bar, labelled `label` and shown on a terminal, begins at `done` of done + len(items). Raises what the
    function raises. Raises RuntimeError if a worker dies, and, before any work, if processes can't share memory.
    """
    with tqdm(total=done + len(items), initial=done, desc=label, unit="image", disable=None) as bar:
        if workers == 1:
            keep_memory()
            for item in items:
                yield function(item)
                bar.update()
            return
        # Spawned and not forked, since libraries of this process may have started threads.
        check_shared_memory("data.workers", workers, 1)
        arguments = os.getpid(), picture_limit.limit_mpx(), function
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start, initargs=arguments)
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
                f"{label}: a worker died, probably because memory ran out; run the command again, and if it happens "
                f"again, lower data.workers (now {workers})"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


_function: Callable[..., Any]
"""The function of a worker process. It is sent once per worker, since its arguments may be large."""


def _call(portion: Sequence[object]) -> list[Any]:
    return [_function(item) for item in portion]


def _start(parent: int, limit_mpx: int, function: Callable[..., object]) -> None:
    """Initialize a worker. It uses one thread, leaves Ctrl-C to the parent, and ends when the parent ends.

    `limit_mpx` is the parent's limit of pixels.
    """
    import cv2

    global _function
    _function = function
    processes.end_with(parent)
    picture_limit.set_limit(limit_mpx)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    keep_memory()


def keep_memory() -> None:
    """Make malloc keep freed memory, else page faults of large new arrays take a quarter of the time per picture."""
    libc = ctypes.CDLL(None)
    for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        libc.mallopt(option, 1 << 30)
