"""Runs kernels of stages/engines/cuda/kernels on the CPU: compiled by g++ with cuda_on_cpu.h, float32 only."""

import ctypes
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from stages.engines.cuda import compiler
from stages.engines.cuda.launch_plans import planner
from stages.engines.cuda.launch_plans.machine import Machine
from stages.engines.cuda.launch_plans.plan import Plan
from stages.inference.steps import Attributes, KernelCall, TensorSpec
from stages.operators import registry

KERNELS = Path(compiler.__file__).with_name("kernels")
HEADER = Path(__file__).with_suffix(".h")


def build(plan: Plan, folder: Path) -> ctypes.CDLL:
    """Compile a plan's source for the CPU in `folder`."""
    text = (KERNELS / plan.source).read_text(encoding="utf-8")
    text = re.sub(
        r"extern __shared__ \S+ (\w+) (\w+)\[\];", r"\1* const \2 = reinterpret_cast<\1*>(dynamic_shared);", text
    )
    launchers = "".join(f"LAUNCHER({name})\n" for name in {launch.function: None for launch in plan.launches})
    source = folder / "kernel.cpp"
    source.write_text(f'#include "{HEADER}"\n{text}\n{launchers}', encoding="utf-8")
    defines = [f"-D{key}={compiler.literal(value)}" for key, value in plan.defines.items()]
    library = folder / "kernel.so"
    command = [
        "g++",
        "-std=c++17",
        "-O2",
        "-fPIC",
        "-shared",
        "-w",
        f"-I{KERNELS}",
        *defines,
        str(source),
        "-o",
        str(library),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return ctypes.CDLL(str(library))


def run(name: str, attributes: dict[str, Any], inputs: list[Any], folder: Path) -> list[Any]:
    """Outputs of a kernel for NumPy arrays, float32 or bytes, as NumPy arrays."""
    tensors = {f"i{i}": TensorSpec(array.shape, array.dtype.name) for i, array in enumerate(inputs)}
    specs = registry.output_specs(name, Attributes(attributes), [*tensors.values()])
    outs = {f"o{i}": spec for i, spec in enumerate(specs)}
    call = KernelCall(name, Attributes(attributes), tuple(tensors), tuple(outs), tensors | outs)
    plan = planner.plan(call, Machine("8.9"))
    arrays = {f"i{i}": np.ascontiguousarray(array) for i, array in enumerate(inputs)}
    # A value that the kernel leaves out stays at this byte pattern and is seen.
    arrays |= {
        name: np.full(spec.size_bytes, 77, np.uint8).view(spec.dtype).reshape(spec.shape) for name, spec in outs.items()
    }
    arrays |= {f"w{i}": np.full(size, 77, np.uint8) for i, size in enumerate(plan.workspace_bytes)}
    library = build(plan, folder)
    for _ in range(2):  # the second time over what the first left
        for launch in plan.launches:
            pointers = (ctypes.c_void_p * len(launch.arguments))(*(arrays[a].ctypes.data for a in launch.arguments))
            size = (ctypes.c_uint * 6)(*launch.grid, *launch.block)
            getattr(library, f"launch_{launch.function}")(pointers, size)
    return [arrays[f"o{i}"] for i in range(len(specs))]
