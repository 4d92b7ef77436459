"""Multi-scale deformable attention (Deformable DETR, arXiv:2010.04159, eq. 3) as each config.Variant samples it.

All compute the same, by operators that different builders have. Sampling is bilinear at pixel centres, with zeros
outside.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from stages import config
from stages.inference import plugin
from stages.operators import schema
from stages.operators.deformable_attention import GridSample, Sizes, sample


def use(pixel_decoder: Any, variant: config.Variant) -> None:
    """Make each deformable attention layer of TAO's pixel decoder sample as `variant` does."""
    for layer in pixel_decoder.transformer.encoder.layers:
        layer.self_attn.sampler = SAMPLERS[variant]()
        layer.self_attn.forward = partial(attend, layer.self_attn)


def attend(
    layer: Any,
    query: torch.Tensor,
    reference_points: torch.Tensor,
    stacked: torch.Tensor,
    spatial_shapes: torch.Tensor,
    level_start_index: torch.Tensor,
    padding_mask: torch.Tensor | None = None,
    export: bool = False,
) -> torch.Tensor:
    """TAO's MSDeformAttn.forward over the layer's weights: query [B, S, C] and stacked levels [B, S, C] -> [B, S, C].

    TAO masks no padding, so reference_points are the levels' own pixel centres; they and the last three arguments
    change nothing here.
    """
    # While a graph is traced, sizes arrive as tensors; the deployed ones are fixed.
    sizes = [(int(h), int(w)) for h, w in spatial_shapes]
    value, offsets, logits = layer.value_proj(stacked), layer.sampling_offsets(query), layer.attention_weights(query)
    return layer.output_proj(sample(layer.sampler, value, offsets, logits, sizes, layer.n_heads, layer.n_points))  # type: ignore[no-any-return]


class Corners(nn.Module):
    """The four pixels around each sample. A module of its own, since half precision can't number all pixels."""

    def forward(self, locations: torch.Tensor, sizes: Sizes) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Find the corners of samples at `locations`, as GridSample takes them.

        Returns for each corner the index of its pixel in the level, int64 [B, Q, M, L, P], and its weight in the
        sample, 0 to 1, and 0 outside the level.
        """
        width, height = (
            torch.tensor([size[axis] for size in sizes], dtype=torch.float32, device=locations.device).view(-1, 1)
            for axis in (1, 0)
        )
        zero = torch.zeros_like(width)
        x, y = locations[..., 0] * width - 0.5, locations[..., 1] * height - 0.5
        pixels, shares = [], []
        for dy in (0, 1):
            for dx in (0, 1):
                column, row = x.floor() + dx, y.floor() + dy
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                shares.append((1 - (x - column).abs()) * (1 - (y - row).abs()) * inside.to(x.dtype))
                # Corners outside are clamped; their weight is 0.
                column = torch.minimum(torch.maximum(column, zero), width - 1)
                row = torch.minimum(torch.maximum(row, zero), height - 1)
                pixels.append((row * width + column).to(torch.int64))
        return pixels, shares


class Gather(nn.Module):
    """Sample by gathering rows of D channels at the four corners of each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.corners = Corners()

    def forward(
        self, value: torch.Tensor, sizes: Sizes, locations: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """See GridSample.forward."""
        batch, stacked, heads, depth = value.shape
        length = locations.shape[1]
        # A row for each batch, head and position; the first row of each batch and head, and of each level in it.
        table = value.permute(0, 2, 1, 3).reshape(-1, depth)
        heads_start = torch.arange(batch * heads, device=value.device) * stacked
        levels_start = torch.tensor([sum(h * w for h, w in sizes[:i]) for i in range(len(sizes))], device=value.device)
        first = heads_start.view(batch, 1, heads, 1, 1) + levels_start.view(1, 1, 1, -1, 1)
        result: Any = 0
        for pixel, share in zip(*self.corners(locations, sizes), strict=True):
            rows = F.embedding((first + pixel).reshape(batch, length, heads, -1), table)
            result = result + ((weights * share).reshape(batch, length, heads, 1, -1) @ rows).squeeze(-2)
        return result  # type: ignore[no-any-return]


class Plugin(nn.Module):
    """Sample by TensorRT's plugin."""

    def __init__(self, version: str) -> None:
        """`version` of the plugin: 1 or 2."""
        super().__init__()
        self.version = version

    def forward(
        self, value: torch.Tensor, sizes: Sizes, locations: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """See GridSample.forward."""
        starts = [sum(h * w for h, w in sizes[:i]) for i in range(len(sizes))]
        shapes, start_index = (torch.tensor(values, dtype=torch.int32) for values in (sizes, starts))
        result: torch.Tensor = _plugin_node(value, shapes, start_index, locations, weights, self.version)
        return result


@torch.library.custom_op(f"{schema.DOMAIN}::plugin_node", mutates_args=())
def _plugin_node(
    value: torch.Tensor,
    shapes: torch.Tensor,
    start_index: torch.Tensor,
    locations: torch.Tensor,
    weights: torch.Tensor,
    version: str,
) -> torch.Tensor:
    """Compute by gathers what the plugin does; exported as a node of the plugin."""
    sizes = [(int(h), int(w)) for h, w in shapes]
    return Gather()(value, sizes, locations, weights).clone()  # type: ignore[no-any-return]


def _plugin_symbolic(
    g: Any, value: Any, shapes: Any, start_index: Any, locations: Any, weights: Any, version: Any
) -> Any:
    # TensorRT's parser ignores the domain. Without it ONNX would look for an operator of its own.
    text = schema.constant(version, "s")
    inputs = value, shapes, start_index, locations, weights
    output = g.op(f"trt::{plugin.NAME}", *inputs, plugin_version_s=text, plugin_namespace_s="")
    output.setType(g.original_node.output().type())
    return output


torch.onnx.register_custom_op_symbolic(  # type: ignore[attr-defined]  # public in its documentation
    f"{schema.DOMAIN}::plugin_node", _plugin_symbolic, schema.OPSET
)


CUSTOM_OPSETS = {
    config.Variant.cuda: {schema.DOMAIN: schema.VERSION},
    **{variant: {"trt": 1} for variant in plugin.VERSIONS},
}
"""Variant -> the ONNX domains that it needs in addition to the standard one, with their versions."""

SAMPLERS: dict[config.Variant, Callable[[], nn.Module]] = {
    config.Variant.onnx: GridSample,
    config.Variant.onnx_gather: Gather,
    **{variant: partial(Plugin, version) for variant, version in plugin.VERSIONS.items()},
}
