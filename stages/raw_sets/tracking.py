"""Asks DVC whether a path can be tracked, and lets DVC track it."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.foundation import dvc_project, locks, processes


def cache(out: Path) -> Path:
    """Return the folder of DVC's cache if DVC can track `out`. Changes nothing.

    Raises RuntimeError, one line, if it can't: there is no repository, git ignores the .dvc file, or `out` overlaps
    another output.
    """
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo
    from dvc.scm import SCMError

    path = str(out.absolute())
    try:
        with Repo() as repo:
            outs = {output.fs_path: output.stage.addressing for output in repo.index.outs}
            ignored = repo.scm.is_ignored(f"{path}.dvc")
            folder = Path(repo.cache.local.path)
    except NotDvcRepoError as error:
        raise RuntimeError(
            f"{Path.cwd()} is not the project's folder: it has no .dvc; run the command in a git clone of the project"
        ) from error
    except SCMError as error:
        step = "DVC needs one; work in a git clone of the project, or run `git init` here"
        raise RuntimeError(f"{error}; {step}") from error
    except (DvcException, OSError, RuntimeError) as error:
        found = f"DVC can't be used here: {_line(str(error))}"
        raise RuntimeError(f"{found}; fix that and run the command again") from error
    for output, stage in outs.items():
        own = output == path and stage.endswith(".dvc")
        if not own and os.path.commonpath([output, path]) in (output, path):
            found = f"{os.path.relpath(output)}, an output of {stage}"
            raise RuntimeError(f"{out} would overlap {found}; choose another NAME")
    if ignored:
        raise RuntimeError(f"git ignores {out}.dvc (data/.gitignore); use a NAME of one or two parts, such as a or a/b")
    return folder


@contextmanager
def made_new(out: Path) -> Iterator[None]:
    """Remove `out` and its .dvc file, which the block makes, if the block fails or is interrupted at any moment.

    Raises LockedError if another process makes `out`, and FileExistsError if one has made it before this one could.
    """
    with locks.held(out):
        if os.path.lexists(out) or os.path.lexists(f"{out}.dvc"):
            raise FileExistsError(f"{out} was made by another command meanwhile; remove it or choose another NAME")
        try:
            yield
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)
            Path(f"{out}.dvc").unlink(missing_ok=True)
            raise


def add(out: Path, new: bool) -> None:
    """Let DVC track `out`.

    Raises RuntimeError with DVC's message and what happened to a `new` folder, or if its cache could not store it.
    """
    command = [sys.executable, "-m", "dvc", "add", str(out)]
    done = processes.run(command, capture=True)
    if done.returncode:
        reason = _line(done.stderr) or _line(done.stdout) or f"exit status {done.returncode}"
        kept = f"{out} was removed again" if new else f"{out} was not changed"
        raise RuntimeError(f"dvc add {out}: {reason}; {kept}; fix that and run the command again")
    with dvc_project.opened() as repo:
        dvc_project.require_stored(repo, [f"{out}.dvc"], commit=not new)


def _line(text: str) -> str:
    """Return the line of a program's output that states the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return errors[0] if errors else lines[-1] if lines else ""
