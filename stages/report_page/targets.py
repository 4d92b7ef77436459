"""States of the targets: which engines there are, whether they are of today's graphs, and whose figures they have."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from stages import config
from stages.foundation import files, versions
from stages.inference import description
from stages.inference.description import Description


class State(Enum):
    """State of a target's engine."""

    built = "built"
    stale = "stale"
    """The engine is of another graph or of other parameters of its target."""
    never_built = "never built"


@dataclass(frozen=True)
class Machine:
    """A machine, as the files of metrics name it."""

    name: str
    """Host name; empty where it was not recorded."""
    processor: str
    """Model of the GPU that was used, or else of the CPU."""

    def __str__(self) -> str:
        return ", ".join(part for part in (self.name, self.processor) if part)


@dataclass(frozen=True)
class TargetState:
    """A target's engine, and the figures of that engine."""

    target: str
    state: State
    machine: Machine | None = None
    """The machine that built the engine, or, where that was not recorded, the one that timed it. None: not known."""
    date: str = ""
    """UTC, as 2026-11-28: when `machine` built or timed the engine. Empty where that was not recorded."""
    measured_on: Machine | None = None
    """The machine that timed the engine, if another one built it."""
    timed_only: bool = False
    """True if machine and date are those of the timing."""
    commit: str = ""
    """Git commit of the code at that time; empty where it was not recorded."""
    dirty: bool = False
    """True if code or parameters differed from `commit`."""
    reason: str = ""
    """Reason why the engine is stale; empty where it is not."""
    command: str = ""
    """The command that builds the engine, on a machine of the target. Empty for a built one."""
    engine: Mapping[str, Any] | None = None
    """Content of engine_TARGET.json; None where the target was never built."""
    verified: Mapping[str, Any] | None = None
    """Content of verify_TARGET.json, where it is of this engine."""
    timed: Mapping[str, Any] | None = None
    """Content of benchmark_TARGET.json, where it is of this engine."""


def graph_name(target: config.Target) -> str:
    """Return variant and precision of the graph that a target's engine is built from, such as onnx/fp16."""
    return f"{target.variant.value}/{target.precision.value}"


def read_graphs(data: Path, names: Iterable[str]) -> dict[str, Description]:
    """Return the graph.json of each graph that is there. `names` are folders in data/onnx, such as onnx/fp16."""
    paths = {name: data / "onnx" / name / description.NAME for name in names}
    return {name: description.parse(files.read_json(path)) for name, path in paths.items() if path.exists()}


def read(metrics: Mapping[str, Any], graphs: Mapping[str, Description], cfg: config.Config) -> dict[str, TargetState]:
    """Return the state of each target from the results of `metric_files.read_all` and `read_graphs`.

    Figures that name another engine, or none, are left out.
    """
    return {name: _state(name, target, metrics, graphs) for name, target in cfg.targets.items()}


def _state(
    name: str, target: config.Target, metrics: Mapping[str, Any], graphs: Mapping[str, Description]
) -> TargetState:
    command = f"make engine TARGET={name}"
    engine = metrics.get(f"engine_{name}")
    if engine is None:
        return TargetState(name, State.never_built, command=command)
    verified, timed = (_of(engine, metrics.get(f"{stage}_{name}")) for stage in ("verify", "benchmark"))
    built = (timed or {}).get("built") or {}
    origin = built or timed or {}
    host = origin.get("host")
    machine = _machine(host) if host else None
    measured_on = _machine(timed["host"]) if timed and built else None
    reason = _staleness(engine, target, graphs)
    return TargetState(
        target=name,
        state=State.stale if reason else State.built,
        machine=machine,
        date=origin.get("date", "")[:10],
        measured_on=None if measured_on == machine else measured_on,
        timed_only=bool(origin) and not built,
        commit=origin.get("commit", ""),
        dirty=bool(origin.get("dirty")),
        reason=reason,
        command=command if reason else "",
        engine=engine,
        verified=verified,
        timed=timed,
    )


def _of(engine: Mapping[str, Any], figures: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the figures if they carry the hash of the engine."""
    return figures if figures and figures.get("engine_sha256") == engine["engine_sha256"] else None


def _staleness(engine: Mapping[str, Any], target: config.Target, graphs: Mapping[str, Description]) -> str:
    """Return why an engine is not the one that the parameters and graphs ask for; empty where it is."""
    wanted = {
        "builder": target.builder.value,
        "precision": target.precision.value,
        "variant": target.variant.value,
        "architecture": target.architecture,
        "compute_capabilities": target.compute_capabilities,
    }
    for key, value in wanted.items():
        if engine[key] != value:
            return f"its {key.replace('_', ' ')} is {_words(engine[key])}, the target's is {_words(value)}"
    if not versions.fits(engine["builder_version"], target.builder_version):
        return f"its builder version is {engine['builder_version']}, the target's is {target.builder_version}"
    graph = graph_name(target)
    if graph in graphs and graphs[graph].sha256 != engine["graph_sha256"]:
        return f"it was built from another graph than data/onnx/{graph}"
    return ""


def _words(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value) or "none"


def _machine(host: Mapping[str, Any]) -> Machine:
    gpu = host.get("gpu")
    return Machine(host.get("name", ""), gpu["name"] if gpu else host["cpu"])
