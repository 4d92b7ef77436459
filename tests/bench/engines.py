"""Check and time one engine on the machine that it is for, without DVC, ONNX or PyTorch.

Run: python3 -m tests.bench.engines --params params.json --target h100 --engine data/engines/h100
--reference data/onnx/kernels/exported/reference.npz --out data/bench/h100.json

Agreement is of the engine's maps with those of TAO's PyTorch network and post-processing on the reference's frames.
Times are from a frame's bytes in host memory to the graph's outputs there, and with the maps decoded.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from stages import config, files
from stages.engines import base, sidecar, tensorrt_common
from stages.graph import reference
from stages.metrics import agreement
from stages.runtime import cuda
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


def stream(runtime: base.Runtime, frames: Any, in_flight: int, seconds: float) -> dict[str, float]:
    """Rate with batches in flight, after a second of warm-up, and milliseconds from a batch's submit to its result."""
    spent: list[float] = []
    begun: list[float] = []
    for wanted in (1.0, seconds):
        spent.clear()
        start = time.perf_counter()
        while time.perf_counter() - start < wanted or begun:
            if time.perf_counter() - start < wanted:
                begun.append(time.perf_counter())
                runtime.submit(frames)
                if len(begun) < in_flight:
                    continue
            runtime.result()
            spent.append(1000 * (time.perf_counter() - begun.pop(0)))
        rate = len(spent) / (time.perf_counter() - start)
    tenth = len(spent) // 10
    return {
        "in_flight": in_flight,
        "batches": len(spent),
        "hz": round(rate, 2),
        **{f"p{p}_ms": round(float(np.percentile(spent, p)), 3) for p in (50, 90, 99)},
        "first_tenth_p50_ms": round(float(np.percentile(spent[:tenth], 50)), 3),
        "last_tenth_p50_ms": round(float(np.percentile(spent[-tenth:], 50)), 3),
    }


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
    parser.add_argument("--engine", type=Path, required=True, help="folder that the engine stage wrote")
    parser.add_argument("--reference", type=Path, required=True, help="reference.npz that export wrote")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of timing")
    parser.add_argument("--in-flight", type=int, nargs="*", default=[], help="batches on their way at once, on a GPU")
    parser.add_argument("--profile", type=int, default=0, help="runs over which each layer is timed, on a GPU; 0: none")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    target = config.load(args.params).target(args.target)
    found = sidecar.verified_engine(args.engine, args.target, target)
    runtime = base.backend(target).load(found.path, target)
    predictor = Predictor(runtime.infer, found.description)
    about = files.read_json(args.engine / sidecar.NAME)
    expected = np.load(args.reference)
    one = expected["frames"][: predictor.cfg.batch_size]
    result: dict[str, Any] = {
        "target": config.plain(target),
        "gpu": about["build_host"]["gpu"],
        "builder_version": about["builder_version"],
        "build_seconds": about["build_seconds"],
        "engine_bytes": about["engine"]["bytes"],
        "output_bytes": sum(a.nbytes for a in predictor.run(one).values()),
        **agree(predictor, expected),
        **measure(predictor, expected["frames"], args.seconds),
    }
    for in_flight in args.in_flight:
        before = cuda.used_bytes()
        other = base.backend(target).load(found.path, target, in_flight)
        result.setdefault("streams", []).append(
            stream(other, one, in_flight, args.seconds) | {"device_mib": (cuda.used_bytes() - before) >> 20}
        )
    print(result)
    if args.profile:
        assert isinstance(runtime, tensorrt_common.GpuRuntime), "--profile is for engines on a GPU"
        rows = runtime.profile(args.profile)
        result["layers"] = [{"step": step, "layer": layer, "ms": round(ms, 4)} for step, layer, ms in rows]
    files.write_json(args.out, result)


if __name__ == "__main__":
    main()
