"""engine.json, the manifest beside each engine: its graph, its target and its builder.

Engines deserialize into executable code, so an engine is loaded only if the manifest has its hash. The manifest holds
the graph's whole description, so an engine runs on machines without its ONNX file and without the parameters. It holds
nothing that differs between two builds of the same engine: host, date and duration are in build.json (build_record).
"""

import platform
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

from stages import config
from stages.engines import interface
from stages.engines.cuda import gpu
from stages.foundation import files, json_shapes, versions
from stages.inference import description
from stages.inference.description import Description
from stages.metrics import metric_files

NAME = "engine.json"


@dataclass(frozen=True)
class Engine:
    """An engine that may be loaded on this host."""

    path: Path
    sha256: str
    description: Description
    """Its graph."""


class _File(TypedDict):
    file: str
    bytes: int
    sha256: str


class _Manifest(TypedDict):
    """What is read of engine.json; the target's fields are checked by config.parse_target."""

    target: str
    engine: _File
    graph: dict[str, object]


def _content(path: Path, fix: str) -> dict[str, Any]:
    """Read an engine.json. Raises RuntimeError for another content."""
    try:
        content: dict[str, Any] = json_shapes.read(path, _Manifest, fix)
    except ValueError as error:
        raise RuntimeError(str(error)) from error
    return content


def graph_of(folder: Path) -> Description:
    """Return the description of an engine's graph, whether or not the engine runs here.

    Raises RuntimeError where the manifest has another content.
    """
    fix = "run `make engines`"
    return _graph(folder / NAME, _content(folder / NAME, fix), fix)


def _graph(path: Path, content: dict[str, Any], fix: str) -> Description:
    try:
        return description.parse(content["graph"])
    except ValueError as error:
        raise RuntimeError(f"{path}: graph is not the content of a graph.json: {error}; {fix}") from error


def check_host(name: str, target: config.Target) -> None:
    """Raise RuntimeError where this host can't build for a target: what is required, what was found, what to do.

    Raises ModuleNotFoundError where the builder is not installed.
    """
    elsewhere = f"run `make engine TARGET={name}` on such a machine (docs/targets.md)"
    _check_architecture(name, target, elsewhere)
    try:
        version = interface.backend(target).installed_version(target)
    except ModuleNotFoundError as error:
        wanted = f"{target.builder.value} {target.builder_version}"
        if target.builder is config.Builder.tensorrt:
            wanted += f" and a GPU of compute capability {' or '.join(target.compute_capabilities)}"
        raise ModuleNotFoundError(f"target {name} needs {wanted}: {error}; or {elsewhere}") from error
    if not versions.fits(version, target.builder_version):
        raise RuntimeError(
            f"target {name} needs {target.builder.value} {target.builder_version}, found {version}; "
            "install that version (`make env` has those of the CPU, of CUDA's compilers and of TensorRT-RTX, `make env "
            "EXTRAS=tensorrt` TensorRT 11, EXTRAS=tensorrt10 10.13), or set builder_version in conf/target"
        )
    if target.builder is config.Builder.tensorrt:
        _check_gpu(name, target, elsewhere)


def _check_architecture(name: str, target: config.Target, fix: str) -> None:
    machine = platform.machine()
    # An engine of our kernels depends on no CPU.
    if target.builder is not config.Builder.cuda and machine != target.architecture:
        raise RuntimeError(f"target {name} needs the CPU architecture {target.architecture}, found {machine}; {fix}")


def _check_gpu(name: str, target: config.Target, fix: str) -> None:
    found, compiled = gpu.current(), target.compute_capabilities
    by_kernels = target.builder is config.Builder.cuda
    if found is None or not (
        gpu.code_for(found.compute_capability, compiled) if by_kernels else found.compute_capability in compiled
    ):
        what = f"{found.compute_capability} ({found.name})" if found else "no NVIDIA GPU or no driver"
        wanted = " or ".join(compiled) + (", or a later one" if by_kernels else "")
        raise RuntimeError(f"target {name} needs a GPU of compute capability {wanted}, found {what}; {fix}")


def check_run_host(name: str, target: config.Target) -> None:
    """Raise RuntimeError where this host can't run a target's engines: what is required, what was found, what to do.

    Raises ModuleNotFoundError where the builder, which also runs the engine, is not installed. Only engines of our
    kernels run without it.
    """
    elsewhere = f"run `make engine TARGET={name}` on such a machine (docs/targets.md)"
    _check_architecture(name, target, elsewhere)
    if target.builder is not config.Builder.cuda:
        interface.backend(target).installed_version(target)
    if target.builder not in config.CPU_BUILDERS:
        _check_gpu(name, target, elsewhere)


def write(folder: Path, name: str, engine: Path, graph: Description, target: config.Target) -> None:
    """Write folder/engine.json for a freshly built engine in the same folder."""
    content = {
        **config.plain(target),
        "target": name,
        # The whole version; the target may have only its beginning.
        "builder_version": interface.backend(target).installed_version(target),
        "engine": {"file": engine.name, "bytes": engine.stat().st_size, "sha256": files.sha256(engine)},
        "graph": asdict(graph),
    }
    files.write_json(folder / NAME, content)


def facts(folder: Path) -> metric_files.EngineFacts:
    """Return what the metrics of the stage `engine` say: hashes and size of a folder's engine, builder and graph."""
    content = _content(folder / NAME, "build the engine again")
    engine, graph = content["engine"], content["graph"]
    return {
        "engine_sha256": engine["sha256"],
        "file": engine["file"],
        "bytes": engine["bytes"],
        "builder": content["builder"],
        "builder_version": content["builder_version"],
        "architecture": content["architecture"],
        "compute_capabilities": content["compute_capabilities"],
        "variant": content["variant"],
        "precision": content["precision"],
        "graph_sha256": graph["sha256"],
        "provenance": graph["provenance"],
    }


def verified_engine(folder: Path, name: str, target: config.Target) -> Engine:
    """Check the manifest of a folder against target, builder, the engine's bytes and this host; return the engine.

    Raises RuntimeError with what is required, what was found and what to do, and ModuleNotFoundError where the builder,
    which also runs the engine, is not installed. Only engines of our kernels run without it.
    """
    rebuild = f"run `make engines TARGET={name}`"
    path = folder / NAME
    if not path.exists():
        raise RuntimeError(f"{path} not found, so the engine can't be checked; {rebuild}")
    _check_architecture(name, target, "run it on such a machine")
    content = _content(path, rebuild)
    wanted = {
        "target": name,
        "builder": target.builder.value,
        "precision": target.precision.value,
        "variant": target.variant.value,
        "architecture": target.architecture,
        "compute_capabilities": target.compute_capabilities,
    }
    if target.builder is not config.Builder.cuda:
        wanted["builder_version"] = interface.backend(target).installed_version(target)
    for key, value in wanted.items():
        if content.get(key) != value:
            raise RuntimeError(f"{path}: {key} must be {value!r} here, found {content.get(key)!r}; {rebuild}")
    graph = _graph(path, content, rebuild)
    described = content["engine"]
    file = described["file"]
    engine: Path = folder / file
    if Path(file).name != file or not engine.is_file():
        raise RuntimeError(f"{path}: engine.file must name a file in {folder}, found {file!r}; {rebuild}")
    found = files.sha256(engine)
    if found != described["sha256"]:
        raise RuntimeError(f"{engine}: SHA-256 {found} is not the manifest's {described['sha256']}; {rebuild}")
    if target.builder not in config.CPU_BUILDERS:
        _check_gpu(name, target, "run it on such a machine")
    return Engine(engine, found, graph)


def target_of(folder: Path) -> tuple[str, config.Target]:
    """Id and target of a folder's engine, for callers without parameters.

    Raises RuntimeError where there is no engine.json, or one of another version of this project.
    """
    path = folder / NAME
    if not path.exists():
        raise RuntimeError(
            f"{path} not found; name the folder of an engine, such as data/engines/cpu, or build it first"
        )
    content = _content(path, "run `make engines`")
    try:
        name = content["target"]
        return name, config.parse_target(name, {field.name: content[field.name] for field in fields(config.Target)})
    except (KeyError, ValueError) as error:
        raise RuntimeError(f"{path} is from another version of this project: {error}; run `make engines`") from error


ARM_CORES = {
    ("0x41", "0xd07"): "Cortex-A57",
    ("0x41", "0xd08"): "Cortex-A72",
    ("0x41", "0xd0b"): "Cortex-A76",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd49"): "Neoverse-N2",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x41", "0xd83"): "Neoverse-V3AE",
    ("0x41", "0xd85"): "Cortex-X925",
    ("0x41", "0xd87"): "Cortex-A725",
    ("0x4e", "0x004"): "Carmel",
}
"""(implementer, part) of an Arm core -> its name: Jetson's, and those of hosts with NVIDIA GPUs. Source: Linux,
arch/arm64/include/asm/cputype.h."""


def cpu_model(proc: Path = Path("/proc")) -> str:
    """Return the name of this host's CPU; on Arm, of its board where the kernel tells it, and of each kind of core.

    `proc` is where Linux shows its files: cpuinfo, and device-tree/model on boards such as Jetson.
    """
    try:
        lines = (proc / "cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]
    implementers, parts = ([value for key, value in pairs if key == f"CPU {what}"] for what in ("implementer", "part"))
    cores = list(zip(implementers, parts, strict=False))
    if not cores:
        return next((value for key, value in pairs if key == "model name"), platform.processor() or platform.machine())
    # Arm's "model name", where there is one, is the same for all: ARMv8 Processor rev 1 (v8l).
    found = [ARM_CORES.get(core, f"implementer {core[0]} part {core[1]}") for core in cores]
    names = [f"Arm {name}" for name in dict.fromkeys(found)]
    try:
        board = (proc / "device-tree/model").read_text(encoding="utf-8", errors="replace").rstrip("\0 \n")
    except OSError:  # There is none on servers, and containers hide it.
        board = ""
    return ", ".join(filter(None, [board, *names]))
