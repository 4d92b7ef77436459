"""The journal of a split: what an interrupted conversion has finished, so that the next run can continue it.

The journal is a JSON Lines file in the split's draft folder. Its first line holds a fingerprint of everything that the
result depends on. Each further line is the record of one finished picture, in the order of the work.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from stages.coco import png, rle
from stages.conversion import picture, picture_decoding, records
from stages.conversion.records import Record
from stages.foundation import files, panoptic_ids, picture_files
from stages.foundation.coco_types import Category
from stages.sets import classes, formats, raw_set
from stages.vistas import reader

FILE_NAME = "records.jsonl"
_CODE = (
    picture,
    png,
    reader,
    picture_decoding,
    records,
    rle,
    files,
    panoptic_ids,
    picture_files,
    raw_set,
    *formats.MODULES,
)
"""Modules whose code decides what a picture becomes."""


def fingerprint(work: Sequence[picture.Work], settings: picture.Settings, categories: Sequence[Category]) -> str:
    """Return the SHA-256 of code, parameters, classes, and each input file's path, size and time of change."""
    digest = hashlib.sha256(f"{json.dumps(categories)} {settings}".encode())
    for path in (*(Path(str(module.__file__)) for module in _CODE), *sorted(classes.FOLDER.glob("*.csv"))):
        digest.update(path.read_bytes())
    for item in work:
        digest.update(repr(item).encode())
        scene = item.scene if isinstance(item, picture.Task) else None
        for path in scene.files() if scene else ():
            about = path.stat()
            digest.update(f"{about.st_size} {about.st_mtime_ns}".encode())
    return digest.hexdigest()


def resume(journal: Path, fingerprint: str) -> int:
    """Prepare the split's folder and return the number of pictures that are finished.

    A journal with the same fingerprint is continued; a line that a kill cut short is removed. Otherwise the folder is
    deleted and made anew, with a new journal.
    """
    head = json.dumps({"work": fingerprint}).encode() + b"\n"
    if journal.exists():
        with journal.open("rb") as lines:
            if next(lines, b"") == head:
                lengths = [len(line) for line in lines if line.endswith(b"\n")]
                os.truncate(journal, len(head) + sum(lengths))
                return len(lengths)
    # Deleted before the files that it lists, so that no kill leaves a journal of files that are gone.
    journal.unlink(missing_ok=True)
    if journal.parent.exists():
        shutil.rmtree(journal.parent)
    journal.parent.mkdir()
    journal.write_bytes(head)
    return 0


def extended(journal: Path, new: Iterator[Record]) -> Iterator[Record]:
    """Yield the journal's records, then the new ones, each of which is first appended to the journal."""
    with journal.open(encoding="utf-8") as lines:
        next(lines)
        yield from map(json.loads, lines)
    with journal.open("a", encoding="utf-8") as lines:
        for record in new:
            lines.write(json.dumps(record, separators=(",", ":")) + "\n")
            lines.flush()
            yield record
