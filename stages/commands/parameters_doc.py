"""parameters_doc: write docs/parameters.md from the dataclasses of stages/config. Run by `make docs`."""

import ast
import inspect
import json
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

from stages import config
from stages.foundation import command_line, files

HEAD = """# Parameters

The keys of `params.yaml`, section by section. `make docs` writes this page from `stages/config/`. Edit values under
`conf/`, then run `make params`. The defaults are those of the code; the files of `conf/` set others.
"""

UNITS = {"px": "pixels", "mib": "MiB", "gib": "GiB", "pct": "%"}
"""Last word of a key -> the unit of its value."""


def text() -> str:
    """Return the page: a section for each mapping of params.yaml, a row for each key."""
    parts = [HEAD]
    for key, kind in sections(config.Config, ""):
        title, about = f"`{key}`" if key else "Top level", _line(inspect.getdoc(kind) or "")
        parts.append(f"## {title}\n\n{about}\n")
        parts.append(
            "| key | type | default | range | meaning |\n|---|---|---|---|---|\n" + "\n".join(_rows(kind, key)) + "\n"
        )
    return "\n".join(parts)


def sections(kind: type, key: str) -> Iterator[tuple[str, type]]:
    """Yield (key, dataclass) of a section and of all sections in it; NAME stands for names that users choose."""
    yield key, kind
    for name, hint in get_type_hints(kind).items():
        full = f"{key}.{name}".lstrip(".")
        if isinstance(hint, type) and is_dataclass(hint):
            yield from sections(hint, full)
        elif get_origin(hint) is dict and is_dataclass(get_args(hint)[1]):
            yield from sections(get_args(hint)[1], f"{full}.NAME")


def _rows(kind: type, key: str) -> Iterator[str]:
    meanings, hints, ranges = _docstrings(kind), get_type_hints(kind), config.ranges(kind)
    for known in fields(kind):
        name, hint = known.name, hints[known.name]
        allowed = ", ".join(f"`{choice.value}`" for choice in _choices(hint))
        if name in ranges:
            unit = UNITS.get(name.rpartition("_")[2], "")
            allowed = f"{ranges[name].words().removeprefix('in ')} {unit}".rstrip()
        section = f"{key}.{name}".lstrip(".")
        meaning = meanings.get(name, f"see [its section](#{section.replace('.', '')})")
        yield f"| `{name}` | {_type(hint)} | {_default(known, hint)} | {allowed} | {_line(meaning)} |"


def _docstrings(kind: type) -> dict[str, str]:
    """Return the docstring below each field of a dataclass, by the field's name."""
    (node,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for statement, after in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[ast.unparse(statement.target)] = str(after.value.value)
    return found


def _choices(hint: object) -> list[Enum]:
    kind = get_args(hint)[0] if get_origin(hint) is list else hint
    return list(kind) if isinstance(kind, type) and issubclass(kind, Enum) else []


def _type(hint: object) -> str:
    if get_origin(hint) is list:
        each = _type(get_args(hint)[0])
        return f"list of {each}" if each == "text" else f"list of {each}s"
    if is_dataclass(hint) or get_origin(hint) is dict:
        return "mapping"
    return config.RULES.get(hint, "choice").removeprefix("a ")


def _default(known: "Field[object]", hint: object) -> str:
    if is_dataclass(hint):
        return ""
    value = config.plain(known.default if known.default_factory is MISSING else known.default_factory())
    return f"`{value}`" if value and isinstance(value, str) else f"`{json.dumps(value)}`"


def _line(docstring: str) -> str:
    return " ".join(docstring.split()).replace("|", "\\|")


def main() -> None:
    """Command line of `make docs`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    out: Path = parser.parse_args().out
    with files.atomic_write(out) as draft:
        draft.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    command_line.run(main)
