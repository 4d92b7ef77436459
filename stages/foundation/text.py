"""Text files that a user writes, read one way everywhere: plain text, JSON and CSV.

UTF-8 with or without a byte order mark, or UTF-16 with one; any line ends. Anything else is refused with the place of
the first byte that is not UTF-8: an encoding is never guessed.
"""

import codecs
import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def read(path: Path) -> str:
    """Return the text of a file, each line ended by a line feed, without a byte order mark.

    Raises ValueError naming file, line and byte where it is not UTF-8 or marked UTF-16, OSError where it can't be read.
    """
    content = path.read_bytes()
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
        # Also of UTF-16 without a mark, whose bytes are valid UTF-8 where the letters are English.
        raise ValueError(f"{path}:{text.count(chr(10), 0, at) + 1}: found a zero byte; save the file as UTF-8 text")
    return text


@dataclass(frozen=True)
class CsvLine:
    """A line of a CSV file."""

    number: int
    """From 1."""
    cells: list[str]
    """Without blanks around a cell, but those that stand in quotes."""
    written: list[str]
    """With all blanks behind a cell."""


def read_csv(path: Path) -> list[CsvLine]:
    """The lines of a CSV file that have anything in their cells; cells are separated by commas (RFC 4180).

    Raises as `read`, and ValueError naming file and line where quotes are not closed or commas are other marks.
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
            # Python's reader does not say which cells were in quotes.
            quoted = ['"' + cell.replace('"', '""') + '"' in raw for cell in written]
            cells = [cell if kept else cell.strip() for cell, kept in zip(written, quoted, strict=True)]
            found.append(CsvLine(start + 1, cells, written))
    except csv.Error as error:
        raise ValueError(f"{path}:{end + 1}: no CSV ({error}); mend the quotes of the line") from error
    return found


def read_json(path: Path) -> Any:
    """Parse a JSON file of a user. Raises as `read`, and ValueError naming file and place where it is not JSON."""
    try:
        return json.loads(read(path), object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno}:{error.colno}"
        raise ValueError(f"{place}: not JSON ({error.msg}); mend the file") from error
    except _RepeatedKeyError as error:
        raise ValueError(f"{path}: the key {error.args[0]!r} stands twice in one object; delete one") from error
    except RecursionError as error:
        raise ValueError(f"{path}: nested too deeply to be read; mend the file") from error


def read_yaml(path: Path) -> Any:
    """Parse a YAML file of a user as OmegaConf does: YAML 1.1, with 1e-4 a number and dates text.

    Interpolations stay as written. Raises as `read`, and ValueError naming file and place where it is not YAML.
    """
    import yaml
    from omegaconf import OmegaConf

    content = read(path)
    try:
        return OmegaConf.to_container(OmegaConf.create(content))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(yaml_problem(path, error)) from error


def yaml_problem(path: Path, error: Exception) -> str:
    """What a YAML reader finds wrong with a file, in one line: the place, the problem and the mend."""
    import yaml

    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        found = " ".join(f"{error.context or ''}: {error.problem or ''}".strip(": ").split())
        mend = "indent and part by blanks, not by tabs" if "'\\t'" in found else "mend the file"
        return f"{place}: not YAML ({found}); {mend}"
    if isinstance(error, yaml.reader.ReaderError):
        line = read(path)[: error.position].count("\n") + 1
        return f"{path}:{line}: found the character {error.character:#04x}, which YAML has not; delete it"
    return f"{path}: nested too deeply to be read, or an alias within itself; mend the file"


class _RepeatedKeyError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _RepeatedKeyError(key)
        result[key] = value
    return result
