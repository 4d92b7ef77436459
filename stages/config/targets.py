"""The section `targets`: the kinds of machine that engines are built for."""

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from stages.config.deploy import PLUGIN_VARIANTS, Variant
from stages.config.precision import Precision
from stages.config.rules import Range, check_ranges, is_name, name_rule, require
from stages.foundation import versions


class Builder(Enum):
    """Builders, which compile the graph into an engine: modules in stages/engines."""

    openvino = "openvino"
    onnxruntime = "onnxruntime"
    tensorrt_rtx = "tensorrt_rtx"
    tensorrt = "tensorrt"
    cuda = "cuda"


ANY_ARCHITECTURE = "any"
"""Architecture of targets whose engines depend on no CPU."""
CUDA_MAJORS = [12, 13]
"""Major versions of the runtime compilers that `make env` installs."""
OLDEST_COMPUTE_CAPABILITY = (7, 5)
"""Of our kernels, which need its tensor cores."""
TILE = re.compile(
    r"(?P<capability>[0-9]{1,2}\.[0-9])/(?P<multiprocessors>[1-9][0-9]{0,3}) "
    r"(?P<call>[A-Za-z]+ [0-9x,]+ [0-9a-f]{8})(?P<choice>(?: [A-Z_]+=[0-9]{1,6})+)"
)
"""A line of Target.tiles."""
CPU_BUILDERS = (Builder.openvino, Builder.onnxruntime)
"""Builders of engines that run on a CPU."""


class Device(Enum):
    """Processors that engines run on: folders in stages/engines."""

    cpu = "cpu"
    cuda = "cuda"


RTX_COMPUTE_CAPABILITIES = ["7.5", "8.0", "8.6", "8.9", "12.0", "12.1"]
"""Compute capabilities that TensorRT-RTX 1.7 generates code for, from its enumeration ComputeCapability."""


class Typing(Enum):
    """Ways to choose the numeric types of a TensorRT engine."""

    strong = "strong"
    weak = "weak"


class Verbosity(Enum):
    """Levels of detail that TensorRT's inspector can print about an engine's layers."""

    none = "none"
    layer_names_only = "layer_names_only"
    detailed = "detailed"


@dataclass
class Target:
    """A kind of machine that an engine is built for."""

    description: str = ""
    """Machines that the engine runs on, for the report."""
    builder: Builder = Builder.openvino
    """Builder that compiles the engine."""
    builder_version: str = ""
    """Version of the builder, or its first numbers: 8.6 stands for every 8.6.x. This version must be installed, since
    an engine loads only in the version that built it. For cuda: version of NVRTC, which only the building needs."""
    cuda_major: int = 0
    """For builder: cuda. Major version of CUDA whose compiler is used: 12 or 13. The GPU's driver must be of that or a
    later one: JetPack 6 has 12, JetPack 7 has 13."""
    architecture: str = "x86_64"
    """CPU architecture of the machine, as `uname -m` prints it; any for builder: cuda."""
    device: Device = Device.cpu
    """Processor that the engine runs on: cpu for the builders openvino and onnxruntime, cuda for the others."""
    compute_capabilities: list[str] = field(default_factory=list)
    """CUDA compute capabilities that the engine has code for. Empty for a CPU, one for standard TensorRT. An engine of
    builder: cuda also runs on GPUs that come after the newest of them."""
    precision: Precision = Precision.fp32
    """Numeric type of the graph that is compiled: fp32 or one of deploy.lower_precisions. Its file is in
    data/onnx/VARIANT/PRECISION."""
    variant: Variant = Variant.onnx
    """Variant of the graph that is compiled, one of deploy.variants. onnx: standard ONNX operators; deformable
    attention samples by GridSample. cuda: our CUDA operators alone, for builder: cuda.
    onnx_gather: as onnx, but deformable attention samples by Gather, for TensorRT versions whose GridSample is wrong.
    onnx_plugin_v1, onnx_plugin_v2: as onnx, but it samples by MultiscaleDeformableAttnPlugin_TRT of standard TensorRT
    in that version; version 2 needs TensorRT 10.11 or later."""
    typing: Typing = Typing.strong
    """For standard TensorRT. strong: the numeric types of the ONNX file; from 10.12 on. weak: the builder may choose
    lower types, as precision allows, except where the file has float32; up to 10.x."""
    external_tactics: bool = False
    """For standard TensorRT up to 10.x. true: the builder also tries kernels of cuBLAS, cuBLASLt and cuDNN, which
    must be installed."""
    optimization_level: Annotated[int, Range(at_least=0, at_most=5)] = 3
    """TensorRT's optimization level. With a higher one it searches longer and may find a faster engine."""
    profiling_verbosity: Verbosity = Verbosity.layer_names_only
    """Detail that TensorRT's inspector can print about the engine's layers."""
    tiles: list[str] = field(default_factory=list)
    """For builder: cuda. Tiles that `make tune` measured on a GPU and wrote to conf/tiles, in place of those that the
    builder estimates. A line has compute capability and multiprocessors of the GPU, the operator, the shapes of its
    inputs, a digest of the call, and constants."""
    threads: Annotated[int, Range(at_least=1)] = 2
    """CPU threads at run time, for CPU targets. Set it to the cores of the machine."""
    workspace_mib: Annotated[int, Range(at_least=64)] = 4096
    """Scratch memory that the builder may use, for GPU targets. Lower it where the builder runs out of memory."""

    def check(self, name: str) -> None:
        """Raise ValueError for the first wrong value; `name` is the target's id. Not in __post_init__, which has no id.

        The id names a folder and is part of a DVC stage's name and of a key (`params: targets.NAME`). So it has no dot.
        """
        require(is_name(name, "_-"), "targets", name_rule("_-"), name)
        key = f"targets.{name}"
        require(bool(self.builder_version), f"{key}.builder_version", "a version", self.builder_version)
        check_ranges(self, key)
        device = Device.cpu if self.builder in CPU_BUILDERS else Device.cuda
        rule = f"{device.value} for builder: {self.builder.value}"
        require(self.device is device, f"{key}.device", rule, self.device.value)
        found = self.compute_capabilities
        where = f"{key}.compute_capabilities"
        if self.builder in CPU_BUILDERS:
            require(not found, where, "empty for a CPU target", found)
        elif self.builder is Builder.tensorrt_rtx:
            known = bool(found) and set(found) <= set(RTX_COMPUTE_CAPABILITIES)
            require(known, where, f"one or more of {RTX_COMPUTE_CAPABILITIES}", found)
        elif self.builder is Builder.cuda:
            self._check_cuda(key)
        else:
            require(len(found) == 1, where, "one, such as 8.9", found)
            self._check_tensorrt(key)
        if self.builder is not Builder.cuda:
            rule = f"empty for builder: {self.builder.value}, which has its own kernels"
            require(not self.tiles, f"{key}.tiles", rule, self.tiles)
            rule = f"0 for builder: {self.builder.value}, which has its own CUDA"
            require(not self.cuda_major, f"{key}.cuda_major", rule, self.cuda_major)
            rule = f"that of a CPU for builder: {self.builder.value}, such as x86_64"
            require(self.architecture != ANY_ARCHITECTURE, f"{key}.architecture", rule, self.architecture)
        if self.builder is not Builder.tensorrt:
            rule = f"one without plugins, such as onnx: {self.builder.value} has none"
            require(self.variant not in PLUGIN_VARIANTS, f"{key}.variant", rule, self.variant.value)
        if self.builder in CPU_BUILDERS:
            rule = "onnx or onnx_gather for a CPU target: CUDA operators run on GPUs only"
            require(self.variant is not Variant.cuda, f"{key}.variant", rule, "cuda")
        if self.device is Device.cuda:
            rule = "cuda for builder: cuda, which compiles our kernels and nothing else"
            if self.builder is not Builder.cuda:
                rule = f"an ONNX variant for builder: {self.builder.value}; our kernels are for builder: cuda"
            alone = (self.builder is Builder.cuda) == (self.variant is Variant.cuda)
            require(alone, f"{key}.variant", rule, self.variant.value)

    def _check_cuda(self, key: str) -> None:
        found, major = self.compute_capabilities, self.cuda_major
        require(major in CUDA_MAJORS, f"{key}.cuda_major", f"one of {CUDA_MAJORS} for builder: cuda", major)
        version, where = self.builder_version, f"{key}.builder_version"
        fits = versions.is_version(version) and versions.numbers(version)[0] == major
        require(fits, where, f"a version of NVRTC that begins with cuda_major {major}", version)
        where = f"{key}.compute_capabilities"
        plain = [re.fullmatch(r"[0-9]{1,2}\.[0-9]", capability) for capability in found]
        require(bool(found) and all(plain), where, "one or more, such as 8.9", found)
        require(len({*found}) == len(found), where, "each once", found)
        old = [capability for capability in found if versions.numbers(capability) < OLDEST_COMPUTE_CAPABILITY]
        require(not old, where, "7.5 or later: our kernels need its tensor cores", old)
        for tile in self.tiles:
            known = TILE.fullmatch(tile)
            rule = f"lines that `make tune` wrote, for compute capability {' or '.join(found)}"
            require(known is not None and known["capability"] in found, f"{key}.tiles", rule, tile)
        gpus = {tile.partition(" ")[0] for tile in self.tiles}
        alone = len({gpu.partition("/")[0] for gpu in gpus}) == len(gpus)
        require(alone, f"{key}.tiles", "of one GPU for each compute capability", sorted(gpus))
        rule = f"{ANY_ARCHITECTURE} for builder: cuda, whose engines depend on no CPU"
        require(self.architecture == ANY_ARCHITECTURE, f"{key}.architecture", rule, self.architecture)

    def _check_tensorrt(self, key: str) -> None:
        where = f"{key}.builder_version"
        require(versions.is_version(self.builder_version), where, "numbers separated by dots", self.builder_version)
        version = versions.numbers(self.builder_version)
        typing = self.typing
        if typing is Typing.strong:
            rule = f"weak with TensorRT {self.builder_version}: strong typing is complete from 10.12 on"
            require(version >= (10, 12), f"{key}.typing", rule, typing.value)
        else:
            rule = f"strong with TensorRT {self.builder_version}, which has no weak typing"
            require(version < (11,), f"{key}.typing", rule, typing.value)
        if self.external_tactics:
            rule = f"false with TensorRT {self.builder_version}, which has only its own kernels"
            require(version < (11,), f"{key}.external_tactics", rule, True)
        if self.variant is Variant.onnx_plugin_v2:
            rule = f"another with TensorRT {self.builder_version}: version 2 of the plugin came with 10.11"
            require(version >= (10, 11), f"{key}.variant", rule, "onnx_plugin_v2")
