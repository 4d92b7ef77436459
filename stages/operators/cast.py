"""Cast: between float32 and float16, at the borders of what stays in float32 in a graph of lower precision.

Input: x of any shape. Attribute: to, ONNX's number of the type, 1 for float32 or 10 for float16. Output: x in it.
"""

from collections.abc import Sequence

import torch

from stages.inference.steps import Attributes, TensorSpec
from stages.operators import schema

NAME = "Cast"
DTYPES = {1: "float32", 10: "float16"}
"""ONNX's number of a type -> its name."""


def output_specs(attributes: Attributes, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """See Operator.output_specs."""
    schema.require_inputs(NAME, inputs, [len(spec.shape) for spec in inputs[:1]])
    to = attributes.integer("to")
    schema.require(NAME, {f"to one of {', '.join(map(str, DTYPES))}": to in DTYPES}, attributes, inputs)
    return (TensorSpec(inputs[0].shape, DTYPES[to]),)


def _compute(attributes: Attributes, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    dtype: torch.dtype = getattr(torch, DTYPES[attributes.integer("to")])
    return (inputs[0].to(dtype),)


OPERATOR = schema.Operator(NAME, output_specs, _compute)
