"""Reads text files that users write: plain text, CSV, JSON and YAML.

Accepts UTF-8 with or without a byte order mark, UTF-16 with one, and any line ends. An encoding is never guessed: any
other file is an error, which names the line of the first byte that is not UTF-8, or the kind of the file where it is an
archive, a web page or a pointer of Git LFS.
"""

import codecs
import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.foundation import file_kinds

if TYPE_CHECKING:
    import yaml


def read(path: Path) -> str:
    """Return the text of a file with line feeds as line ends, without a byte order mark.

    Raises ValueError, naming file, line and byte, for another encoding, ValueError for an archive, a web page or a
    pointer of Git LFS, and OSError if the file can't be read.
    """
    content = path.read_bytes()
    if kind := file_kinds.recognise(content[: file_kinds.START_BYTES]):
        raise ValueError(f"{path} is {kind.name}; {kind.step.format(path.name)}")
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{content[error.start]:02x}" if error.start < len(content) else "a file cut short"
        name = encoding.removesuffix("-sig").upper()
        raise ValueError(f"{path}:{line}: found {found}, which is not {name}; save the file as UTF-8") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if (at := text.find("\0")) >= 0:
        # UTF-16 without a byte order mark gets here too: with English letters it is valid UTF-8 with zero bytes.
        raise ValueError(f"{path}:{text.count(chr(10), 0, at) + 1}: found a zero byte; save the file as UTF-8 text")
    return text


MAX_YAML_NODES = 100_000
"""Most values of a YAML file with aliases."""


@dataclass(frozen=True)
class CsvLine:
    """A line of a CSV file."""

    number: int
    """Number of the line in the file, from 1."""
    cells: list[str]
    """The cells without surrounding blanks; blanks inside quotes are kept."""
    written: list[str]
    """The cells with their trailing blanks."""


def read_csv(path: Path) -> list[CsvLine]:
    """Return the lines of a CSV file (RFC 4180, with commas) that have a cell that is not blank.

    Raises as `read`. Raises ValueError, naming file and line, for a quote that is not closed or another separator.
    """
    content = read(path)
    lines, found = content.split("\n"), list[CsvLine]()
    reader = csv.reader(io.StringIO(content), skipinitialspace=True, strict=True)
    end = 0
    try:
        for written in reader:
            start, end = end, reader.line_num
            raw = "\n".join(lines[start:end])
            if not any(cell.strip() for cell in written):
                continue
            for mark, name in ((";", "semicolons"), ("\t", "tabs")):
                if not found and "," not in raw and mark in raw:
                    raise ValueError(f"{path}:{start + 1}: cells are separated by {name}; save the file with commas")
            cells = [cell if cell == cell.strip() or _is_quoted(cell, raw) else cell.strip() for cell in written]
            found.append(CsvLine(start + 1, cells, written))
    except csv.Error as error:
        raise ValueError(f"{path}:{end + 1}: not CSV ({error}); correct the quotes in the line") from error
    return found


def _is_quoted(cell: str, raw: str) -> bool:
    """Return whether a cell is in quotes in its line, which Python's reader does not report."""
    return '"' + cell.replace('"', '""') + '"' in raw


def read_json(path: Path) -> object:
    """Parse a JSON file. Raises as `read`, and ValueError, naming file, line and column, if it is not JSON."""
    try:
        return json.loads(read(path), object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno}:{error.colno}"
        raise ValueError(f"{place}: not JSON ({error.msg}); correct the file") from error
    except _RepeatedKeyError as error:
        raise ValueError(f"{path}: the key {error.args[0]!r} occurs twice in one object; delete one") from error
    except RecursionError as error:
        raise ValueError(f"{path}: nested too deeply to be read; correct the file") from error
    except ValueError as error:
        if str(path) in str(error):
            raise  # By read.
        # Python reads no whole number of more than 4300 digits.
        raise ValueError(f"{path}: not JSON ({error}); correct the file") from error


def read_yaml(path: Path) -> object:
    """Parse a YAML file as OmegaConf does: YAML 1.1, but 1e-4 is a number and a date is text.

    Interpolations stay as written. Raises as `read`, and ValueError, naming file and place, if it is not YAML, or if
    its aliases stand for more values than memory has.
    """
    return parse_yaml(path, read(path))


def parse_yaml(path: Path, content: str) -> object:
    """Parse the text of a YAML file as `read_yaml` does. `path` is for messages. Raises ValueError as `read_yaml`."""
    import yaml
    from omegaconf import OmegaConf

    try:
        root = yaml.compose(content, Loader=yaml.SafeLoader)
        check_aliases(path, root)
        return OmegaConf.to_container(OmegaConf.create(content))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(yaml_problem(path, error)) from error
    except Exception as error:  # Tags such as !!int raise exceptions of many types, and OmegaConf has its own.
        if isinstance(error, MemoryError) or str(error).startswith(f"{path}: "):
            raise
        if not isinstance(root, yaml.CollectionNode):
            raise ValueError(f"{path}: found a single value, expected keys and values; correct the file") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: not YAML ({reason}); correct the file") from error


def check_aliases(path: Path, root: "yaml.Node | None") -> None:
    """Raise ValueError for a YAML file whose aliases stand for more than MAX_YAML_NODES values, once written out.

    A file of 1 KB can stand for 10^9 values. A file without aliases is as long as its values, and may be of any size.
    Raises RecursionError for an alias within itself.
    """
    import yaml

    counts: dict[int, int] = {}
    repeated = False

    def count(node: "yaml.Node") -> int:
        nonlocal repeated
        if id(node) in counts:
            repeated = True
            return counts[id(node)]
        found = 1
        for each in node.value if isinstance(node, yaml.CollectionNode) else ():
            found += sum(map(count, each if isinstance(each, tuple) else (each,)))
        counts[id(node)] = found
        return found

    total = count(root) if root is not None else 0
    if repeated and total > MAX_YAML_NODES:
        raise ValueError(
            f"{path}: its aliases (*NAME) stand for {total} values, expected at most {MAX_YAML_NODES}; write out what "
            "is meant"
        )


def yaml_problem(path: Path, error: Exception) -> str:
    """Return a YAML reader's error as one line: place, problem and fix."""
    import yaml

    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        found = " ".join(f"{error.context or ''}: {error.problem or ''}".strip(": ").split())
        fix = "use blanks in place of tabs" if "'\\t'" in found else "correct the file"
        return f"{place}: not YAML ({found}); {fix}"
    if isinstance(error, yaml.reader.ReaderError):
        line = read(path)[: error.position].count("\n") + 1
        return f"{path}:{line}: found the character {error.character:#04x}, which YAML does not allow; delete it"
    return f"{path}: nested too deeply to be read, or an alias that contains itself; correct the file"


class _RepeatedKeyError(ValueError):
    pass


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise _RepeatedKeyError(key)
        result[key] = value
    return result
