"""check_lock: check that params.yaml equals conf/, and dvc.lock equals code and parameters. Needs no data.

Run by `make check-lock` and by continuous integration. Prints a line for each stage that is not up to date, and for
what can't be seen from here.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from stages.foundation import command_line
from stages.review import lock, staleness


def composition(root: Path) -> str:
    """Return what is wrong with params.yaml: empty where conf/ gives the same file for the choice that it records.

    The command of `make params` composes, so that both see the same choice.
    """
    current = root / "params.yaml"
    if not current.exists():
        return "params.yaml not found; run `make params` and commit it"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "params.yaml"
        command = [sys.executable, "-m", "stages.commands.params", "--out", str(out)]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["`make params` failed"])[-1].replace(str(out), "params.yaml")
        if out.read_bytes() == current.read_bytes():
            return ""
        keys = lock.changed_keys(lock.params_of(current), lock.params_of(out))
    shown = ", ".join(keys[: staleness.SHOWN]) + (", ..." if len(keys) > staleness.SHOWN else "")
    return f"params.yaml is not what conf/ composes ({shown or 'its text'}); run `make params` and commit it"


def main() -> int:
    """Command line of `make check-lock`. Returns 1 where params.yaml or dvc.lock is behind."""
    command_line.parser(__doc__).parse_args()
    root = Path()
    wrong = composition(root)
    if wrong:
        print(wrong)
    entries = lock.read(root)
    with staleness.opened(root) as pipeline:
        state, total = pipeline.state(entries), len(pipeline.order)
    for name, reasons in state.stale.items():
        print(f"{name}: {'; '.join(map(str, reasons))}")
    for name, reasons in state.elsewhere.items():
        print(f"note: {name}, a stage of another machine: {'; '.join(map(str, reasons))}")
    if state.unknown:
        paths = sorted({path for found in state.unknown.values() for path in found})
        print(f"note: not compared, as DVC's cache is not here (`make pull`): {', '.join(paths)}")
    if state.stale:
        print(
            f"error: dvc.lock is behind in {len(state.stale)} of {total} stages; run `make all`, then commit dvc.lock "
            "and data/metrics",
            file=sys.stderr,
        )
    elif not wrong:
        print(f"params.yaml and dvc.lock are up to date, {total} stages")
    return 1 if wrong or state.stale else 0


if __name__ == "__main__":
    command_line.run(main)
