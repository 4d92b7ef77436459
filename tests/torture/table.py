"""The table: a row for each fault and command, written as JSON and as Markdown after each row."""

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from stages.foundation import files


@dataclass
class Row:
    """A fault that was tried on a command."""

    section: str
    fault: str
    subject: str
    command: str
    tried: int = 0
    held: int = 0
    """Times after which nothing was wrong."""
    outcomes: dict[str, int] = field(default_factory=dict)
    """What the command did, and how often."""
    faults: list[str] = field(default_factory=list)
    """What was wrong."""

    def add(self, outcome: str, faults: list[str]) -> None:
        """Count a trial."""
        self.tried += 1
        self.held += not faults
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self.faults += faults


type Rows = dict[str, Callable[[], Row]]
"""Name of a row -> the function that tries it."""


class Table:
    """The rows of a run. Threads may add rows."""

    def __init__(self, out: Path, about: dict[str, str | int]) -> None:
        """`out` is the path of both files without their suffix, and `about` says how the program was called."""
        self._out, self._about, self._lock = out, about, threading.Lock()
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Add a row and write the files."""
        with self._lock:
            self.rows.append(row)
            self.rows.sort(key=lambda row: row.section)
            state = "held" if row.held == row.tried else "FAILED"
            print(f"{state}: {row.fault}: {row.subject}: {row.held} of {row.tried}", flush=True)
            for fault in row.faults:
                print(f"    {fault}", flush=True)
            content = {**self._about, "rows": [asdict(row) for row in self.rows]}
            files.write_json(self._out.with_suffix(".json"), content)
            self._out.with_suffix(".md").write_text(self.markdown(), encoding="utf-8")

    def failed(self) -> int:
        """Return the number of rows in which something was wrong."""
        return sum(row.held != row.tried for row in self.rows)

    def markdown(self) -> str:
        """Return the table as Markdown, a section for each kind of fault."""
        lines: list[str] = []
        for section in dict.fromkeys(row.section for row in self.rows):
            lines += [f"### {section}", "", "| fault | what | tried | held | outcome |", "|---|---|---|---|---|"]
            for row in (row for row in self.rows if row.section == section):
                outcome = ", ".join(f"{name}: {count}" for name, count in row.outcomes.items())
                if row.faults:
                    outcome += "; WRONG: " + "; ".join(dict.fromkeys(row.faults))
                cells = (row.fault, f"{row.subject}", str(row.tried), str(row.held), outcome)
                lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
            commands = dict.fromkeys((row.subject, row.command) for row in self.rows if row.section == section)
            lines += ["", "Commands:", "", "```bash"]
            lines += [f"{command}  # {subject}" for subject, command in commands] + ["```", ""]
        return "\n".join(lines)
