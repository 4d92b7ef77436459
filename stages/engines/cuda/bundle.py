"""Writes and reads the file of an engine with several steps: TensorRT's engines of the parts, and our kernels.

It is an uncompressed ZIP archive. STEPS in it is a JSON list of the steps in the order in which they run:
- {"part": FILE}: a part, with the name of its engine in the archive.
- {"operator", "inputs", "outputs", "tensors", "plans"}: a kernel. It has the names of its tensors, shape and dtype of
  each, and {"code": FILE, "launches", "workspace_bytes"} for each compute capability that it was built for.
CONSTANTS holds the arrays that kernels read, by the names of their tensors. `read` checks all of it.
"""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from stages.engines import interface
from stages.engines.cuda import launch
from stages.engines.cuda.launch import Launch
from stages.inference import steps
from stages.inference.description import CONSTANTS
from stages.inference.steps import DTYPES, TensorSpec

STEPS = "steps.json"


@dataclass(frozen=True)
class CompiledPart:
    """A part's engine."""

    code: bytes


@dataclass(frozen=True)
class CompiledKernel:
    """A kernel for GPUs of one compute capability."""

    operator: str
    inputs: tuple[str, ...]
    """Names of the tensors that it reads; one tensor may be two inputs."""
    outputs: tuple[str, ...]
    """Names of the tensors that it writes."""
    tensors: Mapping[str, TensorSpec]
    """Specs of all of these, by name."""
    code: bytes
    """Machine code (cubin)."""
    launches: tuple[Launch, ...]
    workspace_bytes: tuple[int, ...]
    """Sizes of the memory that only the kernel uses."""


CompiledStep = CompiledPart | CompiledKernel


@dataclass(frozen=True)
class KernelPlan:
    """A kernel's machine code in the archive and its launches, for one compute capability."""

    code: str
    """Name of its file in the archive."""
    launches: tuple[Launch, ...]
    workspace_bytes: tuple[int, ...]


def write(out: Path, step_list: Sequence[Mapping[str, object]], content: Mapping[str, bytes]) -> None:
    """Write an archive of STEPS, as `part_step` and `kernel_step` make them, and files by name."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        # A ZipInfo without a time: the same content gives the same bytes.
        archive.writestr(zipfile.ZipInfo(STEPS), json.dumps(step_list))
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data)


def part_step(file: str) -> dict[str, object]:
    """The entry of a part in STEPS."""
    return {"part": file}


def kernel_step(call: steps.KernelCall, plans: Mapping[str, KernelPlan]) -> dict[str, object]:
    """The entry of a kernel in STEPS, with its plan by compute capability."""
    return {
        "operator": call.operator,
        "inputs": call.inputs,
        "outputs": call.outputs,
        "tensors": {name: asdict(spec) for name, spec in call.tensors.items()},
        "plans": {capability: asdict(plan) for capability, plan in plans.items()},
    }


def read(engine: Path, compute_capability: str) -> tuple[list[CompiledStep], dict[str, interface.Array]]:
    """The steps of an engine's file for one GPU, and the constants that kernels read.

    A file that is no archive is an engine of TensorRT: one part. Raises RuntimeError where the kernels were not
    compiled for the compute capability, and where the archive has other content than `write` writes.
    """
    if not zipfile.is_zipfile(engine):
        return [CompiledPart(engine.read_bytes())], {}
    try:
        with zipfile.ZipFile(engine) as archive:
            return _steps(archive, compute_capability), _constants(archive)
    except (ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RecursionError) as error:
        rebuild = "build the engine again, such as by `make engines TARGET=...`"
        raise RuntimeError(f"{engine}: {error}; {rebuild}") from error


def require_described(engine: Path, described: Sequence[steps.Step]) -> None:
    """Check an engine's file as a whole against the steps of its graph, without reading code or constants.

    Raises RuntimeError unless the archive has a part and a kernel for each of `described`, with the same names, shapes
    and dtypes of tensors and in the same order, and no files but theirs, each stored as it is. The bytes themselves are
    those of the manifest's SHA-256.
    """
    wanted = [step for step in described if not isinstance(step, steps.Constants)]
    if not wanted and not zipfile.is_zipfile(engine):
        return
    try:
        with zipfile.ZipFile(engine) as archive:
            _require_described(archive, wanted)
    except (ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RecursionError) as error:
        rebuild = "build the engine again, such as by `make engines TARGET=...`"
        raise RuntimeError(f"{engine} is not of the graph in its manifest: {error}; {rebuild}") from error


def _require_described(archive: zipfile.ZipFile, wanted: Sequence[steps.Step]) -> None:
    content = json.loads(_member(archive, STEPS))
    if not isinstance(content, list) or len(content) != len(wanted):
        raise ValueError(f"{STEPS} must be a list of {len(wanted)} steps")
    named = {STEPS, CONSTANTS}
    for number, (entry, step) in enumerate(zip(content, wanted, strict=True)):
        if not isinstance(entry, dict):
            raise ValueError(f"step {number} must be an object, found {entry!r}")
        if isinstance(step, steps.KernelCall):
            steps.require_keys(entry, ["operator", "inputs", "outputs", "tensors", "plans"])
            found = (entry["operator"], *steps.parse_tensors(entry))
            if found != (step.operator, step.inputs, step.outputs, step.tensors):
                raise ValueError(f"step {number} must be {step.operator} of the manifest, found {found[0]!r}")
            plans = entry["plans"] if isinstance(entry["plans"], dict) else {}
            named |= {str(plan.get("code")) for plan in plans.values() if isinstance(plan, dict)}
        else:
            steps.require_keys(entry, ["part"])
            named.add(str(entry["part"]))
    infos = archive.infolist()
    names = {info.filename for info in infos}
    if strange := (named - {CONSTANTS} - names) | (names - named):
        raise ValueError(f"the files {sorted(strange)[:3]!r} are missing or belong to no step")
    if packed := [info.filename for info in infos if info.compress_type != zipfile.ZIP_STORED]:
        raise ValueError(f"{packed[0]!r} must be stored as it is")


def _steps(archive: zipfile.ZipFile, compute_capability: str) -> list[CompiledStep]:
    content = json.loads(_member(archive, STEPS))
    if not isinstance(content, list) or not content:
        raise ValueError(f"{STEPS} must be a list of steps, found {type(content).__name__}")
    found: list[CompiledStep] = []
    for number, entry in enumerate(content):
        try:
            found.append(_parse(entry, archive, compute_capability))
        except ValueError as error:
            raise ValueError(f"step {number}: {error}") from error
    return found


def _member(archive: zipfile.ZipFile, name: object) -> bytes:
    if not isinstance(name, str) or archive.namelist().count(name) != 1:
        raise ValueError(f"{name!r} must be the name of one file in the archive")
    return archive.read(name)


def _constants(archive: zipfile.ZipFile) -> dict[str, interface.Array]:
    if CONSTANTS not in archive.namelist():
        return {}
    with np.load(io.BytesIO(_member(archive, CONSTANTS)), allow_pickle=False) as file:
        found = {name: file[name] for name in file.files}
    for name, array in found.items():
        if array.dtype.name not in DTYPES:
            raise ValueError(f"{CONSTANTS}: {name} must have a dtype of {', '.join(DTYPES)}, found {array.dtype}")
    return found


def _parse(content: object, archive: zipfile.ZipFile, compute_capability: str) -> CompiledStep:
    if not isinstance(content, dict):
        raise ValueError(f"a step must be an object, found {content!r}")
    if "part" in content:
        steps.require_keys(content, ["part"])
        return CompiledPart(_member(archive, content["part"]))
    steps.require_keys(content, ["operator", "inputs", "outputs", "tensors", "plans"])
    operator, plans = content["operator"], content["plans"]
    if not isinstance(operator, str) or not isinstance(plans, dict):
        raise ValueError(f"operator must be a name and plans an object, found {operator!r} and {plans!r}")
    if compute_capability not in plans:
        raise RuntimeError(
            f"{archive.filename} has kernels for compute capability {', '.join(plans)}, found {compute_capability}; "
            "name it in compute_capabilities of conf/target and build again"
        )
    inputs, outputs, tensors = steps.parse_tensors(content)
    code, launches, workspace_bytes = _parse_plan(plans[compute_capability], len(inputs), len(outputs))
    return CompiledKernel(operator, inputs, outputs, tensors, _member(archive, code), launches, workspace_bytes)


def _parse_plan(content: object, inputs: int, outputs: int) -> tuple[object, tuple[Launch, ...], tuple[int, ...]]:
    if not isinstance(content, dict):
        raise ValueError(f"a plan must be an object, found {content!r}")
    steps.require_keys(content, ["code", "launches", "workspace_bytes"])
    launches, sizes = content["launches"], content["workspace_bytes"]
    if not isinstance(sizes, list) or not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"workspace_bytes must be a list of positive integers, found {sizes!r}")
    if not isinstance(launches, list) or not launches:
        raise ValueError(f"launches must be a list of launches, found {launches!r}")
    counts = {"i": inputs, "o": outputs, "w": len(sizes)}
    return content["code"], tuple(launch.parse(entry, counts) for entry in launches), tuple(sizes)
