"""Whether a process runs."""

from pathlib import Path


def alive(pid: int) -> bool:
    """Return whether a process runs. One that has ended, and whose parent has not asked for its status, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
