"""Resize: bilinear resizing of a picture's tokens, with pixel centres at halves.

Input: x [B, S, C]. Attributes: first_row, the row of x that the picture begins with; plane, its height and width; to,
the height H and the width W of the result. Output: [B, H * W, C].
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from stages.inference.steps import Attributes, TensorSpec
from stages.operators import schema

NAME = "Resize"


@torch.library.custom_op(f"{schema.DOMAIN}::resize", mutates_args=())
def resize(x: torch.Tensor, first_row: int, plane: list[int], to: list[int]) -> torch.Tensor:
    """Compute the operator in float32 and round to the type of x."""
    picture = x[:, first_row : first_row + plane[0] * plane[1]].float().transpose(1, 2)
    resized = F.interpolate(torch.unflatten(picture, 2, plane), size=to, mode="bilinear", align_corners=False)
    return resized.flatten(2).transpose(1, 2).to(x.dtype).contiguous()


def _read(attributes: Attributes) -> tuple[int, list[int], list[int]]:
    return attributes.integer("first_row"), attributes.integers("plane", 2), attributes.integers("to", 2)


def output_specs(attributes: Attributes, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """See Operator.output_specs."""
    schema.require_inputs(NAME, inputs, (3,))
    (first_row, plane, to), (batch, rows, channels) = _read(attributes), inputs[0].shape
    rules = {"rows that x has": first_row >= 0 and first_row + plane[0] * plane[1] <= rows}
    schema.require(NAME, rules, attributes, inputs)
    return (TensorSpec((batch, to[0] * to[1], channels), inputs[0].dtype),)


def _compute(attributes: Attributes, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return (resize(inputs[0], *_read(attributes)),)


def _to_node(x: torch.Value, first_row: torch.Value, plane: torch.Value, to: torch.Value) -> schema.NodeParts:
    attributes = {
        "first_row_i": schema.constant(first_row, "i"),
        "plane_i": schema.constant(plane, "is"),
        "to_i": schema.constant(to, "is"),
    }
    return [x], attributes


schema.export_as(NAME, "resize", _to_node)
OPERATOR = schema.Operator(NAME, output_specs, _compute)
