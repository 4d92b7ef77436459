"""Building and running engines by TensorRT and by TensorRT-RTX, which have the same Python interface.

Each function takes the module of one of them as `api`. Written for TensorRT 8.6 to 11; the types are those of 10.13, by
tensorrt-stubs.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from stages import config
from stages.engines.cuda import driver, gpu, runtime
from stages.inference.steps import TensorSpec

if TYPE_CHECKING:
    import tensorrt as trt

log = logging.getLogger(__name__)

SUFFIX = ".engine"


def logger(api: ModuleType, errors: list[str]) -> "trt.ILogger":
    """A TensorRT logger that appends errors to a list, for an exception, and passes warnings to `logging` as debug."""

    class Collector(api.ILogger):  # type: ignore[misc, name-defined]  # it is known at run time only
        def __init__(self) -> None:
            api.ILogger.__init__(self)

        def log(self, severity: "trt.ILogger.Severity", message: str) -> None:
            if severity in (api.ILogger.ERROR, api.ILogger.INTERNAL_ERROR):
                errors.append(message)
            elif severity == api.ILogger.WARNING:
                log.debug("%s", message)

    collector: trt.ILogger = Collector()
    return collector


class Build:
    """One build: an ONNX file, parsed by TensorRT, and the settings of the builder."""

    def __init__(self, api: ModuleType, onnx_file: Path, target: config.Target, network_flags: int) -> None:
        """Parse the ONNX file and set the options of the builder. Raises RuntimeError with the parser's errors."""
        self._onnx_file, self._name = onnx_file, api.__name__
        self._errors: list[str] = []
        collector = logger(api, self._errors)
        try:
            self._builder: trt.Builder = api.Builder(collector)
        except TypeError as error:  # the bindings raise it for a null pointer
            what = f"{self._name} reaches no GPU; repair the NVIDIA driver until nvidia-smi lists it"
            raise RuntimeError(lines(what, self._errors)) from error
        self.network = self._builder.create_network(network_flags)
        self._parser: trt.OnnxParser = api.OnnxParser(self.network, collector)
        if not self._parser.parse_from_file(str(onnx_file)):
            found = [describe(self._parser.get_error(i)) for i in range(self._parser.num_errors)]
            raise RuntimeError(lines(f"{self._name} can't parse {onnx_file}", found + self._errors))

        self.options = self._builder.create_builder_config()
        self.options.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, target.workspace_mib << 20)
        self.options.builder_optimization_level = target.optimization_level
        verbosity = target.profiling_verbosity.value.upper()
        self.options.profiling_verbosity = getattr(api.ProfilingVerbosity, verbosity)
        if target.precision is config.Precision.fp32:
            # TF32 is on by default; its products have 10 bits of mantissa.
            self.options.clear_flag(api.BuilderFlag.TF32)

    def write(self, out: Path) -> None:
        """Build the engine and write it to `out`. Raises RuntimeError with the builder's errors."""
        plan = self._builder.build_serialized_network(self.network, self.options)
        if plan is None:
            raise RuntimeError(lines(f"{self._name} can't build {self._onnx_file}", self._errors))
        out.write_bytes(memoryview(plan))


def describe(error: "trt.ParserError") -> str:
    """A parser's error in one line: its code, the node of the ONNX file as far as it is known, and the message."""
    # TensorRT 8.6 knows only the node's index.
    known = [str(getattr(error, name)()) for name in ("node_name", "node_operator") if hasattr(error, name)]
    node = " ".join([str(error.node()), *filter(None, known)])
    return f"{getattr(error.code(), 'name', error.code())} at node {node}: {error.desc()}"


def lines(what: str, messages: list[str]) -> str:
    """A message and TensorRT's own messages, one a line."""
    return "\n".join([f"{what}:", *messages])


class EngineRunner:
    """An engine of TensorRT and its execution context, as the one step of a runtime."""

    def __init__(self, api: ModuleType, code: bytes, name: str) -> None:
        """Deserialize `code`; `name` is for messages. Raises RuntimeError with TensorRT's messages."""
        self.api, self.name, self._errors = api, name, list[str]()
        # The bindings keep logger, runtime and engine alive as long as the context.
        runtime: trt.Runtime = api.Runtime(logger(api, self._errors))
        engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(code)
        if engine is None:
            raise RuntimeError(lines(f"{api.__name__} can't load {name}", self._errors))
        # TensorRT 8.6 knows one way to lend scratch memory to a context, TensorRT 11 the other.
        self._by_call = hasattr(api.IExecutionContext, "set_device_memory")
        context: trt.IExecutionContext | None
        if self._by_call:
            context = engine.create_execution_context(api.ExecutionContextAllocationStrategy.USER_MANAGED)
            self.scratch_bytes = engine.device_memory_size_v2
        else:
            context = engine.create_execution_context_without_device_memory()
            self.scratch_bytes = engine.device_memory_size
        if context is None:
            raise RuntimeError(lines(f"{api.__name__} can't run {name}", self._errors))
        self.context = context
        self.inputs: dict[str, TensorSpec] = {}
        self.outputs: dict[str, TensorSpec] = {}
        for i in range(engine.num_io_tensors):
            tensor_name = engine.get_tensor_name(i)
            dims = engine.get_tensor_shape(tensor_name)
            shape = tuple(dims[k] for k in range(len(dims)))
            if min(shape, default=0) < 0:
                raise RuntimeError(f"{name}: the shape of {tensor_name} must be fixed, found {list(shape)}")
            dtype = np.dtype(api.nptype(engine.get_tensor_dtype(tensor_name)))
            is_input = engine.get_tensor_mode(tensor_name) == api.TensorIOMode.INPUT
            (self.inputs if is_input else self.outputs)[tensor_name] = TensorSpec(shape, dtype.name)

    def bind(self, addresses: Mapping[str, int], scratch: int) -> None:
        """Set the addresses in device memory of the tensors, by name, and of `scratch_bytes` of scratch memory."""
        for name in (*self.inputs, *self.outputs):
            self.context.set_tensor_address(name, addresses[name])
        if self._by_call:
            self.context.set_device_memory(scratch, self.scratch_bytes)
        else:
            self.context.device_memory = scratch  # type: ignore[attr-defined]  # missing in 10.13's stubs

    def enqueue(self, stream: driver.Stream, first: bool) -> None:
        """Queue the engine. Raises RuntimeError with TensorRT's messages."""
        if not self.context.execute_async_v3(stream.handle):
            raise RuntimeError(lines(f"{self.name} does not run", self._errors))


def load(api: ModuleType, engine: Path, in_flight: int) -> runtime.GpuRuntime:
    """Load an engine of TensorRT on this machine's GPU, for `in_flight` batches at once.

    Raises RuntimeError where there is no GPU, and with TensorRT's messages.
    """
    if gpu.current() is None:
        raise RuntimeError(f"{engine} runs on a GPU, found no NVIDIA GPU or no driver; run it on its target")
    return runtime.GpuRuntime(str(engine), [EngineRunner(api, engine.read_bytes(), str(engine))], in_flight)
