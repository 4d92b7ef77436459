"""Check and time one engine on the machine that it is for, without DVC, ONNX or PyTorch.

Run: python3 -m benchmarks.engines --params params.json --target h100 --engine data/engines/h100
--reference data/onnx/cuda/exported/reference.npz --out data/bench/h100.json

Agreement is of the engine's maps with those of TAO's PyTorch network and post-processing on the reference's frames.
Times are from a frame's bytes in host memory to the graph's outputs there, and with the maps decoded; `in_place_` from
bytes that lie in the engine's own memory already (Runtime.input_buffer), as of a video that is decoded there.
"""

import argparse
import ctypes
import resource
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from stages import config
from stages.engines import interface, manifest
from stages.engines.cuda import driver, gpu, runtime, tensorrt, tensorrt_common
from stages.foundation import files
from stages.inference import frames
from stages.inference.description import Description
from stages.inference.predictor import Predictor
from stages.metrics import agreement
from stages.reference import comparison

WARMUP_SECONDS = 1.0


def measure(predictor: Predictor, pictures: Any, seconds: float) -> dict[str, float]:
    """Milliseconds of a batch, p50, p90, p99 and standard deviation, for about `seconds` after a second of warm-up."""
    batch = np.repeat(pictures[:1], predictor.cfg.batch_size, 0)
    calls = {"graph": lambda: predictor.run(batch), "decoded": lambda: predictor.segments(list(batch))}
    if (there := predictor.frame_buffer()) is not None:
        there[:] = pictures[0]
        calls |= {
            "in_place_graph": lambda: predictor.run(there[None]),
            "in_place_decoded": lambda: predictor.segments([there]),
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
    """Percentiles and standard deviation of times, by names that begin with `prefix`."""
    found = {f"{prefix}p{p}_ms": round(float(np.percentile(spent_ms, p)), 3) for p in (50, 90, 99)}
    return found | {f"{prefix}std_ms": round(float(np.std(spent_ms)), 3)}


def stream(loaded: interface.Runtime, batch: Any, in_flight: int, seconds: float, batches: int) -> dict[str, Any]:
    """Rate with batches in flight, after a second of warm-up, and milliseconds from a batch's submit to its result.

    At least `batches` of them and `seconds`. And clocks at their end, and by how much memory has grown: the device's,
    and this process's with the list of its times.
    """
    spent: list[float] = []
    begun: list[float] = []
    for wanted, least in ((WARMUP_SECONDS, 0), (seconds, batches)):
        spent.clear()
        joules_before, device_before, host_before = energy(), driver.used_bytes(), host_bytes()
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
    grown = driver.used_bytes() - device_before, host_bytes() - host_before
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
    """Memory of this process, from /proc/self/statm."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def tao_deploy(onnx_file: Path, target: config.Target, about: Description, expected: Any) -> dict[str, Any]:
    """Time the graph of TAO's exporter with TAO Deploy's way to merge, on the reference's frames.

    In float32, for targets of lower precision with TF32, as TAO Deploy builds unless told otherwise; in fp16 that graph
    finds no segment. Both mask tensors go at full size to pinned host memory, and NumPy merges them query by query. TAO
    Deploy 7.3 runs the engine twice for each picture; here it runs once.
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
    loaded = runtime.GpuRuntime(api, engine)
    spent: dict[str, list[float]] = {"engine_and_copies": [], "merge": [], "end_to_end": []}
    for round_ in range(10):
        frame = expected["frames"][round_ % len(expected["frames"])]
        begin = time.perf_counter()
        loaded.submit(frames.network_input(frame[None], cfg))
        # Not `result`, which copies out of pinned memory, as TAO Deploy does not.
        (slot,) = loaded._queued
        slot.done.synchronize()
        loaded._queued.clear()
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
    """Segment ids int32 [H, W] and their categories, from what TAO's graph gives of one picture."""
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
    """Joules that the first GPU has taken since its driver was loaded, by NVML; 0 where it does not tell."""
    nvml, device, value = *_nvml(), ctypes.c_ulonglong()
    told = nvml is not None and not nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(value))
    return value.value / 1000 if told else 0


def clocks_mhz() -> dict[str, int]:
    """Clocks of the first GPU's multiprocessors and memory, now and at most, by NVML; empty where it does not tell."""
    nvml, device, value = *_nvml(), ctypes.c_uint()
    found = {}
    for name, domain in (("sm", 1), ("memory", 2)):
        for what, ask in (("now", "nvmlDeviceGetClockInfo"), ("max", "nvmlDeviceGetMaxClockInfo")):
            if nvml is not None and not getattr(nvml, ask)(device, domain, ctypes.byref(value)):
                found[f"{name}_{what}"] = value.value
    return found


def _nvml() -> tuple[Any, ctypes.c_void_p]:
    device = ctypes.c_void_p()
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None, device
    failed = nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device))
    return None if failed else nvml, device


def agree(predictor: Predictor, expected: Any) -> dict[str, Any]:
    """Agreement of maps in percent of pixels, over all frames and in the worst, and segments in both."""
    shares, segments = [], []
    for frame, wanted in zip(expected["frames"], comparison.answers(expected), strict=True):
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
    parser.add_argument("--in-flight", type=int, nargs="*", default=[], help="batches in flight at once, on a GPU")
    parser.add_argument("--batches", type=int, default=0, help="at least so many with each of --in-flight")
    parser.add_argument("--profile", type=int, default=0, help="runs over which each layer is timed, on a GPU; 0: none")
    parser.add_argument("--tao-graph", type=Path, help="graph.onnx that peers.py wrote, to time TAO Deploy's way too")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    target = config.find_target(config.load(args.params), args.target)
    found = manifest.verified_engine(args.engine, args.target, target)
    loaded = interface.backend(target).load(found.path, target)
    predictor = Predictor(loaded.infer, found.description, loaded.input_buffer)
    about = files.read_json(args.engine / manifest.NAME)
    expected = np.load(args.reference)
    one = expected["frames"][: predictor.cfg.batch_size]
    gpu_ms = loaded.gpu_ms(200) if isinstance(loaded, runtime.GpuRuntime) else []
    result: dict[str, Any] = {
        "measured": {"utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "command": sys.argv},
        "gpu": asdict(here) if (here := gpu.current()) else None,
        # Which target, graph, checkpoint and data the engine is of, and who built it.
        "engine": about,
        "warmup_seconds": WARMUP_SECONDS,
        "output_bytes": sum(a.nbytes for a in predictor.run(one).values()),
        **agree(predictor, expected),
        **measure(predictor, expected["frames"], args.seconds),
        **(spread(gpu_ms, "gpu_") if gpu_ms else {}),
    }
    for in_flight in args.in_flight:
        before = driver.used_bytes()
        other = interface.backend(target).load(found.path, target, in_flight)
        result.setdefault("streams", []).append(
            stream(other, one, in_flight, args.seconds, args.batches)
            | {"device_mib": (driver.used_bytes() - before) >> 20}
        )
        # Or the next would be measured with its memory given back.
        del other
    if args.profile and isinstance(loaded, runtime.GpuRuntime):
        rows = loaded.profile(args.profile)
        result["layers"] = [{"step": step, "layer": layer, "ms": round(ms, 4)} for step, layer, ms in rows]
    files.write_json(args.out, result)
    if args.tao_graph:
        # Last, and after the rest is written: it needs standard TensorRT, minutes to build, and two large tensors.
        try:
            result["tao_deploy"] = tao_deploy(args.tao_graph, target, found.description, expected)
        except (RuntimeError, ModuleNotFoundError) as error:  # the engine's figures stay
            result["left_out"] = {"TAO Deploy": str(error)[:300]}
            print(f"TAO Deploy: {error}")
        files.write_json(args.out, result)
    print({name: value for name, value in result.items() if name not in ("layers", "engine")})


if __name__ == "__main__":
    main()
