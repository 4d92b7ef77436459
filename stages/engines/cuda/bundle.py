"""An engine of several parts with our own kernels between them, in one file: an uncompressed ZIP archive.

STEPS in it lists the steps in order, as graph.json does, and each names its files: a part its engine, a kernel its
machine code for each compute capability. CONSTANTS is that of the graph.
"""

import io
import json
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stages import config
from stages.engines import interface
from stages.engines.cuda import catalog, compiler
from stages.inference.description import CONSTANTS

STEPS = "steps.json"


@dataclass(frozen=True)
class Step:
    """A part of an engine, or a kernel with the tensors that it reads and writes."""

    code: bytes
    """The part's engine or, for this machine's GPU, the kernel's machine code."""
    kernel: str = ""
    """Operator of the kernel; empty for a part."""
    attributes: dict[str, Any] = field(default_factory=dict)
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    digest: str = ""
    """Of the plan that the kernel was compiled for; empty for a part."""


def build(
    backend: interface.Backend, graph: Path, steps: list[dict[str, Any]], out: Path, target: config.Target, cache: Path
) -> None:
    """Build the parts of a graph with the steps of its graph.json, compile its kernels, and write both to `out`.

    Raises as Backend.build and compiler.compile_source do.
    """
    written: list[dict[str, Any]] = []
    content: dict[str, bytes] = {}
    parts: dict[str, str] = {}
    # Kernels first: they take seconds and tell what is missing, parts take minutes.
    for step in steps:
        if "kernel" in step:
            written.append({**step, "code": _compile(step, target.compute_capabilities, content)})
        elif "onnx" in step:
            parts[step["onnx"]] = str(Path(step["onnx"]).with_suffix(backend.SUFFIX))
            written.append({"part": parts[step["onnx"]]})
        else:
            content[CONSTANTS] = (graph / CONSTANTS).read_bytes()
    for onnx_file, name in parts.items():
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "part"
            backend.build(graph / onnx_file, part, target, cache)
            content[name] = part.read_bytes()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(STEPS, json.dumps(written))
        for name, data in content.items():
            archive.writestr(name, data)


def _compile(step: dict[str, Any], compute_capabilities: list[str], content: dict[str, bytes]) -> dict[str, str]:
    """Compile a kernel into `content`; returns the name there for each compute capability."""
    inputs = [catalog.Tensor(tuple(t["shape"]), t["dtype"]) for t in step["tensors"]]
    names = {}
    for capability in compute_capabilities:
        plan = catalog.plan(step["kernel"], step["attributes"], inputs, capability)
        # Layers of one kind share their code.
        name = f"{Path(plan.source).stem}_sm{capability.replace('.', '')}/{plan.digest()}"
        if name not in content:
            content[name] = compiler.compile_source(plan.source, plan.defines, capability)
        names[capability] = name
    return names


def read(engine: Path, compute_capability: str) -> tuple[list[Step], dict[str, interface.Array]]:
    """Steps of an engine file for a GPU, one alone where it is no archive, and constants that kernels read.

    Raises RuntimeError where the kernels were not compiled for that compute capability.
    """
    if not zipfile.is_zipfile(engine):
        return [Step(engine.read_bytes())], {}
    found = []
    constants: dict[str, interface.Array] = {}
    with zipfile.ZipFile(engine) as archive:
        if CONSTANTS in archive.namelist():
            constants = dict(np.load(io.BytesIO(archive.read(CONSTANTS))))
        for step in json.loads(archive.read(STEPS)):
            if "part" in step:
                found.append(Step(archive.read(step["part"])))
                continue
            name = step["code"].get(compute_capability)
            if name is None:
                raise RuntimeError(
                    f"{engine} has kernels for compute capability {', '.join(step['code'])}, found "
                    f"{compute_capability}; name it in compute_capabilities of conf/target and build again"
                )
            about = step["kernel"], step["attributes"], step["inputs"], step["outputs"]
            found.append(Step(archive.read(name), *about, Path(name).name))
    return found, constants
