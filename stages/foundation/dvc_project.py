"""Opens the DVC project, with DVC's errors as one line. DVC has no types, so its `Repo` is Any."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def opened(root: Path = Path()) -> Iterator[Any]:
    """Open the DVC project in the folder `root` as dvc.repo.Repo, and close it after the block.

    DVC's own notes are not printed. Raises FileNotFoundError where there is no project, and RuntimeError as
    `errors_in_one_line`.
    """
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    try:
        with errors_in_one_line("DVC can't read the project: "), Repo(str(root.resolve())) as repo:
            yield repo
    except NotDvcRepoError as error:
        raise FileNotFoundError(
            f"no .dvc in {root.resolve()}; run the command in a git clone of the project"
        ) from error


@contextmanager
def errors_in_one_line(prefix: str = "") -> Iterator[None]:
    """Run a block that calls DVC. Raises RuntimeError with the message of DVC's exception and of its cause in one line.

    `prefix` begins the message. NotDvcRepoError stays as it is.
    """
    from dvc.exceptions import DvcException, NotDvcRepoError

    try:
        yield
    except NotDvcRepoError:
        raise
    except DvcException as error:
        said = [str(error), *([str(error.__cause__)] if error.__cause__ else [])]
        raise RuntimeError(prefix + "; ".join(" ".join(text.split()) for text in said)) from error
