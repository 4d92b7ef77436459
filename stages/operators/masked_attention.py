"""MaskedAttention: Mask2Former's masked attention (arXiv:2112.01527, section 3.2.1), or plain attention without a mask.

Inputs: projected query [B, Q, >= M * D], key and value [B, S, >= M * D]; mask logits [B, Q, S], which may be left out.
Attributes: heads M; channels M * D; first_columns, where these channels begin in rows of query, key and value. Output:
[B, Q, M * D].
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from stages.inference.steps import Attributes, TensorSpec
from stages.operators import schema

NAME = "MaskedAttention"


@torch.library.custom_op(f"{schema.DOMAIN}::masked_attention", mutates_args=())
def masked_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask_logits: torch.Tensor | None,
    heads: int,
    channels: int,
    first_columns: list[int],
) -> torch.Tensor:
    """Compute the operator in float32 and round to the type of query.

    A query attends where its mask logit is not below 0, and everywhere where all its mask logits are below 0.
    """
    allowed = None
    if mask_logits is not None:
        blocked = mask_logits < 0
        allowed = ~(blocked & ~blocked.all(-1, keepdim=True))[:, None]
    q, k, v = (
        torch.unflatten(x[..., first : first + channels].float(), 2, (heads, -1)).transpose(1, 2)
        for x, first in zip((query, key, value), first_columns, strict=True)
    )
    found = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    return found.transpose(1, 2).flatten(2).to(query.dtype)


def output_specs(attributes: Attributes, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """See Operator.output_specs."""
    schema.require_inputs(NAME, inputs, [3] * max(3, min(4, len(inputs))))
    query, key, value, *mask = inputs
    heads, channels = attributes.integer("heads"), attributes.integer("channels")
    first_columns = attributes.integers("first_columns", 3)
    (batch, queries, _), length = query.shape, key.shape[1]
    columns = zip(inputs, first_columns, strict=False)
    rules = {
        "whole heads": channels % heads == 0,
        "columns that rows have": all(first >= 0 and first + channels <= x.shape[2] for x, first in columns),
        "as many values as keys, and as columns of the mask": {length} == {value.shape[1], *(m.shape[2] for m in mask)},
        "a row of the mask for each query": all(m.shape[1] == queries for m in mask),
        "one batch": {batch} == {x.shape[0] for x in inputs},
    }
    schema.require(NAME, rules, attributes, inputs)
    return (TensorSpec((batch, queries, channels), query.dtype),)


def _compute(attributes: Attributes, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    mask = inputs[3] if len(inputs) > 3 else None
    sizes = attributes.integer("heads"), attributes.integer("channels"), attributes.integers("first_columns", 3)
    return (masked_attention(*inputs[:3], mask, *sizes),)


def _to_node(
    query: torch.Value,
    key: torch.Value,
    value: torch.Value,
    mask_logits: torch.Value,
    heads: torch.Value,
    channels: torch.Value,
    first_columns: torch.Value,
) -> schema.NodeParts:
    attributes = {
        "heads_i": schema.constant(heads, "i"),
        "channels_i": schema.constant(channels, "i"),
        "first_columns_i": schema.constant(first_columns, "is"),
    }
    return [query, key, value, *([] if schema.is_none(mask_logits) else [mask_logits])], attributes


schema.export_as(NAME, "masked_attention", _to_node)
OPERATOR = schema.Operator(NAME, output_specs, _compute)
