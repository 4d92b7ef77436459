"""engine.json, beside each engine: what it was made from, by what and where; checked before an engine is loaded.

Engines deserialize into executable code, so only a file whose hash the sidecar vouches for is loaded.
"""

import json
import platform
from pathlib import Path
from typing import Any

from stages import config, files
from stages.engines import base
from stages.graph import reference

NAME = "engine.json"


def check_host(name: str, target: config.Target) -> None:
    """Raise RuntimeError where this host can't build for a target, with what is required, found and to be done."""
    rebuild = f"run `make engines TARGET={name}` on such a machine, or choose targets in conf/profile"
    machine = platform.machine()
    if machine != target.architecture:
        raise RuntimeError(f"target {name} needs a {target.architecture} CPU, found {machine}; {rebuild}")
    version = base.backend(target).installed_version()
    if version != target.builder_version:
        raise RuntimeError(
            f"target {name} needs {target.builder.value} {target.builder_version}, found {version}; "
            "run `make env`, or set builder_version in conf/target"
        )


def write(folder: Path, name: str, engine: Path, onnx_file: Path, seconds: float, target: config.Target) -> None:
    """Write folder/engine.json for a freshly built engine in the same folder."""
    content = {
        "target": name,
        "description": target.description,
        "engine": {"file": engine.name, "bytes": engine.stat().st_size, "sha256": files.sha256(engine)},
        "onnx": {"file": onnx_file.name, "sha256": files.sha256(onnx_file)},
        "provenance": provenance(onnx_file),
        "precision": target.precision.value,
        "builder": target.builder.value,
        "builder_version": target.builder_version,
        "architecture": target.architecture,
        "compute_capabilities": target.compute_capabilities,
        "build_host": {"cpu": cpu_model(), "system": platform.platform(), "python": platform.python_version()},
        "build_seconds": round(seconds, 2),
    }
    files.write_json(folder / NAME, content)


def provenance(onnx_file: Path) -> dict[str, str]:
    """Hashes of data, spec and checkpoint that an ONNX file came from, from its metadata; empty if it has none."""
    import onnx

    properties = {p.key: p.value for p in onnx.load(onnx_file, load_external_data=False).metadata_props}
    result: dict[str, str] = json.loads(properties.get(reference.PROVENANCE, "{}"))
    return result


def verified_engine(folder: Path, name: str, target: config.Target) -> Path:
    """The engine of a folder, once its sidecar agrees with target, builder and bytes. Raises RuntimeError else."""
    rebuild = f"run `make engines TARGET={name}`"
    path = folder / NAME
    if not path.exists():
        raise RuntimeError(f"{path} not found, so {folder} is not to be trusted; {rebuild}")
    sidecar: dict[str, Any] = files.read_json(path)
    wanted = {
        "target": name,
        "builder": target.builder.value,
        "builder_version": base.backend(target).installed_version(),
        "precision": target.precision.value,
        "architecture": platform.machine(),
        "compute_capabilities": target.compute_capabilities,
    }
    for key, value in wanted.items():
        if sidecar.get(key) != value:
            raise RuntimeError(f"{path}: {key} must be {value!r} here, found {sidecar.get(key)!r}; {rebuild}")
    described = sidecar.get("engine", {})
    file = str(described.get("file", ""))
    engine: Path = folder / file
    if Path(file).name != file or not engine.is_file():
        raise RuntimeError(f"{path}: engine.file must name a file in {folder}, found {file!r}; {rebuild}")
    found = files.sha256(engine)
    if found != described.get("sha256"):
        raise RuntimeError(f"{engine}: SHA-256 {found} is not the sidecar's {described.get('sha256')}; {rebuild}")
    return engine


def cpu_model() -> str:
    """Name of this host's CPU, from /proc/cpuinfo where there is one."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
