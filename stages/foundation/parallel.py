"""A function over many items in several processes, its results in the items' order, with a progress bar."""

import ctypes
import itertools
import os
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
"""Portions given to each worker before their results are taken: memory stays the same for any number of items."""
ITEMS_PER_WORKER = 8
"""At least, for another worker to be started, which takes a second."""
PORTION = 4
"""Items given to a worker at once: to give one and to take its result costs as much as a picture's JSON."""


def count(wanted: int, items: int) -> int:
    """How many workers to start: `wanted`, or one for each core for 0, where there are items enough."""
    return min(wanted or len(os.sched_getaffinity(0)), max(1, items // ITEMS_PER_WORKER))


def ordered[Item, Result](
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, label: str, done: int = 0
) -> Iterator[Result]:
    """function(item) of each item, in order. With one worker in this process, else in `workers` of their own.

    The bar, shown where a person watches, begins at `done` of done + len(items). An exception of the function is
    raised here. Raises RuntimeError where a worker dies.
    """
    with tqdm(total=done + len(items), initial=done, desc=label, unit="image", disable=None) as bar:
        if workers == 1:
            keep_memory()
            for item in items:
                yield function(item)
                bar.update()
            return
        # Not forked: libraries of the parent may have threads.
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
"""Of a worker, which gets it once: what it holds may be large."""


def _call(portion: Sequence[Any]) -> list[Any]:
    return [_function(item) for item in portion]


def _start(parent: int, function: Callable[[Any], Any]) -> None:
    """Of each worker: one thread each, Ctrl-C is the parent's to handle, and it ends with the parent."""
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
    """Large arrays in memory that the process keeps: to get it anew for each is a quarter of a picture's time."""
    libc = ctypes.CDLL(None)
    for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        libc.mallopt(option, 1 << 30)
