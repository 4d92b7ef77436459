"""Run an engine on the GPU: TensorRT's parts and our kernels, for one batch at a time or for several in flight."""

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from stages.engines import interface
from stages.engines.cuda import bundle, driver, gpu, memory, tensorrt_common
from stages.inference.steps import TensorSpec

if TYPE_CHECKING:
    import tensorrt as trt


class PartRunner:
    """A part of the engine: an engine of TensorRT and its execution context."""

    def __init__(self, api: ModuleType, code: bytes, name: str) -> None:
        """Deserialize `code`; `name` is for messages. Raises RuntimeError with TensorRT's messages."""
        self.name, self._errors = name, list[str]()
        # The bindings keep logger, runtime and engine alive as long as the context.
        runtime: trt.Runtime = api.Runtime(tensorrt_common.logger(api, self._errors))
        engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(code)
        if engine is None:
            raise RuntimeError(tensorrt_common.lines(f"{api.__name__} can't load {name}", self._errors))
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
            raise RuntimeError(tensorrt_common.lines(f"{api.__name__} can't run {name}", self._errors))
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

    def enqueue(self, stream: driver.Stream) -> None:
        """Queue the part. Raises RuntimeError with TensorRT's messages."""
        if not self.context.execute_async_v3(stream.handle):
            raise RuntimeError(tensorrt_common.lines(f"{self.name} does not run", self._errors))


class KernelRunner:
    """A kernel of the engine: launches of functions of its machine code."""

    def __init__(self, step: bundle.CompiledKernel, module: driver.Module) -> None:
        """`module` has the machine code of `step`, loaded."""
        self.name, self._step, self._module = step.operator, step, module
        self.inputs = {name: step.tensors[name] for name in step.inputs}
        self.outputs = {name: step.tensors[name] for name in step.outputs}
        self._workspaces, self.scratch_bytes = memory.consecutive(step.workspace_bytes)
        self._addresses: dict[str, int] = {}

    def bind(self, addresses: Mapping[str, int], scratch: int) -> None:
        """Set the addresses in device memory of the tensors, by name, and of `scratch_bytes` of scratch memory."""
        inputs = {f"i{i}": addresses[name] for i, name in enumerate(self._step.inputs)}
        outputs = {f"o{i}": addresses[name] for i, name in enumerate(self._step.outputs)}
        workspaces = {f"w{i}": scratch + offset for i, offset in enumerate(self._workspaces)}
        self._addresses = {**inputs, **outputs, **workspaces}

    def enqueue(self, stream: driver.Stream) -> None:
        """Queue the launches."""
        for launch in self._step.launches:
            self._module.launch(launch, [self._addresses[argument] for argument in launch.arguments], stream)


class Slot:
    """The buffers of one batch in flight, and the CUDA graph of the work that is queued for it."""

    def __init__(self, tensors: Mapping[str, TensorSpec], inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Allocate the memory of these inputs and outputs."""
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
    """An engine on this process's GPU; see interface.Runtime.

    The work for a batch is captured as a CUDA graph once and replayed. With one batch in flight its copies are in the
    graph too. With more, copies have streams of their own and overlap with the computation of other batches.
    """

    def __init__(self, api: ModuleType, engine_file: Path, in_flight: int = 1) -> None:
        """Load an engine for `in_flight` batches at once, 1 or more.

        Raises RuntimeError where there is no GPU, where the file is not an engine for it, and with TensorRT's messages.
        """
        self.api = api
        """TensorRT's Python module, or TensorRT-RTX's."""
        self.slots: list[Slot] = []
        """The buffers of each batch that may be in flight, used in turn."""
        self.steps: list[PartRunner | KernelRunner] = []
        """Runners of the steps, in the order in which they run for each batch."""
        self._shared: dict[str, int] = {}
        self._scratch: list[int] = []
        self._memory: driver.Memory | None = None
        self._modules: dict[bytes, driver.Module] = {}
        self.streams: list[driver.Stream] = []
        """Streams for the copies to the device, the computation and the copies from the device."""
        self.queued: deque[Slot] = deque()
        """Slots of the batches in flight, the oldest first."""
        self._next = 0
        found = gpu.current()
        if found is None:
            raise RuntimeError(f"{engine_file} runs on a GPU, found no NVIDIA GPU or no driver; run it on its target")
        steps, constants = bundle.read(engine_file, found.compute_capability)
        known = {name: TensorSpec(array.shape, array.dtype.name) for name, array in constants.items()}
        inputs: list[str] = []
        new: PartRunner | KernelRunner
        for i, step in enumerate(steps):
            if isinstance(step, bundle.CompiledKernel):
                if step.code not in self._modules:
                    self._modules[step.code] = driver.Module(step.code)
                new = KernelRunner(step, self._modules[step.code])
            else:
                new = PartRunner(api, step.code, f"{engine_file}, part {i}")
            inputs += [name for name in new.inputs if name not in known]
            for name, spec in new.inputs.items():
                if known.setdefault(name, spec) != spec:
                    what = f"{name} is written as {known[name]} and read as {spec}"
                    raise RuntimeError(f"{engine_file}: {what}; build the engine again")
            known |= new.outputs
            self.steps.append(new)
        # A tensor that a step reads and no earlier step writes is an input of the engine.
        if len(inputs) != 1:
            raise RuntimeError(f"{engine_file}: one input is needed, found {inputs}; build the engine again")
        read = {name for step in self.steps for name in step.inputs}
        written = {*constants, *(name for step in self.steps for name in step.outputs)}
        outputs = [name for name in known if name in written - read]
        self._place({name: known[name] for name in known if name in read & written}, constants)
        self.streams = [driver.Stream() for _ in range(3)]
        for _ in range(in_flight):
            self.slots.append(Slot(known, inputs, outputs))
            self._capture(self.slots[-1], with_copies=in_flight == 1)

    def _place(self, tensors: Mapping[str, TensorSpec], constants: Mapping[str, interface.Array]) -> None:
        """Allocate one block for all tensors between steps, constants and scratch memory. One step runs at a time."""
        spans = []
        for name, spec in tensors.items():
            used = [i for i, step in enumerate(self.steps) if name in step.inputs or name in step.outputs]
            first, last = (0, len(self.steps)) if name in constants else (used[0], used[-1])
            spans.append(memory.Span(first, last, spec.size_bytes))
        spans += [memory.Span(i, i, step.scratch_bytes) for i, step in enumerate(self.steps)]
        offsets, total = memory.place(spans)
        self._memory = driver.Memory(total)
        addresses = [self._memory.address + offset for offset in offsets]
        self._shared = dict(zip(tensors, addresses, strict=False))
        self._scratch = addresses[len(tensors) :]
        for name, array in constants.items():
            if name in self._shared:
                driver.fill(self._shared[name], array)

    def _capture(self, slot: Slot, with_copies: bool) -> None:
        """Capture the computation of a slot, with its copies where they have no streams of their own."""
        buffers = {**slot.inputs, **slot.outputs}
        addresses = {name: buffer.address for name, buffer in buffers.items()} | self._shared
        for step, scratch in zip(self.steps, self._scratch, strict=True):
            step.bind(addresses, scratch)

        def enqueue(stream: driver.Stream) -> None:
            if with_copies:
                slot.upload(stream)
            for step in self.steps:
                step.enqueue(stream)
            if with_copies:
                slot.download(stream)

        # TensorRT allocates in the first run, which a capture forbids.
        enqueue(self.streams[1])
        self.streams[1].synchronize()
        slot.graph = driver.Graph(self.streams[1], enqueue)

    def infer(self, frames: interface.Array) -> dict[str, interface.Array]:
        """See Runtime.infer. The arrays are copies out of pinned memory."""
        if self.queued:
            raise RuntimeError(f"{len(self.queued)} batches are in flight; take their results before `infer`")
        self.submit(frames)
        return self.result()

    def input_buffer(self) -> interface.Array:
        """See Runtime.input_buffer. It is pinned memory."""
        (entry,) = self._free_slot().inputs.values()
        return entry.host

    def _free_slot(self) -> Slot:
        if not self.slots:
            raise RuntimeError("the engine is closed; load it again")
        if len(self.queued) == len(self.slots):
            raise RuntimeError(f"{len(self.queued)} batches are in flight, and no more may be; take a result first")
        return self.slots[self._next]

    def submit(self, frames: interface.Array) -> None:
        """See Runtime.submit."""
        slot, entry = self._free_slot(), self.input_buffer()
        interface.require_input(frames, entry)
        # Frames that the caller wrote to input_buffer are there already.
        if frames.ctypes.data != entry.ctypes.data or not frames.flags.c_contiguous:
            np.copyto(entry, frames)
        self._next = (self._next + 1) % len(self.slots)
        self.queued.append(slot)
        assert slot.graph is not None
        copies_in, computation, copies_out = self.streams
        if len(self.slots) > 1:
            slot.upload(copies_in)
            slot.uploaded.record(copies_in)
            slot.uploaded.delay(computation)
        slot.graph.launch(computation)
        if len(self.slots) > 1:
            slot.computed.record(computation)
            slot.computed.delay(copies_out)
            slot.download(copies_out)
        slot.done.record(copies_out if len(self.slots) > 1 else computation)

    def result(self) -> dict[str, interface.Array]:
        """See Runtime.result. The arrays are copies out of pinned memory."""
        if not self.queued:
            raise RuntimeError("no batch is in flight; submit one first")
        slot = self.queued.popleft()
        slot.done.synchronize()
        return {name: buffer.host.copy() for name, buffer in slot.outputs.items()}

    def close(self) -> None:
        """Free the GPU's memory; the engine can't run afterwards. A second call does nothing."""
        for slot in self.slots:
            slot.close()
        if self._memory is not None:
            self._memory.close()
        for module in self._modules.values():
            module.close()
        for stream in self.streams:
            stream.close()
        self.slots, self.steps, self.streams = [], [], []
        self.queued.clear()

    def __del__(self) -> None:
        self.close()
