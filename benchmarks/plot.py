"""Plots the results of `make bench`: milliseconds from a frame's bytes to its map, for an engine and its alternatives.

Run: python -m benchmarks.plot --engine data/bench/h100.json --peers data/bench/h100_peers.json
--out data/bench/h100.svg
"""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from stages.foundation import command_line, files
from stages.report_page.figures import EAGER, ENGINE, INK, MUTED, STYLE


def bars(engine: dict[str, Any], peers: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Return label, p50 and p90 in ms of the engine and of each alternative that returns a map, the fastest first."""
    about = engine["engine"]
    label = f"ours, TensorRT {about['builder_version']}, {about['precision']}"
    found = [(label, engine["decoded_p50_ms"], engine["decoded_p90_ms"])]
    for name, one in peers["peers"].items():
        if "alone" not in name:
            found.append((f"PyTorch {name}" if name.startswith("eager") else name, one["p50_ms"], one["p90_ms"]))
    if "tao_deploy" in engine:
        spent = engine["tao_deploy"]["end_to_end_p50_ms"], engine["tao_deploy"]["end_to_end_p90_ms"]
        found.append(("TAO's graph, TAO Deploy's merge", *spent))
    return sorted(found, key=lambda bar: bar[1])


def draw(engine: dict[str, Any], peers: dict[str, Any], out: Path) -> None:
    """Write the plot as SVG to `out`: a bar to the median, a line to the 90th percentile, on a logarithmic axis."""
    found = bars(engine, peers)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 0.9 + 0.34 * len(found)), layout="constrained")
        axes = figure.add_subplot()
        for y, (label, p50, p90) in enumerate(found):
            axes.barh(y, p50, color=ENGINE if label.startswith("ours") else EAGER, height=0.62)
            axes.plot([p50, p90], [y, y], color=INK, linewidth=1)
            axes.annotate(
                f"{p50:,.1f} ms, {1000 / p50:,.1f} Hz", (max(p50, p90), y), (4, 0), textcoords="offset points",
                va="center", color=MUTED, fontsize=7.5,
            )  # fmt: skip
        axes.set_yticks(range(len(found)), [label for label, _, _ in found])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.grid(False, axis="y")
        top = max(p90 for _, _, p90 in found)
        xlabel = f"ms from a frame's bytes to its map, one at a time, {engine['gpu']['name']}; p50, line to p90"
        axes.set(xscale="log", xlabel=xlabel, ylim=(len(found) - 0.4, -0.6), xlim=(1, 6 * top))
        with files.atomic_write(out) as draft:
            figure.savefig(draft, format="svg", metadata={"Date": None})


def main() -> None:
    """Command line of the module."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--engine", type=Path, required=True, help="JSON that benchmarks.engines wrote")
    parser.add_argument("--peers", type=Path, required=True, help="JSON that benchmarks.peers wrote")
    parser.add_argument("--out", type=Path, required=True, help="SVG to write")
    args = parser.parse_args()
    draw(files.read_json(args.engine), files.read_json(args.peers), args.out)


if __name__ == "__main__":
    command_line.run(main)
