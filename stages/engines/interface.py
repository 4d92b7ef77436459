"""The interface of all engine backends, and the choice of a target's backend.

This package runs on devices. It needs only NumPy, OpenCV and the backend's own library.
"""

import importlib
from abc import ABC, abstractmethod
from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from stages import config

Array = npt.NDArray[np.generic]


class Runtime(Protocol):
    """A loaded engine."""

    def input_buffer(self) -> Array:
        """The engine's own memory for the next batch, an array of its input's shape and type.

        It is valid as long as the engine is loaded. A batch in it is not copied when it is given to `infer` or
        `submit`; from then on it must not be written until the batch's result is there. Raises as `submit`.
        """
        ...

    def infer(self, frames: Array) -> dict[str, Array]:
        """Run one batch: the graph's only input -> its outputs by name, in arrays that later calls do not change.

        Names, shapes and types are those of the graph; see docs/outputs.md. Raises ValueError for another shape or
        type of `frames`.
        """
        ...

    def submit(self, frames: Array) -> None:
        """Start a batch, given as to `infer`, and return before it is done where the backend can.

        Raises RuntimeError where as many batches are in flight as the engine was loaded for.
        """
        ...

    def result(self) -> dict[str, Array]:
        """Outputs of the oldest batch in flight, as `infer` returns them. Raises RuntimeError where there is none."""
        ...


class Immediate(ABC):
    """`submit` and `result` of a backend whose `infer` computes at once."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike, in_flight: int) -> None:
        """`shape` and `dtype` are those of the graph's input. `in_flight` batches may wait for their `result`."""
        # Each batch in flight has memory of its own, because its caller may read the frames until the result is there.
        self._inputs = [np.zeros(shape, dtype) for _ in range(in_flight)]
        self._next = 0
        self._done: deque[dict[str, Array]] = deque()

    def input_buffer(self) -> Array:
        """See Runtime.input_buffer."""
        self._require_free()
        return self._inputs[self._next]

    @abstractmethod
    def infer(self, frames: Array) -> dict[str, Array]:
        """See Runtime.infer."""

    def submit(self, frames: Array) -> None:
        """See Runtime.submit."""
        self._require_free()
        self._done.append(self.infer(frames))
        self._next = (self._next + 1) % len(self._inputs)

    def result(self) -> dict[str, Array]:
        """See Runtime.result."""
        if not self._done:
            raise RuntimeError("no batch is in flight; submit one first")
        return self._done.popleft()

    def _require_free(self) -> None:
        if len(self._done) == len(self._inputs):
            raise RuntimeError(f"{len(self._done)} batches are in flight, and no more may be; take a result first")


class Backend(Protocol):
    """A module of this package, one of BACKENDS."""

    SUFFIX: str
    """File suffix of the backend's engines, with the dot."""

    def installed_version(self, target: config.Target) -> str:
        """Version of a target's builder on this host. Raises ModuleNotFoundError, with what to do, if there is none."""
        ...

    def build(self, onnx_file: Path, out: Path, target: config.Target, timing_cache: Path) -> None:
        """Compile an ONNX file into an engine at `out`. Raises RuntimeError with the builder's whole message.

        `timing_cache` is a file that TensorRT reads where it exists and writes; other builders ignore it.
        """
        ...

    def load(self, engine: Path, target: config.Target, in_flight: int = 1) -> Runtime:
        """Load an engine that this backend built, for `in_flight` batches at once.

        Raises RuntimeError where this host can't run it.
        """
        ...


BACKENDS = {
    config.Builder.openvino: "cpu.openvino",
    config.Builder.onnxruntime: "cpu.onnxruntime",
    config.Builder.tensorrt_rtx: "cuda.tensorrt_rtx",
    config.Builder.tensorrt: "cuda.tensorrt",
    config.Builder.cuda: "cuda.kernel_engine",
}
"""Builder -> its module in this package."""


def backend(target: config.Target) -> Backend:
    """Import the backend of a target's builder."""
    return cast(Backend, importlib.import_module(f"stages.engines.{BACKENDS[target.builder]}"))


def library(name: str, fix: str) -> ModuleType:
    """Import a backend's own library. Raises ModuleNotFoundError, with `fix` at the end, where that fails."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModuleNotFoundError(f"Python module {name} can't be imported ({error}); {fix}") from error


def require_input(frames: Array, wanted: Array) -> None:
    """Raise ValueError unless `frames` have the shape and the type of `wanted`, an engine's input."""
    if frames.shape != wanted.shape or frames.dtype != wanted.dtype:
        raise ValueError(
            f"this engine takes {wanted.dtype} {list(wanted.shape)}, found {frames.dtype} {list(frames.shape)}; "
            "give it frames of deploy.frame_height_px x deploy.frame_width_px, deploy.batch_size at once"
        )
