"""sweep: run the pipeline for each point of a grid of parameters, as experiments of DVC, and print their metrics.

`make sweep GRID='train.epochs=choice(1,2) model=nano,swin_tiny' [STAGE=evaluate] [NAME=prefix] [JOBS=n]`. Every point
starts from the choice that params.yaml records. LAUNCHER=dvc, the default, puts the points into DVC's queue and runs
it on this machine. LAUNCHER=slurm makes each a job of SLURM, and LAUNCHER=local a process here, by sweep_jobs.py.
"""

import argparse
import contextlib
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stages.commands import params, sweep_jobs
from stages.config import choice, composition
from stages.foundation import command_line, dvc_project, git

HEADLINE = r"\b(pq|miou|ap)$"
"""Metrics that the table shows, where the stage has them."""


def points(conf: Path, grid: str) -> list[list[str]]:
    """The overrides of each point of a grid, in the order of DVC's own queue.

    Raises ValueError for an override, or a point, that does not compose with the recorded choice.
    """
    from dvc.utils.hydra import get_hydra_sweeps

    written = params.split(grid)
    try:
        found = [list(point["grid"]) for point in get_hydra_sweeps({"grid": written})]
        chosen = [choice.recorded(conf.parent / choice.FILE).extended(point) for point in found]
    except composition.ERRORS as error:
        raise ValueError(f"GRID: {composition.problem(error, conf, [])}") from error
    with TemporaryDirectory() as folder:
        for point, each in zip(found, chosen, strict=True):
            try:
                params.build(conf, Path(folder) / choice.FILE, each.for_hydra())
            except ValueError as error:
                raise ValueError(f"GRID, at {' '.join(point)}: {error}") from error
    return found


def run_queue(names: list[str], grid: str, stage: str, jobs: int) -> None:
    """Queue all points of a grid and run the queue, with what else is in it, until it is empty."""
    options = [word for each in params.split(grid) for word in ("-S", each)]
    prefix = names[0].removesuffix("-1") if len(names) > 1 else names[0]
    sweep_jobs.must("dvc", "exp", "run", "--queue", "--name", prefix, *options, stage)
    sweep_jobs.must("dvc", "exp", "run", "--run-all", "--jobs", str(jobs))


def require_new(names: list[str]) -> None:
    """Raise ValueError for a name that git or DVC knows: the table would show its metrics if a new one failed."""
    from dvc.repo.experiments.utils import exp_refs_by_names

    with dvc_project.opened() as repo:
        experiments = exp_refs_by_names(repo.scm, set(names))
    for name in names:
        what = "an experiment" if experiments[name] else "a commit" if git.commit(Path(), name) else ""
        if what:
            raise ValueError(f"NAME: must be new, found {name}, which is {what} already; choose another")


def metric_files(stage: str) -> list[str]:
    """The files of metrics of a stage, or of all stages of a group. Raises ValueError for an unknown stage."""
    from dvc.exceptions import DvcException

    with dvc_project.opened() as repo:
        _ = repo.index  # A faulty dvc.yaml is another error.
        try:
            return [out.def_path for each in repo.stage.collect(stage) for out in each.outs if out.metric]
        except DvcException as error:
            found = f"found {stage!r}; `dvc stage list` prints them"
            raise ValueError(f"STAGE: must be a stage of dvc.yaml, {found}") from error


def table(names: list[str], found: list[list[str]], paths: list[str]) -> tuple[str, list[str]]:
    """The metrics in `paths` as a Markdown table, a row for each experiment, and the names of those that failed."""
    import dvc.api
    from dvc.exceptions import DvcException

    metrics: dict[str, dict[str, float]] = {name: {} for name in names}
    missing = []
    for name in names:
        try:
            dvc.api.params_show(choice.FILE, rev=name)
        except DvcException:
            missing.append(name)
            continue
        # DVC leaves a file out of an experiment that git does not track.
        with contextlib.suppress(OSError):
            metrics[name] = dict(_numbers(dvc.api.metrics_show(*paths, rev=name))) if paths else {}
    columns = list(dict.fromkeys(key for each in metrics.values() for key in each))
    columns = [key for key in columns if re.search(HEADLINE, key)] or columns[:8]
    varied = [i for i in range(len(found[0])) if len({point[i] for point in found}) > 1] or range(len(found[0]))
    rows = [["experiment", *(found[0][i].partition("=")[0] for i in varied), *columns]]
    rows.append(["---"] * len(rows[0]))
    for name, point in zip(names, found, strict=True):
        values = [f"{metrics[name][key]:.5g}" if key in metrics[name] else "" for key in columns]
        rows.append([name, *(point[i].partition("=")[2].replace("|", "\\|") for i in varied), *values])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines), missing


def _numbers(content: Any, key: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _numbers(value, f"{key}.{name}".lstrip("."))
    elif isinstance(content, int | float):
        yield key, content


def main() -> int:
    """Command line of `make sweep`. Returns 1 if an experiment has no result."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--grid", required=True, help="Hydra overrides; several values as key=1,2 or key=choice(1,2)")
    parser.add_argument("--stage", default="evaluate", help="the stage to reach")
    parser.add_argument("--name", default="", help="prefix of the experiments' names")
    parser.add_argument("--jobs", default="auto", help="experiments at once; auto: one")
    parser.add_argument("--launcher", choices=["dvc", "slurm", "local"], default="dvc", help="what runs them")
    parser.add_argument("options", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.jobs != "auto" and not args.jobs.isdecimal():
        raise ValueError(f"JOBS: must be auto or a whole number, found {args.jobs!r}")
    jobs = 1 if args.jobs == "auto" else max(1, int(args.jobs))
    if args.launcher == "slurm" and shutil.which("srun") is None:
        raise ValueError("LAUNCHER=slurm: srun not found on this host; run this on a login node, or LAUNCHER=dvc here")
    print(f"{choice.recorded(Path(choice.FILE))} (recorded in {choice.FILE})", flush=True)
    found, paths = points(Path("conf"), args.grid), metric_files(args.stage)
    prefix = args.name or time.strftime("sweep-%Y%m%d-%H%M%S")
    names = [f"{prefix}-{i}" for i in range(1, len(found) + 1)] if len(found) > 1 else [prefix]
    require_new(names)
    if args.launcher == "dvc":
        run_queue(names, args.grid, args.stage, jobs)
    else:
        sweep_jobs.run(names, found, args.stage, jobs, args.launcher, args.options)
    text, missing = table(names, found, paths)
    print(text)
    for name in missing:
        place = f"`dvc queue logs {name}`" if args.launcher == "dvc" else f"outputs/sweeps/{names[0]}/logs"
        print(f"{name} failed; its messages: {place}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    command_line.run(main)
