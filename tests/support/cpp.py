"""Builds the C++ library, its client (cpp_client.c) and a recording libcuda (recording_cuda.cpp), and runs them."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import config
from stages.engines import manifest
from stages.engines.cuda import bundle
from stages.engines.cuda.launch import Launch
from stages.inference import description
from stages.inference.steps import Attributes, Constants, KernelCall, TensorSpec
from tests.conftest import REPO

SUPPORT, SOURCES = REPO / "tests/support", REPO / "integrations/cpp"
STRICT = ["-Wall", "-Wextra", "-Werror"]
GPU = "8.6 13000"
"""Compute capability and CUDA version of the driver that a recording libcuda says it has."""
TARGET = config.Target(
    builder=config.Builder.cuda, builder_version="13.0", cuda_major=13, architecture="any",
    device=config.Device.cuda, compute_capabilities=["8.6", "9.0"], variant=config.Variant.cuda,
)  # fmt: skip
CATEGORIES: list[Any] = [
    {"id": 1, "name": 'car "é€\N{GRINNING FACE}\\\n', "isthing": 1, "color": [1, 2, 255]},
    *({"id": number, "name": f"class {number}", "isthing": number % 2} for number in range(2, 12)),
]


def must(*command: str | Path, **more: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, **more)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def require_tools(*names: str) -> None:
    """Skip the test where a program is missing."""
    for name in names:
        if not shutil.which(name):
            pytest.skip(f"{name} not found; apt install cmake gcc g++, and for AArch64 g++-aarch64-linux-gnu")


@dataclass(frozen=True)
class Build:
    """A build of the library, and how its programs are run."""

    folder: Path
    """It has libvistas2engine.so, segment, client and cuda/libcuda.so.1."""
    run_by: tuple[str | Path, ...] = ()

    def run(self, program: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program, by default where no libcuda is."""
        environment = {"PATH": os.environ["PATH"], "UBSAN_OPTIONS": "print_stacktrace=1", **variables}
        command = [*self.run_by, self.folder / program, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)

    def recorded(self, program: str, *arguments: object, record: Path, engine: Path, **variables: str) -> Any:
        """Run a program with the recording libcuda; returns what was run, and the calls that it made."""
        done = self.run(program, *arguments, **{**cuda(self.folder, record, engine), **variables})
        return done, calls(record)


def cuda(build: Path, record: Path, engine: Path) -> dict[str, str]:
    """Variables with which a program finds the recording libcuda, for the functions of an engine."""
    record.unlink(missing_ok=True)
    listed = str(engine / "parameters")
    variables = {"CUDA_GPU": GPU, "CUDA_RECORD": str(record), "CUDA_PARAMETERS": listed}
    return {"LD_LIBRARY_PATH": str(build / "cuda"), **variables}


def calls(record: Path) -> list[str]:
    return record.read_text().splitlines() if record.exists() else []


def parameters(engine: Path) -> None:
    """Write the parameters of the functions in an engine's folder, as recording_cuda.cpp reads them, beside it."""
    lines = set()
    with zipfile.ZipFile(file_of(engine)) as archive:
        for step in json.loads(archive.read(bundle.HEADER))["steps"]:
            for plan in step["plans"].values():
                code = archive.read(plan["code"])
                # PTX ends with a 0, as the driver takes it.
                crc = zlib.crc32(code if code.startswith(b"\x7fELF") else code.rstrip(b"\0"))
                for launch in plan["launches"]:
                    kinds = "".join(argument[0] for argument in launch["arguments"])
                    lines.add(f"{crc} {launch['function']} {kinds}\n")
    (engine / "parameters").write_text("".join(sorted(lines)))


def file_of(engine: Path) -> Path:
    return engine / str(json.loads((engine / manifest.NAME).read_text())["engine"]["file"])


def build(folder: Path, *flags: str, compiler: str = "") -> Build:
    """Build library, example, client and recording libcuda. `flags` are the compiler's, such as sanitizers."""
    cc, cxx = f"{compiler}gcc", f"{compiler}g++"
    require_tools("cmake", cc, cxx)
    must(
        "cmake", "-S", SOURCES, "-B", folder, "-DCMAKE_BUILD_TYPE=None", f"-DCMAKE_CXX_COMPILER={cxx}",
        f"-DCMAKE_CXX_FLAGS={' '.join(['-g', *STRICT, *flags])}",
        *(["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"] if compiler else []),
    )  # fmt: skip
    must("cmake", "--build", folder, "--parallel", "2")
    return finish(folder, *flags, compiler=compiler)


def finish(folder: Path, *flags: str, compiler: str = "") -> Build:
    """Build client and recording libcuda beside a library."""
    client = [SUPPORT / "cpp_client.c", "-I", SOURCES / "include", "-L", folder, "-lvistas2engine"]
    standard = ["-std=c11", "-pedantic", "-D_POSIX_C_SOURCE=200809L", *STRICT, "-g", "-pthread", *flags]
    must(f"{compiler}gcc", *standard, *client, f"-Wl,-rpath,{folder}", "-o", folder / "client")
    (folder / "cuda").mkdir()
    library = ["-std=c++17", "-O1", "-g", *STRICT, "-shared", "-fPIC", "-o", folder / "cuda/libcuda.so.1"]
    must(f"{compiler}g++", *library, SUPPORT / "recording_cuda.cpp")
    return Build(folder)


def by_python(build: Build, record: Path, engine: Path, *arguments: object, **variables: str) -> list[str]:
    """Run cpp_peer.py with the recording libcuda; returns the calls."""
    environment = {**os.environ, **cuda(build.folder, record, engine), "PYTHONPATH": str(REPO), **variables}
    must(sys.executable, SUPPORT / "cpp_peer.py", engine, *map(str, arguments), env=environment)
    return calls(record)


def deploy(mode: str, batch: int, height: int, width: int) -> dict[str, Any]:
    plain: Any = config.plain(config.Deploy())
    return {**plain, "mode": mode, "batch_size": batch, "frame_height_px": height, "frame_width_px": width}


OUTPUTS = {"panoptic": ["query_ids", "areas", "category_ids", "scores"], "semantic": ["class_ids"],
           "instance": ["mask_bits", "category_ids", "scores"]}  # fmt: skip


def specs(mode: str, batch: int, height: int, width: int, queries: int) -> dict[str, TensorSpec]:
    """Of the outputs of a mode."""
    per_query = {"areas": "int32", "category_ids": "int32", "scores": "float32"}
    whole = (batch, height, width)
    shapes = {"query_ids": whole, "class_ids": whole, "mask_bits": (batch, queries, height, -(-width // 8))}
    return {
        name: TensorSpec((batch, queries), per_query[name]) if name in per_query else TensorSpec(shapes[name], "uint8")
        for name in OUTPUTS[mode]
    }


def made(
    folder: Path,
    mode: str = "panoptic",
    batch: int = 1,
    size: tuple[int, int] = (33, 43),
    queries: int = 7,
    pad: int = 0,
) -> Path:
    """An engine of one kernel, whose code is no code, in the form that `bundle.write` gives it.

    `pad` bytes more of its code make its file longer. The function `answer` writes output K by parameter K + 2.
    """
    outputs = specs(mode, batch, *size, queries)
    inputs = {"frame": TensorSpec((batch, *size, 3), "uint8"), "w": TensorSpec((4,), "float16")}
    call = KernelCall("Cast", Attributes({"to": 1}), tuple(inputs), tuple(outputs), {**inputs, **outputs})
    arguments = ("i0", "i1", *(f"o{i}" for i in range(len(outputs))), "w0")
    launches = (
        Launch("answer", (1, 1, 1), (32, 1, 1), arguments, 50_000),
        Launch("more", (2, 3, 4), (8, 4, 2), ("i1", "w0")),
    )
    plans = {kind: bundle.KernelPlan(f"{kind}/cast", launches, (64, 300)) for kind in ("8.6", "9.0", "ptx")}
    code = {plan.code: plan.code.encode() * 3 + b"p" * pad for plan in plans.values()}
    constants: Mapping[str, Any] = {"w": np.arange(4, dtype=np.float16), "v": np.ones((2, 3), np.float32)}
    folder.mkdir()
    bundle.write(folder / "gpu.cuda", "13.0", ["8.6", "9.0"], [bundle.kernel_step(call, plans)], code, constants)
    steps: list[Any] = [Constants("constants.npz", "0" * 64), call]
    about = description.Description(deploy(mode, batch, *size), "cuda", CATEGORIES, {}, "fp16", "0" * 64, steps)
    manifest.write(folder, "gpu", folder / "gpu.cuda", about, TARGET)
    parameters(folder)
    return folder
