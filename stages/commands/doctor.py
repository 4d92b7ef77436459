"""doctor: what the project needs of this machine and this workspace, what is there, and what to do about the rest.

Run by `make doctor`, before or after `make env`, in a workspace or on a board. Exit status 1 where a required line is
not ok. What can crash or hang runs in a process of its own; a check that fails is a line and never a traceback.
"""

import argparse
import importlib
import json
import platform
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from stages.doctor.lines import NOT_HERE, OPTIONAL, REQUIRED, Line
from stages.foundation import command_line

ANSWER_S = 60
"""Seconds after which a check in its own process is given up. They all start at once and take seconds; DVC may take
longer where it has to read a large set for the first time."""


@dataclass(frozen=True)
class Check:
    """A function of stages/doctor that returns lines."""

    function: str
    """Module and function in stages/doctor, such as host.python."""
    name: str
    """Name of its line if it does not end."""
    apart: bool = False
    """True to run it in a process of its own."""
    workspace: bool = False
    """True for a check of a workspace alone."""
    board: bool = False
    """True for a check of a board alone."""
    level: str = REQUIRED


CHECKS = (
    Check("host.python", "Python"),
    Check("host.uv", "uv", workspace=True),
    Check("host.environment", "environment", workspace=True),
    Check("host.packages", "NumPy, OpenCV", apart=True, board=True),
    Check("host.disk", "disk"),
    Check("host.memory", "memory"),
    Check("host.cores", "cores"),
    Check("gpu.device", "GPU", apart=True, level=OPTIONAL),
    Check("gpu.tensorrt", "TensorRT", apart=True, level=OPTIONAL),
    Check("gpu.tensorrt_rtx", "TensorRT-RTX", apart=True, level=OPTIONAL),
    Check("gpu.nvrtc", "NVRTC", apart=True, level=OPTIONAL),
    Check("project.tao", "TAO's wheel", workspace=True),
    Check("project.compiled_op", "TAO's compiled op", apart=True, workspace=True, level=OPTIONAL),
    Check("host.docker", "docker", apart=True, level=OPTIONAL),
    Check("project.remote", "remote", apart=True, workspace=True),
    Check("project.tracked", "data, dvc.lock", apart=True, workspace=True, level=OPTIONAL),
    Check("gpu.targets", "targets", apart=True, level=OPTIONAL),
)


def on_board() -> bool:
    """Return whether this folder is a board's: no repository, or a machine that the environment is not for."""
    return not (Path(".dvc").is_dir() and Path("uv.lock").is_file()) or platform.machine() != "x86_64"


def examine(board: bool) -> list[Line]:
    """Run all checks and return their lines, in the order of CHECKS. Takes at most ANSWER_S and a few seconds."""
    started = {
        check.function: subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "stages.commands.doctor", "--only", check.function],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for check in CHECKS
        if check.apart and not _skipped(check, board)
    }
    end, lines = time.monotonic() + ANSWER_S, list[Line]()
    for check in CHECKS:
        if check.board and not board:
            continue
        if check.workspace and board:
            lines.append(Line(check.name, "in a workspace", "not here", True, NOT_HERE))
        elif check.apart:
            lines += _answer(check, started[check.function], max(0.1, end - time.monotonic()))
        else:
            lines += _run(check, board)
    return lines


def _skipped(check: Check, board: bool) -> bool:
    return (check.workspace and board) or (check.board and not board)


def _run(check: Check, board: bool) -> list[Line]:
    """Run a check in this process. Its exception, of any kind, becomes its line."""
    module, _, name = check.function.partition(".")
    try:
        function = getattr(importlib.import_module(f"stages.doctor.{module}"), name)
        found: list[Line] = function(board) if name == "python" else function()
    except Exception as error:
        return [_failed(check, str(error).strip() or type(error).__name__)]
    return found


def _answer(check: Check, process: "subprocess.Popen[str]", patience_s: float) -> list[Line]:
    """Wait for a check's process and return its lines, or one that says how it ended."""
    try:
        out, err = process.communicate(timeout=patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return [_failed(check, f"no answer within {ANSWER_S} s")]
    if process.returncode:
        last = err.strip().rpartition("\n")[2]
        return [_failed(check, f"ended by signal {-process.returncode}" if process.returncode < 0 else last)]
    # Libraries may print lines of their own before.
    return [Line(**each) for each in json.loads(out.strip().rpartition("\n")[2])]


def _failed(check: Check, found: str) -> Line:
    fix = "make env" if "No module named" in found and not on_board() else "see what it says; docs/troubleshooting.md"
    return Line(check.name, "works", " ".join(found.split()), False, check.level, fix)


def table(lines: Iterable[Line]) -> str:
    """Return the lines as a table, a few words a cell, with what to do below each line that is not ok."""
    rows = [("", "what", "required", "found")]
    marks = {True: "ok", False: "FAILS"}
    text = []
    for each in lines:
        mark = "-" if each.level == NOT_HERE else marks[each.ok] if each.ok or each.level == REQUIRED else "optional"
        rows.append((mark, each.name, each.required, each.found))
        text.append(each.fix)
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    shown = []
    for row, fix in zip(rows, ["", *text], strict=True):
        head = f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  "
        cells = [textwrap.wrap(cell, 46) or [""] for cell in row[2:]]
        height = max(map(len, cells))
        for i in range(height):
            left, right = (cell[i] if i < len(cell) else "" for cell in cells)
            shown.append(f"{head if i == 0 else ' ' * len(head)}{left:46}  {right}".rstrip())
        if fix:
            shown.append(f"{' ' * len(head)}fix: {fix}")
    return "\n".join(shown)


def main() -> int:
    """Command line of `make doctor`. Returns the exit status: 1 where a required line is not ok."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--json", action="store_true", help="print a list of {name, required, found, ok, level, fix}")
    parser.add_argument("--only", choices=[check.function for check in CHECKS], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        check = next(check for check in CHECKS if check.function == args.only)
        print(json.dumps([asdict(each) for each in _run(check, on_board())]))
        return 0
    lines = examine(on_board())
    print(json.dumps([asdict(each) for each in lines], indent=2) if args.json else table(lines))
    failed = [each.name for each in lines if each.level == REQUIRED and not each.ok]
    if failed and not args.json:
        print(f"\n{len(failed)} of {len(lines)} lines fail: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    command_line.run(main)
