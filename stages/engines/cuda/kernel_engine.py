"""Engines of our kernels alone: one file for all GPUs of a target, built without a GPU and on any CPU.

NVRTC compiles the kernels for each compute capability of the target, and to PTX of the newest one for GPUs that come
later. Running needs NVIDIA's driver only: no TensorRT, and nothing of the machine that built the engine.
"""

import logging
import os
import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from stages import config
from stages.engines import interface
from stages.engines.cuda import bundle, compiler, driver, gpu, runtime
from stages.engines.cuda.bundle import KernelPlan
from stages.engines.cuda.launch_plans import planner, tuned
from stages.engines.cuda.launch_plans.machine import Machine
from stages.engines.cuda.launch_plans.plan import Plan
from stages.foundation import files, versions
from stages.inference import description
from stages.inference.steps import Constants, KernelCall

log = logging.getLogger(__name__)

SUFFIX = ".cuda"


def installed_version(target: config.Target) -> str:
    """Version of the NVRTC of target.cuda_major, such as 13.0. Raises ModuleNotFoundError where there is none."""
    try:
        return compiler.nvrtc(target.cuda_major).version
    except RuntimeError as error:
        raise ModuleNotFoundError(str(error)) from error


def build(onnx_file: Path, out: Path, target: config.Target, timing_cache: Path) -> None:
    """Compile the kernels of the graph in the folder of `onnx_file` and write the engine to `out`.

    The file `timing_cache` keeps the compiled code: a build with other weights alone compiles nothing. Raises
    RuntimeError where NVRTC does not know a compute capability of the target, and ValueError where a kernel can't serve
    its tensors, and where target.tiles has a tile that a kernel can't have.
    """
    folder = onnx_file.parent
    about = description.read(folder)
    calls = [step for step in about.steps if isinstance(step, KernelCall)]
    if not calls:
        raise ValueError(f"{folder}: found no kernel in this graph, expected one of the variant cuda; run `dvc repro`")
    found = compiler.nvrtc(target.cuda_major)
    for capability in target.compute_capabilities:
        compiler.require_capability(found, capability)
    newest = max(target.compute_capabilities, key=versions.numbers)
    kinds = {**{capability: capability for capability in target.compute_capabilities}, gpu.PTX: newest}
    measured = tuned.Tuned(target.tiles)
    entries, wanted = [], dict[str, tuple[Plan, str, bool]]()
    for call in calls:
        plans = {}
        for kind, capability in kinds.items():
            ptx = kind == gpu.PTX
            planned = Machine("" if ptx else capability)
            plan = planner.plan(call, planned, measured.choice(call, planned.compute_capability))
            # Layers of one kind share their code.
            folder_in_file = gpu.PTX if ptx else f"sm_{capability.replace('.', '')}"
            name = f"{folder_in_file}/{Path(plan.source).stem}_{plan.code_digest()}"
            wanted.setdefault(name, (plan, capability, ptx))
            plans[kind] = KernelPlan(name, plan.launches, plan.workspace_bytes)
        entries.append(bundle.kernel_step(call, plans))
    measured.warn_if_unused()

    compiled = compile_all(wanted, target.cuda_major, timing_cache)
    constants = {}
    for step in about.steps:
        if isinstance(step, Constants):
            with np.load(folder / step.file, allow_pickle=False) as arrays:
                constants = {name: arrays[name] for name in arrays.files}
    bundle.write(out, found.version, target.compute_capabilities, entries, compiled, constants)


def compile_all(wanted: Mapping[str, tuple[Plan, str, bool]], cuda_major: int, cache: Path) -> dict[str, bytes]:
    """Compile plans by name, each for a compute capability, to machine code or to PTX.

    What is in the file `cache` is not compiled again. It is written anew, with what was wanted now.
    """
    cached, version = _read_cache(cache), compiler.nvrtc(cuda_major).version

    def compile_one(task: tuple[Plan, str, bool]) -> tuple[str, bytes]:
        plan, capability, ptx = task
        key = compiler.cache_key(plan.source, plan.defines, capability, version, ptx)
        if key in cached:
            return key, cached[key]
        return key, compiler.compile_source(plan.source, plan.defines, capability, cuda_major=cuda_major, ptx=ptx)

    # NVRTC computes without Python's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = dict(zip(wanted, pool.map(compile_one, wanted.values()), strict=True))
    with files.atomic_write(cache) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, content in dict(compiled.values()).items():
            archive.writestr(key, content)
    return {name: content for name, (_, content) in compiled.items()}


def _read_cache(file: Path) -> dict[str, bytes]:
    """Compiled code of an earlier build by `compiler.cache_key`; nothing without such a file, or with a damaged one."""
    try:
        with zipfile.ZipFile(file) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if file.exists():
            log.info("%s can't be read (%s); starting with an empty cache", file, error)
        return {}


def load(engine: Path, target: config.Target, in_flight: int = 1) -> interface.Runtime:
    """Load an engine on this machine's GPU, for `in_flight` batches at once.

    Raises RuntimeError where there is no GPU or where the file is not for it; see bundle.read.
    """
    found = gpu.current()
    if found is None:
        raise RuntimeError(f"{engine} runs on a GPU, found no NVIDIA GPU or no driver; run it on its target")
    content = bundle.read(engine, found)
    if content.compiled_for == gpu.PTX:
        log.warning(
            "%s has no machine code for compute capability %s (%s): the driver compiles its PTX, which may take a "
            "minute, and keeps the result in ~/.nv/ComputeCache",
            engine, found.compute_capability, found.name,
        )  # fmt: skip
    modules = {name: driver.Module(code) for name, code in content.code.items()}
    kernels = [runtime.KernelRunner(kernel, modules[kernel.plan.code]) for kernel in content.kernels]
    parts = content.constants, content.data, [*modules.values()]
    return runtime.GpuRuntime(str(engine), kernels, in_flight, *parts)
