"""Writes COCO JSON files of any length, element by element, in constant memory."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO

from stages.foundation.coco_types import Category

_encoded = json.JSONEncoder(separators=(",", ":")).encode


class _Elements:
    """Writes the elements of a JSON list, one per line."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._any = file, False

    def add(self, content: Mapping[str, object]) -> None:
        """Append an element."""
        self._file.write((",\n" if self._any else "\n") + _encoded(content))
        self._any = True


class CocoJson:
    """A file with images, annotations and categories (cocodataset.org/#format-data). Complete when its `with` ends.

    The file lists all images before all annotations. So annotations go to a temporary file, and __exit__ appends them.
    """

    def __init__(self, path: Path, categories: Sequence[Category], info: Mapping[str, object] | None = None) -> None:
        """Open `path`. The file begins with `info` unless that is empty."""
        self._categories = categories
        self._file = path.open("w", encoding="utf-8")
        self._file.write(f'{{"info":{_encoded(info)},\n"images":[' if info else '{"images":[')
        self._temporary = TemporaryFile("w+", encoding="utf-8", dir=path.parent)  # noqa: SIM115  # closed by __exit__
        self.images, self.annotations = _Elements(self._file), _Elements(self._temporary)

    def __enter__(self) -> "CocoJson":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file, self._temporary:
            if error is not None:
                return
            self._temporary.seek(0)
            self._file.write('\n],"annotations":[')
            shutil.copyfileobj(self._temporary, self._file)
            self._file.write('\n],"categories":[')
            categories = _Elements(self._file)
            for category in self._categories:
                categories.add(category)
            self._file.write("\n]}\n")
