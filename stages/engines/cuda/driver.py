"""CUDA by ctypes: memory, copies, streams, events, graphs and modules. Nothing is loaded at import.

Modules and launches go through the driver (libcuda), all else through CUDA's runtime library (libcudart), in the newest
version that the driver supports.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from stages.engines.cuda import gpu
from stages.engines.cuda.launch import Launch
from stages.foundation import versions

LIBRARIES = {13: "libcudart.so.13", 12: "libcudart.so.12", 11: "libcudart.so.11.0"}
"""CUDA's major version -> name of its runtime library."""

# From cuda.h and driver_types.h.
_ERROR_UNLOADING = 4
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_STREAM_NON_BLOCKING = 1
_MAX_DYNAMIC_SHARED_BYTES = 8
_CAPTURE_THREAD_LOCAL = 1
_PROGRAMMATIC_STREAM_SERIALIZATION = 6

_POINTER, _OUT = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
_SIGNATURES: dict[str, list[type]] = {
    "cudaMalloc": [_OUT, ctypes.c_size_t],
    "cudaFree": [_POINTER],
    "cudaMallocHost": [_OUT, ctypes.c_size_t],
    "cudaFreeHost": [_POINTER],
    "cudaStreamCreateWithFlags": [_OUT, ctypes.c_uint],
    "cudaStreamSynchronize": [_POINTER],
    "cudaStreamDestroy": [_POINTER],
    "cudaMemcpy": [_POINTER, _POINTER, ctypes.c_size_t, ctypes.c_int],
    "cudaMemcpyAsync": [_POINTER, _POINTER, ctypes.c_size_t, ctypes.c_int, _POINTER],
    "cudaStreamBeginCapture": [_POINTER, ctypes.c_int],
    "cudaStreamEndCapture": [_POINTER, _OUT],
    "cudaGraphInstantiateWithFlags": [_OUT, _POINTER, ctypes.c_ulonglong],
    "cudaGraphLaunch": [_POINTER, _POINTER],
    "cudaGraphDestroy": [_POINTER],
    "cudaGraphExecDestroy": [_POINTER],
    "cudaEventCreate": [_OUT],
    "cudaEventRecord": [_POINTER, _POINTER],
    "cudaEventSynchronize": [_POINTER],
    "cudaStreamWaitEvent": [_POINTER, _POINTER, ctypes.c_uint],
    "cudaEventElapsedTime": [ctypes.POINTER(ctypes.c_float), _POINTER, _POINTER],
    "cudaEventDestroy": [_POINTER],
}


@cache
def library() -> ctypes.CDLL:
    """CUDA's runtime library, from the loader's path, the toolkit's folders or NVIDIA's Python packages.

    Raises RuntimeError where there is none that the driver supports; the message says what to install.
    """
    fix = "(JetPack's own, the system's package cuda-cudart, or pip's nvidia-cuda-runtime or nvidia-cuda-runtime-cu12)"
    loaded = gpu.find_library("CUDA's runtime", LIBRARIES, fix)
    for function, arguments in _SIGNATURES.items():
        getattr(loaded, function).argtypes = arguments
    loaded.cudaGetErrorString.restype = ctypes.c_char_p
    return loaded


def call(name: str, *arguments: object, allowed: int = 0) -> None:
    """Call a function of CUDA's runtime library.

    Raises RuntimeError with its name and CUDA's message if it fails with another error than `allowed`.
    """
    loaded = library()
    status = getattr(loaded, name)(*arguments)
    if status not in (0, allowed):
        raise RuntimeError(f"{name}: {loaded.cudaGetErrorString(status).decode()} (CUDA error {status})")


def _free(name: str, memory: ctypes.c_void_p) -> None:
    if memory.value:
        address, memory.value = memory.value, None
        # At the end of the process CUDA may be unloaded before Python's objects are deleted. It frees all memory then.
        call(name, address, allowed=_ERROR_UNLOADING)


class Stream:
    """A queue of work on the GPU that does not wait for the default stream."""

    def __init__(self) -> None:
        self._handle = ctypes.c_void_p()
        call("cudaStreamCreateWithFlags", ctypes.byref(self._handle), _STREAM_NON_BLOCKING)

    @property
    def handle(self) -> int:
        """The stream as an integer, as TensorRT takes it."""
        assert self._handle.value is not None, "the stream is closed"
        return self._handle.value

    def synchronize(self) -> None:
        """Wait until all queued work is done. Raises RuntimeError if any of it failed."""
        call("cudaStreamSynchronize", self.handle)

    def close(self) -> None:
        """Free it; a second call does nothing."""
        _free("cudaStreamDestroy", self._handle)

    def __del__(self) -> None:
        self.close()


class Event:
    """A point in a stream, reached when all work that was queued before it is done."""

    def __init__(self) -> None:
        self._handle = ctypes.c_void_p()
        call("cudaEventCreate", ctypes.byref(self._handle))

    def record(self, stream: Stream) -> None:
        """Record the event after all work that the stream has queued so far."""
        call("cudaEventRecord", self._handle, stream.handle)

    def delay(self, stream: Stream) -> None:
        """Make the work that is queued on the stream from now on wait for the event."""
        call("cudaStreamWaitEvent", stream.handle, self._handle, 0)

    def synchronize(self) -> None:
        """Wait for the event. Raises RuntimeError if work that was queued before it failed."""
        call("cudaEventSynchronize", self._handle)

    def ms_until(self, later: "Event") -> float:
        """Milliseconds on the GPU from this event to a later one; both must have been reached."""
        result = ctypes.c_float()
        call("cudaEventElapsedTime", ctypes.byref(result), self._handle, later._handle)
        return result.value

    def __del__(self) -> None:
        _free("cudaEventDestroy", self._handle)


class Graph:
    """A CUDA graph: the work that a function queues on a stream, captured once and replayed by one call."""

    def __init__(self, stream: Stream, enqueue: Callable[[Stream], None]) -> None:
        """Capture the work that `enqueue` queues, without running it.

        Raises RuntimeError where `enqueue` does anything that a capture forbids.
        """
        captured = ctypes.c_void_p()
        self._handle = ctypes.c_void_p()
        call("cudaStreamBeginCapture", stream.handle, _CAPTURE_THREAD_LOCAL)
        try:
            enqueue(stream)
        except BaseException:
            # End the capture, but raise the first error and not the one that this causes.
            library().cudaStreamEndCapture(stream.handle, ctypes.byref(captured))
            _free("cudaGraphDestroy", captured)
            raise
        call("cudaStreamEndCapture", stream.handle, ctypes.byref(captured))
        try:
            call("cudaGraphInstantiateWithFlags", ctypes.byref(self._handle), captured, 0)
        finally:
            _free("cudaGraphDestroy", captured)

    def launch(self, stream: Stream) -> None:
        """Queue a replay."""
        call("cudaGraphLaunch", self._handle, stream.handle)

    def close(self) -> None:
        """Free it; a second call does nothing."""
        _free("cudaGraphExecDestroy", self._handle)

    def __del__(self) -> None:
        self.close()


def fill(address: int, array: npt.NDArray[np.generic]) -> None:
    """Copy an array to an address in device memory and wait for the copy."""
    source = np.ascontiguousarray(array)
    call("cudaMemcpy", address, source.ctypes.data, source.nbytes, _HOST_TO_DEVICE)
    # From memory that is not pinned the call returns before the copy is done.
    call("cudaStreamSynchronize", None)


class Memory:
    """A block of device memory."""

    def __init__(self, size: int) -> None:
        """Allocate `size` bytes."""
        self._handle = ctypes.c_void_p()
        # CUDA returns no address for 0 bytes.
        call("cudaMalloc", ctypes.byref(self._handle), max(size, 1))

    @property
    def address(self) -> int:
        """Address in device memory."""
        assert self._handle.value is not None, "the memory is closed"
        return self._handle.value

    def close(self) -> None:
        """Free it; a second call does nothing."""
        _free("cudaFree", self._handle)

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
        call("cudaMallocHost", ctypes.byref(self._pinned), size)
        assert self._pinned.value is not None
        memory = (ctypes.c_byte * size).from_address(self._pinned.value)
        self.host: npt.NDArray[np.generic] = np.frombuffer(memory, dtype, count).reshape(shape)

    @property
    def address(self) -> int:
        """Address in device memory."""
        return self._memory.address

    def upload(self, stream: Stream) -> None:
        """Queue the copy of `host` to the device."""
        call("cudaMemcpyAsync", self.address, self._pinned, self._bytes, _HOST_TO_DEVICE, stream.handle)

    def download(self, stream: Stream) -> None:
        """Queue the copy from the device to `host`, which is valid once the stream is synchronized."""
        call("cudaMemcpyAsync", self._pinned, self.address, self._bytes, _DEVICE_TO_HOST, stream.handle)

    def close(self) -> None:
        """Free both; `host` must not be used afterwards. A second call does nothing."""
        self._memory.close()
        _free("cudaFreeHost", self._pinned)

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
    """Compiled machine code (cubin), loaded on this process's GPU."""

    def __init__(self, code: bytes) -> None:
        """Load `code`. Raises RuntimeError where it is not for this GPU."""
        self._handle = ctypes.c_void_p()
        # This call makes the context of CUDA's runtime current in this thread, which the driver's functions need.
        call("cudaFree", None)
        driver = gpu.load_driver()
        assert driver is not None, "CUDA's runtime was found, so there is a driver"
        self._driver = driver
        gpu.call_driver(self._driver, "cuModuleLoadData", ctypes.byref(self._handle), code)
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
        if self._handle.value:
            handle, self._handle.value = ctypes.c_void_p(self._handle.value), None
            call("cudaFree", None, allowed=_ERROR_UNLOADING)
            gpu.call_driver(self._driver, "cuModuleUnload", handle, allowed=_ERROR_UNLOADING)

    def __del__(self) -> None:
        self.close()

    def launch(self, launch: Launch, pointers: Sequence[int], stream: Stream) -> None:
        """Queue a launch. `pointers` are the addresses in device memory of its arguments, in order."""
        if launch.function not in self._functions:
            function, shared_bytes = ctypes.c_void_p(), launch.shared_bytes
            name = launch.function.encode()
            gpu.call_driver(self._driver, "cuModuleGetFunction", ctypes.byref(function), self._handle, name)
            if shared_bytes:
                gpu.call_driver(self._driver, "cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED_BYTES, shared_bytes)
            self._functions[launch.function] = function
        values = [ctypes.c_void_p(pointer) for pointer in pointers]
        arguments = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        function, size = self._functions[launch.function], (*launch.grid, *launch.block, launch.shared_bytes)
        if not self._programmatic:
            where = *size, ctypes.c_void_p(stream.handle)
            gpu.call_driver(self._driver, "cuLaunchKernel", function, *where, arguments, None)
            return
        attribute = _Attribute(id=_PROGRAMMATIC_STREAM_SERIALIZATION, value=1)
        options = _LaunchConfig(*size, stream.handle, ctypes.pointer(attribute), 1)
        gpu.call_driver(self._driver, "cuLaunchKernelEx", ctypes.byref(options), function, arguments, None)
