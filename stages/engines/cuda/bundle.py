"""Writes and reads the file of an engine of our kernels: machine code for several GPUs, launches, and constants once.

It is an uncompressed ZIP archive. HEADER in it is a JSON object:
- cuda: version of the NVRTC that compiled the code.
- compute_capabilities: those that there is machine code for. There is PTX of the newest one as well, for later GPUs.
- constants: name of each tensor that is a constant -> its shape, dtype and offset in CONSTANTS, where all of them lie.
- steps: the kernels in the order in which they run. Each has operator, inputs, outputs, tensors (shape and dtype of
  each) and plans: compute capability, or "ptx", -> {"code": FILE, "launches", "workspace_bytes"}.
`read` checks all of it. It maps the file, so that constants are read once, on their way to the GPU.
"""

import json
import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.engines import interface
from stages.engines.cuda import gpu, launch
from stages.engines.cuda.launch import Launch
from stages.foundation import versions
from stages.inference import steps
from stages.inference.steps import TensorSpec

HEADER, CONSTANTS = "engine.json", "constants.bin"
ALIGNMENT = 256
"""Of each constant, in bytes."""
_KEYS = ["cuda", "compute_capabilities", "constants", "steps"]
_STEP_KEYS = ["operator", "inputs", "outputs", "tensors", "plans"]
_DAMAGE = (ValueError, OverflowError, EOFError, zipfile.BadZipFile, NotImplementedError, struct.error)
"""What zipfile raises for a damaged archive, and `read` for another content."""
REBUILD = "copy it again, or build it again by `make engines TARGET=...`"


@dataclass(frozen=True)
class KernelPlan:
    """A kernel's code in the archive and its launches, for one compute capability or as PTX."""

    code: str
    """Name of its file in the archive."""
    launches: tuple[Launch, ...]
    workspace_bytes: tuple[int, ...]
    """Sizes of the memory that only the kernel uses."""


@dataclass(frozen=True)
class Kernel:
    """A kernel for one GPU."""

    operator: str
    inputs: tuple[str, ...]
    """Names of the tensors that it reads; one tensor may be two inputs."""
    outputs: tuple[str, ...]
    """Names of the tensors that it writes."""
    tensors: Mapping[str, TensorSpec]
    """Specs of all of these, by name."""
    plan: KernelPlan


@dataclass(frozen=True)
class Constant:
    """Where a constant lies in Bundle.data."""

    spec: TensorSpec
    offset: int


@dataclass(frozen=True)
class Bundle:
    """An engine's file as one GPU runs it."""

    kernels: list[Kernel]
    code: dict[str, bytes]
    """Machine code (cubin) or PTX, by the names in the plans."""
    compiled_for: str
    """Compute capability of the machine code, or gpu.PTX."""
    constants: dict[str, Constant]
    data: memoryview
    """Bytes of all constants. They are mapped memory."""


def kernel_step(call: steps.KernelCall, plans: Mapping[str, KernelPlan]) -> dict[str, object]:
    """The entry of a kernel in the header, with its plan by compute capability."""
    return {
        "operator": call.operator,
        "inputs": call.inputs,
        "outputs": call.outputs,
        "tensors": {name: asdict(spec) for name, spec in call.tensors.items()},
        "plans": {capability: asdict(plan) for capability, plan in plans.items()},
    }


def write(
    out: Path,
    cuda: str,
    compute_capabilities: Sequence[str],
    step_list: Sequence[Mapping[str, object]],
    code: Mapping[str, bytes],
    constants: Mapping[str, interface.Array],
) -> None:
    """Write an engine's file of steps, as `kernel_step` makes them, code by name, and constants by name."""
    places: dict[str, object] = {}
    end = 0
    for name, array in constants.items():
        places[name] = {"shape": list(array.shape), "dtype": array.dtype.name, "offset": end}
        end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    values = (cuda, list(compute_capabilities), places, list(step_list))
    header = dict(zip(_KEYS, values, strict=True))
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        # A ZipInfo without a time: the same content gives the same bytes.
        archive.writestr(zipfile.ZipInfo(HEADER), json.dumps(header))
        for name, data in code.items():
            archive.writestr(zipfile.ZipInfo(name), data)
        with archive.open(zipfile.ZipInfo(CONSTANTS), "w", force_zip64=True) as file:
            for array in constants.values():
                content = array.tobytes()
                file.write(content.ljust(-(-len(content) // ALIGNMENT) * ALIGNMENT, b"\0"))


def read(engine: Path, found: gpu.Gpu) -> Bundle:
    """Read an engine's file for a GPU.

    Raises RuntimeError, one line, where the file is not whole or has other content than `write` writes, where it has
    no code for the GPU, and where the GPU's driver is too old for the code.
    """
    with _opened(engine, "a whole engine of our kernels") as archive:
        content = _header(archive)
        compiled = content["compute_capabilities"]
        chosen = gpu.code_for(found.compute_capability, compiled)
        if not chosen:
            raise RuntimeError(
                f"{engine} has code for compute capability {', '.join(compiled)}, found {found.compute_capability} "
                f"({found.name}); name it in compute_capabilities of conf/target and build again"
            )
        gpu.require_driver(str(engine), content["cuda"], found, chosen == gpu.PTX)
        kernels = _kernels(content["steps"], chosen)
        code = {name: _member(archive, name) for name in dict.fromkeys(kernel.plan.code for kernel in kernels)}
        data = _map(engine, archive)
        return Bundle(kernels, code, chosen, _constants(content["constants"], len(data)), data)


def require_described(engine: Path, described: Sequence[steps.Step]) -> None:
    """Check an engine's file as a whole against the steps of its graph, without reading code or constants.

    Raises RuntimeError unless the archive has a kernel for each call of `described`, with the same names, shapes and
    dtypes of tensors and in the same order, and no files but theirs, each stored as it is. The bytes themselves are
    those of the manifest's SHA-256.
    """
    wanted = [step for step in described if isinstance(step, steps.KernelCall)]
    with _opened(engine, "of the graph in its manifest") as archive:
        _require_described(archive, wanted)


@contextmanager
def _opened(engine: Path, expected: str) -> Iterator[zipfile.ZipFile]:
    """Open an engine's file. An archive that is not `expected` raises RuntimeError, also from the block."""
    try:
        with zipfile.ZipFile(engine) as archive:
            _require_stored(archive)
            yield archive
    except (*_DAMAGE, RecursionError, OSError) as error:
        # A place before the file's beginning is an OSError without a name; a file that is missing has one.
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise RuntimeError(f"{engine} is not {expected}: {error}; {REBUILD}") from error


def _require_stored(archive: zipfile.ZipFile) -> None:
    """Raise ValueError unless each file is stored as it is: a packed one of a few KB could fill the memory."""
    for info in archive.infolist():
        whole = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
        if not whole or info.flag_bits & 1:
            raise ValueError(f"{info.filename!r} must be stored as it is")


def _require_described(archive: zipfile.ZipFile, wanted: Sequence[steps.KernelCall]) -> None:
    content = _header(archive)["steps"]
    if not isinstance(content, list) or len(content) != len(wanted):
        raise ValueError(f"steps must be a list of {len(wanted)} steps")
    named = {HEADER, CONSTANTS}
    for number, (entry, call) in enumerate(zip(content, wanted, strict=True)):
        if not isinstance(entry, dict):
            raise ValueError(f"step {number} must be an object, found {entry!r}")
        steps.require_keys(entry, _STEP_KEYS)
        found = (entry["operator"], *steps.parse_tensors(entry))
        if found != (call.operator, call.inputs, call.outputs, call.tensors):
            raise ValueError(f"step {number} must be {call.operator} of the manifest, found {found[0]!r}")
        plans = entry["plans"] if isinstance(entry["plans"], dict) else {}
        named |= {str(plan.get("code")) for plan in plans.values() if isinstance(plan, dict)}
    if strange := named ^ {*archive.namelist()}:
        raise ValueError(f"the files {sorted(strange)[:3]!r} are missing or belong to no step")


def _header(archive: zipfile.ZipFile) -> dict[str, Any]:
    """The header, its steps and constants unchecked."""
    content = json.loads(_member(archive, HEADER))
    if not isinstance(content, dict):
        raise ValueError(f"{HEADER} must be an object, found {type(content).__name__}")
    steps.require_keys(content, _KEYS)
    cuda, compiled = content["cuda"], content["compute_capabilities"]
    if not isinstance(cuda, str) or not versions.is_version(cuda):
        raise ValueError(f"cuda must be a version, found {cuda!r}")
    known = isinstance(compiled, list) and all(isinstance(c, str) and versions.is_version(c) for c in compiled)
    if not known or not compiled:
        raise ValueError(f"compute_capabilities must be a list of versions, found {compiled!r}")
    return content


def _member(archive: zipfile.ZipFile, name: object) -> bytes:
    if not isinstance(name, str) or archive.namelist().count(name) != 1:
        raise ValueError(f"{name!r} must be the name of one file in the archive")
    return archive.read(name)


def _map(engine: Path, archive: zipfile.ZipFile) -> memoryview:
    """The bytes of CONSTANTS, mapped and compared with the archive's checksum."""
    if archive.namelist().count(CONSTANTS) != 1:
        raise ValueError(f"{CONSTANTS!r} must be the name of one file in the archive")
    info = archive.getinfo(CONSTANTS)
    with engine.open("rb") as file:
        whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    # The file's own header: 30 bytes, then its name and extra field, whose lengths are at 26.
    name_bytes, extra_bytes = struct.unpack_from("<HH", whole, info.header_offset + 26)
    start = info.header_offset + 30 + name_bytes + extra_bytes
    data = whole[start : start + info.file_size]
    if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise ValueError(f"{CONSTANTS} is damaged: its checksum is another one (CRC)")
    return data


def _constants(content: object, size: int) -> dict[str, Constant]:
    if not isinstance(content, dict):
        raise ValueError(f"constants must be an object, found {content!r}")
    found = {}
    for name, place in content.items():
        spec, offset = steps.parse_spec(place), place.get("offset")
        if type(offset) is not int or offset < 0 or offset % ALIGNMENT or offset + spec.size_bytes > size:
            raise ValueError(
                f"the constant {name} must lie in the {size} bytes of {CONSTANTS}, found offset {offset!r}"
            )
        found[str(name)] = Constant(spec, offset)
    return found


def _kernels(content: object, chosen: str) -> list[Kernel]:
    if not isinstance(content, list) or not content:
        raise ValueError(f"steps must be a list of steps, found {type(content).__name__}")
    found = []
    for number, entry in enumerate(content):
        try:
            found.append(_parse(entry, chosen))
        except ValueError as error:
            raise ValueError(f"step {number}: {error}") from error
    return found


def _parse(content: object, chosen: str) -> Kernel:
    if not isinstance(content, dict):
        raise ValueError(f"a step must be an object, found {content!r}")
    steps.require_keys(content, _STEP_KEYS)
    operator, plans = content["operator"], content["plans"]
    if not isinstance(operator, str) or not isinstance(plans, dict):
        raise ValueError(f"operator must be a name and plans an object, found {operator!r} and {plans!r}")
    if chosen not in plans:
        raise ValueError(f"plans must have {chosen}, found {', '.join(plans)}")
    inputs, outputs, tensors = steps.parse_tensors(content)
    return Kernel(operator, inputs, outputs, tensors, _parse_plan(plans[chosen], len(inputs), len(outputs)))


def _parse_plan(content: object, inputs: int, outputs: int) -> KernelPlan:
    if not isinstance(content, dict):
        raise ValueError(f"a plan must be an object, found {content!r}")
    steps.require_keys(content, ["code", "launches", "workspace_bytes"])
    code, launches, sizes = content["code"], content["launches"], content["workspace_bytes"]
    if not isinstance(code, str):
        raise ValueError(f"code must be the name of a file in the archive, found {code!r}")
    # Beyond 64 bits ctypes would hand the driver the rest alone, and kernels would write behind what it allocates.
    if not isinstance(sizes, list) or not all(type(n) is int and 0 < n <= steps.MAX_TENSOR_BYTES for n in sizes):
        raise ValueError(
            f"workspace_bytes must be a list of positive integers up to {steps.MAX_TENSOR_BYTES}, found {sizes!r}"
        )
    if not isinstance(launches, list) or not launches:
        raise ValueError(f"launches must be a list of launches, found {launches!r}")
    counts = {"i": inputs, "o": outputs, "w": len(sizes)}
    return KernelPlan(code, tuple(launch.parse(entry, counts) for entry in launches), tuple(sizes))
