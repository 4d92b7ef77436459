"""Building engines by TensorRT and by TensorRT-RTX, which have the same Python interface.

Each function takes the module of one of them as `api`. Written for TensorRT 8.6 to 11; the types are those of 10.13, by
tensorrt-stubs.
"""

import logging
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from stages import config

if TYPE_CHECKING:
    import tensorrt as trt

log = logging.getLogger(__name__)

SUFFIX = ".engine"


def logger(api: ModuleType, errors: list[str]) -> "trt.ILogger":
    """A TensorRT logger that appends errors to a list, for an exception, and passes warnings to `logging` as debug."""

    class Collector(api.ILogger):  # type: ignore[misc, name-defined]  # it is known at run time only
        def __init__(self) -> None:
            api.ILogger.__init__(self)

        def log(self, severity: "trt.ILogger.Severity", message: str) -> None:
            if severity in (api.ILogger.ERROR, api.ILogger.INTERNAL_ERROR):
                errors.append(message)
            elif severity == api.ILogger.WARNING:
                log.debug("%s", message)

    collector: trt.ILogger = Collector()
    return collector


class Build:
    """One build: an ONNX file, parsed by TensorRT, and the settings of the builder."""

    def __init__(self, api: ModuleType, onnx_file: Path, target: config.Target, network_flags: int) -> None:
        """Parse the ONNX file and set the options of the builder. Raises RuntimeError with the parser's errors."""
        self._onnx_file, self._name = onnx_file, api.__name__
        self._errors: list[str] = []
        collector = logger(api, self._errors)
        try:
            self._builder: trt.Builder = api.Builder(collector)
        except TypeError as error:  # the bindings raise it for a null pointer
            what = f"{self._name} reaches no GPU; repair the NVIDIA driver until nvidia-smi lists it"
            raise RuntimeError(lines(what, self._errors)) from error
        self.network = self._builder.create_network(network_flags)
        self._parser: trt.OnnxParser = api.OnnxParser(self.network, collector)
        if not self._parser.parse_from_file(str(onnx_file)):
            found = [describe(self._parser.get_error(i)) for i in range(self._parser.num_errors)]
            raise RuntimeError(lines(f"{self._name} can't parse {onnx_file}", found + self._errors))

        self.options = self._builder.create_builder_config()
        self.options.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, target.workspace_mib << 20)
        self.options.builder_optimization_level = target.optimization_level
        verbosity = target.profiling_verbosity.value.upper()
        self.options.profiling_verbosity = getattr(api.ProfilingVerbosity, verbosity)
        if target.precision is config.Precision.fp32:
            # TF32 is on by default; its products have 10 bits of mantissa.
            self.options.clear_flag(api.BuilderFlag.TF32)

    def write(self, out: Path) -> None:
        """Build the engine and write it to `out`. Raises RuntimeError with the builder's errors."""
        plan = self._builder.build_serialized_network(self.network, self.options)
        if plan is None:
            raise RuntimeError(lines(f"{self._name} can't build {self._onnx_file}", self._errors))
        out.write_bytes(memoryview(plan))


def describe(error: "trt.ParserError") -> str:
    """A parser's error in one line: its code, the node of the ONNX file as far as it is known, and the message."""
    # TensorRT 8.6 knows only the node's index.
    known = [str(getattr(error, name)()) for name in ("node_name", "node_operator") if hasattr(error, name)]
    node = " ".join([str(error.node()), *filter(None, known)])
    return f"{getattr(error.code(), 'name', error.code())} at node {node}: {error.desc()}"


def lines(what: str, messages: list[str]) -> str:
    """A message and TensorRT's own messages, one a line."""
    return "\n".join([f"{what}:", *messages])
