"""Finds the GPU of this process and loads CUDA's libraries. Nothing is loaded at import.

The GPU is found by the driver (libcuda), so a target is checked before CUDA's runtime library or TensorRT is loaded.
"""

import ctypes
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# From cuda.h.
_ERROR_STUB_LIBRARY, _ERROR_NO_DEVICE = 34, 100
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """The GPU that this process uses: the first of CUDA_VISIBLE_DEVICES, or the first of all."""

    name: str
    compute_capability: str
    driver: str
    """Version of the driver; empty where the system does not say."""
    cuda: str
    """Newest CUDA version that the driver supports."""


@cache
def current() -> Gpu | None:
    """The GPU of this process, or None where there is no driver or no GPU.

    Raises RuntimeError where there is a driver that does not work.
    """
    driver = load_driver()
    if driver is None:
        return None
    device, number, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    call_driver(driver, "cuDeviceGet", ctypes.byref(device), 0)
    call_driver(driver, "cuDeviceGetName", name, len(name), device)
    capability = []
    for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
        call_driver(driver, "cuDeviceGetAttribute", ctypes.byref(number), attribute, device)
        capability.append(str(number.value))
    call_driver(driver, "cuDriverGetVersion", ctypes.byref(number))
    cuda = f"{number.value // 1000}.{number.value % 1000 // 10}"
    return Gpu(name.value.decode(), ".".join(capability), _driver_version(), cuda)


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


def find_library(what: str, libraries: Mapping[int, str], fix: str) -> ctypes.CDLL:
    """Load the newest of CUDA's `libraries`, by major version, that is installed and that the driver supports.

    Raises RuntimeError where there is none; `fix` says which packages have it.
    """
    found = current()
    newest = int(found.cuda.partition(".")[0]) if found else max(libraries)
    names = [name for major, name in sorted(libraries.items(), reverse=True) if major <= newest]
    folders = _folders()
    for name in names:
        # A bare name is looked up by the loader, in LD_LIBRARY_PATH and the system's folders.
        for candidate in (name, *(str(folder / name) for folder in folders)):
            try:
                return ctypes.CDLL(candidate)
            except OSError:
                continue
    raise RuntimeError(
        f"none of {', '.join(names)} found on the loader's path or in {', '.join(map(str, folders))}; install {what} "
        f"{fix}, and name its folder in LD_LIBRARY_PATH if it is elsewhere"
    )


def _folders() -> list[Path]:
    toolkits = [Path("/usr/local/cuda"), *sorted(Path("/usr/local").glob("cuda-*"), reverse=True)]
    folders = [toolkit / "lib64" for toolkit in toolkits]
    spec = importlib.util.find_spec("nvidia")
    for package in (spec.submodule_search_locations or []) if spec else []:
        folders += [Path(package) / wheel / "lib" for wheel in ("cu13", "cuda_runtime", "cuda_nvrtc")]
    return [folder for folder in folders if folder.is_dir()]
