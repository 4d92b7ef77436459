"""Inputs and outputs of an ONNX file, with their bytes, and Polygraphy's description of it."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class GraphTensor:
    """An input or an output of a graph."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """With the batch as the first dimension."""
    bytes: int
    """Size of the whole batch."""


@dataclass(frozen=True)
class Inspection:
    """Inputs and outputs of a graph."""

    text: str
    """The output of `polygraphy inspect model`: opset, inputs, outputs, numbers of initializers and nodes."""
    inputs: list[GraphTensor]
    outputs: list[GraphTensor]


def read(onnx_file: Path) -> Inspection:
    """Inspect an ONNX file with fixed shapes. Raises ValueError naming the file where it is not ONNX."""
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


def _tensor(name: str, found: Any) -> GraphTensor:  # Polygraphy has no types.
    shape = tuple(found.shape)
    return GraphTensor(name, str(found.dtype), shape, math.prod(shape) * found.dtype.itemsize)
