"""engine@TARGET: graph -> an engine for one target, with engine.json beside it.

Checks that this host and the graph are what the target needs before it builds. Cost: seconds to minutes. Not
deterministic, because builders choose kernels by their timings. engine.json describes the engine, build.json its build,
and the metrics repeat the facts that the report shows.
"""

import logging
import time
from pathlib import Path

from stages import config
from stages.engines import build_record, interface, manifest
from stages.foundation import command_line, files
from stages.inference import description

log = logging.getLogger(__name__)


def build(graph: Path, out: Path, name: str, target: config.Target, timing_cache: Path, metrics: Path) -> None:
    """Build the engine of target `name` from graph/graph.onnx into the folder `out`; write the JSON file `metrics`.

    timing_cache: file of TensorRT's timings, which is read if it exists, and written. Raises RuntimeError if this host
    or the graph is not what the target needs, or if the builder fails, with its message.
    """
    manifest.check_host(name, target)
    about = description.read(graph)
    for key in ("precision", "variant"):
        wanted, found = getattr(target, key).value, getattr(about, key)
        if found != wanted:
            raise RuntimeError(
                f"target {name} needs a graph with {key} {wanted}, found {found} in {graph / description.NAME}; give "
                f"--graph data/onnx/{target.variant.value}/{target.precision.value}"
            )
    backend = interface.backend(target)
    with files.atomic_write(out) as draft:
        draft.mkdir()
        engine = draft / f"{name}{backend.SUFFIX}"
        start = time.perf_counter()
        backend.build(graph / description.ONNX, engine, target, timing_cache)
        seconds = time.perf_counter() - start
        manifest.write(draft, name, engine, about, target)
        build_record.write(draft, target, seconds)
        log.info("%s: %.1f MB in %.1f s", name, engine.stat().st_size / 1e6, seconds)
    files.write_json(metrics, manifest.facts(out))


def main() -> None:
    """Command line of the stage."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--graph", type=Path, required=True, help="folder of graph.onnx and graph.json")
    parser.add_argument("--target", required=True, help="target id, a key of targets in the parameters")
    parser.add_argument("--out", type=Path, required=True, help="folder for the engine and engine.json")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for the figures")
    parser.add_argument("--timing-cache", type=Path, required=True, help="file of TensorRT's timings, read and written")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameters, .yaml or .json")
    args = parser.parse_args()
    target = config.find_target(config.load(args.params), args.target)
    build(args.graph, args.out, args.target, target, args.timing_cache, args.metrics)


if __name__ == "__main__":
    command_line.run(main)
