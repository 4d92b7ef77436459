"""summary: print where the results are, and their key figures, as a small table. The last step of `make all`."""

import math
from pathlib import Path

from stages import config
from stages.foundation import command_line
from stages.metrics import metric_files
from stages.report_page import targets


def text(data: Path, cfg: config.Config) -> str:
    """Return the table as lines of text. Raises FileNotFoundError naming the file where a stage has not run."""
    # Not at the top, so that --help does not load the metrics.
    from stages.evaluate import headline

    metrics = metric_files.read_all(data / "metrics")
    evaluated = metrics.get("evaluate") or metric_files.read(data / "metrics" / "evaluate.json")
    graphs = targets.read_graphs(data, {targets.graph_name(target) for target in cfg.targets.values()})
    states = targets.read(metrics, graphs, cfg)
    rows = [("profile", " ".join([cfg.profile, *cfg.overrides]))]
    rows.append(("checkpoint", headline(evaluated)))
    for name, of in evaluated.get("by_source", {}).items():
        rows.append((f"source {name}", headline(of)))
        if own := headline(of.get("protocol", {})):
            rows.append((f"source {name}", f"{own} ({of['protocol']['name']})"))
    deploy = cfg.deploy
    variants = ", ".join(variant.value for variant in deploy.variants)
    frames = f"frames {deploy.frame_width_px} x {deploy.frame_height_px}, batch {deploy.batch_size}"
    rows.append(("graph", f"{deploy.graph.value}, {deploy.mode.value}, {frames}: {variants}"))
    rows += [(f"engine {name}", engine(state, name in cfg.runnable)) for name, state in states.items()]
    rows.append(("report", str(data / "report" / "index.html")))
    rows.append(("graphs", str(data / "onnx")))
    rows.append(("engines", str(data / "engines")))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def engine(state: targets.TargetState, runnable: bool) -> str:
    """Return a target's engine and its figures in words; figures of another engine are left out.

    `runnable` says whether the profile measures the target here.
    """
    built = state.engine
    if built is None:
        return "not built"
    words = [f"{built['file']}, {built['variant']}, {built['precision']}, {built['bytes'] / 1e6:.1f} MB"]
    if state.reason:
        words.append(f"stale ({state.reason})")
    if state.verified:
        # Rounded down: 99.99995 % must not pass for all of them.
        words.append(f"{math.floor(1e4 * state.verified['pixel_agreement_pct']) / 1e4:g} % of pixels agree")
    if state.timed:
        words.append(f"{state.timed['engine']['end_to_end']['hz']:.1f} Hz end to end on {state.timed['host']['name']}")
        if "speedup_end_to_end" in state.timed:
            words.append(f"{state.timed['speedup_end_to_end']:.2f} x PyTorch eager")
    if not (state.verified or state.timed):
        words.append(
            "no figures of this engine"
            if runnable
            else "not measured: that needs a machine of its target (docs/targets.md)"
        )
    return ", ".join(words)


def main() -> None:
    """Command line of `make summary`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all artifacts; default: data")
    print(text(parser.parse_args().data, config.load()))


if __name__ == "__main__":
    command_line.run(main)
