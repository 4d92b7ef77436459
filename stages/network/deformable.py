"""Multi-scale deformable attention (Deformable DETR, arXiv:2010.04159, eq. 3) as each config.Variant samples it.

All variants compute the same function with different operators, because builders support different ones. Sampling is
bilinear between pixel centres, with zeros outside.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from stages import config
from stages.inference import plugin
from stages.operators import schema
from stages.operators.deformable_attention import GridSample, Sizes, sample

if TYPE_CHECKING:
    from torch.onnx._internal.torchscript_exporter.jit_utils import GraphContext

    from stages.tao.wheel import TaoModule


def use(pixel_decoder: "TaoModule", variant: config.Variant) -> None:
    """Make each deformable attention layer of TAO's pixel decoder sample as `variant` does."""
    for layer in pixel_decoder.transformer.encoder.layers:
        layer.self_attn.sampler = SAMPLERS[variant]()
        layer.self_attn.forward = partial(attend, layer.self_attn)


def attend(
    layer: "TaoModule",
    query: torch.Tensor,
    reference_points: torch.Tensor,
    stacked: torch.Tensor,
    spatial_shapes: torch.Tensor,
    level_start_index: torch.Tensor,
    padding_mask: torch.Tensor | None = None,
    export: bool = False,
) -> torch.Tensor:
    """Compute TAO's MSDeformAttn.forward with a layer's weights.

    query and stacked (all levels) are [B, S, C], and so is the result. reference_points and the last three arguments
    are ignored: TAO masks no padding, so the reference points are always the levels' pixel centres.
    """
    # Sizes are tensors while a graph is traced. The sizes of the deployed graph are fixed.
    sizes = [(int(h), int(w)) for h, w in spatial_shapes]
    value, offsets, logits = layer.value_proj(stacked), layer.sampling_offsets(query), layer.attention_weights(query)
    return layer.output_proj(sample(layer.sampler, value, offsets, logits, sizes, layer.n_heads, layer.n_points))  # type: ignore[no-any-return]


class Corners(nn.Module):
    """Finds the four pixels around each sample.

    It is a module, so that its nodes have a place of their own (see onnx_graph/fp16.py): they stay in float32, because
    half precision can't represent all numbers of pixels.
    """

    def forward(self, locations: torch.Tensor, sizes: Sizes) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Find the corners of samples at `locations`, as GridSample takes them.

        Returns for each of four corners the index of its pixel in the level, int64 [B, Q, M, L, P], and its weight in
        the sample, float32 of the same shape, 0 to 1. The weight is 0 outside the level.
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
    """Samples by gathering the D channels of the four pixels around each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.corners = Corners()

    def forward(
        self, value: torch.Tensor, sizes: Sizes, locations: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Sample as GridSample.forward does; see there for shapes."""
        batch, stacked, heads, depth = value.shape
        length = locations.shape[1]
        # The table has a row per batch, head and position. `first` is the first row of each batch, head and level.
        table = value.permute(0, 2, 1, 3).reshape(-1, depth)
        heads_start = torch.arange(batch * heads, device=value.device) * stacked
        levels_start = torch.tensor([sum(h * w for h, w in sizes[:i]) for i in range(len(sizes))], device=value.device)
        first = heads_start.view(batch, 1, heads, 1, 1) + levels_start.view(1, 1, 1, -1, 1)
        result: torch.Tensor | int = 0
        for pixel, share in zip(*self.corners(locations, sizes), strict=True):
            rows = F.embedding((first + pixel).reshape(batch, length, heads, -1), table)
            result = result + ((weights * share).reshape(batch, length, heads, 1, -1) @ rows).squeeze(-2)
        assert isinstance(result, torch.Tensor)
        return result


class Plugin(nn.Module):
    """Samples with TensorRT's plugin."""

    def __init__(self, version: str) -> None:
        """`version` of the plugin: 1 or 2."""
        super().__init__()
        self.version = version

    def forward(
        self, value: torch.Tensor, sizes: Sizes, locations: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Sample as GridSample.forward does; see there for shapes."""
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
    """Compute what the plugin computes, with gathers in PyTorch. Exported as a node of the plugin."""
    sizes = [(int(h), int(w)) for h, w in shapes]
    return Gather()(value, sizes, locations, weights).clone()  # type: ignore[no-any-return]


def _plugin_symbolic(
    g: "GraphContext",
    value: torch.Value,
    shapes: torch.Value,
    start_index: torch.Value,
    locations: torch.Value,
    weights: torch.Value,
    version: torch.Value,
) -> object:
    # TensorRT's parser ignores the domain. Without a domain, ONNX would expect one of its own operators.
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
"""Variant -> the ONNX domains that it needs besides the standard one, with their versions."""

SAMPLERS: dict[config.Variant, Callable[[], nn.Module]] = {
    config.Variant.onnx: GridSample,
    config.Variant.onnx_gather: Gather,
    **{variant: partial(Plugin, version) for variant, version in plugin.VERSIONS.items()},
}
