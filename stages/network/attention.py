"""Attention of Swin's windows and of the decoder as nodes of our own kernels.

Each node computes, as PyTorch operator on a CPU, what TAO's layer does; stages/kernels has it for a GPU.
"""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from torch.onnx import symbolic_helper

from stages.engines.cuda import catalog


def shifted_window_mask(height: int, width: int, window: int, shift: int) -> torch.Tensor:
    """What a shifted window hides from each of its positions (Swin, arXiv:2103.14030, section 3.2).

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


@torch.library.custom_op("stages::window_attention", mutates_args=())
def window_attention(
    qkv: torch.Tensor,
    bias: torch.Tensor,
    position: torch.Tensor,
    heads: int,
    height: int,
    width: int,
    window: int,
    shift: int,
) -> torch.Tensor:
    """Attention in windows of a picture's tokens, from queries, keys and values to what the projection takes.

    qkv [B, height * width, 3 * M * D], bias [3 * M * D] of its linear layer, which is what tokens that fill up the last
    windows have, position [M, N, N] with N = window^2 -> [B, height * width, M * D]. In float32, rounded to qkv's type.
    """
    batch, _, channels = qkv.shape
    padded_h, padded_w = -(-height // window) * window, -(-width // window) * window
    plane = bias.float().expand(batch, padded_h, padded_w, channels).clone()
    plane[:, :height, :width] = qkv.float().view(batch, height, width, channels)
    plane = plane.roll((-shift, -shift), (1, 2))
    tiles = plane.view(batch, padded_h // window, window, padded_w // window, window, channels)
    tokens = tiles.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, 3, heads, channels // 3 // heads)
    query, key, value = tokens.permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5 + position.float()
    if shift:
        mask = shifted_window_mask(height, width, window, shift).to(scores.device)
        scores = (scores.view(batch, -1, *scores.shape[1:]) + mask[None, :, None]).view_as(scores)
    attended = (scores.softmax(-1) @ value).transpose(1, 2)
    shape = batch, padded_h // window, padded_w // window, window, window, channels // 3
    plane = attended.reshape(shape).permute(0, 1, 3, 2, 4, 5).reshape(batch, padded_h, padded_w, -1)
    plane = plane.roll((shift, shift), (1, 2))[:, :height, :width]
    result: torch.Tensor = plane.reshape(batch, height * width, -1).to(qkv.dtype)
    return result


@torch.library.custom_op("stages::masked_attention", mutates_args=())
def masked_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask_logits: torch.Tensor | None,
    heads: int,
    channels: int,
    firsts: list[int],
) -> torch.Tensor:
    """Mask2Former's masked attention (arXiv:2112.01527, section 3.2.1) of projected queries, keys and values.

    query [B, Q, >= M * D], key and value [B, S, >= M * D], of which `channels` M * D from `firsts` on are used,
    mask_logits [B, Q, S] or none -> [B, Q, M * D]. A query attends where its logit is not below 0, or everywhere where
    it is below 0 everywhere. In float32, rounded to query's type.
    """
    allowed = None
    if mask_logits is not None:
        blocked = mask_logits < 0
        allowed = ~(blocked & ~blocked.all(-1, keepdim=True))[:, None]
    q, k, v = (
        torch.unflatten(x[..., first : first + channels].float(), 2, (heads, -1)).transpose(1, 2)
        for x, first in zip((query, key, value), firsts, strict=True)
    )
    found = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    return found.transpose(1, 2).flatten(2).to(query.dtype)


def _window_symbolic(g: Any, qkv: Any, bias: Any, position: Any, *sizes: Any) -> Any:
    names = ("heads_i", "height_i", "width_i", "window_i", "shift_i")
    values = [symbolic_helper._maybe_get_const(size, "i") for size in sizes]
    attributes = dict(zip(names, values, strict=True))
    output = g.op(f"{catalog.DOMAIN}::WindowAttention", qkv, bias, position, **attributes)
    output.setType(g.original_node.output().type())
    return output


def _masked_symbolic(
    g: Any, query: Any, key: Any, value: Any, mask_logits: Any, heads: Any, channels: Any, firsts: Any
) -> Any:
    attributes = {
        "heads_i": symbolic_helper._maybe_get_const(heads, "i"),
        "channels_i": symbolic_helper._maybe_get_const(channels, "i"),
        "firsts_i": symbolic_helper._maybe_get_const(firsts, "is"),
    }
    mask = [] if symbolic_helper._is_none(mask_logits) else [mask_logits]
    output = g.op(f"{catalog.DOMAIN}::MaskedAttention", query, key, value, *mask, **attributes)
    output.setType(g.original_node.output().type())
    return output


for _name, _symbolic in (("window", _window_symbolic), ("masked", _masked_symbolic)):
    torch.onnx.register_custom_op_symbolic(  # type: ignore[attr-defined]  # public in its documentation
        f"stages::{_name}_attention", _symbolic, 17
    )
