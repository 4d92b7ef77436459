"""Runs the `main` of every stage and command: sets up logging and the exit status, and prints user errors as one line.

A stage's module ends with

    if __name__ == "__main__":
        command_line.run(main)
"""

import argparse
import errno
import logging
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from stages.foundation import files, processes, signals, threads

FAILED = 1
"""Exit status after a user error. After a signal it is 128 + signal, as in shells."""

USER_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    ValueError,
    RuntimeError,
    ImportError,
    subprocess.CalledProcessError,
)
"""Exceptions that are printed as one line. cv2.error is one too, where OpenCV is loaded."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
BUGS = (NotImplementedError, RecursionError)
"""Kinds of RuntimeError that a user can't cause. They keep their traceback."""


def parser(docstring: str | None) -> argparse.ArgumentParser:
    """Return a parser whose description is the first line of a module's docstring."""
    return argparse.ArgumentParser(description=(docstring or "").partition("\n")[0])


def run(main: Callable[[], int | None], user_errors: tuple[type[Exception], ...] = ()) -> NoReturn:
    """Set up logging, call `main`, and exit with the status that it returns; None is 0.

    An exception of USER_ERRORS or `user_errors` is printed to stderr as one line, and the exit status is 1. Any other
    exception is a bug and keeps its traceback. `python -X dev` shows every traceback.

    SIGTERM and SIGHUP raise signals.Terminated, and Ctrl-C raises KeyboardInterrupt, so that drafts are deleted. The
    exit status is 128 + signal then, whatever a library made of the exception: it must never pass for success. The
    process also ends with the `dvc` or the `make` that runs it. PyTorch's threads wait as `threads` says.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    threads.sleep_soon()
    processes.end_with_owner()
    signals.handle()
    try:
        sys.exit(_status(main, user_errors))
    finally:
        if number := signals.received():
            sys.exit(128 + number)


def _status(main: Callable[[], int | None], user_errors: tuple[type[Exception], ...]) -> int | None:
    try:
        return main()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BUGS:
        raise
    except Exception as error:
        # Looked up and not imported, since most commands never load OpenCV.
        opencv = getattr(sys.modules.get("cv2"), "error", OSError)
        if not isinstance(error, (*USER_ERRORS, *user_errors, opencv)):
            raise
        if sys.flags.dev_mode:
            traceback.print_exc()
        print(message(error), file=sys.stderr)
        return FAILED


def message(error: Exception) -> str:
    """Return the message of an exception for the user, or the name of its class if it has no message.

    Characters that can't be printed, such as a damaged file has in a library's message, are escaped, but for line ends.
    """
    return "\n".join(map(files.printable, _message(error).split("\n")))


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        step = "; make room there and run the command again" if error.errno in _FULL else ""
        return f"{files.printable(os.fsdecode(error.filename))}: {error.strerror}{step}"
    if isinstance(error, subprocess.CalledProcessError):
        said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr
        return f"{error} {said or ''}".strip()
    if isinstance(error, ModuleNotFoundError) and str(error) == f"No module named {error.name!r}":
        return f"{error}; run `make env`, or install on a device what docs/targets.md lists"
    return str(error).strip() or type(error).__name__
