"""reproduce: run every stage up to the report that changed and that this host can run. Not a DVC stage.

Run by `make all`. Plain `dvc repro` stops at the first engine that is for another machine. This command leaves out the
engines that this host can't build, with their `verify` and `benchmark`, and says for each of them what it needs and
which command builds it. What such a machine built or measured and `make import-results` took over stays in use.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages import config
from stages.commands import pipeline_state
from stages.engines import manifest
from stages.foundation import command_line, dvc_project, processes
from stages.metrics import metric_files

GOAL = "report"
RAW = Path("data/raw")
"""Folder into which `make data` puts sets."""


@dataclass(frozen=True)
class Elsewhere:
    """A target whose stages this host can't run, some or all."""

    stages: list[str]
    reason: str
    """Required, found, and the command for the right machine."""


def elsewhere(cfg: config.Config) -> dict[str, Elsewhere]:
    """Return by id the targets that this host can't build, or can't verify and time though they are in `runnable`."""
    found = {}
    for name, target in cfg.targets.items():
        measured = [f"verify@{name}", f"benchmark@{name}"] if name in cfg.runnable else []
        try:
            stages = [f"engine@{name}", *measured]
            manifest.check_host(name, target)
            stages = measured
            if measured:
                manifest.check_run_host(name, target)
        except (RuntimeError, ModuleNotFoundError) as error:
            found[name] = Elsewhere(stages, str(error))
    return found


def state(repo: Any, name: str, target: Elsewhere, metrics: Path) -> str:
    """Return in words what there is of a target of another machine, and what to do where that is not enough."""
    stage = next(s for s in repo.index.graph if s.addressing == target.stages[0])
    if not any(out.hash_info for out in stage.outs):
        return f"{name}: {stage.addressing} has never run: {target.reason}"
    if stale := pipeline_state.changes(repo, target.stages):
        reasons = [f"{key}: {words}" for key, all_words in stale.items() for words in all_words]
        if all(words.endswith((" deleted", " not in cache")) for words in reasons):
            return f"{name}: built elsewhere, not in this workspace; `make pull` brings it if it was pushed"
        return f"{name}: stale ({'; '.join(reasons[:3])}): {target.reason}"
    benchmark = metrics / f"benchmark_{name}.json"
    where = ""
    if benchmark.exists():
        content = metric_files.read(benchmark)
        where = f" at {content['host']['name']} on {content['date'][:10]}"
    return f"{name}: built{where}, up to date"


def require_sources(repo: Any, cfg: config.Data) -> None:
    """Raise FileNotFoundError for the first folder of a set that is missing and that no stage writes."""
    written = {str(Path(out.def_path)) for stage in repo.index.graph if stage.cmd for out in stage.outs}
    root = Path(cfg.root)
    if str(root) in written:
        return
    for name, source in (cfg.sources or {"vistas": config.Source()}).items():
        folder = root / source.root
        if not folder.exists():
            tracked = any(Path(f"{path}.dvc").exists() for path in (folder, *folder.parents))
            place = folder.relative_to(RAW) if folder.is_relative_to(RAW) else folder.name
            add = f"add the set by `make data SRC=/path/to/set NAME={place}`, or set data.root in conf/data"
            step = "`make pull` brings it from the remote" if tracked else add
            raise FileNotFoundError(f"{folder} not found (data.sources.{name}); {step}")


def main() -> int:
    """Command line. Returns DVC's exit status. Raises RuntimeError if DVC's cache could not store an output."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--metrics", type=Path, default=Path("data/metrics"), help="folder of the stages' metrics")
    metrics = parser.parse_args().metrics
    cfg = config.load()
    skipped = elsewhere(cfg)
    names = {stage for target in skipped.values() for stage in target.stages}
    for target in skipped.values():
        # DVC's cache may have an imported engine. No message where it doesn't.
        subprocess.run(["dvc", "checkout", "--quiet", *target.stages], check=False, capture_output=True)
    with dvc_project.opened() as repo:
        require_sources(repo, cfg.data)
        stages = [name for name in pipeline_state.order(repo, GOAL) if name not in names]
    status = processes.run(["dvc", "repro", "--single-item", *stages]).returncode
    with dvc_project.opened() as repo:
        dvc_project.require_stored(repo, stages)
        for name, target in skipped.items():
            print(f"not on this host: {state(repo, name, target, metrics)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    command_line.run(main)
