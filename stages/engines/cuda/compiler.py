"""Compile the CUDA C++ of the folder kernels by NVIDIA's runtime compiler (NVRTC), to machine code or to PTX.

Neither nvcc nor a GPU is needed. Engines hold the compiled code, so only the machine that builds them needs NVRTC.
"""

import ctypes
import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stages.engines.cuda import gpu

LIBRARIES = {13: "libnvrtc.so.13", 12: "libnvrtc.so.12", 11: "libnvrtc.so.11.2"}
"""CUDA's major version -> name of its runtime compiler."""

_HEADERS = "masks.cuh", "types.cuh", "wgmma.cuh"


@dataclass(frozen=True)
class Nvrtc:
    """An NVRTC that is installed."""

    library: ctypes.CDLL
    version: str
    """Such as 13.0."""
    compute_capabilities: tuple[str, ...]
    """Those that it compiles for."""


@cache
def nvrtc(cuda_major: int = 0) -> Nvrtc:
    """NVRTC of a major version of CUDA; 0: the newest that is installed and that this machine's driver supports.

    It is searched on the loader's path, in the toolkit's folders and in NVIDIA's Python packages. Raises RuntimeError
    where there is none.
    """
    found = gpu.current()
    newest = int(found.cuda.partition(".")[0]) if found else max(LIBRARIES)
    majors = [cuda_major] if cuda_major else [major for major in sorted(LIBRARIES, reverse=True) if major <= newest]
    names, folders = [LIBRARIES[major] for major in majors], _folders()
    for name in names:
        # A bare name is looked up by the loader, in LD_LIBRARY_PATH and the system's folders.
        for candidate in (name, *(str(folder / name) for folder in folders)):
            try:
                library = ctypes.CDLL(candidate)
            except OSError:
                continue
            # NVRTC opens this library by its bare name, which the loader finds only if it is loaded already.
            for part in Path(candidate).parent.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(part))
            return _describe(library)
    package = "nvidia-cuda-nvrtc" + (f"-cu{majors[0]}" if majors[0] < 13 else "")
    raise RuntimeError(
        f"none of {', '.join(names)} found on the loader's path or in {', '.join(map(str, folders))}; install CUDA's "
        f"runtime compiler (`make env`, JetPack's own, the system's package cuda-nvrtc, or pip's {package}), and name "
        "its folder in LD_LIBRARY_PATH if it is elsewhere"
    )


def _describe(library: ctypes.CDLL) -> Nvrtc:
    major, minor, count = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    _check(library, library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    _check(library, library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    numbers = (ctypes.c_int * count.value)()
    _check(library, library.nvrtcGetSupportedArchs(numbers))
    known = tuple(f"{number // 10}.{number % 10}" for number in numbers)
    return Nvrtc(library, f"{major.value}.{minor.value}", known)


def _folders() -> list[Path]:
    toolkits = [Path("/usr/local/cuda"), *sorted(Path("/usr/local").glob("cuda-*"), reverse=True)]
    folders = [toolkit / "lib64" for toolkit in toolkits]
    spec = importlib.util.find_spec("nvidia")
    for package in (spec.submodule_search_locations or []) if spec else []:
        folders += [Path(package) / wheel / "lib" for wheel in ("cu13", "cuda_nvrtc")]
    return [folder for folder in folders if folder.is_dir()]


def require_capability(found: Nvrtc, compute_capability: str) -> None:
    """Raise RuntimeError where an NVRTC does not know a compute capability: which it knows, and what to do."""
    if compute_capability not in found.compute_capabilities:
        raise RuntimeError(
            f"NVRTC {found.version} can't compile for compute capability {compute_capability}, it knows "
            f"{', '.join(found.compute_capabilities)}; set another cuda_major, or remove it from compute_capabilities "
            "in conf/target"
        )


def compile_source(
    name: str, defines: Mapping[str, object], compute_capability: str, *, cuda_major: int = 0, ptx: bool = False
) -> bytes:
    """Compile the file `name` for GPUs of one compute capability, such as 8.9; returns machine code (cubin), or PTX.

    `defines` are its preprocessor constants, `cuda_major` chooses the NVRTC as in `nvrtc`. Raises RuntimeError with the
    compiler's whole log where it does not compile, and where the compiler is missing or does not know the compute
    capability.
    """
    found = nvrtc(cuda_major)
    require_capability(found, compute_capability)
    folder, library = Path(__file__).with_name("kernels"), found.library
    source, *headers = ((folder / file).read_bytes() for file in (name, *_HEADERS))
    architecture = compute_capability.replace(".", "")
    if defines.get("WGMMA"):
        # Only this architecture has wgmma.
        architecture += "a"
    kind = "compute" if ptx else "sm"
    constants = [f"-D{key}={literal(value)}" for key, value in defines.items()]
    options = [f"--gpu-architecture={kind}_{architecture}", "--std=c++17", *constants]
    program = ctypes.c_void_p()
    strings = ctypes.c_char_p * len(headers)
    included = strings(*headers), strings(*(header.encode() for header in _HEADERS))
    begin = library.nvrtcCreateProgram(ctypes.byref(program), source, name.encode(), len(headers), *included)
    _check(library, begin)
    try:
        texts = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if library.nvrtcCompileProgram(program, len(options), texts):
            log = _read(library, "ProgramLog", program).rstrip(b"\0")
            raise RuntimeError(f"NVRTC can't compile {folder / name} with {' '.join(options)}:\n{log.decode()}")
        return _read(library, "PTX" if ptx else "CUBIN", program)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def cache_key(name: str, defines: Mapping[str, object], compute_capability: str, version: str, ptx: bool) -> str:
    """Digest of everything that a result of `compile_source` depends on, the texts of the sources included."""
    folder, digest = Path(__file__).with_name("kernels"), hashlib.sha256()
    for file in (name, *_HEADERS):
        digest.update((folder / file).read_bytes() + b"\0")
    digest.update(repr((name, sorted(defines.items()), compute_capability, version, ptx)).encode())
    return digest.hexdigest()


def literal(value: object) -> str:
    """The text of a preprocessor constant: a number of C++, or a string as it is."""
    if isinstance(value, bool):
        return str(int(value))
    # repr keeps every digit of the double; the suffix rounds it to float32, the type of the graph's attributes.
    return f"{value!r}f" if isinstance(value, float) else str(value)


def _read(library: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    content = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, content))
    return content.raw


def _check(library: ctypes.CDLL, status: int) -> None:
    if status:
        raise RuntimeError(f"NVRTC: {library.nvrtcGetErrorString(status).decode()}")
