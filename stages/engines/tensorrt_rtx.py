"""TensorRT-RTX engines, built ahead of time and without a GPU for a list of compute capabilities.

The libraries come with onnxruntime-ep-nv-tensorrt-rtx-cu13 and must be loaded before the bindings of
tensorrt-rtx-cu13-bindings. Precision comes from the ONNX types alone (strongly typed).
"""

import ctypes
import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from stages import config
from stages.engines.base import Runtime

SUFFIX = ".engine"
_BINDINGS = "tensorrt-rtx-cu13-bindings"


def installed_version() -> str:
    """Version of the TensorRT-RTX bindings, such as 1.7.1.116."""
    return importlib.metadata.version(_BINDINGS)


@cache
def _tensorrt() -> Any:
    spec = importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("TensorRT-RTX's libraries are missing; run `make env` to install the locked packages")
    folder = Path(spec.origin).parent
    for pattern in ("libtensorrt_rtx.so*", "libtensorrt_onnxparser_rtx.so*"):
        found = sorted(folder.glob(pattern))
        if not found:
            raise ModuleNotFoundError(f"{folder}/{pattern} not found; run `make env` to install the locked packages")
        ctypes.CDLL(str(found[0]), ctypes.RTLD_GLOBAL)
    import tensorrt_rtx_bindings

    return tensorrt_rtx_bindings


def build(onnx_file: Path, out: Path, target: config.Target) -> None:
    """Compile an ONNX file for target.compute_capabilities and write the engine to `out`.

    Raises RuntimeError with each message of the parser or the builder.
    """
    trt = _tensorrt()
    messages: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]  # the bindings are known only at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                messages.append(message)

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_file)):
        errors = [str(parser.get_error(i)) for i in range(parser.num_errors)]
        raise RuntimeError(f"TensorRT-RTX can't parse {onnx_file}:\n" + "\n".join(errors + messages))

    builder_config = builder.create_builder_config()
    builder_config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, target.workspace_mib << 20)
    builder_config.num_compute_capabilities = len(target.compute_capabilities)
    for i, capability in enumerate(target.compute_capabilities):
        builder_config.set_compute_capability(getattr(trt.ComputeCapability, "SM" + capability.replace(".", "")), i)
    plan = builder.build_serialized_network(network, builder_config)
    if plan is None:
        raise RuntimeError(f"TensorRT-RTX can't build {onnx_file}:\n" + "\n".join(messages))
    out.write_bytes(bytes(plan))


def load(engine: Path, target: config.Target) -> Runtime:
    """Refuse: running these engines needs a GPU of the target, which the pipeline does not drive yet."""
    raise RuntimeError(f"{engine} can be built here but not run; take the target out of `measured` in conf/profile")
