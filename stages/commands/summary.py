"""summary: where the results are, and their key figures in a small table. Run by `make all` at its end."""

from pathlib import Path
from typing import Any

from stages import config
from stages.engines import manifest
from stages.foundation import files


def text(data: Path, cfg: config.Config) -> str:
    """The table as lines of text. Raises FileNotFoundError naming the file where a stage has not run."""
    # It needs pycocotools, which a machine that only runs engines does not have.
    from stages.evaluate import headline

    metrics = data / "metrics"
    evaluated = read(metrics / "evaluate.json")
    rows = [("checkpoint", headline(evaluated))]
    deploy = cfg.deploy
    forms = ", ".join(form.value for form in deploy.deformable_attention)
    frames = f"frames {deploy.frame_width_px} x {deploy.frame_height_px}, batch {deploy.batch_size}"
    rows.append(("graph", f"{deploy.graph.value}, {deploy.mode.value}, {frames}: {forms}"))
    for name in cfg.targets:
        built = read(data / "engines" / name / manifest.NAME)
        figures = f"{built['engine']['file']}, {built['deformable_attention']}, {built['precision']}, "
        figures += f"{built['engine']['bytes'] / 1e6:.1f} MB"
        if name in cfg.measured:
            verified, timed = read(metrics / f"verify_{name}.json"), read(metrics / f"benchmark_{name}.json")
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


def read(path: Path) -> Any:
    """Parse a JSON file that a stage wrote."""
    if not path.exists():
        raise FileNotFoundError(f"{path} not found; run `make all`")
    return files.read_json(path)


def main() -> None:
    """Command line."""
    try:
        print(text(Path("data"), config.load()))
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
