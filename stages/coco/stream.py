"""COCO JSON files of any length, written element by element."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Any

_encoded = json.JSONEncoder(separators=(",", ":")).encode


class _Elements:
    """Elements of a JSON list, a line each."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._any = file, False

    def add(self, content: dict[str, Any]) -> None:
        """Write one more."""
        self._file.write((",\n" if self._any else "\n") + _encoded(content))
        self._any = True


class CocoJson:
    """A file with images, annotations and categories (cocodataset.org/#format-data). Whole once its `with` ends."""

    def __init__(self, path: Path, categories: list[dict[str, Any]], info: dict[str, Any] | None = None) -> None:
        """Write to `path`; annotations lie in a file without a name until then. `info` comes first, if there is any."""
        self._categories = categories
        self._file = path.open("w", encoding="utf-8")
        self._file.write(f'{{"info":{_encoded(info)},\n"images":[' if info else '{"images":[')
        self._aside = TemporaryFile("w+", encoding="utf-8", dir=path.parent)  # noqa: SIM115  # closed by __exit__
        self.images, self.annotations = _Elements(self._file), _Elements(self._aside)

    def __enter__(self) -> "CocoJson":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file, self._aside:
            if error is not None:
                return
            self._aside.seek(0)
            self._file.write('\n],"annotations":[')
            shutil.copyfileobj(self._aside, self._file)
            self._file.write('\n],"categories":[')
            categories = _Elements(self._file)
            for category in self._categories:
                categories.add(category)
            self._file.write("\n]}\n")
