"""Build, check and time one engine on the machine that it is for, without DVC, ONNX or PyTorch.

Run: python3 -m tests.bench.engines --params params.json --target h100 --graph data/onnx/gather/fp16
--reference data/onnx/gather/exported/reference.npz --out data/bench/h100.json

Agreement is of the engine's maps with those of TAO's PyTorch network and post-processing on the reference's frames.
Times are from a frame's bytes in host memory to the graph's outputs there, and with the maps decoded.
"""

import argparse
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from stages import config, engine, files
from stages.engines import sidecar
from stages.graph import reference
from stages.metrics import agreement
from stages.runtime import loading
from stages.runtime.predictor import Predictor


def measure(predictor: Predictor, frames: Any, seconds: float) -> dict[str, float]:
    """Milliseconds of a batch, p50 and p99, for about `seconds` after a second of warm-up."""
    batch = np.repeat(frames[:1], predictor.cfg.batch_size, 0)
    spent: dict[str, list[float]] = {"graph": [], "decoded": []}
    for name, call in (("graph", lambda: predictor.run(batch)), ("decoded", lambda: predictor.segments(list(batch)))):
        for wanted, kept in ((1.0, False), (seconds, True)):
            end = time.perf_counter() + wanted
            while (start := time.perf_counter()) < end:
                call()
                if kept:
                    spent[name].append(1000 * (time.perf_counter() - start))
    found = {}
    for name, values in spent.items():
        for percent in (50, 99):
            found[f"{name}_p{percent}_ms"] = round(float(np.percentile(values, percent)), 3)
    return found


def agree(predictor: Predictor, expected: Any) -> dict[str, Any]:
    """Agreement of maps in percent of pixels, over all frames and in the worst, and segments in both."""
    shares, segments = [], []
    for frame, wanted in zip(expected["frames"], reference.answers(expected), strict=True):
        (found,) = predictor.segments([frame])
        same = agreement.agreeing_pixels(wanted.ids, wanted.category_ids, found.ids, found.category_ids)
        shares.append(100 * same / wanted.ids.size)
        segments.append([len(wanted.category_ids), len(found.category_ids)])
    mean, worst = float(np.mean(shares)), float(np.min(shares))
    return {"pixel_agreement_pct": round(mean, 4), "worst_frame_agreement_pct": round(worst, 4), "segments": segments}


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameters, .yaml or .json")
    parser.add_argument("--target", required=True, help="target id, a key of targets in the parameters")
    parser.add_argument("--graph", type=Path, required=True, help="folder of graph.onnx and graph.json")
    parser.add_argument("--reference", type=Path, required=True, help="reference.npz that export wrote")
    parser.add_argument("--timing-cache", type=Path, default=Path(".timing_cache/bench"), help="TensorRT's timings")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of timing")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="fields of the target to change")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cfg = config.load(args.params)
    content = config.plain(cfg.target(args.target))
    for pair in args.set:
        key, _, value = pair.partition("=")
        content[key] = type(content[key])(value)
    target = config.target(args.target, content)

    with tempfile.TemporaryDirectory() as folder:
        engine.build(args.graph, Path(folder) / "engine", args.target, target, args.timing_cache)
        predictor = loading.load(Path(folder) / "engine", args.target, target)
        sidecar_file = files.read_json(Path(folder) / "engine" / sidecar.NAME)
        expected = np.load(args.reference)
        result = {
            "graph": str(args.graph),
            "target": config.plain(target),
            "gpu": sidecar_file["build_host"]["gpu"],
            "builder_version": sidecar_file["builder_version"],
            "build_seconds": sidecar_file["build_seconds"],
            "engine_bytes": sidecar_file["engine"]["bytes"],
            "output_bytes": sum(a.nbytes for a in predictor.run(expected["frames"][:1]).values()),
            **agree(predictor, expected),
            **measure(predictor, expected["frames"], args.seconds),
        }
    files.write_json(args.out, result)
    print(result)


if __name__ == "__main__":
    main()
