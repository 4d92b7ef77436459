"""Bad days on purpose: kills, full disks, two at once, two clones, wrong machines, long runs. Writes a table of it.

Run: make torture [ARGS='--only kills --moments 3'], or python -m tests.torture. It needs the environment of `make env`,
and root for full disks. The exit status is 1 if a row has a fault. The pipeline of the smallest profile is built once
in the work folder; every trial disturbs a copy of it.
"""

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stages.engines.manifest import cpu_model
from tests.conftest import REPO
from tests.torture import clones, full_disks, kills, long_runs, pairs, wrong_machines
from tests.torture.ground import Ground
from tests.torture.table import Row, Rows, Table

SECTIONS = ("wrong_machines", "clones", "pairs", "full_disks", "kills", "long_runs")


def _try(table: Table, make: Callable[[], Row]) -> None:
    table.add(make())


def main() -> int:
    """Command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="make torture", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections; default: all")
    parser.add_argument("--rows", default="", help="only rows whose name has this regular expression: 'kill train'")
    parser.add_argument("--moments", type=int, default=10, help="random moments, or repetitions, of each row")
    parser.add_argument("--minutes", type=float, default=60, help="duration of predict's long run")
    parser.add_argument("--pictures", type=int, default=20_000, help="pictures of the long conversion")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument("--jobs", type=int, default=1, help="rows at once")
    parser.add_argument("--work", type=Path, default=REPO / "outputs/torture_work", help="folder for the workspaces")
    parser.add_argument("--out", type=Path, default=REPO / "outputs/torture", help="table, without .json and .md")
    args = parser.parse_args()
    # A shell starts programs in the background with SIGINT ignored, and what they start would ignore it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.work.mkdir(parents=True, exist_ok=True)
    ground = Ground(args.work)
    about: dict[str, str | int] = {
        "command": f"make torture ARGS='{' '.join(sys.argv[1:])}'",
        "cpu": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
    }
    table = Table(args.out, about)
    todo: Rows = {}
    modules = {"wrong_machines": wrong_machines, "clones": clones, "pairs": pairs, "full_disks": full_disks}
    for name, module in (modules | {"kills": kills}).items():
        if name in args.only:
            todo |= module.rows(ground, args.moments, args.seed)
    if "long_runs" in args.only:
        todo |= long_runs.rows(ground, args.minutes, args.pictures)
    with ThreadPoolExecutor(args.jobs) as pool:
        started = [pool.submit(_try, table, make) for name, make in todo.items() if re.search(args.rows, name)]
        for one in started:
            one.result()
    print(f"{args.out}.md: {len(table.rows)} rows, {table.failed()} with faults")
    return 1 if table.failed() else 0


if __name__ == "__main__":
    sys.exit(main())
