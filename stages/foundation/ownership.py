"""Which files of a folder are ours: a record of what a command wrote there, so that nothing else is ever deleted.

The record is the file .written in the folder: a JSON array [path in the folder, size in bytes] in each line. A file of
another size was replaced by someone else. Folders that are outputs of stages have none: DVC knows what they hold.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

NAME = ".written"


class Record:
    """The record of a folder."""

    def __init__(self, folder: Path) -> None:
        """Read the record. A line that a kill cut short is left out."""
        self._folder = folder
        self._entries: set[tuple[str, int]] = set()
        try:
            lines = (folder / NAME).read_text(encoding="utf-8", errors="replace").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            lines = []
        for line in lines:
            try:
                name, size = json.loads(line)
            except (ValueError, TypeError):
                continue
            if isinstance(name, str) and isinstance(size, int):
                self._entries.add((name, size))

    def foreign(self) -> str | None:
        """Return the path in the folder of a file, or of a link, that is not recorded; None if there is none."""
        return next((name for name, size in _below(self._folder) if (name, size) not in self._entries), None)

    def owns(self, name: str) -> bool:
        """Return whether a new file may take the place of `name`: nothing is there, or a file that is recorded."""
        path = self._folder / name
        return not os.path.lexists(path) or (path.is_file() and (name, path.lstat().st_size) in self._entries)

    def add(self, name: str, size: int) -> None:
        """Record a file of `size` bytes. Call it before the file gets the name `name`, as a kill may come between."""
        with (self._folder / NAME).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps((name, size)) + "\n")
        self._entries.add((name, size))


def record(folder: Path) -> None:
    """Record all files below `folder` as ours."""
    lines = [json.dumps(entry) + "\n" for entry in sorted(_below(folder))]
    (folder / NAME).write_text("".join(lines), encoding="utf-8")


def _below(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield path and size of each file and each link below a folder. Raises OSError if one can't be listed."""

    def fail(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=fail):
        for name in [*names, *(each for each in folders if Path(place, each).is_symlink())]:
            path = Path(place, name)
            if path != folder / NAME:
                yield path.relative_to(folder).as_posix(), path.lstat().st_size
