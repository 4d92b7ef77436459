"""CUDA by ctypes: which GPU there is, and memory, copies and a stream for engines.

The driver (libcuda) answers what the GPU is, so that a target can be checked before anything is loaded. Memory and
copies go through CUDA's runtime library (libcudart), in the newest version that the driver serves. Nothing is loaded
at import.
"""

import ctypes
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages import config

LIBRARIES = {13: "libcudart.so.13", 12: "libcudart.so.12", 11: "libcudart.so.11.0"}
"""CUDA's major version -> name of its runtime library."""

# From cuda.h and driver_types.h.
_ERROR_STUB_LIBRARY, _ERROR_NO_DEVICE, _ERROR_UNLOADING = 34, 100, 4
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_STREAM_NON_BLOCKING = 1
_MAX_DYNAMIC_SHARED_BYTES = 8
_CAPTURE_THREAD_LOCAL = 1
_PROGRAMMATIC_STREAM_SERIALIZATION = 6

_POINTER, _OUT = ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p)
_SIGNATURES: dict[str, list[Any]] = {
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


@dataclass(frozen=True)
class Gpu:
    """The GPU that this process uses: the first that CUDA_VISIBLE_DEVICES leaves."""

    name: str
    compute_capability: str
    driver: str
    """Version of the driver; empty where the system does not tell."""
    cuda: str
    """Newest CUDA version that the driver serves."""


@cache
def gpu() -> Gpu | None:
    """The GPU of this process, or None where there is no driver or no GPU.

    Raises RuntimeError where there is a driver that does not work.
    """
    driver = _driver()
    if driver is None:
        return None
    device, number, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    _ask(driver, "cuDeviceGet", ctypes.byref(device), 0)
    _ask(driver, "cuDeviceGetName", name, len(name), device)
    capability = []
    for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
        _ask(driver, "cuDeviceGetAttribute", ctypes.byref(number), attribute, device)
        capability.append(str(number.value))
    _ask(driver, "cuDriverGetVersion", ctypes.byref(number))
    cuda = f"{number.value // 1000}.{number.value % 1000 // 10}"
    return Gpu(name.value.decode(), ".".join(capability), _driver_version(), cuda)


def _driver() -> ctypes.CDLL | None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    status = driver.cuInit(0)
    if status in (_ERROR_STUB_LIBRARY, _ERROR_NO_DEVICE):
        return None
    if status:
        raise RuntimeError(f"cuInit: CUDA error {status}; mend the NVIDIA driver until nvidia-smi lists the GPU")
    return driver


def _ask(driver: ctypes.CDLL, name: str, *arguments: Any, allowed: int = 0) -> None:
    status = getattr(driver, name)(*arguments)
    if status not in (0, allowed):
        text = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(text))
        raise RuntimeError(f"{name}: {(text.value or b'unknown error').decode()} (CUDA error {status})")


def _driver_version() -> str:
    path = Path("/proc/driver/nvidia/version")
    first = path.read_text(encoding="utf-8").partition("\n")[0] if path.exists() else ""
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", first)
    return found[0] if found else ""


@cache
def library() -> ctypes.CDLL:
    """CUDA's runtime library, from the loader's path, the toolkit's folders or NVIDIA's Python packages.

    Raises RuntimeError where there is none that the driver serves, saying what to install.
    """
    mend = "(JetPack's own, the system's package cuda-cudart, or pip's nvidia-cuda-runtime or nvidia-cuda-runtime-cu12)"
    loaded = find_library("CUDA's runtime", LIBRARIES, mend)
    for function, arguments in _SIGNATURES.items():
        getattr(loaded, function).argtypes = arguments
    loaded.cudaGetErrorString.restype = ctypes.c_char_p
    return loaded


def find_library(what: str, libraries: Mapping[int, str], mend: str) -> ctypes.CDLL:
    """The newest of CUDA's `libraries`, by major version, that is installed and that the driver serves.

    Raises RuntimeError where there is none; `mend` says which packages have it.
    """
    found = gpu()
    newest = int(found.cuda.partition(".")[0]) if found else max(libraries)
    names = [name for major, name in sorted(libraries.items(), reverse=True) if major <= newest]
    folders = _folders()
    for name in names:
        # The bare name is what the loader finds: LD_LIBRARY_PATH and the system's folders.
        for candidate in (name, *(str(folder / name) for folder in folders)):
            try:
                return ctypes.CDLL(candidate)
            except OSError:
                continue
    raise RuntimeError(
        f"none of {', '.join(names)} found on the loader's path or in {', '.join(map(str, folders))}; install {what} "
        f"{mend}, and name its folder in LD_LIBRARY_PATH if it is elsewhere"
    )


def _folders() -> list[Path]:
    toolkits = [Path("/usr/local/cuda"), *sorted(Path("/usr/local").glob("cuda-*"), reverse=True)]
    folders = [toolkit / "lib64" for toolkit in toolkits]
    spec = importlib.util.find_spec("nvidia")
    for package in (spec.submodule_search_locations or []) if spec else []:
        folders += [Path(package) / wheel / "lib" for wheel in ("cu13", "cuda_runtime", "cuda_nvrtc")]
    return [folder for folder in folders if folder.is_dir()]


def call(name: str, *arguments: Any, allowed: int = 0) -> None:
    """Call a function of CUDA's runtime library.

    Raises RuntimeError with its name and CUDA's message if it fails with another error than `allowed`.
    """
    loaded = library()
    status = getattr(loaded, name)(*arguments)
    if status not in (0, allowed):
        raise RuntimeError(f"{name}: {loaded.cudaGetErrorString(status).decode()} (CUDA error {status})")


def used_bytes() -> int:
    """Device memory in use, by all processes on the GPU and CUDA itself."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
    return total.value - free.value


def _free(name: str, memory: ctypes.c_void_p) -> None:
    if memory.value:
        address, memory.value = memory.value, None
        # At the end of the process CUDA may be gone before Python's objects are: then nothing is left to free.
        call(name, address, allowed=_ERROR_UNLOADING)


class Stream:
    """A queue of work on the GPU, which does not wait for the default stream."""

    def __init__(self) -> None:
        self._handle = ctypes.c_void_p()
        call("cudaStreamCreateWithFlags", ctypes.byref(self._handle), _STREAM_NON_BLOCKING)

    @property
    def handle(self) -> int:
        """The stream as an integer, as TensorRT takes it."""
        assert self._handle.value is not None, "the stream is closed"
        return self._handle.value

    def synchronize(self) -> None:
        """Wait until all that was queued is done; raises RuntimeError if any of it failed."""
        call("cudaStreamSynchronize", self.handle)

    def close(self) -> None:
        """Free it; a second call does nothing."""
        _free("cudaStreamDestroy", self._handle)

    def __del__(self) -> None:
        self.close()


class Event:
    """A moment in a stream."""

    def __init__(self) -> None:
        self._handle = ctypes.c_void_p()
        call("cudaEventCreate", ctypes.byref(self._handle))

    def record(self, stream: Stream) -> None:
        """The moment is when all that is queued by now is done."""
        call("cudaEventRecord", self._handle, stream.handle)

    def hold(self, stream: Stream) -> None:
        """What is queued on the stream from now on starts when this moment has passed."""
        call("cudaStreamWaitEvent", stream.handle, self._handle, 0)

    def synchronize(self) -> None:
        """Wait until this moment has passed; raises RuntimeError if what was queued before it failed."""
        call("cudaEventSynchronize", self._handle)

    def ms_until(self, later: "Event") -> float:
        """Milliseconds on the GPU from this moment to a later one; both must have passed."""
        result = ctypes.c_float()
        call("cudaEventElapsedTime", ctypes.byref(result), self._handle, later._handle)
        return result.value

    def __del__(self) -> None:
        _free("cudaEventDestroy", self._handle)


class Graph:
    """What a function queues on a stream, captured once to be replayed by one call (a CUDA graph)."""

    def __init__(self, stream: Stream, enqueue: Callable[[Stream], None]) -> None:
        """Capture what `enqueue` queues, which does not run. Raises RuntimeError where it does more than queue."""
        captured = ctypes.c_void_p()
        self._handle = ctypes.c_void_p()
        call("cudaStreamBeginCapture", stream.handle, _CAPTURE_THREAD_LOCAL)
        try:
            enqueue(stream)
        except BaseException:
            # What went wrong is told, and not that the capture is broken by it.
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


def fill(address: int, array: npt.NDArray[Any]) -> None:
    """Copy an array to an address in device memory, and wait until it is there."""
    source = np.ascontiguousarray(array)
    call("cudaMemcpy", address, source.ctypes.data, source.nbytes, _HOST_TO_DEVICE)
    # From memory that is not pinned the copy may still be under way.
    call("cudaStreamSynchronize", None)


class Memory:
    """Memory on the device."""

    def __init__(self, size: int) -> None:
        """Take `size` bytes."""
        self._handle = ctypes.c_void_p()
        # CUDA gives no address for nothing.
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
    """A tensor in device memory, with a pinned copy in host memory that transfers go through."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._pinned = ctypes.c_void_p()
        count = int(np.prod(shape, dtype=np.int64))
        self._bytes = count * np.dtype(dtype).itemsize
        self._memory = Memory(self._bytes)
        size = max(self._bytes, 1)
        call("cudaMallocHost", ctypes.byref(self._pinned), size)
        assert self._pinned.value is not None
        memory = (ctypes.c_byte * size).from_address(self._pinned.value)
        self.host: npt.NDArray[Any] = np.frombuffer(memory, dtype, count).reshape(shape)

    @property
    def address(self) -> int:
        """Address in device memory."""
        return self._memory.address

    def upload(self, stream: Stream) -> None:
        """Queue the copy of `host` to the device."""
        call("cudaMemcpyAsync", self.address, self._pinned, self._bytes, _HOST_TO_DEVICE, stream.handle)

    def download(self, stream: Stream) -> None:
        """Queue the copy of the device's memory to `host`, which is valid once the stream is synchronized."""
        call("cudaMemcpyAsync", self._pinned, self.address, self._bytes, _DEVICE_TO_HOST, stream.handle)

    def close(self) -> None:
        """Free both; `host` is not to be used after. A second call does nothing."""
        self._memory.close()
        _free("cudaFreeHost", self._pinned)

    def __del__(self) -> None:
        # Where the device gave no memory there is none on the host.
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
    """Functions of compiled machine code (cubin), on this process's GPU."""

    def __init__(self, code: bytes) -> None:
        """Load `code`. Raises RuntimeError where it is not for this GPU."""
        self._handle = ctypes.c_void_p()
        # CUDA's runtime makes the driver's context current in this thread.
        call("cudaFree", None)
        driver = _driver()
        assert driver is not None, "there is a GPU where there is CUDA's runtime"
        self._driver = driver
        _ask(self._driver, "cuModuleLoadData", ctypes.byref(self._handle), code)
        self._functions: dict[str, ctypes.c_void_p] = {}
        found = gpu()
        # Into CUDA graphs since 12.3.
        numbers = config.version_numbers
        self._early = (
            found is not None and numbers(found.compute_capability) >= (9, 0) and numbers(found.cuda) >= (12, 3)
        )

    def close(self) -> None:
        """Unload it; a second call does nothing."""
        if self._handle.value:
            handle, self._handle.value = ctypes.c_void_p(self._handle.value), None
            call("cudaFree", None, allowed=_ERROR_UNLOADING)
            _ask(self._driver, "cuModuleUnload", handle, allowed=_ERROR_UNLOADING)

    def __del__(self) -> None:
        self.close()

    def launch(
        self,
        name: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        pointers: Sequence[int],
        stream: Stream,
        shared_bytes: int = 0,
    ) -> None:
        """Queue a function whose arguments are all addresses in device memory.

        `shared_bytes`: shared memory of a block beside what the function declares.
        """
        if name not in self._functions:
            function = ctypes.c_void_p()
            _ask(self._driver, "cuModuleGetFunction", ctypes.byref(function), self._handle, name.encode())
            if shared_bytes:
                _ask(self._driver, "cuFuncSetAttribute", function, _MAX_DYNAMIC_SHARED_BYTES, shared_bytes)
            self._functions[name] = function
        values = [ctypes.c_void_p(pointer) for pointer in pointers]
        arguments = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        if not self._early:
            where = *grid, *block, shared_bytes, ctypes.c_void_p(stream.handle)
            _ask(self._driver, "cuLaunchKernel", self._functions[name], *where, arguments, None)
            return
        attribute = _Attribute(id=_PROGRAMMATIC_STREAM_SERIALIZATION, value=1)
        config = _LaunchConfig(*grid, *block, shared_bytes, stream.handle, ctypes.pointer(attribute), 1)
        _ask(self._driver, "cuLaunchKernelEx", ctypes.byref(config), self._functions[name], arguments, None)
