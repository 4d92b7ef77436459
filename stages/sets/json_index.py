"""Reads COCO's JSON files, which have up to hundreds of MB, without holding them in memory.

The file is decoded entry by entry. For each entry of `annotations` only its place in the file is kept, so that a worker
process reads the annotations of one picture when it needs them.
"""

import json
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from stages.foundation import files

_BLOCK: Final = 1 << 22
"""Bytes that are read at a time."""
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_NUMBER: Final = re.compile(r"[-+.0-9eE]*")
"""The rest of a number, in a block that ends within it."""
_TOKEN_CHARACTERS: Final = 16
"""Longest token of JSON but for texts and numbers, a pair of \\u escapes included."""
_MAX_ENTRY_BYTES: Final = 1 << 28


@dataclass
class Index:
    """The contents of a COCO file."""

    categories: list[files.Json] = field(default_factory=list)
    images: dict[int, files.Json] = field(default_factory=dict)
    """By id: file_name, height and width."""
    places: dict[int, array[int]] = field(default_factory=dict)
    """Id of an image -> begin and length, in bytes, of each of its annotations."""
    annotation_keys: frozenset[str] = frozenset()
    """Keys of the first annotation."""


def read(path: Path) -> Index:
    """Read a COCO file. Raises ValueError, naming the file, if it is no such file or an image id occurs twice."""
    index = Index()
    name = files.printable(path)
    seen = set[str]()
    try:
        with path.open("rb") as file:
            for key, value, begin, written in _entries(_Stream(file)):
                seen.add(key)
                if key in ("images", "categories"):
                    # Again from the bytes, for texts that are not ASCII.
                    value = json.loads(written.encode("latin-1"))
                if key == "images":
                    if _number(value["id"]) in index.images:
                        raise ValueError(f"image id {value['id']!r} occurs twice")
                    index.images[value["id"]] = {k: value.get(k) for k in ("file_name", "height", "width")}
                elif key == "categories":
                    index.categories.append(value)
                elif key == "annotations":
                    index.annotation_keys = index.annotation_keys or frozenset(value)
                    index.places.setdefault(_number(value["image_id"]), array("q")).extend((begin, len(written)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{name}: not COCO's JSON ({type(error).__name__}: {error}); restore the file") from error
    if lacks := [key for key in ("images", "annotations", "categories") if key not in seen]:
        raise ValueError(f"{name}: not COCO's JSON, it has no entries in {', '.join(lacks)}; restore the file")
    return index


def _number(content: files.Json) -> int:
    """Return the id of an image. Raises ValueError for anything but a whole number or a text."""
    if type(content) not in (int, str):
        raise ValueError(f"image id {content!r}, expected a whole number")
    number: int = content
    return number


def entries(path: Path, places: list[int]) -> list[files.Json]:
    """Return the entries of a file at places, begins and lengths alternating.

    Raises ValueError, naming the file, for an entry that is not UTF-8, or a file that has changed.
    """
    try:
        with path.open("rb") as file:
            result = []
            for begin, length in zip(places[::2], places[1::2], strict=True):
                file.seek(begin)
                result.append(json.loads(file.read(length)))
            return result
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{files.printable(path)}: an annotation can't be read ({error}); restore the file") from error


def elements(path: Path) -> Iterator[tuple[files.Json, int, int]]:
    """Yield each element of a file that holds a list, with its begin and length in bytes.

    Raises ValueError, naming the file, for another file.
    """
    try:
        with path.open("rb") as file:
            stream = _Stream(file)
            stream.expect("[")
            if stream.next_character() != "]":
                while True:
                    _, begin, written = stream.value()
                    # Again from the bytes, for texts that are not ASCII.
                    yield json.loads(written.encode("latin-1")), begin, len(written)
                    if stream.expect(",]") == "]":
                        break
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{files.printable(path)}: not a list in JSON ({type(error).__name__}: {error}); restore the file"
        ) from error


class _Stream:
    """Decodes JSON values one after another from a file of any size.

    Bytes are taken as Latin-1, one character each, so that places in the text are places in the file. In UTF-8 no byte
    of another character is a quote, a backslash or a bracket.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decode = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._before = 0
        self._ended = False

    def _more(self) -> bool:
        """Read a block, and forget the text before the current place."""
        block = self._file.read(_BLOCK)
        self._before += self._at
        self._text = self._text[self._at :] + block.decode("latin-1")
        self._at = 0
        self._ended = not block
        return bool(block)

    def next_character(self) -> str:
        """Return the next character that is no blank, without consuming it; "" at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # It matches nothing too.
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def expect(self, characters: str) -> str:
        """Consume one of `characters`, and return it."""
        found = self.next_character()
        if not found or found not in characters:
            raise ValueError(f"byte {self._before + self._at} is {found!r}, expected one of {characters!r}")
        self._at += 1
        return found

    def value(self) -> tuple[files.Json, int, str]:
        """Consume a value, and return it with its place in the file and its bytes."""
        self.next_character()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # Only at the end of what was read can the next block help.
                wrong = error.pos + _TOKEN_CHARACTERS < len(self._text) and not error.msg.startswith("Unterminated")
                if wrong or len(self._text) - self._at > _MAX_ENTRY_BYTES or not self._more():
                    raise
                continue
            if not self._ended and _NUMBER.fullmatch(self._text, end) and self._more():
                continue
            begin = self._before + self._at
            written, self._at = self._text[self._at : end], end
            return value, begin, written


def _entries(stream: _Stream) -> Iterator[tuple[str, files.Json, int, str]]:
    """Yield each entry of the lists in a JSON object: key, value, place in the file and bytes."""
    stream.expect("{")
    while True:
        key, _, _ = stream.value()
        stream.expect(":")
        if stream.next_character() == "[":
            stream.expect("[")
            if stream.next_character() == "]":
                stream.expect("]")
            else:
                while True:
                    yield key, *stream.value()
                    if stream.expect(",]") == "]":
                        break
        else:
            stream.value()
        if stream.expect(",}") == "}":
            return
