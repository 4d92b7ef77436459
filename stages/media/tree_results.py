"""The output folder of `predict --shard`, which many processes fill at once (docs/shards.md).

Each shard appends to a journal of its own, shards/I-of-N.jsonl: a line before an item is written and one when it is
done. So a run that was killed goes on where it was, also with other shards. `gather` makes one result of all journals.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

from stages.foundation import files, locks
from stages.media import file_names
from stages.media.picture_tree import Item
from stages.media.recording import SEGMENTS_NAME

RUN_NAME, SUMMARY_NAME = "run.json", "summary.json"
OVERLAYS, VIDEOS, SHARDS = "overlays", "videos", "shards"


@dataclass(frozen=True)
class Run:
    """What all the results of a folder have in common."""

    target: str
    engine_sha256: str


@dataclass
class Record:
    """What became of an item."""

    size_bytes: int
    modified_ns: int
    frames: int
    """Number of its frames that were read; 1 for a picture."""
    skipped: int
    """Frames of a video that could not be read."""
    error: str
    """Why it could not be read; empty if it could."""
    is_picture: bool
    line: str = ""
    """The line of segments.jsonl of a picture. Empty in what `Results.read` returns."""
    done_ns: int = field(default_factory=time.time_ns)
    """When it was done. The last record of an item is the one that holds."""
    journal: str = ""
    offset: int = -1
    """Journal and byte where the record stands."""

    def is_of(self, item: Item) -> bool:
        """Return whether the item is still the file that was read."""
        return (self.size_bytes, self.modified_ns) == (item.size_bytes, item.modified_ns)


class Results:
    """The output folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, run: Run) -> None:
        """Create the folder for a run, or check that it is of the same run.

        Raises ValueError if it holds what we did not write, or results of another engine.
        """
        file_names.check_folder(self.folder)
        path = self.folder / RUN_NAME
        label = files.printable(self.folder)
        if not path.exists():
            if self.folder.is_dir() and any(not p.name.startswith(".") for p in self.folder.iterdir()):
                # Another shard may have begun in between.
                if not path.exists():
                    raise ValueError(
                        f"{label} has files and no {RUN_NAME}, so no shard made it; give OUT a new or an empty folder"
                    )
            else:
                self.folder.mkdir(parents=True, exist_ok=True)
                draft = self.folder / f".{RUN_NAME}.{os.uname().nodename}.{os.getpid()}"
                draft.write_text(json.dumps(asdict(run), indent=2) + "\n", encoding="utf-8")
                try:
                    # Of several shards that begin at once, one makes the file.
                    os.link(draft, path)
                except FileExistsError:
                    pass
                except OSError:
                    draft.replace(path)  # a file system without hard links
                finally:
                    draft.unlink(missing_ok=True)
        if (there := files.read_json(path)) != asdict(run):
            raise ValueError(
                f"{label} has results of another engine: found {there}, expected {asdict(run)}; give OUT another folder"
            )

    def read(self) -> tuple[dict[str, Record], set[str]]:
        """Return the last record of each item by its key, and the keys of all items that were begun.

        Lines that a kill cut short are left out.
        """
        found: dict[str, Record] = {}
        begun: set[str] = set()
        for path in sorted((self.folder / SHARDS).glob("*-of-*.jsonl")):
            offset = 0
            with path.open("rb") as lines:
                for line in lines:
                    with contextlib.suppress(ValueError, TypeError, KeyError):
                        content = json.loads(line)
                        if "begun" in content:
                            begun.add(content["begun"])
                        else:
                            key = content.pop("item")
                            record = Record(**{**content, "line": "", "journal": path.name, "offset": offset})
                            if key not in found or record.done_ns >= found[key].done_ns:
                                found[key] = record
                    offset += len(line)
        return found, begun | found.keys()

    def is_done(self, item: Item, record: Record | None) -> bool:
        """Return whether an item needs no further work: it was read as it is now, and its output is there."""
        done = record is not None and not record.error and record.is_of(item)
        return done and self.output(item, record is not None and record.is_picture).exists()

    def missing(self, items: list[Item], records: dict[str, Record]) -> list[Item]:
        """Return the items that have no record, or one of a file that was changed since."""
        return [item for item in items if (record := records.get(item.key)) is None or not record.is_of(item)]

    def output(self, item: Item, is_picture: bool) -> Path:
        """Return the overlay of a picture, or the folder of a video."""
        parent, _, name = item.key.rpartition("/")
        if is_picture:
            return self.folder / OVERLAYS / parent / file_names.png_name(name)
        return self.folder / VIDEOS / parent / file_names.fitting_name(name, "", len("..draft"))

    def gather(self, items: list[Item]) -> dict[str, object]:
        """Write segments.jsonl and summary.json of all items; return the summary.

        Raises FileNotFoundError if no shard has begun, and ValueError if an item has no result yet, and if none could
        be read.
        """
        if not (self.folder / RUN_NAME).exists():
            raise FileNotFoundError(f"{files.printable(self.folder / RUN_NAME)} not found; run the shards first")
        run = files.read_json(self.folder / RUN_NAME)
        records, _ = self.read()
        if missing := self.missing(items, records):
            raise ValueError(
                f"{len(missing)} of {len(items)} pictures and videos have no result yet, such as "
                f"{files.printable(missing[0].key)}; run the shards that did not end, then --gather"
            )
        of_items = [(item, records[item.key]) for item in items]
        read = [record for _, record in of_items if not record.error]
        unreadable = {file_names.unicode_name(item.key): record.error for item, record in of_items if record.error}
        if not read:
            raise ValueError(f"no picture or video could be read ({len(items)} are there); give SOURCE another folder")
        with files.atomic_write(self.folder / SEGMENTS_NAME) as draft, draft.open("w", encoding="utf-8") as lines:
            for line in self._lines(of_items):
                lines.write(line + "\n")
        summary: dict[str, object] = {
            **run,
            "pictures": sum(record.is_picture for record in read),
            "videos": sum(not record.is_picture for record in read),
            "frames": sum(record.frames for record in read),
            "frames_skipped": sum(record.skipped for record in read),
            "unreadable": unreadable,
        }
        files.write_json(self.folder / SUMMARY_NAME, summary)
        return summary

    def _lines(self, of_items: list[tuple[Item, Record]]) -> Iterator[str]:
        with contextlib.ExitStack() as stack:
            opened = {
                name: stack.enter_context((self.folder / SHARDS / name).open("rb"))
                for name in sorted({record.journal for _, record in of_items})
            }
            for _, record in of_items:
                if record.is_picture and not record.error:
                    opened[record.journal].seek(record.offset)
                    yield json.loads(opened[record.journal].readline())["line"]


class Journal:
    """The journal of a shard, as a context manager: one process at a time writes it."""

    def __init__(self, results: Results, shard: int, count: int) -> None:
        """`shard` is 1 to `count`."""
        self._results = results
        self._path = results.folder / SHARDS / f"{shard}-of-{count}.jsonl"
        self.draft = self._path.with_suffix(".png")
        """Path for the overlay that is being written."""
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Journal":
        """Raises LockedError if another process works on the shard."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(locks.held(self._path))
            self.records, self._begun = self._results.read()
            self._file = stack.enter_context(self._path.open("ab+"))
            stack.callback(self.draft.unlink, missing_ok=True)
            if self._file.tell():
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":
                    self._file.write(b"\n")  # after a line that a kill cut short
            self._stack = stack.pop_all()
        return self

    def begin(self, item: Item, output: Path) -> None:
        """Note that `output` is about to be written. Raises ValueError if something is there that we did not write."""
        if item.key not in self._begun and os.path.lexists(output):
            _, self._begun = self._results.read()
            if item.key not in self._begun:
                raise ValueError(
                    f"{files.printable(output)} is there, and no shard wrote it; give OUT another folder, or move that "
                    "away"
                )
        self._begun.add(item.key)
        self._append({"begun": item.key})

    def end(self, item: Item, record: Record) -> None:
        """Note what became of an item."""
        content = {k: v for k, v in asdict(record).items() if k not in ("journal", "offset")}
        self._append({"item": item.key, **content})

    def _append(self, content: dict[str, object]) -> None:
        self._file.write(json.dumps(content).encode() + b"\n")
        self._file.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
