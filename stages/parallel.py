"""A function over many items in several processes, its results in the items' order, with a progress bar."""

import ctypes
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

from tqdm import tqdm

# From glibc's malloc.h and Linux' prctl.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_PR_SET_PDEATHSIG = 1

AHEAD = 8
"""Items given to each worker before their results are taken: memory stays the same for any number of items."""


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
            workers, mp_context=get_context("spawn"), initializer=_start, initargs=(os.getpid(),)
        )
        try:
            waiting: deque[Future[Result]] = deque()
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= AHEAD * workers:
                    yield waiting.popleft().result()
                    bar.update()
            while waiting:
                yield waiting.popleft().result()
                bar.update()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"{label}: a worker died, as when memory runs out; run it again to go on, with a lower data.workers "
                f"(now {workers}) if it dies again"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start(parent: int) -> None:
    """Of each worker: one thread each, Ctrl-C is the parent's to handle, and it ends with the parent."""
    import cv2

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
