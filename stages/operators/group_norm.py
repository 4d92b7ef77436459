"""GroupNorm (arXiv:1803.08494) of the tokens of several levels, each with its own weights, joined into one tensor.

Inputs: x_l [B, S_l, C] for each of L levels; scale and shift [L, C]; and what `optional_input` names: nothing, residual
[B, S, C], which is added at the end, or pos_embed [S, C]. Attributes: optional_input, groups, epsilon, activation.
Outputs: [B, S, C], the levels one after the other, S being the sum of all S_l; with pos_embed a second output, the
first with pos_embed added.
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from stages.inference.steps import Attributes, TensorSpec
from stages.operators import schema

NAME = "GroupNorm"
OPTIONAL_INPUTS = ("", "residual", "pos_embed")


@torch.library.custom_op(f"{schema.DOMAIN}::group_norm", mutates_args=())
def group_norm(
    levels: list[torch.Tensor],
    scale: torch.Tensor,
    shift: torch.Tensor,
    residual: torch.Tensor | None,
    groups: int,
    epsilon: float,
    activation: str,
) -> torch.Tensor:
    """Compute the operator without pos_embed in float32 and round to the levels' type."""
    found = [
        F.group_norm(level.float().transpose(1, 2), groups, scale[i].float(), shift[i].float(), epsilon)
        for i, level in enumerate(levels)
    ]
    result = schema.ACTIVATIONS[activation](torch.cat(found, 2).transpose(1, 2))
    if residual is not None:
        result = result + residual.float()
    return result.to(levels[0].dtype).contiguous()


@torch.library.custom_op(f"{schema.DOMAIN}::group_norm_with_pos_embed", mutates_args=())
def group_norm_with_pos_embed(
    levels: list[torch.Tensor],
    scale: torch.Tensor,
    shift: torch.Tensor,
    pos_embed: torch.Tensor,
    groups: int,
    epsilon: float,
    activation: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the operator with pos_embed: both outputs."""
    found = group_norm(levels, scale, shift, None, groups, epsilon, activation)
    return found, (found.float() + pos_embed.float()).to(found.dtype)


def output_specs(attributes: Attributes, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """See Operator.output_specs."""
    optional, groups = attributes.text("optional_input"), attributes.integer("groups")
    schema.require(
        NAME, {"optional_input residual, pos_embed or none": optional in OPTIONAL_INPUTS}, attributes, inputs
    )
    count = len(inputs) - 2 - bool(optional)
    schema.require(NAME, {"at least one level": count >= 1}, attributes, inputs)
    schema.require_inputs(NAME, inputs, [*[3] * count, 2, 2, *{"residual": [3], "pos_embed": [2]}.get(optional, [])])
    levels = inputs[:count]
    batch, _, channels = levels[0].shape
    rows = sum(level.shape[1] for level in levels)
    shape = {"residual": (batch, rows, channels), "pos_embed": (rows, channels)}.get(optional)
    rules = {
        "whole groups": channels % groups == 0,
        "levels of one width and batch": {level.shape[::2] for level in levels} == {(batch, channels)},
        "activation none or relu": attributes.text("activation") in ("none", "relu"),
        "scale and shift of each level": {x.shape for x in inputs[count : count + 2]} == {(count, channels)},
        "a row of the optional input for each row": shape is None or inputs[-1].shape == shape,
    }
    schema.require(NAME, rules, attributes, inputs)
    return (TensorSpec((batch, rows, channels), levels[0].dtype),) * (2 if optional == "pos_embed" else 1)


def _compute(attributes: Attributes, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    optional = attributes.text("optional_input")
    count = len(inputs) - 2 - bool(optional)
    levels, (scale, shift) = list(inputs[:count]), inputs[count : count + 2]
    options = attributes.integer("groups"), attributes.number("epsilon"), attributes.text("activation")
    if optional == "pos_embed":
        out, with_pos_embed = group_norm_with_pos_embed(levels, scale, shift, inputs[-1], *options)
        return out, with_pos_embed
    return (group_norm(levels, scale, shift, inputs[-1] if optional else None, *options),)


def _to_node(pos_embed: bool) -> Callable[..., schema.NodeParts]:
    def to_node(
        levels: torch.Value,
        scale: torch.Value,
        shift: torch.Value,
        last: torch.Value,
        groups: torch.Value,
        epsilon: torch.Value,
        activation: torch.Value,
    ) -> schema.NodeParts:
        optional = "pos_embed" if pos_embed else "" if schema.is_none(last) else "residual"
        attributes = {
            "optional_input_s": optional,
            "groups_i": schema.constant(groups, "i"),
            "epsilon_f": schema.constant(epsilon, "f"),
            "activation_s": schema.constant(activation, "s"),
        }
        return [*schema.unpack_list(levels), scale, shift, *([last] if optional else [])], attributes

    return to_node


schema.export_as(NAME, "group_norm", _to_node(pos_embed=False))
schema.export_as(NAME, "group_norm_with_pos_embed", _to_node(pos_embed=True), outputs=2)
OPERATOR = schema.Operator(NAME, output_specs, _compute)
