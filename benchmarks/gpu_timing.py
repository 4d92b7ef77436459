"""Measures an engine on the GPU itself: time of a batch, time of each layer and kernel, and device memory."""

import ctypes
from types import ModuleType
from typing import Any

from stages.engines.cuda import driver
from stages.engines.cuda.runtime import GpuRuntime
from stages.engines.cuda.tensorrt_common import EngineRunner


def used_bytes() -> int:
    """Return the device memory in use by all processes on the GPU and by CUDA itself, in bytes."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    driver.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return total.value - free.value


def batch_ms(engine: GpuRuntime, runs: int) -> list[float]:
    """Return the milliseconds on the GPU of each of `runs` batches, run one at a time.

    Copies are included if the engine was loaded for one batch in flight. Raises RuntimeError if a batch is in flight or
    the engine is closed.
    """
    if engine.queued:
        raise RuntimeError(f"{len(engine.queued)} batches are in flight; take their results before `batch_ms`")
    if not engine.slots or engine.slots[0].graph is None:
        raise RuntimeError("the engine is closed; load it again")
    stream, found = engine.streams[1], []
    for _ in range(runs):
        start, end = driver.Event(), driver.Event()
        start.record(stream)
        engine.slots[0].graph.launch(stream)
        end.record(stream)
        end.synchronize()
        found.append(start.ms_until(end))
    return found


def layer_ms(engine: GpuRuntime, runs: int) -> list[tuple[str, str, float]]:
    """Time each layer and kernel on the GPU, without a CUDA graph: (step, layer, mean milliseconds of `runs`).

    TensorRT waits after each layer, so the sum of all layers is more than a run takes.
    Raises RuntimeError if the engine is closed.
    """
    if not engine.slots:
        raise RuntimeError("the engine is closed; load it again")
    stream = engine.streams[1]
    found: dict[tuple[str, str], float] = {}

    for step in engine.steps:
        if isinstance(step, EngineRunner):
            step.context.profiler = _profiler(step.api, found, runs)
    for _ in range(runs):
        for i, step in enumerate(engine.steps):
            start, end = driver.Event(), driver.Event()
            start.record(stream)
            step.enqueue(stream, first=i == 0)
            end.record(stream)
            stream.synchronize()
            if not isinstance(step, EngineRunner):
                key = (f"{i}", step.name)
                found[key] = found.get(key, 0.0) + start.ms_until(end) / runs
    return [(step, layer, ms) for (step, layer), ms in found.items()]


def _profiler(api: ModuleType, found: dict[tuple[str, str], float], runs: int) -> Any:
    """Return a profiler of TensorRT's layers that adds a run's milliseconds to `found`."""

    class Profiler(api.IProfiler):  # type: ignore[misc, name-defined]  # known at run time only
        def __init__(self) -> None:
            super().__init__()

        def report_layer_time(self, layer: str, ms: float) -> None:
            found["0", layer] = found.get(("0", layer), 0.0) + ms / runs

    return Profiler()
