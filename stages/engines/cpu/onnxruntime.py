"""Engines for CPUs by ONNX Runtime: models that it optimised for this CPU, saved as ONNX with its own operators."""

from pathlib import Path
from types import ModuleType
from typing import Any

from stages import config
from stages.engines import interface
from stages.inference import segments

OrtObject = Any
"""An object of ONNX Runtime, which has no types."""

SUFFIX = ".onnx"


def _onnxruntime() -> ModuleType:
    return interface.library("onnxruntime", "run `make env`, or `pip install onnxruntime`")


def installed_version(target: config.Target) -> str:
    """Version of the onnxruntime package, such as 1.32.0."""
    return str(_onnxruntime().__version__)


def build(onnx_file: Path, out: Path, target: config.Target, timing_cache: Path) -> None:
    """Optimise an ONNX file for this CPU and write it to `out`.

    The panoptic merge is removed, because the host merges. Nothing is timed, so the cache is not used.
    """
    ort = _onnxruntime()
    options = _options(ort, target, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    options.optimized_model_filepath = str(out)
    # ONNX Runtime warns that the file is only for this kind of CPU; engine.json says so too.
    options.log_severity_level = 3
    _session(ort, _without_merge(onnx_file), options)


def _without_merge(onnx_file: Path) -> Path | bytes:
    """The file or, where the host merges, the model in it with the logits as its outputs."""
    onnx = interface.library("onnx", "run `make env`, or `pip install onnx`")
    model = onnx.load(onnx_file)
    tensors = {name for node in model.graph.node for name in node.output}
    if not segments.merges_on_host([output.name for output in model.graph.output], tensors):
        return onnx_file
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in segments.LOGITS)
    content: bytes = model.SerializeToString()
    return content


def load(engine: Path, target: config.Target, in_flight: int = 1) -> "OnnxRuntime":
    """Load an optimised model without optimising it again."""
    ort = _onnxruntime()
    session = _session(ort, engine, _options(ort, target, ort.GraphOptimizationLevel.ORT_DISABLE_ALL))
    return OnnxRuntime(session, in_flight)


def _options(ort: ModuleType, target: config.Target, level: OrtObject) -> OrtObject:
    options = ort.SessionOptions()
    options.intra_op_num_threads = target.threads
    options.graph_optimization_level = level
    return options


def _session(ort: ModuleType, model: Path | bytes, options: OrtObject) -> OrtObject:
    state = ort.capi.onnxruntime_pybind11_state
    failures = (state.Fail, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented, state.RuntimeException)
    try:
        content = model if isinstance(model, bytes) else str(model)
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except failures as error:
        name = "the graph" if isinstance(model, bytes) else model
        raise RuntimeError(f"ONNX Runtime can't take {name}: {error}") from error


class OnnxRuntime(interface.Immediate):
    """A session of ONNX Runtime on the CPU."""

    def __init__(self, session: OrtObject, in_flight: int) -> None:
        """Wrap an onnxruntime.InferenceSession with one input."""
        (entry,) = session.get_inputs()
        super().__init__(tuple(entry.shape), _dtype(entry.type), in_flight)
        self._session, self._name = session, entry.name
        self._outputs = [output.name for output in session.get_outputs()]

    def infer(self, frames: interface.Array) -> dict[str, interface.Array]:
        """See Runtime.infer."""
        interface.require_input(frames, self._inputs[0])
        return dict(zip(self._outputs, self._session.run(None, {self._name: frames}), strict=True))


def _dtype(kind: str) -> str:
    """NumPy's name of a type by ONNX Runtime's: "tensor(uint8)" -> "uint8"."""
    name = kind[len("tensor(") : -1]
    return {"float": "float32", "double": "float64"}.get(name, name)
