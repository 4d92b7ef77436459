"""summary: print where the results are, and their key figures, as a small table. The last step of `make all`."""

from pathlib import Path

from stages import config
from stages.engines import manifest
from stages.foundation import command_line, files


def text(data: Path, cfg: config.Config) -> str:
    """Return the table as lines of text. Raises FileNotFoundError naming the file where a stage has not run."""
    # Not at the top, so that --help does not load the metrics.
    from stages.evaluate import headline

    metrics = data / "metrics"
    evaluated = files.read_json(metrics / "evaluate.json")
    rows = [("checkpoint", headline(evaluated))]
    deploy = cfg.deploy
    variants = ", ".join(variant.value for variant in deploy.variants)
    frames = f"frames {deploy.frame_width_px} x {deploy.frame_height_px}, batch {deploy.batch_size}"
    rows.append(("graph", f"{deploy.graph.value}, {deploy.mode.value}, {frames}: {variants}"))
    for name in cfg.targets:
        built = files.read_json(data / "engines" / name / manifest.NAME)
        figures = f"{built['engine']['file']}, {built['variant']}, {built['precision']}, "
        figures += f"{built['engine']['bytes'] / 1e6:.1f} MB"
        if name in cfg.runnable:
            verified, timed = (
                files.read_json(metrics / f"verify_{name}.json"),
                files.read_json(metrics / f"benchmark_{name}.json"),
            )
            figures += (
                f", {verified['pixel_agreement_pct']:.3f} % of pixels agree, "
                f"{timed['engine']['end_to_end']['hz']:.1f} Hz end to end, "
                f"{timed['speedup_end_to_end']:.2f} x PyTorch eager"
            )
        else:
            figures += ", built, not run on this host"
        rows.append((f"engine {name}", figures))
    rows.append(("report", str(data / "report" / "index.html")))
    rows.append(("graphs", str(data / "onnx")))
    rows.append(("engines", str(data / "engines")))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def main() -> None:
    """Command line of `make summary`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of all artifacts; default: data")
    print(text(parser.parse_args().data, config.load()))


if __name__ == "__main__":
    command_line.run(main)
