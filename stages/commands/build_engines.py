"""build_engines: build the engines of params.yaml that this host can build, and say why for each other one.

Run by `make engines`. Not a DVC stage: it runs `dvc repro engine@TARGET`, which first reproduces the changed stages
that the engine depends on.
"""

import sys

from stages import config
from stages.engines import manifest
from stages.foundation import command_line, dvc_project, processes


def plan(cfg: config.Config, only: str) -> tuple[list[str], dict[str, str]]:
    """Return the ids of the targets to build here, and for each other target the reason why not.

    `only` is a target id, or empty for all targets. Raises ValueError for an unknown id.
    """
    chosen = {only: config.find_target(cfg, only)} if only else cfg.targets
    here, elsewhere = [], {}
    for name, target in chosen.items():
        try:
            manifest.check_host(name, target)
        except (RuntimeError, ModuleNotFoundError) as error:
            elsewhere[name] = str(error)
        else:
            here.append(name)
    return here, elsewhere


def main() -> int:
    """Command line of `make engines`. Returns the exit status: DVC's, or 1 if the only target can't be built here."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--target", default="", help="target id; default: all")
    only = parser.parse_args().target
    here, elsewhere = plan(config.load(), only)
    status = 0
    if here:
        status = processes.run(["dvc", "repro", *(f"engine@{name}" for name in here)]).returncode
        with dvc_project.opened() as repo:
            dvc_project.require_stored(repo, [f"engine@{name}" for name in here])
    for name, reason in elsewhere.items():
        print(f"not built on this host: {name}: {reason}", file=sys.stderr)
    return status or (1 if only and elsewhere else 0)


if __name__ == "__main__":
    command_line.run(main)
