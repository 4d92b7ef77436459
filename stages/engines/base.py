"""What every engine backend offers, and how a target chooses one."""

import importlib
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from stages import config

Floats = npt.NDArray[np.float32]


class Runtime(Protocol):
    """A loaded engine."""

    def infer(self, frame: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Run one frame: uint8 [1, H, W, 3] RGB -> class_logits [1, Q, 1 + C] and mask_logits [1, Q, H/4, W/4]."""
        ...


class Backend(Protocol):
    """A module of this package."""

    SUFFIX: str
    """File suffix of its engines, with the dot."""

    def installed_version(self) -> str:
        """Version of the builder on this host. Raises ModuleNotFoundError where there is none."""
        ...

    def build(self, onnx_file: Path, out: Path, target: config.Target) -> None:
        """Compile an ONNX file into an engine at `out`. Raises RuntimeError with the builder's whole message."""
        ...

    def load(self, engine: Path, target: config.Target) -> Runtime:
        """Load an engine that this backend built. Raises RuntimeError where this host can't run it."""
        ...


def backend(target: config.Target) -> Backend:
    """The backend of a target's builder; nothing of it is imported before it is used."""
    module: Any = importlib.import_module(f"stages.engines.{target.builder.value}")
    return cast(Backend, module)
