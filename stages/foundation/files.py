"""Files: written beside their destination and moved into place when whole, hashed, and named in messages."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.foundation import locks, ownership, signals, text

Json = Any
"""A parsed JSON or YAML value of a structure that its reader knows, or that it checks by catching exceptions."""


@contextmanager
def atomic_write(out: Path, keep: bool = False, recorded: bool = False) -> Iterator[Path]:
    """Yield a path beside `out` to write a file or a folder to; move it to `out` if the block succeeds.

    On an exception the draft is deleted and `out` stays as it was. With `keep` the draft stays too, so that a later run
    can continue it. A killed process leaves the former output, or none. Only one process at a time writes `out`.

    With `recorded` the folder `out` gets a record of its files (stages.foundation.ownership). Use it where a user
    chooses the folder. What is there already is replaced only if all of it is in such a record.

    Raises locks.LockedError if another process writes `out`, and ValueError if `out` has what we did not write. The
    system's error for a write that failed, such as on a full disk, names `out` if it names no file.
    """
    if out.is_symlink() and out.is_dir():
        out = out.resolve()
    draft = out.with_name(f".{out.name}.draft")
    # A folder can't replace a folder with files in one step. It takes two moves, and a kill can happen between them.
    old = out.with_name(f".{out.name}.old")
    with locks.held(out):
        if old.exists() and not out.exists():
            old.replace(out)
        if recorded:
            _require_recorded(out)
        if not keep:
            _remove(draft)
        try:
            yield draft
            signals.stop_if_received()
            if draft.is_dir():
                if recorded:
                    _require_recorded(out)  # Again, since the block may have taken hours.
                    ownership.record(draft)
                else:
                    _require_former(out, draft)
                _remove(old)
                if out.exists():
                    out.replace(old)
                draft.replace(out)
                _remove(old)
            elif out.is_dir():
                raise ValueError(f"{printable(out)} is a folder, expected a file or nothing there; choose another name")
            else:
                draft.replace(out)
        except OSError as error:
            # A write to an open file fails without the file's name.
            if error.errno is not None and error.filename is None:
                error.filename = str(out)
            raise
        finally:
            if not keep:
                _remove(draft)


def _require_recorded(out: Path) -> None:
    """Raise ValueError if `out` is a file, or a folder with a file that we did not write."""
    _require_folder(out)
    if out.is_dir() and (found := ownership.Record(out).foreign()):
        raise ValueError(
            f"{printable(out)} has {printable(found)}, which this command did not write, and would be "
            "replaced as a whole; choose a new or an empty folder, or delete that one yourself"
        )


def _require_former(out: Path, draft: Path) -> None:
    """Raise ValueError if `out` is a file, or a folder without any of the names in `draft`: no earlier output."""
    _require_folder(out)
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    names = {path.name for path in draft.iterdir()}
    if there and there.isdisjoint(names):
        raise ValueError(
            f"{printable(out)} has {printable(min(there))} and none of {', '.join(sorted(names))}, so it is no earlier "
            "output, and would be replaced as a whole; choose another folder, or delete that one yourself"
        )


def _require_folder(out: Path) -> None:
    if os.path.lexists(out) and not out.is_dir():
        raise ValueError(f"{printable(out)} is a file, expected a folder or nothing there; choose another name")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(out: Path, content: object) -> None:
    """Write JSON with two-space indents and a final newline, by `atomic_write`."""
    with atomic_write(out) as draft:
        draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> Json:
    """Parse a JSON file that a stage wrote, UTF-8 or UTF-16.

    Raises FileNotFoundError where it is absent and ValueError where it is not JSON; both name the file and the fix.
    stages.foundation.json_shapes checks the content too.
    """
    try:
        return json.loads(text.read(path))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} not found; run `make all`, or `dvc pull` where it was pushed") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); restore it or run the stage that writes it") from error
    except RecursionError as error:
        raise ValueError(f"{path}: not JSON (nested too deeply); restore it or run the stage that writes it") from error
    except ValueError as error:
        if str(path) in str(error):
            raise  # By text.read.
        # Python reads no whole number of more than 4300 digits.
        raise ValueError(f"{path}: not JSON ({error}); restore it or run the stage that writes it") from error


def is_utf8(name: str) -> bool:
    """Return whether a file's name is UTF-8. Linux allows any bytes; Python shows others as lone surrogates."""
    return name == name.encode(errors="replace").decode()


def printable(path: Path | str) -> str:
    """Return a path for a message: bytes that are not UTF-8 and characters that can't be printed are escaped."""
    return "".join(c if c.isprintable() else _escaped(c) for c in os.fsdecode(path))


def _escaped(character: str) -> str:
    # A byte that is not UTF-8 is one of these surrogates in a path. JSON can have any others.
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
