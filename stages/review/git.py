"""Reads a git repository by the command `git`."""

import subprocess
from pathlib import Path


def run(root: Path, *arguments: str) -> bytes:
    """Return stdout of `git -C root ...`. Raises ValueError with the last line of git's message where it fails."""
    done = _run(root, arguments)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
        raise ValueError(f"git {' '.join(arguments[:2])}: {said[-1]}")
    return done.stdout


def lines(root: Path, *arguments: str) -> list[str]:
    """Return the entries of a command's output that -z ends with NUL, such as paths."""
    return [entry for entry in run(root, *arguments).decode(errors="surrogateescape").split("\0") if entry]


def commit(root: Path, revision: str) -> str | None:
    """Return the hash of the commit that a revision names, or None where git doesn't know it."""
    done = _run(root, ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}"))
    return done.stdout.decode().strip() if done.returncode == 0 else None


def show(root: Path, revision: str, path: str) -> bytes | None:
    """Return a file of `root` as it is in a commit, or None where it isn't there.

    `revision` ":1", ":2" or ":3" is the index of a conflict: the common base, ours, theirs.
    """
    done = _run(root, ("cat-file", "blob", f"{revision}:./{path}"))
    return done.stdout if done.returncode == 0 else None


def unmerged(root: Path) -> list[str]:
    """Return the paths below `root` that are in conflict in the index, relative to `root`."""
    entries = lines(root, "ls-files", "--unmerged", "-z", "--", ".")
    return sorted({entry.partition("\t")[2] for entry in entries})


def ignores(root: Path, path: str) -> bool:
    """Return whether git ignores a path, or the path is outside of the repository."""
    return _run(root, ("check-ignore", "--quiet", "--", path)).returncode != 1


def _run(root: Path, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False)
    except FileNotFoundError as error:
        raise FileNotFoundError("git not found; install it, for example by: apt install git") from error
