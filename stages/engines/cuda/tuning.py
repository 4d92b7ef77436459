"""Measures the tiles that kernels can have on this process's GPU, and chooses the fastest.

A tile whose answer is not the default's, but for rounding, is never chosen.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stages.engines import interface
from stages.engines.cuda import driver
from stages.engines.cuda.launch_plans import planner, tuned
from stages.engines.cuda.launch_plans.machine import Machine
from stages.engines.cuda.launch_plans.plan import Choice, Plan
from stages.inference.steps import KernelCall, TensorSpec

GAIN = 0.98
"""A tile replaces the default where it takes less than this share of its time: timings vary by about 1 %."""
ROUND_MS, ROUNDS = 0.5, 5
"""Time of one measurement on the GPU, at least, and how many there are. The median counts."""
TOLERANCE = {"float16": 1e-2, "float32": 1e-3}
"""Difference from the default's answer that another order of sums may cause, relative to its largest value. A wrong
tile is off by far more: what it leaves out keeps a byte pattern."""
PATTERN = 77
FINALISTS = 3
"""The fastest tiles, which are measured a second time beside the default."""


@dataclass(frozen=True)
class Measured:
    """A call's choices with their times."""

    call: KernelCall
    times_ms: list[tuple[Choice, float]]
    """Each choice, the default first, with its milliseconds on the GPU."""
    wrong: list[Choice]
    """Those whose answer was another one."""
    best: Choice
    best_ms: float
    """Of `best`, in the second measurement."""
    default_ms: float
    """Of the default, in the second measurement."""


def candidates(calls: Sequence[KernelCall], machine: Machine) -> dict[str, tuple[KernelCall, list[Choice]]]:
    """The calls that have a choice, by name. Calls of the same sizes are one."""
    found = {tuned.call_name(call): (call, planner.choices(call, machine)) for call in calls}
    return {name: (call, choices) for name, (call, choices) in found.items() if len(choices) > 1}


def measure(call: KernelCall, choices: Sequence[Choice], machine: Machine, code: Callable[[Plan], bytes]) -> Measured:
    """Measure all choices of a call, the default first. `code` gives the machine code of a plan."""
    bench = _Bench(call)
    plans = [planner.plan(call, machine, choice) for choice in choices]
    modules = [driver.Module(code(plan)) for plan in plans]
    try:
        first, right = [], []
        for plan, module in zip(plans, modules, strict=True):
            first.append(bench.time_ms(plan, module))
            right.append(bench.answers_as_the_first())
        finalists = {0, *sorted((i for i in range(len(plans)) if right[i]), key=lambda i: first[i])[:FINALISTS]}
        second = {i: bench.time_ms(plans[i], modules[i]) for i in sorted(finalists)}
        best = min(second, key=lambda i: (second[i], i))
        if second[best] >= GAIN * second[0]:
            best = 0
    finally:
        for module in modules:
            module.close()
        bench.close()
    times = list(zip(choices, first, strict=True))
    wrong = [choice for choice, same in zip(choices, right, strict=True) if not same]
    return Measured(call, times, wrong, choices[best], second[best], second[0])


def lines(measured: Sequence[Measured], machine: Machine) -> Iterator[str]:
    """Lines for a target's `tiles`: of calls for which another tile than the default is faster."""
    for each in measured:
        if each.best != each.times_ms[0][0]:
            yield tuned.line(each.call, machine, each.best)


class _Bench:
    """The tensors of a call in device memory, and a stream."""

    def __init__(self, call: KernelCall) -> None:
        rng = np.random.default_rng(0)
        self._stream = driver.Stream()
        self._tensors: dict[str, driver.Memory] = {}
        named: dict[str, driver.Memory] = {}
        for i, (name, spec) in enumerate(zip(call.inputs, call.input_specs, strict=True)):
            if name not in named:
                named[name] = driver.Memory(spec.size_bytes)
                driver.fill(named[name].address, memoryview(_random(spec, rng)).cast("B"))
            self._tensors[f"i{i}"] = named[name]
        self._outputs = [driver.Buffer(spec.shape, spec.dtype) for spec in call.output_specs]
        self._expected: list[interface.Array] = []

    def time_ms(self, plan: Plan, module: driver.Module) -> float:
        """Median milliseconds of a call, of calls one after the other as in a graph of the whole network."""
        spaces = {f"w{i}": driver.Memory(size) for i, size in enumerate(plan.workspace_bytes)}
        addresses = {name: memory.address for name, memory in (self._tensors | spaces).items()}
        addresses |= {f"o{i}": buffer.address for i, buffer in enumerate(self._outputs)}
        for buffer in self._outputs:
            buffer.host.view(np.uint8).fill(PATTERN)
            buffer.upload(self._stream)

        def enqueue(stream: driver.Stream, times: int) -> None:
            for _ in range(times):
                for launch in plan.launches:
                    module.launch(launch, [addresses[name] for name in launch.arguments], stream)

        def run(times: int, rounds: int) -> list[float]:
            graph, found = driver.Graph(self._stream, lambda stream: enqueue(stream, times)), []
            for _ in range(rounds):
                start, end = driver.Event(), driver.Event()
                start.record(self._stream)
                graph.launch(self._stream)
                end.record(self._stream)
                end.synchronize()
                found.append(start.ms_until(end) / times)
            graph.close()
            return found

        once = min(run(2, 2))
        found = float(np.median(run(max(2, min(50, math.ceil(ROUND_MS / max(once, 1e-4)))), ROUNDS)))
        for buffer in self._outputs:
            buffer.download(self._stream)
        self._stream.synchronize()
        for memory in spaces.values():
            memory.close()
        return found

    def answers_as_the_first(self) -> bool:
        """Return whether the last call that was timed wrote what the first one did, but for rounding."""
        found = [buffer.host.copy() for buffer in self._outputs]
        self._expected = self._expected or found
        return all(same_answer(*pair) for pair in zip(found, self._expected, strict=True))

    def close(self) -> None:
        """Free all of it."""
        for buffer in self._outputs:
            buffer.close()
        for memory in self._tensors.values():
            memory.close()
        self._stream.close()


def same_answer(found: interface.Array, expected: interface.Array) -> bool:
    """Return whether an output is finite and the expected one within TOLERANCE."""
    ours, theirs = found.astype(np.float32), expected.astype(np.float32)
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return False
    return bool(np.abs(ours - theirs).max() <= TOLERANCE[expected.dtype.name] * np.abs(theirs).max())


def _random(spec: TensorSpec, rng: np.random.Generator) -> interface.Array:
    """Values as in a network: the power that a GPU draws, and so its clock, depend on them."""
    if spec.dtype == "uint8":
        return rng.integers(0, 256, spec.shape, np.uint8)
    values = rng.standard_normal(min(spec.size_bytes, 1 << 20), np.float32).astype(spec.numpy_dtype)
    return np.resize(values, spec.shape)


def all_plans(found: Mapping[str, tuple[KernelCall, list[Choice]]], machine: Machine) -> dict[str, Plan]:
    """The plans of all candidates, by name, each once."""
    plans = [planner.plan(call, machine, choice) for call, choices in found.values() for choice in choices]
    return {plan.code_digest(): plan for plan in plans}
