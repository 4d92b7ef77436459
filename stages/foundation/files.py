"""Files: written beside their destination and moved into place when whole, hashed, and named in messages."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Json = Any
"""A parsed JSON or YAML value of a structure that its reader knows, or that it checks by catching exceptions."""


@contextmanager
def atomic_write(out: Path, keep: bool = False) -> Iterator[Path]:
    """Yield a path beside `out` to write a file or a folder to; move it to `out` if the block succeeds.

    On an exception the draft is deleted and `out` stays as it was. With `keep` the draft stays too, so that a later run
    can continue it. A killed process leaves the former output, or none.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.draft")
    # A folder can't replace a folder with files in one step. It takes two moves, and a kill can happen between them.
    old = out.with_name(f".{out.name}.old")
    if old.exists() and not out.exists():
        old.replace(out)
    if not keep:
        _remove(draft)
    try:
        yield draft
        if draft.is_dir():
            _remove(old)
            if out.exists():
                out.replace(old)
            draft.replace(out)
            _remove(old)
        else:
            draft.replace(out)
    finally:
        if not keep:
            _remove(draft)


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
    """Parse a JSON file that a stage wrote.

    Raises FileNotFoundError where it is absent and ValueError where it is not JSON; both name the file and the fix.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} not found; run `make all`, or `dvc pull` where it was pushed") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); restore it or run the stage that writes it") from error


def is_utf8(name: str) -> bool:
    """Return whether a file's name is UTF-8. Linux allows any bytes; Python shows others as lone surrogates."""
    return name == name.encode(errors="replace").decode()


def printable(path: Path | str) -> str:
    """Return a path for a message: bytes that are not UTF-8 and characters that can't be printed are escaped."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
