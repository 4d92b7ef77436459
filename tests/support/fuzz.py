"""Made inputs for readers: strategies that spoil files, and a guard that a reader must not break.

A test made by `fuzzed` runs few examples, the same ones each time. tests/fuzz/test_minutes.py runs the same property on
random examples for as long as FUZZ_SECONDS says.
"""

import os
import resource
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from stages.coco import png
from stages.foundation import command_line

MEMORY_BYTES = 2 << 30
"""That a reader may take for an example of a few KB, the limit of pixels of 1 million included."""
BATCH = 50
"""Examples that are run before the time is looked at."""
_COMMON: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
_WRITES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
_guarded: list[Path] = []
"""The only folder that may be written to now, if there is one."""


def fuzzed(examples: int, **strategies: SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Make a property a test of `examples` examples. The property gets a value of each strategy by its name."""

    def decorate(check: Callable[..., None]) -> Callable[[], None]:
        def quick() -> None:
            settings(max_examples=examples, derandomize=True, **_COMMON)(given(**strategies)(check))()

        quick.for_seconds = lambda seconds: _for_seconds(lambda: given(**strategies)(check), seconds)  # type: ignore[attr-defined]
        quick.__name__ = check.__name__
        return quick

    return decorate


def _for_seconds(test: Callable[[], Callable[[], None]], seconds: float) -> None:
    end, number = time.monotonic() + seconds, int.from_bytes(os.urandom(4))
    while time.monotonic() < end:
        seed(number)(settings(max_examples=BATCH, **_COMMON)(test()))()
        number += 1


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _guarded:
        return
    writes = event in _WRITES
    if event == "open" and len(arguments) == 3 and isinstance(arguments[2], int):
        writes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    target = arguments[0] if arguments else None
    if writes and isinstance(target, str | bytes | os.PathLike):
        found = Path(os.path.realpath(os.fsdecode(target)))
        if not found.is_relative_to(_guarded[-1]) and found != Path("/dev/null"):
            raise AssertionError(f"{event} of {found}, outside of {_guarded[-1]}")


sys.addaudithook(_audit)


@contextmanager
def folder() -> Iterator[Path]:
    """Yield an empty folder. A write to any other place in the block fails."""
    with tempfile.TemporaryDirectory(prefix="fuzz") as name:
        path = Path(name).resolve()
        _guarded.append(path)
        try:
            yield path
        finally:
            _guarded.pop()


@contextmanager
def limited(more_bytes: int = MEMORY_BYTES) -> Iterator[None]:
    """Let the block take `more_bytes` of memory; an allocation beyond them raises MemoryError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def outcome(call: Callable[[], Any], lines: int = 1) -> Any:
    """Return what a reader returns, or None if it refuses its input by an error that a command prints as one line.

    Any other exception is a fault, and so are a message of more lines than `lines` and one of no words.
    """
    try:
        with limited():
            return call()
    except command_line.BUGS:
        raise
    except command_line.USER_ERRORS as refused:
        error = refused
    # A decoder's own words, such as "'utf-8' codec can't encode", say nothing of the file.
    assert not isinstance(error, UnicodeError), error
    text = command_line.message(error)
    assert 0 < len(text.splitlines()) <= lines, text
    text.encode()
    return None


numbers = (
    st.sampled_from([-1, 0, 1, 2, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**63, 10**400]) | st.integers()
)
texts = st.text(max_size=8) | st.sampled_from(
    ["", ".", "..", "../a", "/etc/passwd", "a\nb", "a\0b", "\ud800", "é" * 90]
)
scalars = st.none() | st.booleans() | numbers | st.floats() | st.sampled_from([1e308, -1e18, 0.5]) | texts
values: SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=8
)
"""Values of JSON, of any kind; NaN and infinities, which Python's reader accepts, among them."""

edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "double", "cut", "swap"]),
        st.floats(0, 1, exclude_max=True),
        st.binary(min_size=1, max_size=9) | st.sampled_from([b"\xff" * 4, b"\0" * 8, b"\x7f\xff\xff\xff", b"\0\0\0\1"]),
    ),
    min_size=1,
    max_size=4,
)
"""Changes of a file's bytes: kind, place as a part of the length, and bytes."""


def spoiled(content: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    """Return a file's bytes with `changes`, which `edits` makes."""
    for kind, place, piece in changes:
        at = int(place * len(content))
        rest = content[at:]
        after = {
            "set": piece + rest[len(piece) :],
            "insert": piece + rest,
            "delete": rest[len(piece) :],
            "double": rest[: 16 * len(piece)] * 2 + rest[16 * len(piece) :],
            "cut": b"",
            "swap": rest[len(piece) : 2 * len(piece)] + rest[: len(piece)] + rest[2 * len(piece) :],
        }
        content = content[:at] + after[kind]
    return content


swaps = st.lists(
    st.tuples(st.lists(st.integers(0, 50), max_size=7), st.sampled_from(["set", "delete", "double", "key"]), values),
    min_size=1,
    max_size=3,
)
"""Changes of a JSON value: the way to a part of it, kind, and a new value."""


def reshaped(content: Any, changes: list[tuple[list[int], str, Any]]) -> Any:
    """Return a JSON value with `changes`, which `swaps` makes."""
    for way, kind, value in changes:
        content = _reshaped(content, way, kind, value)
    return content


def _reshaped(content: Any, way: list[int], kind: str, value: Any) -> Any:
    if not way or not isinstance(content, dict | list) or not content:
        return value
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    key = keys[way[0] % len(keys)]
    if len(way) > 1 and isinstance(content[key], dict | list):
        inner = _reshaped(content[key], way[1:], kind, value)
        if isinstance(content, dict):
            return {**content, key: inner}
        return [*content[:key], inner, *content[key + 1 :]]
    if isinstance(content, dict):
        rest = {k: v for k, v in content.items() if k != key}
        return {
            "set": {**content, key: value},
            "delete": rest,
            "double": {**content, f"{key}2": content[key]},
            "key": {**rest, str(value)[:20]: content[key]},
        }[kind]
    changed = {"set": [value], "delete": [], "double": [content[key]] * 2, "key": [content[key], value]}[kind]
    return [*content[:key], *changed, *content[key + 1 :]]


chunk_edits = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from(["data", "kind", "drop", "double"]), edits, st.binary(max_size=4)),
    min_size=1,
    max_size=2,
)
"""Changes of the chunks of a PNG: number of the chunk, kind, changes of its bytes, and its new kind."""


def rechunked(content: bytes, changes: list[tuple[int, str, Any, bytes]]) -> bytes:
    """Return a PNG with changed chunks whose checksums are right, so that decoders read them."""
    chunks, place = [], len(png.SIGNATURE)
    while place + 12 <= len(content):
        end = place + 12 + int.from_bytes(content[place : place + 4])
        chunks.append((content[place + 4 : place + 8], content[place + 8 : end - 4]))
        place = end
    for number, kind, changed, name in changes:
        if not chunks:
            break
        at = number % len(chunks)
        own, data = chunks[at]
        if kind == "data":
            chunks[at] = own, spoiled(data, changed)
        elif kind == "kind":
            chunks[at] = name.ljust(4, b"x"), data
        elif kind == "drop":
            del chunks[at]
        else:
            chunks.insert(at, (own, data))
    return png.SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + own + data + struct.pack(">I", zlib.crc32(own + data)) for own, data in chunks
    )
