"""What Polygraphy's inspection says of an ONNX file, and the bytes that a frame takes to the device and back."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tensor:
    """An input or an output of a graph."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """With the batch at first."""
    bytes: int
    """Of the whole batch."""


@dataclass(frozen=True)
class Inspection:
    """A graph as seen from outside."""

    text: str
    """What `polygraphy inspect model` prints: opset, inputs, outputs, number of initializers and nodes."""
    inputs: list[Tensor]
    outputs: list[Tensor]


def read(onnx_file: Path) -> Inspection:
    """Inspect an ONNX file, whose shapes are fixed. Raises ValueError naming the file when it is not ONNX."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from polygraphy.backend.onnx import util  # type: ignore[import-untyped]

    try:
        model = onnx.load(onnx_file)
    except DecodeError as error:
        raise ValueError(f"{onnx_file}: not ONNX ({error}); restore it or run the stage that writes it") from error
    metadata = util.get_input_metadata(model.graph), util.get_output_metadata(model.graph)
    inputs, outputs = ([_tensor(name, found) for name, found in tensors.items()] for tensors in metadata)
    return Inspection(util.str_from_onnx(model).strip(), inputs, outputs)


def _tensor(name: str, found: Any) -> Tensor:
    shape = tuple(found.shape)
    return Tensor(name, str(found.dtype), shape, math.prod(shape) * found.dtype.itemsize)
