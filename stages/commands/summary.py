"""summary: print where the results are, and their key figures, as a small table. The last step of `make all`."""

from pathlib import Path

from stages import config
from stages.foundation import command_line, files


def text(data: Path, cfg: config.Config) -> str:
    """Return the table as lines of text. Raises FileNotFoundError naming the file where a stage has not run."""
    # Not at the top, so that --help does not load the metrics.
    from stages.evaluate import headline

    metrics = data / "metrics"
    evaluated = files.read_json(metrics / "evaluate.json")
    rows = [("profile", " ".join([cfg.profile, *cfg.overrides]))]
    rows.append(("checkpoint", headline(evaluated)))
    deploy = cfg.deploy
    variants = ", ".join(variant.value for variant in deploy.variants)
    frames = f"frames {deploy.frame_width_px} x {deploy.frame_height_px}, batch {deploy.batch_size}"
    rows.append(("graph", f"{deploy.graph.value}, {deploy.mode.value}, {frames}: {variants}"))
    rows += [(f"engine {name}", engine(name, metrics)) for name in cfg.targets]
    rows.append(("report", str(data / "report" / "index.html")))
    rows.append(("graphs", str(data / "onnx")))
    rows.append(("engines", str(data / "engines")))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def engine(name: str, metrics: Path) -> str:
    """Return the figures of a target's engine in words; those of another engine than the present one are left out."""
    file = metrics / f"engine_{name}.json"
    if not file.exists():
        return "not built"
    built = files.read_json(file)
    figures = f"{built['file']}, {built['variant']}, {built['precision']}, {built['bytes'] / 1e6:.1f} MB"
    measured = [metrics / f"{stage}_{name}.json" for stage in ("verify", "benchmark")]
    if not all(path.exists() for path in measured):
        return f"{figures}, built, not run on this host"
    verified, timed = (files.read_json(path) for path in measured)
    if {verified["engine_sha256"], timed["engine_sha256"]} != {built["engine_sha256"]}:
        return f"{figures}, its figures are of another engine"
    figures += f", {verified['pixel_agreement_pct']:.3f} % of pixels agree"
    figures += f", {timed['engine']['end_to_end']['hz']:.1f} Hz end to end on {timed['host']['name']}"
    if "speedup_end_to_end" in timed:
        figures += f", {timed['speedup_end_to_end']:.2f} x PyTorch eager"
    return figures


def main() -> None:
    """Command line of `make summary`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all artifacts; default: data")
    print(text(parser.parse_args().data, config.load()))


if __name__ == "__main__":
    command_line.run(main)
