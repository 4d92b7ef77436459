"""Run an engine on the GPU: its steps as one CUDA graph, for one batch at a time or for several in flight."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from stages.engines import interface
from stages.engines.cuda import bundle, driver, memory
from stages.inference.steps import TensorSpec


class Runner(Protocol):
    """A step of an engine: one of our kernels, or an engine of TensorRT."""

    name: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    scratch_bytes: int
    """Memory that only the step uses, while it runs."""

    def bind(self, addresses: Mapping[str, int], scratch: int) -> None:
        """Set the addresses in device memory of the tensors, by name, and of `scratch_bytes` of scratch memory."""
        ...

    def enqueue(self, stream: driver.Stream, first: bool) -> None:
        """Queue the step, the first of a batch or not."""
        ...


class KernelRunner:
    """A kernel of the engine: launches of functions of its machine code."""

    def __init__(self, step: bundle.Kernel, module: driver.Module) -> None:
        """`module` has the code of `step`, loaded."""
        self.name, self._step, self._module = step.operator, step, module
        self.inputs = {name: step.tensors[name] for name in step.inputs}
        self.outputs = {name: step.tensors[name] for name in step.outputs}
        self._workspaces, self.scratch_bytes = memory.consecutive(step.plan.workspace_bytes)
        self._addresses: dict[str, int] = {}

    def bind(self, addresses: Mapping[str, int], scratch: int) -> None:
        """Set the addresses in device memory of the tensors, by name, and of `scratch_bytes` of scratch memory."""
        inputs = {f"i{i}": addresses[name] for i, name in enumerate(self._step.inputs)}
        outputs = {f"o{i}": addresses[name] for i, name in enumerate(self._step.outputs)}
        workspaces = {f"w{i}": scratch + offset for i, offset in enumerate(self._workspaces)}
        self._addresses = {**inputs, **outputs, **workspaces}

    def enqueue(self, stream: driver.Stream, first: bool) -> None:
        """Queue the launches. The first of a batch waits for the copies before it."""
        for number, launch in enumerate(self._step.plan.launches):
            pointers = [self._addresses[argument] for argument in launch.arguments]
            self._module.launch(launch, pointers, stream, overlap=not first or number > 0)


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

    def __init__(
        self,
        engine: str,
        steps: Sequence[Runner],
        in_flight: int = 1,
        constants: Mapping[str, bundle.Constant] | None = None,
        data: memoryview | None = None,
        modules: Sequence[driver.Module] = (),
    ) -> None:
        """Load an engine for `in_flight` batches at once, 1 or more.

        `engine` names it in messages. The steps run in their order. `data` has the bytes of the constants, `modules`
        the code of the steps; both are freed by `close`. Raises RuntimeError where the steps don't fit one another.
        """
        self.slots: list[Slot] = []
        """The buffers of each batch that may be in flight, used in turn."""
        self.steps = list(steps)
        """Runners of the steps, in the order in which they run for each batch."""
        self._shared: dict[str, int] = {}
        self._scratch: list[int] = []
        self._blocks: list[driver.Memory] = []
        self._modules = list(modules)
        self.streams: list[driver.Stream] = []
        """Streams for the copies to the device, the computation and the copies from the device."""
        self.queued: deque[Slot] = deque()
        """Slots of the batches in flight, the oldest first."""
        self._next = 0
        constants = constants or {}
        known = {name: constant.spec for name, constant in constants.items()}
        inputs: list[str] = []
        for step in self.steps:
            inputs += [name for name in step.inputs if name not in known]
            for name, spec in step.inputs.items():
                if known.setdefault(name, spec) != spec:
                    what = f"{name} is written as {known[name]} and read as {spec}"
                    raise RuntimeError(f"{engine}: {what}; {bundle.REBUILD}")
            known |= step.outputs
        # A tensor that a step reads and no earlier step writes is an input of the engine.
        if len(inputs) != 1:
            raise RuntimeError(f"{engine}: one input is needed, found {inputs}; {bundle.REBUILD}")
        read = {name for step in self.steps for name in step.inputs}
        written = {name for step in self.steps for name in step.outputs}
        outputs = [name for name in known if name in written - read]
        if data is not None and len(data):
            self._blocks.append(driver.Memory(len(data)))
            driver.fill(self._blocks[0].address, data)
            start = self._blocks[0].address
            self._shared = {name: start + constant.offset for name, constant in constants.items()}
        self._place({name: known[name] for name in known if name in read & written})
        self.streams = [driver.Stream() for _ in range(3)]
        for _ in range(in_flight):
            self.slots.append(Slot(known, inputs, outputs))
            self._capture(self.slots[-1], with_copies=in_flight == 1)

    def _place(self, tensors: Mapping[str, TensorSpec]) -> None:
        """Allocate one block for all tensors between steps and scratch memory. One step runs at a time."""
        spans = []
        for name, spec in tensors.items():
            used = [i for i, step in enumerate(self.steps) if name in step.inputs or name in step.outputs]
            spans.append(memory.Span(used[0], used[-1], spec.size_bytes))
        spans += [memory.Span(i, i, step.scratch_bytes) for i, step in enumerate(self.steps)]
        offsets, total = memory.place(spans)
        self._blocks.append(driver.Memory(total))
        addresses = [self._blocks[-1].address + offset for offset in offsets]
        self._shared |= dict(zip(tensors, addresses, strict=False))
        self._scratch = addresses[len(tensors) :]

    def _capture(self, slot: Slot, with_copies: bool) -> None:
        """Capture the computation of a slot, with its copies where they have no streams of their own."""
        buffers = {**slot.inputs, **slot.outputs}
        addresses = {name: buffer.address for name, buffer in buffers.items()} | self._shared
        for step, scratch in zip(self.steps, self._scratch, strict=True):
            step.bind(addresses, scratch)

        def enqueue(stream: driver.Stream) -> None:
            if with_copies:
                slot.upload(stream)
            for number, step in enumerate(self.steps):
                step.enqueue(stream, first=number == 0)
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
        for block in self._blocks:
            block.close()
        for module in self._modules:
            module.close()
        for stream in self.streams:
            stream.close()
        self.slots, self.steps, self.streams = [], [], []
        self.queued.clear()

    def __del__(self) -> None:
        self.close()
