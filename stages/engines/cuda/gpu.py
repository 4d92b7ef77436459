"""Finds the GPU that a thread uses and says which code runs on it. Nothing is loaded at import.

The GPU is found by the driver (libcuda), so a target is checked before TensorRT is loaded.
"""

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stages.foundation import versions

# From cuda.h.
_ERROR_STUB_LIBRARY, _ERROR_NO_DEVICE = 34, 100
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76

PTX = "ptx"
"""Stands for PTX, from which the driver compiles machine code, among the compute capabilities of an engine's code."""
TEGRA = ("5.3", "6.2", "7.2", "8.7", "8.8", "10.1", "11.0")
"""Compute capabilities of boards. Their machine code runs on no other, and that of others not on them (CUDA C++
Programming Guide, "Binary Compatibility")."""


@dataclass(frozen=True)
class Gpu:
    """A GPU."""

    name: str
    compute_capability: str
    driver: str
    """Version of the driver; empty where the system does not say."""
    cuda: str
    """Newest CUDA version that the driver supports."""


def current() -> Gpu | None:
    """The GPU that this thread uses, or None where there is no driver or no GPU.

    Raises RuntimeError where there is a driver that does not work.
    """
    driver = load_driver()
    return None if driver is None else _described(number(driver))


def number(driver: ctypes.CDLL) -> int:
    """The number of the GPU that this thread uses: that of its CUDA context, as torch.cuda.set_device makes one.

    It is 0 where there is no context yet: the first GPU of CUDA_VISIBLE_DEVICES, or the first of all.
    """
    found = ctypes.c_int()
    return 0 if driver.cuCtxGetDevice(ctypes.byref(found)) else found.value


@cache
def _described(of: int) -> Gpu:
    driver = load_driver()
    assert driver is not None
    device, value, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    call_driver(driver, "cuDeviceGet", ctypes.byref(device), of)
    call_driver(driver, "cuDeviceGetName", name, len(name), device)
    capability = []
    for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
        call_driver(driver, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        capability.append(str(value.value))
    call_driver(driver, "cuDriverGetVersion", ctypes.byref(value))
    cuda = f"{value.value // 1000}.{value.value % 1000 // 10}"
    return Gpu(name.value.decode(), ".".join(capability), _driver_version(), cuda)


def code_for(compute_capability: str, compiled: Sequence[str]) -> str:
    """Which of the `compiled` compute capabilities a GPU runs machine code of, or PTX, or "" where none of it runs.

    Machine code runs on its own compute capability and on later ones of the same major version, boards excepted. PTX is
    that of the newest of them and runs on all that come later.
    """
    if compute_capability in compiled:
        return compute_capability
    wanted = versions.numbers(compute_capability)
    if compute_capability not in TEGRA:
        older = [c for c in compiled if c not in TEGRA and versions.numbers(c)[0] == wanted[0]]
        if fitting := [c for c in older if versions.numbers(c) < wanted]:
            return max(fitting, key=versions.numbers)
    return PTX if compiled and max(map(versions.numbers, compiled)) < wanted else ""


def require_driver(what: str, compiled_by: str, found: Gpu, ptx: bool) -> None:
    """Raise RuntimeError where the driver can't load machine code, or PTX, that a version of CUDA compiled.

    A driver loads machine code of its own major version and older ones, and PTX of its own version and older ones.
    """
    numbers = [versions.numbers(version)[: 2 if ptx else 1] for version in (compiled_by, found.cuda)]
    if numbers[0] > numbers[1]:
        needed = compiled_by if ptx else f"{numbers[0][0]}"
        driver = f"CUDA {found.cuda}" + (f" (driver {found.driver})" if found.driver else "")
        raise RuntimeError(
            f"{what} was compiled by CUDA {compiled_by} and needs a driver of CUDA {needed} or later, found {driver}; "
            "update the driver, or build for it with a smaller cuda_major in conf/target (docs/targets.md)"
        )


def load_driver() -> ctypes.CDLL | None:
    """The driver's library, or None where there is no driver or no GPU. Raises RuntimeError where it does not work."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    status = driver.cuInit(0)
    if status in (_ERROR_STUB_LIBRARY, _ERROR_NO_DEVICE):
        return None
    if status:
        raise RuntimeError(f"cuInit: CUDA error {status}; repair the NVIDIA driver until nvidia-smi lists the GPU")
    return driver


def call_driver(driver: ctypes.CDLL, name: str, *arguments: object, allowed: int = 0) -> None:
    """Call a function of the driver's library.

    Raises RuntimeError with its name and CUDA's message if it fails with another error than `allowed`.
    """
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
