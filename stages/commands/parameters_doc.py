"""parameters_doc: write docs/parameters.md from the docstrings of stages/config.py. Run by `make docs`."""

import ast
import inspect
import re
from pathlib import Path

from stages import config
from stages.foundation import command_line, files

HEAD = """# Parameters

Every key of params.yaml, generated from `stages/config.py` by `make docs`. Edit values under `conf/`, then run
`make params`. Defaults are those of the schema; a profile sets its own.
"""


def text() -> str:
    """Return the document: a section per config class, a row per field."""
    sections = [HEAD]
    for node in ast.parse(inspect.getsource(config)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        rows = list(_rows(node))
        if not rows:
            continue
        about = ast.get_docstring(node) or ""
        sections.append(f"## {node.name}\n\n{_line(about)}\n")
        sections.append("| key | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n")
    return "\n".join(sections)


def _rows(node: ast.ClassDef) -> list[str]:
    rows = []
    for statement, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign):
            continue
        documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        meaning = _line(str(after.value.value)) if documented else "see its section"  # type: ignore[union-attr]
        default = ast.unparse(statement.value) if statement.value else ""
        if made := re.fullmatch(r"field\(default_factory=(?:lambda: )?(.*)\)", default):
            default = made[1]
        default = re.sub(r"^[A-Z]\w+\.", "", default)  # Removes the name of an enum.
        cells = (ast.unparse(statement.target), ast.unparse(statement.annotation), default)
        rows.append("| " + " | ".join(f"`{c}`" for c in cells) + f" | {meaning} |")
    return rows


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
