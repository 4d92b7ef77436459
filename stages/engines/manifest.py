"""engine.json, beside each engine: what it was made from, by what and where; checked before an engine is loaded.

Engines deserialize into executable code, so only a file whose hash the sidecar vouches for is loaded. The graph's
description is in it whole, so that an engine can be run where neither its ONNX file nor the parameters are.
"""

import platform
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from stages import config
from stages.engines import interface
from stages.engines.cuda import driver
from stages.foundation import files
from stages.inference.description import Description

NAME = "engine.json"


@dataclass(frozen=True)
class Engine:
    """An engine that may be loaded on this host."""

    path: Path
    description: Description
    """What its graph takes and returns."""


def check_host(name: str, target: config.Target) -> None:
    """Raise RuntimeError where this host can't build for a target, with what is required, found and to be done.

    Raises ModuleNotFoundError where the builder is not installed.
    """
    elsewhere = f"run `make engines TARGET={name}` on such a machine, or choose targets in conf/profile"
    _check_architecture(name, target, elsewhere)
    version = interface.backend(target).installed_version()
    if not f"{version}.".startswith(f"{target.builder_version}."):
        raise RuntimeError(
            f"target {name} needs {target.builder.value} {target.builder_version}, found {version}; "
            "install that version (`make env` has those of the CPU and of TensorRT-RTX), or set builder_version in "
            "conf/target"
        )
    if target.builder is config.Builder.tensorrt:
        _check_gpu(name, target, elsewhere)


def _check_architecture(name: str, target: config.Target, mend: str) -> None:
    machine = platform.machine()
    if machine != target.architecture:
        raise RuntimeError(f"target {name} needs the CPU architecture {target.architecture}, found {machine}; {mend}")


def _check_gpu(name: str, target: config.Target, mend: str) -> None:
    found = driver.gpu()
    if found is None or found.compute_capability not in target.compute_capabilities:
        what = f"{found.compute_capability} ({found.name})" if found else "no NVIDIA GPU or no driver"
        wanted = " or ".join(target.compute_capabilities)
        raise RuntimeError(f"target {name} needs a GPU of compute capability {wanted}, found {what}; {mend}")


def write(
    folder: Path, name: str, engine: Path, description: Description, seconds: float, target: config.Target
) -> None:
    """Write folder/engine.json for a freshly built engine in the same folder."""
    # TensorRT-RTX and the CPU's builders don't use a GPU.
    gpu = driver.gpu() if target.builder is config.Builder.tensorrt else None
    content = {
        **config.plain(target),
        "target": name,
        # The one that built it; the target may name the beginning alone.
        "builder_version": interface.backend(target).installed_version(),
        "engine": {"file": engine.name, "bytes": engine.stat().st_size, "sha256": files.sha256(engine)},
        "graph": asdict(description),
        "build_host": {
            "cpu": cpu_model(),
            "gpu": asdict(gpu) if gpu else None,
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "build_seconds": round(seconds, 2),
    }
    files.write_json(folder / NAME, content)


def verified_engine(folder: Path, name: str, target: config.Target) -> Engine:
    """The engine of a folder, once its sidecar agrees with target, builder, bytes and this host.

    Raises RuntimeError with what is required, what was found and what to do; ModuleNotFoundError where the builder,
    which runs the engine too, is not installed.
    """
    rebuild = f"run `make engines TARGET={name}`"
    path = folder / NAME
    if not path.exists():
        raise RuntimeError(f"{path} not found, so {folder} is not to be trusted; {rebuild}")
    _check_architecture(name, target, "run it on such a machine")
    sidecar: dict[str, Any] = files.read_json(path)
    wanted = {
        "target": name,
        "builder": target.builder.value,
        "builder_version": interface.backend(target).installed_version(),
        "precision": target.precision.value,
        "deformable_attention": target.deformable_attention.value,
        "architecture": target.architecture,
        "compute_capabilities": target.compute_capabilities,
    }
    for key, value in wanted.items():
        if sidecar.get(key) != value:
            raise RuntimeError(f"{path}: {key} must be {value!r} here, found {sidecar.get(key)!r}; {rebuild}")
    try:
        description = Description(**sidecar.get("graph", {}))
    except TypeError as error:
        raise RuntimeError(f"{path}: graph must hold what graph.json does, but {error}; {rebuild}") from error
    described = sidecar.get("engine", {})
    file = str(described.get("file", ""))
    engine: Path = folder / file
    if Path(file).name != file or not engine.is_file():
        raise RuntimeError(f"{path}: engine.file must name a file in {folder}, found {file!r}; {rebuild}")
    found = files.sha256(engine)
    if found != described.get("sha256"):
        raise RuntimeError(f"{engine}: SHA-256 {found} is not the sidecar's {described.get('sha256')}; {rebuild}")
    if target.builder not in config.CPU_BUILDERS:
        _check_gpu(name, target, "run it on such a machine")
    return Engine(engine, description)


def target_of(folder: Path) -> tuple[str, config.Target]:
    """Id and target that the engine of a folder was built for, for those who have no parameters.

    Raises RuntimeError where there is no engine.json, or one of another version of this project.
    """
    path = folder / NAME
    if not path.exists():
        raise RuntimeError(
            f"{path} not found; name the folder of an engine, such as data/engines/cpu, or build it first"
        )
    content = files.read_json(path)
    try:
        name = str(content["target"])
        return name, config.target(name, {field.name: content[field.name] for field in fields(config.Target)})
    except (KeyError, ValueError) as error:
        raise RuntimeError(f"{path} is not one of this version: {error}; run `make engines`") from error


def cpu_model() -> str:
    """Name of this host's CPU, from /proc/cpuinfo where there is one."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
