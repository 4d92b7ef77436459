"""Builds the engine of a graph with our kernels: TensorRT's engines of its parts, and compiled, planned kernels."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from stages import config
from stages.engines import interface
from stages.engines.cuda import bundle, compiler
from stages.engines.cuda.bundle import KernelPlan
from stages.engines.cuda.launch_plans import planner
from stages.inference.description import CONSTANTS
from stages.inference.steps import Constants, KernelCall, Part, Step


def build(
    backend: interface.Backend, graph: Path, steps: Sequence[Step], out: Path, target: config.Target, cache: Path
) -> None:
    """Build the graph in the folder `graph`, with the steps of its graph.json, and write the archive to `out`.

    `cache` is the timing cache of Backend.build. Raises as Backend.build and compiler.compile_source do, and ValueError
    where a kernel can't serve its tensors.
    """
    entries: list[dict[str, object]] = []
    content: dict[str, bytes] = {}
    parts: dict[str, str] = {}
    # Kernels are compiled first: that takes seconds and shows what is missing. Parts take minutes.
    for step in steps:
        if isinstance(step, KernelCall):
            plans = {capability: compile_call(step, capability, content) for capability in target.compute_capabilities}
            entries.append(bundle.kernel_step(step, plans))
        elif isinstance(step, Part):
            parts[step.file] = str(Path(step.file).with_suffix(backend.SUFFIX))
            entries.append(bundle.part_step(parts[step.file]))
        elif isinstance(step, Constants):
            content[CONSTANTS] = (graph / step.file).read_bytes()
    for onnx_file, name in parts.items():
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "part"
            backend.build(graph / onnx_file, part, target, cache)
            content[name] = part.read_bytes()
    bundle.write(out, entries, content)


def compile_call(call: KernelCall, compute_capability: str, content: dict[str, bytes]) -> KernelPlan:
    """Plan a kernel and compile it into `content`, unless it is there: layers of one kind share their code."""
    plan = planner.plan(call, compute_capability)
    name = f"{Path(plan.source).stem}_sm{compute_capability.replace('.', '')}/{plan.code_digest()}"
    if name not in content:
        content[name] = compiler.compile_source(plan.source, plan.defines, compute_capability)
    return KernelPlan(name, plan.launches, plan.workspace_bytes)
