"""Signals that ask a process to end: they raise an exception, so that drafts are deleted, and they are remembered.

Python swallows exceptions in some places, such as callbacks of fork, and libraries turn them into success. So the
signal is remembered: no output is moved into place after it, and it decides the exit status.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_received: list[int] = []
_deferred = 0
"""Depth of blocks that must not be interrupted."""


class Terminated(SystemExit):
    """The process was asked to end by SIGTERM or SIGHUP."""


def handle() -> None:
    """Let SIGTERM and SIGHUP raise Terminated, and Ctrl-C KeyboardInterrupt.

    What nohup or a shell's background job ignores stays ignored, and a handler of a command's own stays.
    """
    for number in _NUMBERS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)


def received() -> int:
    """Return the first signal that asked this process to end, or 0."""
    return _received[0] if _received else 0


def stop_if_received() -> None:
    """Raise Terminated or KeyboardInterrupt if this process was asked to end."""
    if number := received():
        _stop(number)


@contextmanager
def deferred() -> Iterator[None]:
    """Let a signal that comes in the block raise nothing. Call `stop_if_received` after it."""
    global _deferred
    _deferred += 1
    try:
        yield
    finally:
        _deferred -= 1


def _end(number: int, _: object) -> None:
    _received.append(number)
    if not _deferred:
        _stop(number)


def _stop(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated(128 + number)
