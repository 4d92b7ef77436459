"""What TensorRT and TensorRT-RTX share: messages, reading ONNX, building, and running on the GPU.

Both have the same Python interface; each function takes the module as `api`. Written for TensorRT 8.6 to 11; types
are those of 10.13, by tensorrt-stubs.
"""

import logging
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from stages import config
from stages.engines import base
from stages.runtime import cuda

if TYPE_CHECKING:
    import tensorrt as trt

log = logging.getLogger(__name__)

SUFFIX = ".engine"


def logger(api: ModuleType, errors: list[str]) -> "trt.ILogger":
    """A TensorRT logger that collects errors for the exception to come and passes warnings to `logging` as debug."""

    class Collector(api.ILogger):  # type: ignore[misc, name-defined]  # which of the two is known at run time only
        def __init__(self) -> None:
            api.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (api.ILogger.ERROR, api.ILogger.INTERNAL_ERROR):
                errors.append(message)
            elif severity == api.ILogger.WARNING:
                log.debug("%s", message)

    collector: trt.ILogger = Collector()
    return collector


class Build:
    """One build: an ONNX file that TensorRT has read, and the settings that its engine is built with."""

    def __init__(self, api: ModuleType, onnx_file: Path, target: config.Target, network_flags: int) -> None:
        """Read the ONNX file and set what both builders have. Raises RuntimeError with all the parser says."""
        self._onnx_file, self._name = onnx_file, api.__name__
        self._errors: list[str] = []
        collector = logger(api, self._errors)
        try:
            self._builder: trt.Builder = api.Builder(collector)
        except TypeError as error:  # what the bindings make of a null pointer
            what = f"{self._name} reaches no GPU; mend the NVIDIA driver until nvidia-smi lists it"
            raise RuntimeError(_text(what, self._errors)) from error
        self.network = self._builder.create_network(network_flags)
        self._parser: trt.OnnxParser = api.OnnxParser(self.network, collector)
        if not self._parser.parse_from_file(str(onnx_file)):
            found = [describe(self._parser.get_error(i)) for i in range(self._parser.num_errors)]
            raise RuntimeError(_text(f"{self._name} can't parse {onnx_file}", found + self._errors))

        self.options = self._builder.create_builder_config()
        self.options.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, target.workspace_mib << 20)
        self.options.builder_optimization_level = target.optimization_level
        verbosity = target.profiling_verbosity.value.upper()
        self.options.profiling_verbosity = getattr(api.ProfilingVerbosity, verbosity)
        if target.precision is config.Precision.fp32:
            # On by default; its products have 10 bits of mantissa.
            self.options.clear_flag(api.BuilderFlag.TF32)

    def write(self, out: Path) -> None:
        """Build the engine and write it to `out`. Raises RuntimeError with all the builder says."""
        plan = self._builder.build_serialized_network(self.network, self.options)
        if plan is None:
            raise RuntimeError(_text(f"{self._name} can't build {self._onnx_file}", self._errors))
        out.write_bytes(memoryview(plan))


def describe(error: "trt.ParserError") -> str:
    """One line on a parser's error: its code, and which node of the ONNX file it is about, as far as is known."""
    # TensorRT 8.6 knows the node's index alone.
    known = [str(getattr(error, name)()) for name in ("node_name", "node_operator") if hasattr(error, name)]
    node = " ".join([str(error.node()), *filter(None, known)])
    return f"{getattr(error.code(), 'name', error.code())} at node {node}: {error.desc()}"


def _text(what: str, messages: list[str]) -> str:
    return "\n".join([f"{what}:", *messages])


class GpuRuntime:
    """An engine on this process's GPU, with buffers for one batch and a stream of its own."""

    def __init__(self, api: ModuleType, engine_file: Path) -> None:
        """Load an engine. Raises RuntimeError where there is no GPU, or with TensorRT's messages."""
        self._errors: list[str] = []
        self._context: trt.IExecutionContext | None = None
        self._inputs: dict[str, cuda.Buffer] = {}
        self._outputs: dict[str, cuda.Buffer] = {}
        self._stream: cuda.Stream | None = None
        if cuda.gpu() is None:
            raise RuntimeError(f"{engine_file} runs on a GPU, found no NVIDIA GPU or no driver; run it on its target")
        # The bindings keep logger, runtime and engine alive as long as the context.
        runtime: trt.Runtime = api.Runtime(logger(api, self._errors))
        engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(engine_file.read_bytes())
        if engine is None:
            raise RuntimeError(_text(f"{api.__name__} can't load {engine_file}", self._errors))
        self._context = engine.create_execution_context()
        if self._context is None:
            raise RuntimeError(_text(f"{api.__name__} can't run {engine_file}", self._errors))
        self._stream = cuda.Stream()
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            dims = engine.get_tensor_shape(name)
            shape = tuple(dims[k] for k in range(len(dims)))
            if min(shape, default=0) < 0:
                raise RuntimeError(f"{engine_file}: the shape of {name} must be fixed, found {list(shape)}")
            buffer = cuda.Buffer(shape, api.nptype(engine.get_tensor_dtype(name)))
            is_input = engine.get_tensor_mode(name) == api.TensorIOMode.INPUT
            (self._inputs if is_input else self._outputs)[name] = buffer
            self._context.set_tensor_address(name, buffer.device)
        if len(self._inputs) != 1:
            raise RuntimeError(f"{engine_file}: one input is needed, found the inputs {sorted(self._inputs)}")

    def infer(self, frames: base.Array) -> dict[str, base.Array]:
        """See Runtime.infer. The arrays are copies out of pinned memory."""
        if self._context is None or self._stream is None:
            raise RuntimeError("the engine is closed; load it again")
        (entry,) = self._inputs.values()
        base.require_input(frames, entry.host.shape, entry.host.dtype)
        np.copyto(entry.host, frames)
        self._enqueue(self._context, self._stream)
        self._stream.synchronize()
        return {name: buffer.host.copy() for name, buffer in self._outputs.items()}

    def _enqueue(self, context: "trt.IExecutionContext", stream: cuda.Stream) -> None:
        """Queue copies in, network and copies out. Nothing here waits or allocates, as a CUDA graph demands."""
        for buffer in self._inputs.values():
            buffer.upload(stream)
        if not context.execute_async_v3(stream.handle):
            raise RuntimeError(_text("the engine does not run", self._errors))
        for buffer in self._outputs.values():
            buffer.download(stream)

    def close(self) -> None:
        """Free the GPU's memory; the engine can't run after it. A second call does nothing."""
        self._context = None
        for buffer in (*self._inputs.values(), *self._outputs.values()):
            buffer.close()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __del__(self) -> None:
        self.close()
