"""Everything that the ONNX operators of this project have in common.

An operator is described in a module of its own: attributes, the shapes and types of inputs and outputs, the
computation in PyTorch, and the export by PyTorch. stages/engines/cuda/launch_plans decides how a GPU runs it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F
from torch.onnx import symbolic_helper

from stages.inference.steps import Attributes, AttributeValue, TensorSpec

if TYPE_CHECKING:
    from torch.onnx._internal.torchscript_exporter.jit_utils import GraphContext

DOMAIN = "vistas2engine"
"""ONNX domain of the operators, and namespace of their functions in torch.ops."""
VERSION = 1
"""Version of the domain."""
OPSET = 17
"""Lowest ONNX opset in which PyTorch exports them."""

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}
"""Activation functions by their names in attributes."""


@dataclass(frozen=True)
class Operator:
    """An ONNX operator of our domain."""

    name: str
    output_specs: Callable[[Attributes, Sequence[TensorSpec]], tuple[TensorSpec, ...]]
    """Shapes and types of the outputs, from the attributes and the inputs. Raises ValueError for a node that the
    operator does not allow."""
    compute: Callable[[Attributes, Sequence[torch.Tensor]], tuple[torch.Tensor, ...]]
    """The outputs, computed with PyTorch from the attributes and the inputs."""


def require(name: str, rules: Mapping[str, bool], attributes: Attributes, inputs: Sequence[TensorSpec]) -> None:
    """Raise ValueError naming the rules that a node breaks. That is a bug of this project, not a user's error."""
    if broken := [rule for rule, holds in rules.items() if not holds]:
        shapes = [list(spec.shape) for spec in inputs]
        raise ValueError(f"{name} needs {' and '.join(broken)}; found {dict(attributes)} and shapes {shapes}")


def require_inputs(name: str, inputs: Sequence[TensorSpec], ranks: Sequence[int]) -> None:
    """Raise ValueError unless there is an input of each of `ranks`, in order, all of one type, float16 or float32."""
    if [len(spec.shape) for spec in inputs] != [*ranks]:
        shapes = [list(spec.shape) for spec in inputs]
        raise ValueError(f"{name} takes inputs of the ranks {[*ranks]}, found shapes {shapes}")
    found = sorted({spec.dtype for spec in inputs})
    if found not in (["float16"], ["float32"]):
        raise ValueError(f"{name} takes tensors of one type, float16 or float32; found {found}")


NodeParts = tuple[list[torch.Value], dict[str, AttributeValue]]
"""Inputs of a node, and its attributes by names with the suffixes _i, _f or _s for their type."""


# PyTorch has no public way to read constants among the values of a traced graph.
def constant(value: torch.Value, kind: Literal["i", "f", "s", "is", "fs"]) -> AttributeValue:
    """A constant argument of a traced call: kind i, f, s, or is and fs for lists of integers and floats."""
    found: AttributeValue = symbolic_helper._maybe_get_const(value, kind)
    return found


def is_none(value: torch.Value) -> bool:
    """Return whether an argument of a traced call is None."""
    return bool(symbolic_helper._is_none(value))


def unpack_list(value: torch.Value) -> list[torch.Value]:
    """The elements of a list argument of a traced call."""
    return list(symbolic_helper._unpack_list(value))


def export_as(operator: str, function: str, to_node: Callable[..., NodeParts], outputs: int = 1) -> None:
    """Make PyTorch's exporter write calls of torch.ops.vistas2engine.<function> as nodes of an operator.

    `to_node` gets the call's arguments as values of the traced graph.
    """

    def symbolic(g: "GraphContext", *arguments: torch.Value) -> object:
        inputs, attributes = to_node(*arguments)
        made = g.op(f"{DOMAIN}::{operator}", *inputs, outputs=outputs, **attributes)
        for output, traced in zip([made] if outputs == 1 else made, g.original_node.outputs(), strict=True):
            output.setType(traced.type())
        return made

    torch.onnx.register_custom_op_symbolic(  # type: ignore[attr-defined]  # public in its documentation
        f"{DOMAIN}::{function}", symbolic, OPSET
    )
