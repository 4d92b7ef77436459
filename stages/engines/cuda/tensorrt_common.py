"""What TensorRT and TensorRT-RTX share: messages, reading ONNX, building, and running on the GPU.

Both have the same Python interface; each function takes the module as `api`. Written for TensorRT 8.6 to 11; types
are those of 10.13, by tensorrt-stubs.
"""

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from stages import config
from stages.engines import interface
from stages.engines.cuda import bundle, catalog, driver, memory

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
        # 8.6 has one way to lend it memory, 11 the other.
        self._by_call = hasattr(api.IExecutionContext, "set_device_memory")
        context: trt.IExecutionContext | None
        if self._by_call:
            context = engine.create_execution_context(api.ExecutionContextAllocationStrategy.USER_MANAGED)
            self.scratch_bytes = engine.device_memory_size_v2
        else:
            context = engine.create_execution_context_without_device_memory()
            self.scratch_bytes = engine.device_memory_size
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

    def bind(self, addresses: Mapping[str, int], scratch: int) -> None:
        """Read and write tensors at these addresses in device memory, and use `scratch_bytes` at `scratch`."""
        for name in (*self.inputs, *self.outputs):
            self.context.set_tensor_address(name, addresses[name])
        if self._by_call:
            self.context.set_device_memory(scratch, self.scratch_bytes)
        else:
            self.context.device_memory = scratch  # type: ignore[attr-defined]  # gone from 10.13's stubs

    def enqueue(self, stream: driver.Stream) -> None:
        """Queue it; raises RuntimeError with TensorRT's messages."""
        if not self.context.execute_async_v3(stream.handle):
            raise RuntimeError(_text(f"{self.name} does not run", self._errors))


class Kernel:
    """A kernel of ours: one step."""

    def __init__(
        self, step: bundle.Step, module: driver.Module, known: Mapping[str, catalog.Tensor], compute_capability: str
    ) -> None:
        """`module` is its machine code for that capability and the tensors that it reads, which are among `known`."""
        self.name, self._read = step.kernel, tuple(step.inputs)
        self.inputs = {name: known[name] for name in self._read}
        # One tensor may be two inputs.
        read = [known[name] for name in self._read]
        self._plan = catalog.plan(step.kernel, step.attributes, read, compute_capability)
        if self._plan.digest() != step.digest:
            raise RuntimeError(
                f"the engine's {step.kernel} was planned as {step.digest}, {self._plan.digest()} is expected: it was "
                "built by another version of this project; build it again, such as by `make engines TARGET=...`"
            )
        self.outputs = dict(zip(step.outputs, self._plan.outputs, strict=True))
        self._module = module
        self._workspaces, self.scratch_bytes = memory.in_a_row(self._plan.workspace_bytes)
        self._addresses: dict[str, int] = {}

    def bind(self, addresses: Mapping[str, int], scratch: int) -> None:
        """Read and write tensors at these addresses in device memory, and use `scratch_bytes` at `scratch`."""
        inputs = {f"i{i}": addresses[name] for i, name in enumerate(self._read)}
        outputs = {f"o{i}": addresses[name] for i, name in enumerate(self.outputs)}
        workspaces = {f"w{i}": scratch + offset for i, offset in enumerate(self._workspaces)}
        self._addresses = {**inputs, **outputs, **workspaces}

    def enqueue(self, stream: driver.Stream) -> None:
        """Queue its launches."""
        for launch in self._plan.launches:
            pointers = [self._addresses[argument] for argument in launch.arguments]
            self._module.launch(launch.function, launch.grid, launch.block, pointers, stream, launch.shared_bytes)


class Lane:
    """Buffers of one batch on its way through the GPU, and what is queued for it, captured as a CUDA graph."""

    def __init__(self, tensors: Mapping[str, catalog.Tensor], inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Take the memory of these inputs and outputs."""
        self.inputs = {name: driver.Buffer(tensors[name].shape, tensors[name].dtype) for name in inputs}
        self.outputs = {name: driver.Buffer(tensors[name].shape, tensors[name].dtype) for name in outputs}
        self.uploaded, self.computed, self.done = driver.Event(), driver.Event(), driver.Event()
        self.graph: driver.Graph | None = None

    def upload(self, stream: driver.Stream) -> None:
        """Queue the copies to the device."""
        for buffer in self.inputs.values():
            buffer.upload(stream)

    def download(self, stream: driver.Stream) -> None:
        """Queue the copies from the device."""
        for buffer in self.outputs.values():
            buffer.download(stream)

    def close(self) -> None:
        """Free all of it; a second call does nothing."""
        if self.graph is not None:
            self.graph.close()
        for buffer in (*self.inputs.values(), *self.outputs.values()):
            buffer.close()


class GpuRuntime:
    """An engine on this process's GPU, for one batch at a time or for several on their way.

    What is queued for a batch is captured as a CUDA graph once and replayed. With one batch in flight its copies are in
    the graph too; with more, copies have streams of their own and overlap with the computation of other batches.
    """

    def __init__(self, api: ModuleType, engine_file: Path, in_flight: int = 1) -> None:
        """Load an engine. Raises RuntimeError where there is no GPU, or with TensorRT's messages.

        `in_flight`: batches on their way at once, 1 or more.
        """
        self._api = api
        self._lanes: list[Lane] = []
        self._steps: list[Part | Kernel] = []
        self._between: dict[str, int] = {}
        self._scratch: list[int] = []
        self._memory: driver.Memory | None = None
        self._modules: dict[bytes, driver.Module] = {}
        self._streams: list[driver.Stream] = []
        self._queued: deque[Lane] = deque()
        self._next = 0
        gpu = driver.gpu()
        if gpu is None:
            raise RuntimeError(f"{engine_file} runs on a GPU, found no NVIDIA GPU or no driver; run it on its target")
        steps, constants = bundle.read(engine_file, gpu.compute_capability)
        known = {name: catalog.Tensor.of(array) for name, array in constants.items()}
        self._modules = {code: driver.Module(code) for code in {step.code for step in steps if step.kernel}}
        new: Part | Kernel
        for i, step in enumerate(steps):
            if step.kernel:
                new = Kernel(step, self._modules[step.code], known, gpu.compute_capability)
            else:
                new = Part(api, step.code, f"{engine_file}, part {i}")
            for name, tensor in new.inputs.items():
                if known.setdefault(name, tensor) != tensor:
                    found = f"{name} is written as {known[name]} and read as {tensor}"
                    raise RuntimeError(f"{engine_file}: {found}; build the engine again")
            known |= new.outputs
            self._steps.append(new)
        read = {name for step in self._steps for name in step.inputs}
        written = {*constants, *(name for step in self._steps for name in step.outputs)}
        inputs, outputs = sorted(read - written), [name for name in known if name in written - read]
        if len(inputs) != 1:
            raise RuntimeError(f"{engine_file}: one input is needed, found {inputs}; build the engine again")
        self._place({name: known[name] for name in known if name in read & written}, constants)
        self._streams = [driver.Stream() for _ in range(3)]
        for _ in range(in_flight):
            self._lanes.append(Lane(known, inputs, outputs))
            self._capture(self._lanes[-1], alone=in_flight == 1)

    def _place(self, tensors: Mapping[str, catalog.Tensor], constants: Mapping[str, interface.Array]) -> None:
        """Take one block of memory for what steps hand on and for their scratch memory: one step runs at a time."""
        spans = []
        for name, tensor in tensors.items():
            used = [i for i, step in enumerate(self._steps) if name in step.inputs or name in step.outputs]
            life = (0, len(self._steps)) if name in constants else (used[0], used[-1])
            spans.append(memory.Span(*life, tensor.bytes))
        spans += [memory.Span(i, i, step.scratch_bytes) for i, step in enumerate(self._steps)]
        offsets, total = memory.place(spans)
        self._memory = driver.Memory(total)
        places = [self._memory.address + offset for offset in offsets]
        self._between = dict(zip(tensors, places, strict=False))
        self._scratch = places[len(tensors) :]
        for name, array in constants.items():
            driver.fill(self._between[name], array)

    def _capture(self, lane: Lane, alone: bool) -> None:
        """Capture the computation of a lane, with its copies if it is `alone`."""
        buffers = {**lane.inputs, **lane.outputs}
        addresses = {name: buffer.address for name, buffer in buffers.items()} | self._between
        for step, scratch in zip(self._steps, self._scratch, strict=True):
            step.bind(addresses, scratch)

        def enqueue(stream: driver.Stream) -> None:
            if alone:
                lane.upload(stream)
            for step in self._steps:
                step.enqueue(stream)
            if alone:
                lane.download(stream)

        # The first run makes what TensorRT leaves for it, which a capture forbids.
        enqueue(self._streams[1])
        self._streams[1].synchronize()
        lane.graph = driver.Graph(self._streams[1], enqueue)

    def infer(self, frames: interface.Array) -> dict[str, interface.Array]:
        """See Runtime.infer. The arrays are copies out of pinned memory."""
        if self._queued:
            raise RuntimeError(f"{len(self._queued)} batches are in flight; take their results before `infer`")
        self.submit(frames)
        return self.result()

    def input_buffer(self) -> interface.Array:
        """See Runtime.input_buffer. It is pinned memory."""
        (entry,) = self._free_lane().inputs.values()
        return entry.host

    def _free_lane(self) -> Lane:
        if not self._lanes:
            raise RuntimeError("the engine is closed; load it again")
        if len(self._queued) == len(self._lanes):
            raise RuntimeError(f"{len(self._queued)} batches are in flight, and no more may be; take a result first")
        return self._lanes[self._next]

    def submit(self, frames: interface.Array) -> None:
        """See Runtime.submit."""
        lane, entry = self._free_lane(), self.input_buffer()
        interface.require_input(frames, entry)
        # Frames may be there already.
        if frames.ctypes.data != entry.ctypes.data or not frames.flags.c_contiguous:
            np.copyto(entry, frames)
        self._next = (self._next + 1) % len(self._lanes)
        self._queued.append(lane)
        assert lane.graph is not None
        copies_in, computation, copies_out = self._streams
        if len(self._lanes) > 1:
            lane.upload(copies_in)
            lane.uploaded.record(copies_in)
            lane.uploaded.hold(computation)
        lane.graph.launch(computation)
        if len(self._lanes) > 1:
            lane.computed.record(computation)
            lane.computed.hold(copies_out)
            lane.download(copies_out)
        lane.done.record(copies_out if len(self._lanes) > 1 else computation)

    def result(self) -> dict[str, interface.Array]:
        """See Runtime.result. The arrays are copies out of pinned memory."""
        if not self._queued:
            raise RuntimeError("no batch is in flight; submit one first")
        lane = self._queued.popleft()
        lane.done.synchronize()
        return {name: buffer.host.copy() for name, buffer in lane.outputs.items()}

    def gpu_ms(self, runs: int) -> list[float]:
        """Milliseconds on the GPU of each of `runs` batches, one at a time; with copies where one is in flight."""
        if self._queued:
            raise RuntimeError(f"{len(self._queued)} batches are in flight; take their results before `gpu_ms`")
        if not self._lanes or self._lanes[0].graph is None:
            raise RuntimeError("the engine is closed; load it again")
        stream, found = self._streams[1], []
        for _ in range(runs):
            before, after = driver.Event(), driver.Event()
            before.record(stream)
            self._lanes[0].graph.launch(stream)
            after.record(stream)
            after.synchronize()
            found.append(before.ms_until(after))
        return found

    def profile(self, runs: int) -> list[tuple[str, str, float]]:
        """Step, layer and milliseconds on the GPU of each layer and kernel, mean of `runs` without a CUDA graph.

        TensorRT waits after each layer, so layers are timed apart and their sum is more than a run takes.
        """
        if not self._lanes:
            raise RuntimeError("the engine is closed; load it again")
        stream = self._streams[1]
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
                before, after = driver.Event(), driver.Event()
                before.record(stream)
                step.enqueue(stream)
                after.record(stream)
                stream.synchronize()
                if isinstance(step, Kernel):
                    key = (profiler.step, step.name)
                    found[key] = found.get(key, 0.0) + before.ms_until(after) / runs
        return [(step, layer, ms) for (step, layer), ms in found.items()]

    def close(self) -> None:
        """Free the GPU's memory; the engine can't run after it. A second call does nothing."""
        for lane in self._lanes:
            lane.close()
        if self._memory is not None:
            self._memory.close()
        for module in self._modules.values():
            module.close()
        for stream in self._streams:
            stream.close()
        self._lanes, self._steps, self._streams = [], [], []
        self._queued.clear()

    def __del__(self) -> None:
        self.close()
