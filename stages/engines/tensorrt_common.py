"""What TensorRT and TensorRT-RTX share: messages, reading ONNX, building, and running on the GPU.

Both have the same Python interface; each function takes the module as `api`. Written for TensorRT 8.6 to 11; types
are those of 10.13, by tensorrt-stubs.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from stages import config
from stages.engines import base, chain
from stages.kernels import catalog
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


class Part:
    """A TensorRT engine and its execution context: one step."""

    def __init__(self, api: ModuleType, code: bytes, name: str) -> None:
        """Deserialize `code`; `name` is for messages. Raises RuntimeError with TensorRT's messages."""
        self.name, self._errors = name, list[str]()
        # The bindings keep logger, runtime and engine alive as long as the context.
        runtime: trt.Runtime = api.Runtime(logger(api, self._errors))
        engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(code)
        if engine is None:
            raise RuntimeError(_text(f"{api.__name__} can't load {name}", self._errors))
        context: trt.IExecutionContext | None = engine.create_execution_context()
        if context is None:
            raise RuntimeError(_text(f"{api.__name__} can't run {name}", self._errors))
        self.context = context
        self.inputs: dict[str, catalog.Tensor] = {}
        self.outputs: dict[str, catalog.Tensor] = {}
        for i in range(engine.num_io_tensors):
            tensor_name = engine.get_tensor_name(i)
            dims = engine.get_tensor_shape(tensor_name)
            shape = tuple(dims[k] for k in range(len(dims)))
            if min(shape, default=0) < 0:
                raise RuntimeError(f"{name}: the shape of {tensor_name} must be fixed, found {list(shape)}")
            dtype = np.dtype(api.nptype(engine.get_tensor_dtype(tensor_name)))
            is_input = engine.get_tensor_mode(tensor_name) == api.TensorIOMode.INPUT
            (self.inputs if is_input else self.outputs)[tensor_name] = catalog.Tensor(shape, dtype.name)

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Read and write tensors at these addresses in device memory."""
        for name in (*self.inputs, *self.outputs):
            self.context.set_tensor_address(name, addresses[name])

    def enqueue(self, stream: cuda.Stream) -> None:
        """Queue it; raises RuntimeError with TensorRT's messages."""
        if not self.context.execute_async_v3(stream.handle):
            raise RuntimeError(_text(f"{self.name} does not run", self._errors))


class Kernel:
    """A kernel of ours: one step."""

    def __init__(self, step: chain.Step, known: Mapping[str, catalog.Tensor]) -> None:
        """Load its machine code for the tensors that it reads, which are among `known`."""
        self.name = step.kernel
        self.inputs = {name: known[name] for name in step.inputs}
        self._plan = catalog.KERNELS[step.kernel](step.attributes, list(self.inputs.values()))
        self.outputs = dict(zip(step.outputs, self._plan.outputs, strict=True))
        self._module = cuda.Module(step.code)
        self._workspaces = [cuda.Memory(size) for size in self._plan.workspace_bytes]
        self._addresses: dict[str, int] = {}

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Read and write tensors at these addresses in device memory."""
        inputs = {f"i{i}": addresses[name] for i, name in enumerate(self.inputs)}
        outputs = {f"o{i}": addresses[name] for i, name in enumerate(self.outputs)}
        workspaces = {f"w{i}": memory.address for i, memory in enumerate(self._workspaces)}
        self._addresses = {**inputs, **outputs, **workspaces}

    def enqueue(self, stream: cuda.Stream) -> None:
        """Queue its launches."""
        for launch in self._plan.launches:
            pointers = [self._addresses[argument] for argument in launch.arguments]
            self._module.launch(launch.function, launch.grid, launch.block, pointers, stream)


class GpuRuntime:
    """An engine on this process's GPU, with buffers for one batch and a stream of its own.

    What is queued for a batch, copies included, is captured as a CUDA graph once and replayed.
    """

    def __init__(self, api: ModuleType, engine_file: Path) -> None:
        """Load an engine. Raises RuntimeError where there is no GPU, or with TensorRT's messages."""
        self._api = api
        self._graph: cuda.Graph | None = None
        self._inputs: dict[str, cuda.Buffer] = {}
        self._outputs: dict[str, cuda.Buffer] = {}
        self._between: dict[str, cuda.Memory] = {}
        self._stream: cuda.Stream | None = None
        self._steps: list[Part | Kernel] = []
        gpu = cuda.gpu()
        if gpu is None:
            raise RuntimeError(f"{engine_file} runs on a GPU, found no NVIDIA GPU or no driver; run it on its target")
        known: dict[str, catalog.Tensor] = {}
        for i, step in enumerate(chain.read(engine_file, gpu.compute_capability)):
            new = Kernel(step, known) if step.kernel else Part(api, step.code, f"{engine_file}, part {i}")
            for name, tensor in new.inputs.items():
                if known.setdefault(name, tensor) != tensor:
                    raise RuntimeError(f"{engine_file}: {name} is written as {known[name]} and read as {tensor}")
            known |= new.outputs
            self._steps.append(new)
        read = {name for step in self._steps for name in step.inputs}
        written = {name for step in self._steps for name in step.outputs}
        for name, tensor in known.items():
            if name in read & written:
                self._between[name] = cuda.Memory(tensor.bytes)
            else:
                (self._inputs if name in read else self._outputs)[name] = cuda.Buffer(tensor.shape, tensor.dtype)
        if len(self._inputs) != 1:
            raise RuntimeError(f"{engine_file}: one input is needed, found the inputs {sorted(self._inputs)}")
        buffers: dict[str, cuda.Buffer | cuda.Memory] = {**self._inputs, **self._outputs, **self._between}
        for part in self._steps:
            part.bind({name: buffer.address for name, buffer in buffers.items()})
        self._stream = cuda.Stream()
        # The first run makes what TensorRT leaves for it, which a capture forbids.
        self._enqueue(self._stream)
        self._stream.synchronize()
        self._graph = cuda.Graph(self._stream, self._enqueue)

    def infer(self, frames: base.Array) -> dict[str, base.Array]:
        """See Runtime.infer. The arrays are copies out of pinned memory."""
        if self._graph is None or self._stream is None:
            raise RuntimeError("the engine is closed; load it again")
        (entry,) = self._inputs.values()
        base.require_input(frames, entry.host.shape, entry.host.dtype)
        np.copyto(entry.host, frames)
        self._graph.launch(self._stream)
        self._stream.synchronize()
        return {name: buffer.host.copy() for name, buffer in self._outputs.items()}

    def profile(self, runs: int) -> list[tuple[str, str, float]]:
        """Step, layer and milliseconds on the GPU of each layer and kernel, mean of `runs` without a CUDA graph.

        TensorRT waits after each layer, so layers are timed apart and their sum is more than a run takes.
        """
        if self._stream is None:
            raise RuntimeError("the engine is closed; load it again")
        found: dict[tuple[str, str], float] = {}

        class Profiler(self._api.IProfiler):  # type: ignore[misc, name-defined]  # known at run time only
            def __init__(self) -> None:
                super().__init__()
                self.step = ""

            def report_layer_time(self, layer: str, ms: float) -> None:
                found[self.step, layer] = found.get((self.step, layer), 0.0) + ms / runs

        profiler = Profiler()
        for step in self._steps:
            if isinstance(step, Part):
                step.context.profiler = profiler
        for _ in range(runs):
            for i, step in enumerate(self._steps):
                profiler.step = f"{i}"
                before, after = cuda.Event(), cuda.Event()
                before.record(self._stream)
                step.enqueue(self._stream)
                after.record(self._stream)
                self._stream.synchronize()
                if isinstance(step, Kernel):
                    key = (profiler.step, step.name)
                    found[key] = found.get(key, 0.0) + before.ms_until(after) / runs
        return [(step, layer, ms) for (step, layer), ms in found.items()]

    def _enqueue(self, stream: cuda.Stream) -> None:
        """Queue copies in, all steps and copies out. Nothing here waits or allocates, as a CUDA graph demands."""
        for buffer in self._inputs.values():
            buffer.upload(stream)
        for step in self._steps:
            step.enqueue(stream)
        for buffer in self._outputs.values():
            buffer.download(stream)

    def close(self) -> None:
        """Free the GPU's memory; the engine can't run after it. A second call does nothing."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None
        self._steps = []
        for buffer in (*self._inputs.values(), *self._outputs.values()):
            buffer.close()
        for memory in self._between.values():
            memory.close()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __del__(self) -> None:
        self.close()
