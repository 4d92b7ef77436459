"""DVC's own errors as one line."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_line() -> Iterator[None]:
    """Run a block that calls DVC. Raises RuntimeError with the message of DVC's exception in one line."""
    from dvc.exceptions import DvcException

    try:
        yield
    except DvcException as error:
        said = [str(error), *([str(error.__cause__)] if error.__cause__ else [])]
        raise RuntimeError("; ".join(" ".join(text.split()) for text in said)) from error
