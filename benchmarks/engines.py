"""Checks and times one engine on the machine that it is for, without DVC, ONNX and PyTorch.

Run: python3 -m benchmarks.engines --params params.json --target h100 --engine data/engines/h100
--reference data/onnx/cuda/exported/reference.npz --out data/bench/h100.json

The engine's maps are compared with those of TAO's PyTorch network and post-processing on the reference's frames. Times
run from a frame's bytes in host memory to the graph's outputs in host memory (`graph_`), or to the decoded map
(`decoded_`). With `in_place_` the frame is in the engine's own memory already (Runtime.input_buffer), as for a
video that was decoded there.
"""

import ctypes
import resource
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import gpu_timing
from stages import config
from stages.engines import interface, manifest
from stages.engines.cuda import gpu, runtime, tensorrt, tensorrt_common
from stages.engines.loading import EnginePredictor
from stages.foundation import command_line, files
from stages.inference import frames
from stages.inference.description import Description
from stages.metrics import agreement
from stages.reference import comparison

WARMUP_SECONDS = 1.0


def measure(predictor: EnginePredictor, pictures: Any, seconds: float) -> dict[str, float]:
    """Return percentiles and standard deviation of the milliseconds of a batch.

    Each way to call the engine is timed for `seconds`, after WARMUP_SECONDS that don't count. `pictures` are uint8
    [N, H, W, 3]; the first one fills the batch.
    """
    batch = np.repeat(pictures[:1], predictor.cfg.batch_size, 0)
    calls = {"graph": lambda: predictor.run(batch), "decoded": lambda: predictor.segments(list(batch))}
    if (buffer := predictor.frame_buffer()) is not None:
        buffer[:] = pictures[0]
        calls |= {
            "in_place_graph": lambda: predictor.run(buffer[None]),
            "in_place_decoded": lambda: predictor.segments([buffer]),
        }
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        for wanted, kept in ((WARMUP_SECONDS, False), (seconds, True)):
            end = time.perf_counter() + wanted
            while (start := time.perf_counter()) < end:
                call()
                if kept:
                    spent[name].append(1000 * (time.perf_counter() - start))
    found: dict[str, float] = {}
    for name, values in spent.items():
        found |= spread(values, f"{name}_")
    return found


def spread(spent_ms: list[float], prefix: str = "") -> dict[str, float]:
    """Return percentiles and standard deviation of times in ms, under names that begin with `prefix`."""
    found = {f"{prefix}p{p}_ms": round(float(np.percentile(spent_ms, p)), 3) for p in (50, 90, 99)}
    return found | {f"{prefix}std_ms": round(float(np.std(spent_ms)), 3)}


def stream(loaded: interface.Runtime, batch: Any, in_flight: int, seconds: float, batches: int) -> dict[str, Any]:
    """Measure the rate with `in_flight` batches in flight, and the milliseconds from a batch's submit to its result.

    Runs for at least `seconds` and `batches`, after WARMUP_SECONDS that don't count. The result also has the GPU's
    clocks at the end, and the growth of the device's memory and of this process's, the list of times included.
    """
    spent: list[float] = []
    begun: list[float] = []
    for wanted, least in ((WARMUP_SECONDS, 0), (seconds, batches)):
        spent.clear()
        joules_before, device_before, host_before = energy(), gpu_timing.used_bytes(), host_bytes()
        start = time.perf_counter()
        while (more := time.perf_counter() - start < wanted or len(spent) + len(begun) < least) or begun:
            if more:
                begun.append(time.perf_counter())
                loaded.submit(batch)
                if len(begun) < in_flight:
                    continue
            loaded.result()
            spent.append(1000 * (time.perf_counter() - begun.pop(0)))
        rate = len(spent) / (time.perf_counter() - start)
        joules = (energy() - joules_before) / len(spent) if joules_before else None
    grown = gpu_timing.used_bytes() - device_before, host_bytes() - host_before
    clocks, tenth = clocks_mhz(), max(1, len(spent) // 10)
    return {
        "in_flight": in_flight,
        "batches": len(spent),
        "clocks_mhz": clocks,
        "hz": round(rate, 2),
        "joules_a_batch": joules and round(joules, 3),
        **spread(spent),
        "max_ms": round(max(spent), 3),
        "first_tenth_p50_ms": round(float(np.percentile(spent[:tenth], 50)), 3),
        "last_tenth_p50_ms": round(float(np.percentile(spent[-tenth:], 50)), 3),
        "device_grown_mib": round(grown[0] / (1 << 20), 2),
        "host_grown_mib": round(grown[1] / (1 << 20), 2),
    }


def host_bytes() -> int:
    """Return the resident memory of this process in bytes, from /proc/self/statm."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def tao_deploy(onnx_file: Path, target: config.Target, about: Description, expected: Any) -> dict[str, Any]:
    """Time the graph of TAO's exporter with the merge of TAO Deploy, on the reference's frames.

    The graph is built in float32, with TF32 for targets of lower precision. That is TAO Deploy's default, and in fp16
    the graph finds no segment. Both mask tensors are copied at full size to pinned host memory, and NumPy merges them
    query by query. TAO Deploy 7.3 runs the engine twice for each picture; here it runs once.
    """
    api = tensorrt.library()
    flags = tensorrt.bits(
        api.NetworkDefinitionCreationFlag, tensorrt.network_flags(api.__version__, config.Typing.weak)
    )
    build = tensorrt_common.Build(api, onnx_file, target, flags)
    external = tensorrt.bits(getattr(api, "TacticSource", None), tensorrt.EXTERNAL_TACTICS)
    build.options.set_tactic_sources(build.options.get_tactic_sources() & ~external)
    engine, cfg = onnx_file.with_suffix(".engine"), about.config
    start = time.perf_counter()
    build.write(engine)
    seconds = time.perf_counter() - start
    loaded = tensorrt_common.load(api, engine, 1)
    spent: dict[str, list[float]] = {"engine_and_copies": [], "merge": [], "end_to_end": []}
    for round_ in range(10):
        frame = expected["frames"][round_ % len(expected["frames"])]
        begin = time.perf_counter()
        loaded.submit(frames.network_input(frame[None], cfg))
        # Not by `result`: it copies the outputs out of pinned memory, which TAO Deploy does not do.
        (slot,) = loaded.queued
        slot.done.synchronize()
        loaded.queued.clear()
        copied = time.perf_counter()
        ids, categories = merge_as_tao_deploy({n: b.host[0] for n, b in slot.outputs.items()}, cfg, about.num_things)
        end = time.perf_counter()
        if round_ >= 2:
            for name, ms in (
                ("engine_and_copies", copied - begin),
                ("merge", end - copied),
                ("end_to_end", end - begin),
            ):
                spent[name].append(1000 * ms)
    loaded.close()
    return {
        "build_seconds": round(seconds, 1),
        "segments": len(categories),
        "void_pct": round(100 * float((ids == 0).mean()), 2),
        **{f"{n}_p{p}_ms": round(float(np.percentile(ms, p)), 2) for n, ms in spent.items() for p in (50, 90)},
    }


def merge_as_tao_deploy(outputs: dict[str, Any], cfg: config.Deploy, num_things: int) -> tuple[Any, dict[int, int]]:
    """Merge the outputs of TAO's graph for one picture: segment ids, int32 [H, W], and id -> category_id."""
    kept = outputs["pred_scores"] >= cfg.object_mask_threshold
    probabilities, masks, classes = (outputs[n][kept] for n in ("prob_masks", "pred_masks", "pred_classes"))
    ids = np.zeros(masks.shape[1:], np.int32)
    categories: dict[int, int] = {}
    stuff: dict[int, int] = {}
    winners = probabilities.argmax(0) if len(classes) else ids
    for k, category in enumerate(int(c) for c in classes):
        inside = masks[k] >= 0.5
        mine = winners == k
        area, original, both = int(mine.sum()), int(inside.sum()), mine & inside
        if not (area and original and both.any()) or area / original < cfg.overlap_threshold:
            continue
        segment = len(categories) + 1
        if category >= num_things:
            if category in stuff:
                ids[both] = stuff[category]
                continue
            stuff[category] = segment
        ids[both] = segment
        categories[segment] = category + 1
    return ids, categories


def energy() -> float:
    """Return the joules that the first GPU has used since its driver was loaded, or 0 if NVML can't measure them."""
    nvml, device, value = *_nvml(), ctypes.c_ulonglong()
    known = nvml is not None and not nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(value))
    return value.value / 1000 if known else 0


def clocks_mhz() -> dict[str, int]:
    """Return current and highest clocks in MHz of the first GPU's multiprocessors and memory, those that NVML has."""
    nvml, device, value = *_nvml(), ctypes.c_uint()
    found = {}
    for name, domain in (("sm", 1), ("memory", 2)):
        for what, ask in (("now", "nvmlDeviceGetClockInfo"), ("max", "nvmlDeviceGetMaxClockInfo")):
            if nvml is not None and not getattr(nvml, ask)(device, domain, ctypes.byref(value)):
                found[f"{name}_{what}"] = value.value
    return found


def _nvml() -> tuple[Any, ctypes.c_void_p]:
    """Return NVML's library, or None if it is missing or fails, and its handle of the first GPU."""
    device = ctypes.c_void_p()
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None, device
    failed = nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device))
    return None if failed else nvml, device


def agree(predictor: EnginePredictor, expected: Any) -> dict[str, Any]:
    """Return the agreement of maps in % of pixels, over all frames and in the worst one, and the segments in both."""
    shares, segments = [], []
    for frame, wanted in zip(expected["frames"], comparison.reference_maps(expected), strict=True):
        (found,) = predictor.segments([frame])
        same = agreement.agreeing_pixels(wanted.ids, wanted.category_ids, found.ids, found.category_ids)
        shares.append(100 * same / wanted.ids.size)
        segments.append([len(wanted.category_ids), len(found.category_ids)])
    mean, worst = float(np.mean(shares)), float(np.min(shares))
    return {"pixel_agreement_pct": round(mean, 4), "worst_frame_agreement_pct": round(worst, 4), "segments": segments}


def main() -> None:
    """Command line of the module."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameters, .yaml or .json")
    parser.add_argument("--target", required=True, help="target id, a key of targets in the parameters")
    parser.add_argument("--engine", type=Path, required=True, help="folder that the engine stage wrote")
    parser.add_argument("--reference", type=Path, required=True, help="reference.npz that export wrote")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of timing for each figure")
    parser.add_argument("--in-flight", type=int, nargs="*", default=[], help="batches in flight at once, on a GPU")
    parser.add_argument("--batches", type=int, default=0, help="least number of batches for each of --in-flight")
    parser.add_argument("--profile", type=int, default=0, help="runs over which each layer is timed, on a GPU; 0: none")
    parser.add_argument("--tao-graph", type=Path, help="graph.onnx of benchmarks.peers, to time TAO Deploy's merge")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    target = config.find_target(config.load(args.params), args.target)
    found = manifest.verified_engine(args.engine, args.target, target)
    loaded = interface.backend(target).load(found.path, target)
    predictor = EnginePredictor(loaded, found.description, found.sha256)
    about = files.read_json(args.engine / manifest.NAME)
    expected = np.load(args.reference)
    one = expected["frames"][: predictor.cfg.batch_size]
    gpu_ms = gpu_timing.batch_ms(loaded, 200) if isinstance(loaded, runtime.GpuRuntime) else []
    result: dict[str, Any] = {
        "measured": {"utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "command": sys.argv},
        "gpu": asdict(here) if (here := gpu.current()) else None,
        # The manifest: target, graph, checkpoint and data of the engine, and the host that built it.
        "engine": about,
        "warmup_seconds": WARMUP_SECONDS,
        "output_bytes": sum(a.nbytes for a in predictor.run(one).values()),
        **agree(predictor, expected),
        **measure(predictor, expected["frames"], args.seconds),
        **(spread(gpu_ms, "gpu_") if gpu_ms else {}),
    }
    for in_flight in args.in_flight:
        before = gpu_timing.used_bytes()
        other = interface.backend(target).load(found.path, target, in_flight)
        result.setdefault("streams", []).append(
            stream(other, one, in_flight, args.seconds, args.batches)
            | {"device_mib": (gpu_timing.used_bytes() - before) >> 20}
        )
        # Frees its memory, which else would be freed during the next measurement.
        del other
    if args.profile and isinstance(loaded, runtime.GpuRuntime):
        rows = gpu_timing.layer_ms(loaded, args.profile)
        result["layers"] = [{"step": step, "layer": layer, "ms": round(ms, 4)} for step, layer, ms in rows]
    files.write_json(args.out, result)
    if args.tao_graph:
        # Last, when the other figures are written: it needs standard TensorRT, minutes to build, and much memory.
        try:
            result["tao_deploy"] = tao_deploy(args.tao_graph, target, found.description, expected)
        except (RuntimeError, ModuleNotFoundError) as error:  # the other figures stay
            result["left_out"] = {"TAO Deploy": str(error)[:300]}
            print(f"TAO Deploy: {error}")
        files.write_json(args.out, result)
    print({name: value for name, value in result.items() if name not in ("layers", "engine")})


if __name__ == "__main__":
    command_line.run(main)
