"""Engines for CPUs by OpenVINO: compiled models, exported as a blob."""

from pathlib import Path
from types import ModuleType
from typing import Any

from stages import config
from stages.engines import interface
from stages.inference import segments

SUFFIX = ".blob"


def _openvino() -> ModuleType:
    return interface.library("openvino", "run `make env`, or `pip install openvino`")


def installed_version(target: config.Target) -> str:
    """Version of the openvino package, such as 2026.4.1."""
    return str(_openvino().__version__).partition("-")[0]


def _options(target: config.Target) -> dict[str, str | int]:
    # Export and import need the same options: without them an imported blob computes in bf16 where the CPU can.
    return {
        "INFERENCE_PRECISION_HINT": "f16" if target.precision is config.Precision.fp16 else "f32",
        "INFERENCE_NUM_THREADS": target.threads,
        "PERFORMANCE_HINT": "LATENCY",
    }


def build(onnx_file: Path, out: Path, target: config.Target, timing_cache: Path) -> None:
    """Compile an ONNX file for this CPU and write the blob to `out`.

    The panoptic merge is removed, because the host merges. Nothing is timed, so the cache is not used.
    """
    openvino = _openvino()
    core = openvino.Core()
    model = core.read_model(onnx_file)
    tensors = {name: output for node in model.get_ops() for output in node.outputs() for name in output.names}
    if segments.merges_on_host([output.any_name for output in model.outputs], tensors):
        model = openvino.Model([tensors[name] for name in segments.LOGITS], model.get_parameters())
    compiled = core.compile_model(model, "CPU", _options(target))
    out.write_bytes(compiled.export_model().getvalue())


def load(engine: Path, target: config.Target, in_flight: int = 1) -> "OpenVinoRuntime":
    """Import a blob on this CPU."""
    compiled = _openvino().Core().import_model(engine.read_bytes(), "CPU", _options(target))
    return OpenVinoRuntime(compiled, in_flight)


class OpenVinoRuntime(interface.Immediate):
    """A compiled model with one inference request."""

    def __init__(self, compiled: Any, in_flight: int) -> None:
        """Wrap an openvino.CompiledModel with one input."""
        entry = compiled.input(0)
        super().__init__(tuple(entry.shape), entry.element_type.to_dtype(), in_flight)
        self._request = compiled.create_infer_request()
        self._outputs = [output.any_name for output in compiled.outputs]

    def infer(self, frames: interface.Array) -> dict[str, interface.Array]:
        """See Runtime.infer. The arrays are copies."""
        interface.require_input(frames, self._inputs[0])
        self._request.infer([frames], share_inputs=True)
        return {name: self._request.get_tensor(name).data.copy() for name in self._outputs}
