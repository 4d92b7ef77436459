"""build_engines: the engines of params.yaml that this host can build, by DVC; the command for each other one.

Run by `make engines`. What an engine is made from is reproduced first where it changed.
"""

import argparse
import subprocess
import sys

from stages import config
from stages.engines import manifest


def plan(cfg: config.Config, only: str) -> tuple[list[str], dict[str, str]]:
    """The targets to build here, and for each other one why not; `only` is a target id, or empty for all.

    Raises ValueError for an unknown id.
    """
    chosen = {only: cfg.target(only)} if only else cfg.targets
    here, elsewhere = [], {}
    for name, target in chosen.items():
        try:
            manifest.check_host(name, target)
        except (RuntimeError, ModuleNotFoundError) as error:
            elsewhere[name] = str(error)
            if target.builder is config.Builder.tensorrt:
                elsewhere[name] += f"\n  there, as docs/targets.md says: {command(name, target)}"
        else:
            here.append(name)
    return here, elsewhere


def command(name: str, target: config.Target) -> str:
    """What builds a target's engine on a machine that has neither DVC nor a YAML reader, such as a board."""
    graph = f"data/onnx/{target.deformable_attention.value}/{target.precision.value}"
    return (
        f"python3 -m stages.engine --params params.json --target {name} --graph {graph} --out data/engines/{name} "
        f"--timing-cache .timing_cache/{name}"
    )


def main() -> int:
    """Command line of `make engines`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="", help="target id; default: all")
    only = parser.parse_args().target
    try:
        here, elsewhere = plan(config.load(), only)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    status = 0
    if here:
        status = subprocess.run(["dvc", "repro", *(f"engine@{name}" for name in here)], check=False).returncode
    for name, reason in elsewhere.items():
        print(f"not built on this host: {name}: {reason}", file=sys.stderr)
    return status or (1 if only and elsewhere else 0)


if __name__ == "__main__":
    sys.exit(main())
