"""Steps of a graph of our own kernels: the constants that they read, and calls of kernels.

graph.json lists the steps in the order in which they run. The file of an engine has a list of its own, with launches in
place of attributes; see stages/engines/cuda/bundle.py. Devices read both without the package onnx.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, cast

import numpy as np

AttributeValue = int | float | str | list[int] | list[float]

DTYPES = ("bool", "uint8", "int8", "int32", "int64", "float16", "float32")
"""NumPy's names of the types that tensors may have."""
MAX_TENSOR_BYTES = 1 << 40
"""Beyond any GPU's memory. Sums of such sizes stay far below 64 bits."""


@dataclass(frozen=True)
class TensorSpec:
    """Shape and type of a tensor."""

    shape: tuple[int, ...]
    dtype: str
    """One of DTYPES."""

    @property
    def numpy_dtype(self) -> "np.dtype[np.generic]":
        """The type as NumPy's dtype."""
        return np.dtype(self.dtype)

    @property
    def size_bytes(self) -> int:
        """Size in memory."""
        return math.prod(self.shape) * self.numpy_dtype.itemsize


class Attributes(dict[str, AttributeValue]):
    """Attributes of an operator's node. Each method reads one, and raises ValueError if it has another type."""

    def integer(self, name: str) -> int:
        """Read an integer."""
        return cast(int, self._read(name, "an integer", _is_integer(self.get(name))))

    def number(self, name: str) -> float:
        """Read a float. An integer is converted."""
        value = self.get(name)
        return float(cast(float, self._read(name, "a number", _is_number(value))))

    def text(self, name: str) -> str:
        """Read a string."""
        return cast(str, self._read(name, "a string", isinstance(self.get(name), str)))

    def choice(self, name: str, among: Collection[str]) -> str:
        """Read a string that must be one of `among`."""
        return cast(str, self._read(name, f"one of {', '.join(among)}", self.get(name) in among))

    def names(self, name: str) -> list[str]:
        """Read a list of names from a string in which commas separate them."""
        return [part for part in self.text(name).split(",") if part]

    def integers(self, name: str, length: int | None = None) -> list[int]:
        """Read a list of integers, of the length `length` if that is given."""
        value = self.get(name)
        holds = isinstance(value, list) and all(map(_is_integer, value)) and length in (None, len(value))
        return cast("list[int]", self._read(name, f"a list of {length or 'any number of'} integers", holds))

    def numbers(self, name: str, length: int) -> list[float]:
        """Read a list of floats. Integers among them are converted."""
        value = self.get(name)
        holds = isinstance(value, list) and len(value) == length and all(map(_is_number, value))
        return [float(number) for number in cast("list[float]", self._read(name, f"a list of {length} numbers", holds))]

    def _read(self, name: str, expected: str, holds: bool) -> AttributeValue:
        if not holds:
            raise ValueError(f"attribute {name} must be {expected}, found {self.get(name)!r}")
        return self[name]


@dataclass(frozen=True)
class Constants:
    """A .npz file of the constants that kernels read, by the names of their tensors."""

    file: str
    sha256: str
    kind: Literal["constants"] = "constants"


@dataclass(frozen=True)
class KernelCall:
    """A node of one of our operators, which a kernel computes."""

    operator: str
    attributes: Attributes
    inputs: tuple[str, ...]
    """Names of the tensors that it reads, in the operator's order. A name may appear more than once."""
    outputs: tuple[str, ...]
    """Names of the tensors that it writes, in the operator's order."""
    tensors: dict[str, TensorSpec] = field(default_factory=dict)
    """The specs of all inputs and outputs, by name."""
    kind: Literal["kernel"] = "kernel"

    @property
    def input_specs(self) -> list[TensorSpec]:
        """Specs of the inputs, in order."""
        return [self.tensors[name] for name in self.inputs]

    @property
    def output_specs(self) -> list[TensorSpec]:
        """Specs of the outputs, in order."""
        return [self.tensors[name] for name in self.outputs]


Step = Constants | KernelCall
_KINDS: dict[object, type[Constants] | type[KernelCall]] = {"constants": Constants, "kernel": KernelCall}


def parse(content: object) -> list[Step]:
    """Parse the steps of graph.json, each made by `dataclasses.asdict`. Raises ValueError naming a malformed step."""
    if not isinstance(content, list):
        raise ValueError(f"steps must be a list, found {type(content).__name__}")
    found: list[Step] = []
    for number, step in enumerate(content):
        try:
            found.append(_parse_step(step))
        except ValueError as error:
            raise ValueError(f"step {number}: {error}") from error
    return found


def _parse_step(content: object) -> Step:
    kind = content.get("kind") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(str, _KINDS))}, found {kind!r}")
    require_keys(content, [f.name for f in fields(_KINDS[kind])])
    if kind != "kernel":
        file_name, sha256 = content["file"], content["sha256"]
        if not is_file_name(file_name) or not isinstance(sha256, str):
            raise ValueError(f"file must be the name of a file beside graph.json, found {file_name!r}, and sha256 text")
        return Constants(file_name, sha256)
    operator, attributes = content["operator"], content["attributes"]
    if not isinstance(operator, str) or not isinstance(attributes, dict):
        raise ValueError(f"operator must be a name and attributes an object, found {operator!r} and {attributes!r}")
    return KernelCall(operator, Attributes(attributes), *parse_tensors(content))


def parse_tensors(content: Mapping[str, object]) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, TensorSpec]]:
    """Parse the keys inputs, outputs and tensors of a kernel's step.

    Raises ValueError unless `tensors` has the shape and dtype of exactly the inputs and outputs.
    """
    lists = []
    for key in ("inputs", "outputs"):
        names = content[key]
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{key} must be a list of names, found {names!r}")
        lists.append(tuple(names))
    inputs, outputs = lists
    specs = content["tensors"]
    if not isinstance(specs, dict) or specs.keys() != {*inputs, *outputs}:
        found = list(specs) if isinstance(specs, dict) else specs
        raise ValueError(f"tensors must have shape and dtype of each of {sorted({*inputs, *outputs})}, found {found!r}")
    return inputs, outputs, {str(name): parse_spec(spec) for name, spec in specs.items()}


def parse_spec(content: object) -> TensorSpec:
    """Parse a tensor's shape and dtype. Raises ValueError if they are malformed, of an unknown type or below 1."""
    shape, dtype = (content.get("shape"), content.get("dtype")) if isinstance(content, dict) else (None, None)
    if not isinstance(shape, list | tuple) or not all(_is_integer(n) and n > 0 for n in shape) or dtype not in DTYPES:
        raise ValueError(
            f"a tensor must have a shape of positive integers and a dtype of {', '.join(DTYPES)}, found {content!r}"
        )
    spec = TensorSpec(tuple(shape), dtype)
    if spec.size_bytes > MAX_TENSOR_BYTES:
        raise ValueError(f"a tensor must have at most {MAX_TENSOR_BYTES} bytes, found {content!r}")
    return spec


def require_keys(content: Mapping[str, object], wanted: Collection[str]) -> None:
    """Raise ValueError unless a JSON object has these keys and no others."""
    if content.keys() != {*wanted}:
        raise ValueError(
            f"keys must be {', '.join(sorted(wanted))}, found {', '.join(sorted(repr(k)[1:-1] for k in content))}"
        )


def is_file_name(value: object) -> bool:
    """Return whether a JSON value is the name of a file without a folder."""
    return isinstance(value, str) and value not in ("", ".", "..") and not {"/", "\\", "\0"} & set(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or _is_integer(value)
