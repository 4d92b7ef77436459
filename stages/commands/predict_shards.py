"""predict-shards: run an engine on a tree of pictures and videos as jobs of SLURM, or as processes here.

`make predict-shards SOURCE=tree OUT=folder JOBS=8 LAUNCHER=slurm|local`. Each job is `predict --shard I/N` by submitit;
then the results are gathered. Nodes must see the workspace, its .venv, SOURCE and OUT at the same paths. Run it again
after a failure: what is done is not done again (docs/shards.md).
"""

import argparse
import logging
import shutil
from pathlib import Path

from stages.commands import predict_tree, sweep_jobs
from stages.foundation import command_line
from stages.releases import received

log = logging.getLogger(__name__)


def build(engine: Path, tree: Path, out: Path, jobs: int, launcher: str, options: list[str]) -> None:
    """Run `jobs` shards at once, wait for all, and gather the results.

    `launcher` is a cluster of submitit.AutoExecutor, `slurm` or `local`, and `options` are its parameters as key=value.
    Raises RuntimeError if a shard failed, and as predict_tree.gather does.
    """
    import submitit

    received.check_engine(engine)
    logs = Path("outputs/predict_shards").resolve()
    executor = submitit.AutoExecutor(folder=logs, cluster=launcher)
    parameters = dict(sweep_jobs.option(each) for each in options)
    executor.update_parameters(name="predict", **parameters)
    paths = [path.resolve() for path in (engine, tree, out)]
    with executor.batch():
        started = [executor.submit(_run, *paths, shard, jobs) for shard in range(1, jobs + 1)]
    failed = []
    for shard, job in enumerate(started, start=1):
        log.info("shard %d/%d is job %s: %s", shard, jobs, job.job_id, job.paths.stderr)
        error = f"see {job.paths.stderr}" if job.exception() else job.result()
        if error:
            failed.append(f"shard {shard}/{jobs}: {error}")
    if failed:
        raise RuntimeError(f"{len(failed)} of {jobs} shards failed; run the command again. {failed[0]}")
    predict_tree.gather(tree, out)


def _run(engine: Path, tree: Path, out: Path, shard: int, jobs: int) -> str:
    """Run a shard in a job's process. Returns the message of an error that a user can cause, or nothing."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        received.check_engine(engine)
        predict_tree.run_shard(engine, tree, out, shard, jobs)
    except command_line.BUGS:
        raise
    except command_line.USER_ERRORS as error:
        return command_line.message(error)
    return ""


def main() -> None:
    """Command line of `make predict-shards`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--engine", type=Path, required=True, help="folder of an engine, such as data/engines/cpu")
    parser.add_argument("--source", type=Path, required=True, help="folder with pictures and videos at any depth")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--jobs", required=True, help="number of shards, all at once")
    parser.add_argument("--launcher", choices=["slurm", "local"], default="local", help="what runs them")
    parser.add_argument("options", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.jobs.isdecimal() or not int(args.jobs):
        raise ValueError(f"JOBS: expected the number of shards, 1 or more, found {args.jobs!r}")
    if args.launcher == "slurm" and shutil.which("srun") is None:
        raise ValueError(
            "LAUNCHER=slurm: srun not found on this host; run this on a login node, or LAUNCHER=local here"
        )
    build(args.engine, args.source, args.out, int(args.jobs), args.launcher, args.options)


if __name__ == "__main__":
    command_line.run(main)
