"""Engines of TensorRT-RTX, built without a GPU for a list of compute capabilities.

The libraries come with onnxruntime-ep-nv-tensorrt-rtx-cu13 and must be loaded before the bindings of
tensorrt-rtx-cu13-bindings. Precision is that of the types in the ONNX file (strongly typed).
"""

import ctypes
import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from stages import config
from stages.engines import interface
from stages.engines.cuda import tensorrt_common

SUFFIX = tensorrt_common.SUFFIX


def installed_version(target: config.Target) -> str:
    """Version of the TensorRT-RTX bindings, such as 1.7.1.116."""
    return str(library().__version__)


@cache
def library() -> ModuleType:
    """Load the libraries and import the bindings. Raises ModuleNotFoundError where they are missing."""
    fix = "run `make env` to install the locked packages"
    spec = importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"TensorRT-RTX's libraries are missing; {fix}")
    folder = Path(spec.origin).parent
    for pattern in ("libtensorrt_rtx.so*", "libtensorrt_onnxparser_rtx.so*"):
        found = sorted(folder.glob(pattern))
        if not found:
            raise ModuleNotFoundError(f"{folder}/{pattern} not found; {fix}")
        ctypes.CDLL(str(found[0]), ctypes.RTLD_GLOBAL)
    return interface.library("tensorrt_rtx_bindings", fix)


def build(onnx_file: Path, out: Path, target: config.Target, timing_cache: Path) -> None:
    """Compile an ONNX file for target.compute_capabilities and write the engine to `out`.

    Nothing is timed without a GPU, so the cache is not used. Raises RuntimeError with each message of the parser or
    the builder.
    """
    api = library()
    flags = 1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    started = tensorrt_common.Build(api, onnx_file, target, flags)
    # Standard TensorRT has no such settings, so its stubs don't know them.
    options: Any = started.options
    options.num_compute_capabilities = len(target.compute_capabilities)
    for i, capability in enumerate(target.compute_capabilities):
        options.set_compute_capability(getattr(api.ComputeCapability, "SM" + capability.replace(".", "")), i)
    started.write(out)


def load(engine: Path, target: config.Target, in_flight: int = 1) -> interface.Runtime:
    """Load an engine on this machine's GPU, one of the target's. Raises RuntimeError where there is none."""
    return tensorrt_common.load(library(), engine, in_flight)
