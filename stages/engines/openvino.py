"""Engines for CPUs: models compiled by OpenVINO and exported as a blob."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stages import config
from stages.engines.base import Floats
from stages.graph import reference

SUFFIX = ".blob"


def installed_version() -> str:
    """Version of the openvino package, such as 2026.4.1."""
    import openvino

    return str(openvino.__version__).partition("-")[0]


def _options(target: config.Target) -> dict[str, Any]:
    # The same at export and at import: without it an imported blob falls back to bf16 where the CPU has that.
    return {
        "INFERENCE_PRECISION_HINT": "f16" if target.precision is config.Precision.fp16 else "f32",
        "INFERENCE_NUM_THREADS": target.threads,
        "PERFORMANCE_HINT": "LATENCY",
    }


def build(onnx_file: Path, out: Path, target: config.Target) -> None:
    """Compile an ONNX file for this CPU and write the blob to `out`."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(onnx_file), "CPU", _options(target))
    out.write_bytes(compiled.export_model().getvalue())


def load(engine: Path, target: config.Target) -> "OpenVinoRuntime":
    """Import a blob on this CPU."""
    import openvino

    return OpenVinoRuntime(openvino.Core().import_model(engine.read_bytes(), "CPU", _options(target)))


class OpenVinoRuntime:
    """A compiled model with one inference request."""

    def __init__(self, compiled: Any) -> None:
        """Wrap an openvino.CompiledModel of the deployed graph."""
        self._request = compiled.create_infer_request()

    def infer(self, frame: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """See Runtime.infer. The arrays are copies: a later call leaves them alone."""
        self._request.infer({reference.INPUT: frame}, share_inputs=True)
        class_logits, mask_logits = (self._request.get_tensor(name).data for name in reference.OUTPUTS)
        return class_logits.copy(), mask_logits.copy()
