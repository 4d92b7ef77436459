"""Calls the command `git` on a repository."""

import subprocess
from pathlib import Path


def run(root: Path, *arguments: str) -> bytes:
    """Return stdout of `git -C root ...`.

    Raises RuntimeError with git's message where it fails, and FileNotFoundError where git is not installed.
    """
    done = _run(root, arguments)
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace")
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        raise RuntimeError(f"git {arguments[0]}: {' '.join(lines[:3]) or f'exit status {done.returncode}'}")
    return done.stdout


def text(root: Path, *arguments: str) -> str:
    """Return stdout as text without its last line end. Raises as `run`."""
    return run(root, *arguments).decode(errors="surrogateescape").removesuffix("\n")


def entries(root: Path, *arguments: str) -> list[str]:
    """Return the entries, such as paths, of a command whose option -z ends each with NUL. Raises as `run`."""
    return [entry for entry in run(root, *arguments).decode(errors="surrogateescape").split("\0") if entry]


def commit(root: Path, revision: str) -> str | None:
    """Return the hash of the commit that a revision names, or None where git doesn't know it."""
    done = _run(root, ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"))
    return done.stdout.decode().strip() if done.returncode == 0 else None


def show(root: Path, revision: str, path: str) -> bytes | None:
    """Return a file of `root` as it is in a commit, or None where the commit doesn't have it.

    `revision` ":1", ":2" or ":3" is the index of a conflict: the common base, ours, theirs.
    """
    done = _run(root, ("cat-file", "blob", f"{revision}:./{path}"))
    return done.stdout if done.returncode == 0 else None


def unmerged(root: Path) -> list[str]:
    """Return the paths below `root` that are in conflict in the index, relative to `root`."""
    listed = entries(root, "ls-files", "--unmerged", "-z", "--", ".")
    return sorted({entry.partition("\t")[2] for entry in listed})


def ignores(root: Path, path: str) -> bool:
    """Return whether git ignores a path, or the path is outside of the repository."""
    return _run(root, ("check-ignore", "--quiet", "--", path)).returncode != 1


def _run(root: Path, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False)
    except FileNotFoundError as error:
        raise FileNotFoundError("git not found; install it, for example by: apt install git") from error
