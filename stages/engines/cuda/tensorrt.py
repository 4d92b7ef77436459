"""Engines of standard TensorRT, 8.6 to 11, built with the GPU of the machine that they are for.

The module `tensorrt` comes from JetPack on a board, from `make env EXTRAS=tensorrt`, or as docs/targets.md says.
"""

import logging
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from stages import config
from stages.engines import interface
from stages.engines.cuda import tensorrt_common
from stages.foundation import files, versions
from stages.inference import plugin

if TYPE_CHECKING:
    import tensorrt as trt

log = logging.getLogger(__name__)

SUFFIX = tensorrt_common.SUFFIX
EXTERNAL_TACTICS = ["CUBLAS", "CUBLAS_LT", "CUDNN"]


def library() -> ModuleType:
    """The system's TensorRT. Raises ModuleNotFoundError where there is none."""
    fix = (
        "use the system's Python and JetPack's TensorRT on a board; on a GPU host run `make env EXTRAS=tensorrt` "
        "(TensorRT 11) or `make env EXTRAS=tensorrt10` (10.13), or name a Python that has it (docs/targets.md)"
    )
    return interface.library("tensorrt", fix)


def installed_version(target: config.Target) -> str:
    """Version of the tensorrt module, such as 8.6.0 or 10.13.0.35."""
    return str(library().__version__)


def build(onnx_file: Path, out: Path, target: config.Target, timing_cache: Path) -> None:
    """Compile an ONNX file for this machine's GPU and write the engine to `out`.

    Reads and writes the file `timing_cache`. Raises RuntimeError with each message of the parser or the builder, or
    if the plugin that the target names is missing.
    """
    api = library()
    _register_plugins(api, target)
    flags = bits(api.NetworkDefinitionCreationFlag, network_flags(api.__version__, target.typing))
    started = tensorrt_common.Build(api, onnx_file, target, flags)
    if target.typing is config.Typing.weak:
        for flag in weak_flags(target.precision):
            started.options.set_flag(getattr(api.BuilderFlag, flag))
        if target.precision is not config.Precision.fp32:
            _keep_float32(api, started)
    external = bits(getattr(api, "TacticSource", None), EXTERNAL_TACTICS)
    if external and not target.external_tactics:
        started.options.set_tactic_sources(started.options.get_tactic_sources() & ~external)
    cache = _attach(started.options, timing_cache)
    started.write(out)
    with files.atomic_write(timing_cache) as draft:
        draft.write_bytes(memoryview(cache.serialize()))


def load(engine: Path, target: config.Target, in_flight: int = 1) -> interface.Runtime:
    """Load an engine on this machine's GPU. Raises RuntimeError where there is none."""
    api = library()
    _register_plugins(api, target)
    return tensorrt_common.load(api, engine, in_flight)


def network_flags(version: str, typing: config.Typing) -> list[str]:
    """Names of the flags of a network with explicit batch and this typing.

    TensorRT 8.6 needs EXPLICIT_BATCH; from 10 on it has no effect.
    """
    explicit = ["EXPLICIT_BATCH"] if versions.numbers(version) < (10,) else []
    return explicit + (["STRONGLY_TYPED"] if typing is config.Typing.strong else [])


def weak_flags(precision: config.Precision) -> list[str]:
    """Names of the flags that let the builder choose kernels in this precision."""
    return {"fp32": [], "fp16": ["FP16"], "int8": ["FP16", "INT8"]}[precision.value]


def _keep_float32(api: ModuleType, started: tensorrt_common.Build) -> None:
    """Make a weakly typed builder compute in float32 where the ONNX file does.

    Otherwise it may use fp16 there too. Areas in pixels then overflow, and no segment is found.
    """
    started.options.set_flag(api.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    # These layers take no precision: they compute nothing, convert types, or choose their own.
    names = ("CONSTANT", "SHAPE", "CAST", "IDENTITY", "PLUGIN", "PLUGIN_V2", "PLUGIN_V3")
    untyped = {getattr(api.LayerType, name) for name in names if hasattr(api.LayerType, name)}
    network = started.network
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        outputs = [layer.get_output(k) for k in range(layer.num_outputs)]
        if layer.type not in untyped and outputs and all(o.dtype == api.float32 for o in outputs):
            layer.precision = api.float32
            for k in range(layer.num_outputs):
                layer.set_output_type(k, api.float32)


def bits(enumeration: object, names: list[str]) -> int:
    """Members of an enumeration as bits. A name that this TensorRT lacks is left out.

    TensorRT 11 lacks STRONGLY_TYPED, which it always is, and the tactics of cuBLAS and cuDNN, which it never uses.
    """
    return sum(1 << int(getattr(enumeration, name)) for name in names if hasattr(enumeration, name))


def _register_plugins(api: ModuleType, target: config.Target) -> None:
    """Load NVIDIA's plugins where the target's graph has one. Raises RuntimeError where that plugin is missing."""
    if target.variant not in plugin.VERSIONS:
        return
    errors: list[str] = []
    # The plugins keep using this logger, so it must never be deleted.
    _plugin_loggers.append(tensorrt_common.logger(api, errors))
    if not api.init_libnvinfer_plugins(_plugin_loggers[-1], ""):
        raise RuntimeError("\n".join(["TensorRT can't load its plugins (libnvinfer_plugin):", *errors]))
    registry: trt.IPluginRegistry = api.get_plugin_registry()
    # TensorRT 8.6 has no all_creators. plugin_creator_list lacks the newer kind of plugin, such as version 2.
    creators = registry.all_creators if hasattr(registry, "all_creators") else registry.plugin_creator_list
    versions = sorted({str(creator.plugin_version) for creator in creators if creator.name == plugin.NAME})
    wanted = plugin.VERSIONS[target.variant]
    if wanted not in versions:
        raise RuntimeError(
            f"{plugin.NAME} version {wanted} is needed, found {', '.join(versions) or 'none'} in TensorRT "
            f"{api.__version__}; set variant in conf/target"
        )


_plugin_loggers: "list[trt.ILogger]" = []


def _attach(options: "trt.IBuilderConfig", file: Path) -> "trt.ITimingCache":
    """Give the builder the timings of earlier builds, or an empty cache if another TensorRT or GPU made them."""
    content = file.read_bytes() if file.exists() else b""
    if content:
        cache: trt.ITimingCache | None = options.create_timing_cache(content)
        if cache is not None and options.set_timing_cache(cache, ignore_mismatch=False):
            return cache
        log.info("%s was made by another TensorRT or for another GPU; starting with an empty timing cache", file)
    cache = options.create_timing_cache(b"")
    options.set_timing_cache(cache, ignore_mismatch=False)
    return cache
