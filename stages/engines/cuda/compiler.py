"""Compile the CUDA C++ of the folder kernels to machine code by NVIDIA's runtime compiler (NVRTC).

Neither nvcc nor a GPU is needed. Engines hold the machine code, so only the machine that builds them needs NVRTC.
"""

import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from stages.engines.cuda import gpu

LIBRARIES = {13: "libnvrtc.so.13", 12: "libnvrtc.so.12", 11: "libnvrtc.so.11.2"}
"""CUDA's major version -> name of its runtime compiler."""

_HEADERS = "masks.cuh", "types.cuh", "wgmma.cuh"


def compile_source(name: str, defines: Mapping[str, object], compute_capability: str) -> bytes:
    """Compile the file `name` for GPUs of one compute capability, such as 8.9; returns machine code (cubin).

    `defines` are its preprocessor constants. Raises RuntimeError with the compiler's whole log where it does not
    compile, and where the compiler is missing or does not know the compute capability.
    """
    folder, nvrtc = Path(__file__).with_name("kernels"), library()
    source, *headers = ((folder / file).read_bytes() for file in (name, *_HEADERS))
    constants = [f"-D{key}={literal(value)}" for key, value in defines.items()]
    architecture = compute_capability.replace(".", "")
    if defines.get("WGMMA"):
        # Only this architecture has wgmma.
        architecture += "a"
        major, minor = ctypes.c_int(), ctypes.c_int()
        _check(nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        if major.value < 12:
            raise RuntimeError(
                f"kernels for compute capability {compute_capability} need NVRTC 12.0 or later, found "
                f"{major.value}.{minor.value}; install CUDA 12's, such as pip's nvidia-cuda-nvrtc-cu12"
            )
    options = [f"--gpu-architecture=sm_{architecture}", "--std=c++17", *constants]
    program = ctypes.c_void_p()
    strings = ctypes.c_char_p * len(headers)
    included = strings(*headers), strings(*(header.encode() for header in _HEADERS))
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, name.encode(), len(headers), *included))
    try:
        texts = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if nvrtc.nvrtcCompileProgram(program, len(options), texts):
            log = _read(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).rstrip(b"\0")
            raise RuntimeError(f"NVRTC can't compile {folder / name} with {' '.join(options)}:\n{log.decode()}")
        return _read(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


@cache
def library() -> ctypes.CDLL:
    """NVRTC, looked for where CUDA's runtime library is. Raises RuntimeError where there is none."""
    fix = "(JetPack's own, the system's package cuda-nvrtc, or pip's nvidia-cuda-nvrtc or nvidia-cuda-nvrtc-cu12)"
    found = gpu.find_library("CUDA's runtime compiler", LIBRARIES, fix)
    # NVRTC opens this library by its bare name, which the loader finds only if it is loaded already.
    for part in Path(found._name).parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(part))
    return found


def literal(value: object) -> str:
    """The text of a preprocessor constant: a number of C++, or a string as it is."""
    if isinstance(value, bool):
        return str(int(value))
    # repr keeps every digit of the double; the suffix rounds it to float32, the type of the graph's attributes.
    return f"{value!r}f" if isinstance(value, float) else str(value)


def _read(size_of: object, read: object, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _check(size_of(program, ctypes.byref(size)))  # type: ignore[operator]
    content = ctypes.create_string_buffer(size.value)
    _check(read(program, content))  # type: ignore[operator]
    return content.raw


def _check(status: int) -> None:
    if status:
        nvrtc = library()
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(f"NVRTC: {nvrtc.nvrtcGetErrorString(status).decode()}")
