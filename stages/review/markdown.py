"""Markdown of GitHub and GitLab: tables of few lines, whose other rows are folded into one line."""

import html
from collections.abc import Sequence


def code(text: str, longest: int = 60) -> str:
    """Return text of users as it is, in a cell of a table: no Markdown, HTML or @name in it has a meaning."""
    short = text if len(text) <= longest else f"{text[: longest - 3]}..."
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)
    return (
        f"<code>{html.escape(shown, quote=False).replace('|', '&#124;').replace('`', '&#96;')}</code>" if shown else ""
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], shown: int, what: str) -> list[str]:
    """Return the lines of a table of the first `shown` rows, and a line of those after them, folded."""
    lines = [_row(header), _row(["---"] * len(header)), *(_row(row) for row in rows[:shown])]
    return lines + folded([" ".join(cell for cell in row if cell) for row in rows[shown:]], what)


def folded(items: Sequence[str], what: str, most: int = 150) -> list[str]:
    """Return one line that opens to all items, after an empty one; none where there are no items."""
    if not items:
        return []
    listed = [*items[:most], *([f"and {len(items) - most} more"] if len(items) > most else [])]
    return ["", f"<details><summary>{len(items)} {what}</summary>{'<br>'.join(listed)}</details>"]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
