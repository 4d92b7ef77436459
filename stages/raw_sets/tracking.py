"""What DVC says of a path before and while it tracks it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path


def cache(out: Path) -> Path:
    """Folder of DVC's cache, where `out` can be tracked; looks only.

    Raises RuntimeError in one line where it can't: no repository, a .dvc file that git ignores, overlaps.
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
            f"{Path.cwd()} is not the project's folder: it has no .dvc; run it in a git clone"
        ) from error
    except SCMError as error:
        step = "DVC needs one; work in a git clone of the project, or run `git init` here"
        raise RuntimeError(f"{error}; {step}") from error
    except (DvcException, OSError, RuntimeError) as error:
        raise RuntimeError(f"DVC can't be used here: {_line(str(error))}; mend that and run it again") from error
    for output, stage in outs.items():
        own = output == path and stage.endswith(".dvc")
        if not own and os.path.commonpath([output, path]) in (output, path):
            found = f"{os.path.relpath(output)}, which is of {stage}"
            raise RuntimeError(f"{out} would overlap {found}; choose another NAME")
    if ignored:
        raise RuntimeError(f"git ignores {out}.dvc (data/.gitignore); take a NAME of one or two parts, as a or a/b")
    return folder


def add(out: Path, new: bool) -> None:
    """Let DVC track `out`. Raises RuntimeError with what DVC says; `out` is removed then, and when ended, if `new`."""
    try:
        command = [sys.executable, "-m", "dvc", "add", str(out)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            reason = _line(done.stderr) or _line(done.stdout) or f"exit status {done.returncode}"
            kept = f"{out} is removed again" if new else f"{out} is as it was"
            raise RuntimeError(f"dvc add {out}: {reason}; {kept}: mend that and run it again")
    except BaseException:
        if new:
            shutil.rmtree(out)
            Path(f"{out}.dvc").unlink(missing_ok=True)
        raise


def _line(text: str) -> str:
    """The line of what a program says that tells the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return errors[0] if errors else lines[-1] if lines else ""
