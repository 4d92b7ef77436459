"""Opens the DVC project, with DVC's errors as one line. DVC has no types, so its `Repo` is Any."""

import logging
import shutil
from collections.abc import Iterable, Iterator
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


def require_stored(repo: Any, stages: Iterable[str], commit: bool = True) -> None:
    """Raise RuntimeError if DVC's cache lacks outputs of `stages`, with what to do.

    On a full disk DVC prints a line for each file that it could not store, and ends with status 0. `stages` are names
    of stages or of .dvc files. Without `commit` the advice leaves out how to store what was made.
    """
    names = set(stages)
    lacking = {
        stage.addressing: str(out)
        for stage in repo.index.stages
        if stage.addressing in names
        for out in stage.outs
        if out.use_cache and out.hash_info and out.exists and out.changed_cache()
    }
    if lacking:
        place = Path(repo.cache.local.path)
        there = next(path for path in (place, *place.parents) if path.exists())
        free_mb = shutil.disk_usage(there).free / 1e6
        shown = ", ".join(list(lacking.values())[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
        again = f"run `dvc commit --force {' '.join(lacking)}` and the command again" if commit else "run it again"
        raise RuntimeError(
            f"DVC's cache, {place}, could not store {shown}; {free_mb:.0f} MB are free there: make room (`dvc gc "
            "--workspace` deletes what this workspace does not use) or move it (`dvc cache dir --local FOLDER`); "
            f"{again}"
        )
