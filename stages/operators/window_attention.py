"""WindowAttention: attention in the shifted windows of Swin (arXiv:2103.14030, section 3.2).

Inputs: qkv [B, height * width, 3 * M * D]; the bias [3 * M * D] of the linear layer that made it; the relative position
bias [M, N, N] with N = window^2. Attributes: heads M, height, width, window, shift. Output: [B, height * width, M * D].
"""

from collections.abc import Sequence

import numpy as np
import torch

from stages.inference.steps import Attributes, TensorSpec
from stages.operators import schema

NAME = "WindowAttention"
_SIZES = ("heads", "height", "width", "window", "shift")


def shifted_window_mask(height: int, width: int, window: int, shift: int) -> torch.Tensor:
    """The mask that is added to attention scores, so that positions joined by the shift don't see each other.

    Returns float32 [windows, window^2, window^2]: 0 where two positions were neighbours before the shift, else -100.
    """
    padded_h, padded_w = -(-height // window) * window, -(-width // window) * window
    # Positions fall into three bands along each axis; only those of one region may see each other.
    rows, columns = (
        (np.arange(size) >= size - window).astype(int) + (np.arange(size) >= size - shift)
        for size in (padded_h, padded_w)
    )
    region = 3 * rows[:, None] + columns[None, :]
    tiled = region.reshape(padded_h // window, window, padded_w // window, window)
    windows = tiled.transpose(0, 2, 1, 3).reshape(-1, window * window)
    hidden = windows[:, None, :] != windows[:, :, None]
    return torch.from_numpy(np.where(hidden, np.float32(-100), np.float32(0)))


@torch.library.custom_op(f"{schema.DOMAIN}::window_attention", mutates_args=())
def window_attention(
    qkv: torch.Tensor,
    bias: torch.Tensor,
    relative_position_bias: torch.Tensor,
    heads: int,
    height: int,
    width: int,
    window: int,
    shift: int,
) -> torch.Tensor:
    """Compute the operator in float32 and round to the type of qkv.

    Windows at the right and at the bottom may reach beyond the picture. The tokens there are zeros before the linear
    layer, so their queries, keys and values are its bias.
    """
    batch, _, channels = qkv.shape
    padded_h, padded_w = -(-height // window) * window, -(-width // window) * window
    plane = bias.float().expand(batch, padded_h, padded_w, channels).clone()
    plane[:, :height, :width] = qkv.float().view(batch, height, width, channels)
    plane = plane.roll((-shift, -shift), (1, 2))
    tiles = plane.view(batch, padded_h // window, window, padded_w // window, window, channels)
    tokens = tiles.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, 3, heads, channels // 3 // heads)
    query, key, value = tokens.permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5 + relative_position_bias.float()
    if shift:
        mask = shifted_window_mask(height, width, window, shift).to(scores.device)
        scores = (scores.view(batch, -1, *scores.shape[1:]) + mask[None, :, None]).view_as(scores)
    attended = (scores.softmax(-1) @ value).transpose(1, 2)
    shape = batch, padded_h // window, padded_w // window, window, window, channels // 3
    plane = attended.reshape(shape).permute(0, 1, 3, 2, 4, 5).reshape(batch, padded_h, padded_w, -1)
    plane = plane.roll((shift, shift), (1, 2))[:, :height, :width]
    result: torch.Tensor = plane.reshape(batch, height * width, -1).to(qkv.dtype)
    return result


def output_specs(attributes: Attributes, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """See Operator.output_specs."""
    schema.require_inputs(NAME, inputs, (3, 1, 3))
    heads, height, width, window, shift = (attributes.integer(name) for name in _SIZES)
    batch, length, columns = inputs[0].shape
    rules = {
        "queries, keys and values in whole heads": columns % (3 * heads) == 0,
        "a token for each position": length == height * width,
        "a bias for each column": inputs[1].shape == (columns,),
        "a position bias for each head and pair of a window": inputs[2].shape == (heads, window**2, window**2),
        "a shift below the window": 0 <= shift < window,
    }
    schema.require(NAME, rules, attributes, inputs)
    return (TensorSpec((batch, length, columns // 3), inputs[0].dtype),)


def _compute(attributes: Attributes, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return (window_attention(*inputs, *(attributes.integer(name) for name in _SIZES)),)


def _to_node(
    qkv: torch.Value, bias: torch.Value, relative_position_bias: torch.Value, *sizes: torch.Value
) -> schema.NodeParts:
    attributes = {f"{name}_i": schema.constant(size, "i") for name, size in zip(_SIZES, sizes, strict=True)}
    return [qkv, bias, relative_position_bias], attributes


schema.export_as(NAME, "window_attention", _to_node)
OPERATOR = schema.Operator(NAME, output_specs, _compute)
