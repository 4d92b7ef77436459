"""Checks of the GPU: driver, CUDA, TensorRT in both flavours, NVRTC. They run on a board too."""

import platform
from collections.abc import Callable
from pathlib import Path

from stages import config
from stages.doctor.lines import OPTIONAL, REQUIRED, Line, line
from stages.foundation import versions


def device() -> list[Line]:
    """GPU, driver and CUDA of this process. A machine without them still builds and trains, so they are optional."""
    from stages.engines.cuda import gpu

    found = gpu.current()
    level, fix = OPTIONAL, "install NVIDIA's driver until nvidia-smi lists the GPU, if this machine has one"
    wanted = {
        "GPU": (
            "for CUDA targets and for training in full size",
            f"{found.name}, {found.compute_capability}" if found else "",
        ),
        "driver": ("for the GPU", (found.driver or "version unknown") if found else ""),
        "CUDA": ("11, 12 or 13, which the driver supports", found.cuda if found else ""),
    }
    return [line(name, required, text or "none", bool(text), fix, level) for name, (required, text) in wanted.items()]


def tensorrt() -> list[Line]:
    """Standard TensorRT, which targets with `builder: tensorrt` need on a machine with their GPU."""
    targets = _targets(config.Builder.tensorrt)
    wanted = sorted({target.builder_version for target in targets.values()})
    extra = "tensorrt" if not wanted or wanted[-1].startswith("11") else "tensorrt10"
    fix = f"make env EXTRAS={extra} on a GPU host, which needs NVIDIA's package index; on a board JetPack's Python"
    level = REQUIRED if any(_has_gpu_of(target) for target in targets.values()) else OPTIONAL
    return [_library("TensorRT", config.Builder.tensorrt, targets, level, fix)]


def tensorrt_rtx() -> list[Line]:
    """TensorRT-RTX, which builds without a GPU; the environment has it."""
    targets = _targets(config.Builder.tensorrt_rtx)
    return [
        _library("TensorRT-RTX", config.Builder.tensorrt_rtx, targets, REQUIRED if targets else OPTIONAL, "make env")
    ]


def nvrtc() -> list[Line]:
    """CUDA's runtime compilers, which compile the kernels of targets with `builder: cuda`: a line for each version."""
    from stages.engines.cuda import compiler

    targets = {name: t for name, t in _all_targets().items() if t.builder is config.Builder.cuda}
    lines = []
    for major in sorted({target.cuda_major for target in targets.values()}) or [max(compiler.LIBRARIES)]:
        served = {name: t.builder_version for name, t in targets.items() if t.cuda_major == major}
        required = ", ".join(f"{version} for {name}" for name, version in served.items()) or "for no target in params"
        # Engines run without it, so a board needs none.
        level, fix = (
            (REQUIRED if served and Path(".dvc").is_dir() else OPTIONAL),
            "make env, where engines are built; running them needs none",
        )
        name = f"NVRTC {major}"
        try:
            found = compiler.nvrtc(major).version
        except RuntimeError as error:
            lines.append(line(name, required, str(error).partition("; ")[0], False, fix, level))
            continue
        fits = not served or all(versions.fits(found, version) for version in served.values())
        lines.append(line(name, required, found, fits, f"{fix}, or set builder_version in conf/target", level))
    return lines


def _library(name: str, builder: config.Builder, targets: dict[str, config.Target], level: str, fix: str) -> Line:
    from stages.engines import interface

    required = ", ".join(f"{target.builder_version} for {each}" for each, target in targets.items())
    try:
        target = config.Target(builder=builder)
        found = interface.backend(target).installed_version(target)
    except ImportError as error:
        return line(name, required or "for no target in params", str(error).partition("; ")[0], False, fix, level)
    ok = not targets or any(versions.fits(found, target.builder_version) for target in targets.values())
    return line(
        name, required or "for no target in params", found, ok, f"{fix}, or set builder_version in conf/target", level
    )


def targets() -> list[Line]:
    """Which targets this machine can build, and whose engines it can run. Others are those of other machines."""
    from stages.engines import manifest

    cfg, lines = config.load(params_file()), []
    for name, target in cfg.targets.items():
        builder = f"{target.builder.value} {target.builder_version}, {target.architecture}"
        capabilities = " or ".join(target.compute_capabilities)
        level = REQUIRED if name in cfg.runnable and target.builder in config.CPU_BUILDERS else OPTIONAL
        required = builder + (f", a GPU of {capabilities}" if target.builder is config.Builder.tensorrt else "")
        problem = _problem(manifest.check_host, name, target)
        fix = f"make kit TARGET={name}, build there, then make import-results (docs/targets.md)"
        lines.append(line(f"build {name}", required, problem or "all of it", not problem, fix, level))
        required = builder + (f", a GPU of {capabilities}" if capabilities else "")
        problem = _problem(manifest.check_run_host, name, target)
        lines.append(
            line(f"run {name}", required, problem or "all of it", not problem, "run it on such a machine", level)
        )
    return lines


def _problem(check: Callable[[str, config.Target], None], name: str, target: config.Target) -> str:
    """Return what a check of this host says, without its advice, or nothing."""
    try:
        check(name, target)
    except (RuntimeError, ImportError) as error:
        return str(error).partition("; ")[0]
    return ""


def params_file() -> Path:
    """Return the parameters of this folder: params.json, as a board has them, or params.yaml."""
    found = [path for path in (Path("params.yaml"), Path("params.json")) if path.exists()]
    return found[-1] if found else Path("params.yaml")


def _all_targets() -> dict[str, config.Target]:
    return config.load(params_file()).targets if params_file().exists() else {}


def _targets(builder: config.Builder) -> dict[str, config.Target]:
    """Return the targets of a builder that are for this machine's architecture."""
    every = _all_targets().items()
    return {name: t for name, t in every if t.builder is builder and t.architecture == platform.machine()}


def _has_gpu_of(target: config.Target) -> bool:
    from stages.engines.cuda import gpu

    found = gpu.current()
    return found is not None and found.compute_capability in target.compute_capabilities
