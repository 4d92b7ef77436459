"""board: verify and time an engine on the machine that it is for, or run it on a source. Runs on devices.

Run as `python3 kit_ID verify | benchmark | predict SOURCE | tune` with the folder that `make kit` packed. Where the kit
has a graph in place of an engine, `build` comes first. Needs Python 3.10 or newer with NumPy and OpenCV; an engine of
another builder than `cuda` also needs that builder, and `tune` NVRTC. Complete figures are packed for
`make import-results`.
"""

import shlex
from pathlib import Path

from stages import benchmark, config, engine, verify
from stages.commands import predict, results, tune
from stages.engines import build_record, manifest
from stages.foundation import command_line, files
from stages.releases import signing

PARAMETERS = Path("params.json")


def build(layout: results.Layout, cfg: config.Config) -> None:
    """Build the engine of a target from its graph. Raises RuntimeError where this host is not what the target needs."""
    name, target = layout.name, config.find_target(cfg, layout.name)
    manifest.check_host(name, target)
    manifest.check_run_host(name, target)
    graph, cache = (layout.root / path for path in (results.graph_folder(target), Path(".timing_cache") / name))
    engine.build(graph, layout.engine, name, target, cache, layout.metrics("engine"))
    results.record(layout, "engine", cfg)


def measure(layout: results.Layout, stage: str, cfg: config.Config) -> None:
    """Run `verify` or `benchmark` on the engine, and record it.

    Raises RuntimeError where the engine is not for this host, or is not as accurate as required.
    """
    coco, metrics = layout.root / results.COCO, layout.metrics(stage)
    if stage == "verify":
        verify.build(layout.engine, layout.root / results.PREDICTIONS, coco, layout.maps, metrics, layout.name, cfg)
    else:
        benchmark.build(layout.engine, None, coco, metrics, layout.name, cfg)
    results.record(layout, stage, cfg)


def finish(layout: results.Layout, with_engine: bool, out: Path, key: Path | None) -> None:
    """Pack the results into the tar file `out`, write their signature by `key` beside it, and say what is next."""
    results.pack(layout, with_engine, out)
    both = f" and {signed.name}" if (signed := signing.sign_file(out, key)) else ""
    print(f"{files.printable(out)}: {out.stat().st_size / 1e6:.1f} MB. Copy it{both} to the workspace; there:")
    print(f"  make import-results FILE={shlex.quote(out.name)}")


def main() -> None:
    """Command line of a kit."""
    root = build_record.ROOT
    again = f"python3 {root.name}"
    name = str(files.read_json(root / build_record.KIT)["target"])
    layout, cfg = results.Layout(root, name), config.load(root / PARAMETERS)
    target = config.find_target(cfg, name)
    builds = (root / results.graph_folder(target)).is_dir()
    parser = command_line.parser(f"Engine {name}: verify it on this machine, time it, or run it.")
    parser.prog = again
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    if builds:
        commands.add_parser("build", help="build the engine, which this kit has the graph of")
    commands.add_parser("verify", help="compare the engine's maps with the checkpoint's")
    commands.add_parser("benchmark", help="time the engine on pictures of the validation set")
    source = commands.add_parser("predict", help="run the engine on a picture, folder, video, camera or stream")
    source.add_argument("source", metavar="SOURCE", help="picture, folder, video, camera number, or URL (rtsp://...)")
    source.add_argument("--out", help="folder for overlays and segments.jsonl; default: nothing is written")
    source.add_argument("--limit", type=int, default=0, help="end after this many frames; 0: at the source's end")
    if target.builder is config.Builder.cuda:
        measure_tiles = commands.add_parser(
            "tune", help="measure tiles of the kernels, for an engine that is built again"
        )
        measure_tiles.add_argument("--out", type=Path, default=Path(f"tiles_{name}.yaml"), help="file for the tiles")
    args = parser.parse_args()
    key = signing.key()
    if args.command == "build":
        build(layout, cfg)
    elif builds and not layout.engine.is_dir():
        raise FileNotFoundError(f"no engine here yet: this machine builds it; run `{again} build`")
    elif args.command == "predict":
        out = [f"--out={args.out}"] if args.out else []
        limits = [f"--limit={args.limit}", f"--max-picture-mpx={cfg.data.max_picture_mpx}"]
        predict.main([f"--engine={layout.engine}", f"--source={args.source}", *limits, *out])
        return
    elif args.command == "tune":
        tune.build(layout.engine, args.out, name, target)
        return
    else:
        measure(layout, args.command, cfg)
    if missing := results.missing(layout, cfg):
        print(f"next: {again} {missing[0]}")
    else:
        finish(layout, builds, layout.root / f"outputs/results_{name}.tar", key)


if __name__ == "__main__":
    command_line.run(main)
