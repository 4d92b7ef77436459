"""CUDA's driver API (libcuda) by ctypes: memory, copies, streams, events, graphs, modules. Nothing is loaded at import.

It comes with NVIDIA's driver, so an engine of our kernels needs no other library of CUDA. The context is the device's
primary one, which CUDA's runtime library, TensorRT and PyTorch use too.
"""

import ctypes
import threading
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from stages.engines.cuda import gpu
from stages.engines.cuda.launch import Launch
from stages.foundation import versions

# From cuda.h.
_ERROR_UNLOADING = 4
_STREAM_NON_BLOCKING = 1
_MAX_DYNAMIC_SHARED_BYTES = 8
_CAPTURE_THREAD_LOCAL = 1
_PROGRAMMATIC_STREAM_SERIALIZATION = 6
_MULTIPROCESSOR_COUNT = 16
_RESOURCE_SM = 1
_RESOURCE_BYTES, _SM_COUNT_OFFSET = 512, 96

_POINTER, _OUT = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
_SIGNATURES: dict[str, list[type]] = {
    "cuCtxGetCurrent": [_OUT],
    "cuCtxSetCurrent": [_POINTER],
    "cuDevicePrimaryCtxRetain": [_OUT, ctypes.c_int],
    "cuMemAlloc_v2": [_OUT, ctypes.c_size_t],
    "cuMemFree_v2": [_POINTER],
    "cuMemAllocHost_v2": [_OUT, ctypes.c_size_t],
    "cuMemFreeHost": [_POINTER],
    "cuMemGetInfo_v2": [ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)],
    "cuStreamCreate": [_OUT, ctypes.c_uint],
    "cuStreamSynchronize": [_POINTER],
    "cuStreamDestroy_v2": [_POINTER],
    "cuMemcpyHtoD_v2": [_POINTER, _POINTER, ctypes.c_size_t],
    "cuMemcpyHtoDAsync_v2": [_POINTER, _POINTER, ctypes.c_size_t, _POINTER],
    "cuMemcpyDtoHAsync_v2": [_POINTER, _POINTER, ctypes.c_size_t, _POINTER],
    "cuStreamBeginCapture_v2": [_POINTER, ctypes.c_int],
    "cuStreamEndCapture": [_POINTER, _OUT],
    "cuGraphInstantiateWithFlags": [_OUT, _POINTER, ctypes.c_ulonglong],
    "cuGraphLaunch": [_POINTER, _POINTER],
    "cuGraphDestroy": [_POINTER],
    "cuGraphExecDestroy": [_POINTER],
    "cuEventCreate": [_OUT, ctypes.c_uint],
    "cuEventRecord": [_POINTER, _POINTER],
    "cuEventSynchronize": [_POINTER],
    "cuStreamWaitEvent": [_POINTER, _POINTER, ctypes.c_uint],
    "cuEventElapsedTime": [ctypes.POINTER(ctypes.c_float), _POINTER, _POINTER],
    "cuEventDestroy_v2": [_POINTER],
    "cuModuleLoadData": [_OUT, _POINTER],
    "cuModuleUnload": [_POINTER],
    "cuModuleGetFunction": [_OUT, _POINTER, ctypes.c_char_p],
    "cuFuncSetAttribute": [_POINTER, ctypes.c_int, ctypes.c_int],
}
_thread = threading.local()
"""Has `ready` in threads that have a context."""


@cache
def library() -> ctypes.CDLL:
    """The driver's library, with the primary context of the first GPU retained for this process.

    Raises RuntimeError where there is no driver or no GPU.
    """
    loaded = gpu.load_driver()
    if loaded is None:
        raise RuntimeError("found no NVIDIA GPU or no driver; run it where nvidia-smi lists the GPU")
    for function, arguments in _SIGNATURES.items():
        getattr(loaded, function).argtypes = arguments
    return loaded


@cache
def _primary_context() -> int:
    context = ctypes.c_void_p()
    gpu.call_driver(library(), "cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
    assert context.value is not None
    return context.value


def call(name: str, *arguments: object, allowed: int = 0) -> None:
    """Call a function of the driver's library, with a context current in this thread.

    Raises RuntimeError with its name and CUDA's message if it fails with another error than `allowed`.
    """
    loaded = library()
    if not hasattr(_thread, "ready"):
        # A context that a caller chose stays, such as one of some of the multiprocessors.
        context = ctypes.c_void_p()
        gpu.call_driver(loaded, "cuCtxGetCurrent", ctypes.byref(context), allowed=allowed)
        if not context.value:
            gpu.call_driver(loaded, "cuCtxSetCurrent", _primary_context(), allowed=allowed)
        _thread.ready = True
    gpu.call_driver(loaded, name, *arguments, allowed=allowed)


def multiprocessors() -> int:
    """Multiprocessors that this thread's context may use: all of the GPU's, or those of a green context.

    A GPU that is shared out by MIG has those of its part.
    """
    count, context = ctypes.c_int(), ctypes.c_void_p()
    call("cuCtxGetCurrent", ctypes.byref(context))
    call("cuDeviceGetAttribute", ctypes.byref(count), _MULTIPROCESSOR_COUNT, gpu.number(library()))
    loaded, resource = library(), ctypes.create_string_buffer(_RESOURCE_BYTES)
    # Since CUDA 12.4. The struct CUdevResource of cuda.h has the count as the first field of its union.
    if hasattr(loaded, "cuCtxGetDevResource") and not loaded.cuCtxGetDevResource(context, resource, _RESOURCE_SM):
        own = int.from_bytes(resource.raw[_SM_COUNT_OFFSET : _SM_COUNT_OFFSET + 4], "little")
        if 0 < own < count.value:
            return own
    return count.value


def _free(name: str, memory: ctypes.c_void_p) -> None:
    if memory.value:
        address, memory.value = memory.value, None
        # At the end of the process CUDA may be unloaded before Python's objects are deleted. It frees all memory then.
        call(name, address, allowed=_ERROR_UNLOADING)


class Stream:
    """A queue of work on the GPU that does not wait for the default stream."""

    def __init__(self) -> None:
        self._handle = ctypes.c_void_p()
        call("cuStreamCreate", ctypes.byref(self._handle), _STREAM_NON_BLOCKING)

    @property
    def handle(self) -> int:
        """The stream as an integer, as TensorRT takes it."""
        assert self._handle.value is not None, "the stream is closed"
        return self._handle.value

    def synchronize(self) -> None:
        """Wait until all queued work is done. Raises RuntimeError if any of it failed."""
        call("cuStreamSynchronize", self.handle)

    def close(self) -> None:
        """Free it; a second call does nothing."""
        _free("cuStreamDestroy_v2", self._handle)

    def __del__(self) -> None:
        self.close()


class Event:
    """A point in a stream, reached when all work that was queued before it is done."""

    def __init__(self) -> None:
        self._handle = ctypes.c_void_p()
        call("cuEventCreate", ctypes.byref(self._handle), 0)

    def record(self, stream: Stream) -> None:
        """Record the event after all work that the stream has queued so far."""
        call("cuEventRecord", self._handle, stream.handle)

    def delay(self, stream: Stream) -> None:
        """Make the work that is queued on the stream from now on wait for the event."""
        call("cuStreamWaitEvent", stream.handle, self._handle, 0)

    def synchronize(self) -> None:
        """Wait for the event. Raises RuntimeError if work that was queued before it failed."""
        call("cuEventSynchronize", self._handle)

    def ms_until(self, later: "Event") -> float:
        """Milliseconds on the GPU from this event to a later one; both must have been reached."""
        result = ctypes.c_float()
        call("cuEventElapsedTime", ctypes.byref(result), self._handle, later._handle)
        return result.value

    def __del__(self) -> None:
        _free("cuEventDestroy_v2", self._handle)


class Graph:
    """A CUDA graph: the work that a function queues on a stream, captured once and replayed by one call."""

    def __init__(self, stream: Stream, enqueue: Callable[[Stream], None]) -> None:
        """Capture the work that `enqueue` queues, without running it.

        Raises RuntimeError where `enqueue` does anything that a capture forbids.
        """
        captured = ctypes.c_void_p()
        self._handle = ctypes.c_void_p()
        call("cuStreamBeginCapture_v2", stream.handle, _CAPTURE_THREAD_LOCAL)
        try:
            enqueue(stream)
        except BaseException:
            # End the capture, but raise the first error and not the one that this causes.
            library().cuStreamEndCapture(stream.handle, ctypes.byref(captured))
            _free("cuGraphDestroy", captured)
            raise
        call("cuStreamEndCapture", stream.handle, ctypes.byref(captured))
        try:
            call("cuGraphInstantiateWithFlags", ctypes.byref(self._handle), captured, 0)
        finally:
            _free("cuGraphDestroy", captured)

    def launch(self, stream: Stream) -> None:
        """Queue a replay."""
        call("cuGraphLaunch", self._handle, stream.handle)

    def close(self) -> None:
        """Free it; a second call does nothing."""
        _free("cuGraphExecDestroy", self._handle)

    def __del__(self) -> None:
        self.close()


def fill(address: int, content: memoryview) -> None:
    """Copy bytes to an address in device memory and wait for the copy."""
    source = np.frombuffer(content, np.uint8)
    call("cuMemcpyHtoD_v2", address, source.ctypes.data, source.nbytes)
    # From memory that is not pinned the call may return before the copy is done.
    call("cuStreamSynchronize", None)


class Memory:
    """A block of device memory."""

    def __init__(self, size: int) -> None:
        """Allocate `size` bytes."""
        self._handle = ctypes.c_void_p()
        # CUDA returns no address for 0 bytes.
        call("cuMemAlloc_v2", ctypes.byref(self._handle), max(size, 1))

    @property
    def address(self) -> int:
        """Address in device memory."""
        assert self._handle.value is not None, "the memory is closed"
        return self._handle.value

    def close(self) -> None:
        """Free it; a second call does nothing."""
        _free("cuMemFree_v2", self._handle)

    def __del__(self) -> None:
        self.close()


class Buffer:
    """A tensor in device memory and a pinned copy of it in host memory, with transfers between both."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._pinned = ctypes.c_void_p()
        count = int(np.prod(shape, dtype=np.int64))
        self._bytes = count * np.dtype(dtype).itemsize
        self._memory = Memory(self._bytes)
        size = max(self._bytes, 1)
        call("cuMemAllocHost_v2", ctypes.byref(self._pinned), size)
        assert self._pinned.value is not None
        memory = (ctypes.c_byte * size).from_address(self._pinned.value)
        self.host: npt.NDArray[np.generic] = np.frombuffer(memory, dtype, count).reshape(shape)

    @property
    def address(self) -> int:
        """Address in device memory."""
        return self._memory.address

    def upload(self, stream: Stream) -> None:
        """Queue the copy of `host` to the device."""
        call("cuMemcpyHtoDAsync_v2", self.address, self._pinned, self._bytes, stream.handle)

    def download(self, stream: Stream) -> None:
        """Queue the copy from the device to `host`, which is valid once the stream is synchronized."""
        call("cuMemcpyDtoHAsync_v2", self._pinned, self.address, self._bytes, stream.handle)

    def close(self) -> None:
        """Free both; `host` must not be used afterwards. A second call does nothing."""
        self._memory.close()
        _free("cuMemFreeHost", self._pinned)

    def __del__(self) -> None:
        # Where the allocation on the device failed there is none on the host.
        if hasattr(self, "_memory"):
            self.close()


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute of cuda.h, whose value is an int."""

    _fields_ = (("id", ctypes.c_int), ("_pad", ctypes.c_int), ("value", ctypes.c_int), ("_more", ctypes.c_char * 60))


class _LaunchConfig(ctypes.Structure):
    """CUlaunchConfig of cuda.h."""

    _fields_ = (
        *((f"{what}_{axis}", ctypes.c_uint) for what in ("grid", "block") for axis in "xyz"),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("attribute_count", ctypes.c_uint),
    )


class Module:
    """Compiled machine code (cubin) or PTX, loaded on this thread's GPU."""

    def __init__(self, code: bytes) -> None:
        """Load `code`. The driver compiles PTX. Raises RuntimeError where it is not for this GPU."""
        self._handle = ctypes.c_void_p()
        call("cuModuleLoadData", ctypes.byref(self._handle), code)
        self._functions: dict[str, ctypes.c_void_p] = {}
        found = gpu.current()
        # Launch a kernel before the previous one ends; CUDA graphs capture that since 12.3.
        self._programmatic = (
            found is not None
            and versions.numbers(found.compute_capability) >= (9, 0)
            and versions.numbers(found.cuda) >= (12, 3)
        )

    def close(self) -> None:
        """Unload it; a second call does nothing."""
        _free("cuModuleUnload", self._handle)

    def __del__(self) -> None:
        self.close()

    def launch(self, launch: Launch, pointers: Sequence[int], stream: Stream, *, overlap: bool = True) -> None:
        """Queue a launch. `pointers` are the addresses in device memory of its arguments, in order.

        overlap: it may be launched before the kernel that was queued before it has ended, where the GPU can do that.
        """
        if launch.function not in self._functions:
            function, shared_bytes = ctypes.c_void_p(), launch.shared_bytes
            call("cuModuleGetFunction", ctypes.byref(function), self._handle, launch.function.encode())
            if shared_bytes:
                call("cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED_BYTES, shared_bytes)
            self._functions[launch.function] = function
        values = [ctypes.c_void_p(pointer) for pointer in pointers]
        arguments = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        function, size = self._functions[launch.function], (*launch.grid, *launch.block, launch.shared_bytes)
        if not (self._programmatic and overlap):
            call("cuLaunchKernel", function, *size, ctypes.c_void_p(stream.handle), arguments, None)
            return
        attribute = _Attribute(id=_PROGRAMMATIC_STREAM_SERIALIZATION, value=1)
        options = _LaunchConfig(*size, stream.handle, ctypes.pointer(attribute), 1)
        call("cuLaunchKernelEx", ctypes.byref(options), function, arguments, None)
