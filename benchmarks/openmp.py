"""Times small PyTorch operators by how OpenMP's threads wait, on a quiet machine and beside one busy process.

Run: python -m benchmarks.openmp --out data/bench/openmp.json [--preload /usr/lib/.../libgomp.so.1 LIBIOMP5]
Run it on a machine that is otherwise idle. Each setting is a process of its own; settings take turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from stages.foundation import command_line, files

SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "as here": {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
LOOP = """
import json, time, torch
torch.manual_seed(0)
blocks = [[torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 64)] for _ in range(6)]
net = torch.nn.Sequential(*sum(blocks, []))
x = torch.randn(512, 64)
def steps(count):
    for _ in range(count):
        net(x).square().mean().backward()
steps(20)
start = time.perf_counter()
steps(200)
print(json.dumps(time.perf_counter() - start))
"""
"""Forward and backward passes of operators that take about 100 µs each, as those of a small training do."""
BUSY = "while True: pass"


def seconds(env: dict[str, str]) -> float:
    """Run the loop in a process with these variables and return its time in seconds."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    done = subprocess.run([sys.executable, "-c", LOOP], env={**kept, **env}, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


def main() -> None:
    """Command line."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the figures")
    parser.add_argument("--runs", type=int, default=5, help="runs of each setting")
    parser.add_argument("--preload", type=Path, nargs="*", default=[], help="other OpenMP libraries to put before it")
    args: argparse.Namespace = parser.parse_args()
    libraries = {"PyTorch's own": {}, **{path.name: {"LD_PRELOAD": str(path)} for path in args.preload}}
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for beside in ("quiet", "busy"):
        other = subprocess.Popen([sys.executable, "-c", BUSY]) if beside == "busy" else None
        try:
            for _ in range(args.runs):
                for library, preload in libraries.items():
                    for name, env in SETTINGS.items():
                        rows = found.setdefault(library, {}).setdefault(name, {})
                        rows.setdefault(beside, []).append(seconds({**preload, **env}))
        finally:
            if other:
                other.kill()
                other.wait()
    for library, settings in found.items():
        for name, times in settings.items():
            print(library, name, {k: f"{min(v):.2f} {statistics.median(v):.2f} {max(v):.2f}" for k, v in times.items()})
    args.out.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(args.out, found)


if __name__ == "__main__":
    command_line.run(main)
