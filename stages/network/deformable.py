"""Multi-scale deformable attention (Deformable DETR, arXiv:2010.04159, eq. 3) in forms that builders can take.

All compute the same; see config.Sampler. Sampling is bilinear at pixel centres, with zeros outside.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.onnx import symbolic_helper

from stages import config
from stages.engines.cuda import catalog

Sizes = list[tuple[int, int]]
"""(height, width) of each level, in the order in which they are stacked."""


def use(pixel_decoder: Any, sampler: config.Sampler) -> None:
    """Make each deformable attention layer of TAO's pixel decoder sample by `sampler`."""
    for layer in pixel_decoder.transformer.encoder.layers:
        layer.self_attn.sampler = SAMPLERS[sampler]()
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


def sample(
    sampler: Any,
    value: torch.Tensor,
    offsets: torch.Tensor,
    logits: torch.Tensor,
    sizes: Sizes,
    heads: int,
    points: int,
) -> torch.Tensor:
    """What each of S positions samples around its own place in each of L levels, for M heads of D channels.

    value [B, S, M * D], offsets [B, S, M * L * P * 2] as (x, y) in pixels of the level, logits [B, S, M * L * P] of the
    samples' weights -> [B, S, M * D].
    """
    batch, length, _ = value.shape
    levels = len(sizes)
    weights = F.softmax(logits.view(batch, length, heads, levels * points), -1)
    shifts = offsets.view(batch, length, heads, levels, points, 2)
    scale = torch.tensor([[w, h] for h, w in sizes], dtype=torch.float32, device=value.device)
    locations = centres(sizes).to(value.device)[:, None, None, None] + shifts / scale[:, None]
    by_head = weights.view(batch, length, heads, levels, points)
    sampled = sampler(value.view(batch, length, heads, -1), sizes, locations, by_head)
    return sampled.reshape(batch, length, -1)  # type: ignore[no-any-return]


def centres(sizes: Sizes) -> torch.Tensor:
    """Centres of the pixels of stacked levels, as (x, y) in [0, 1]: float32 [S, 2]."""
    planes = [torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij") for h, w in sizes]
    levels = zip(planes, sizes, strict=True)
    return torch.cat([torch.stack([(x + 0.5) / w, (y + 0.5) / h], -1).flatten(0, 1) for (y, x), (h, w) in levels])


class GridSample(nn.Module):
    """By ONNX's GridSample, once for each level."""

    def forward(
        self, value: torch.Tensor, sizes: Sizes, locations: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Sample and add up.

        value: [B, S, M, D] for M heads. locations: [B, Q, M, L, P, 2] as (x, y) in [0, 1]. weights: [B, Q, M, L, P].
        Returns [B, Q, M, D].
        """
        batch, _, heads, depth = value.shape
        length = locations.shape[1]
        grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
        columns = value.permute(0, 2, 3, 1).reshape(batch * heads, depth, -1)
        sampled, start = [], 0
        for level, (h, w) in enumerate(sizes):
            plane = columns[..., start : start + h * w].reshape(batch * heads, depth, h, w)
            sampled.append(F.grid_sample(plane, grids[level], "bilinear", "zeros", align_corners=False))
            start += h * w
        by_head = weights.permute(0, 2, 1, 3, 4).reshape(batch * heads, 1, length, -1)
        result = (torch.cat(sampled, -1) * by_head).sum(-1)
        return result.view(batch, heads, depth, length).permute(0, 3, 1, 2)


class Corners(nn.Module):
    """The four pixels around each sample; apart, because half precision can't count that far."""

    def forward(self, locations: torch.Tensor, sizes: Sizes) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Find the corners of samples at `locations`, which are as GridSample's.

        Returns for each corner its pixel's number in the level, int64 [B, Q, M, L, P], and its share of the sample, in
        [0, 1] and 0 outside the level.
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
                # Clamped where outside: what is read there has no share.
                column = torch.minimum(torch.maximum(column, zero), width - 1)
                row = torch.minimum(torch.maximum(row, zero), height - 1)
                pixels.append((row * width + column).to(torch.int64))
        return pixels, shares


class Gather(nn.Module):
    """By gathering rows of D channels at the four corners of each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.corners = Corners()

    def forward(
        self, value: torch.Tensor, sizes: Sizes, locations: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """As GridSample.forward."""
        batch, stacked, heads, depth = value.shape
        length = locations.shape[1]
        # A row for each batch, head and position; where each batch and head, and in it each level, starts.
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
    """By TensorRT's plugin."""

    def __init__(self, version: str) -> None:
        """`version` of the plugin: 1 or 2."""
        super().__init__()
        self.version = version

    def forward(
        self, value: torch.Tensor, sizes: Sizes, locations: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """As GridSample.forward."""
        starts = [sum(h * w for h, w in sizes[:i]) for i in range(len(sizes))]
        shapes, start_index = (torch.tensor(values, dtype=torch.int32) for values in (sizes, starts))
        result: torch.Tensor = _plugin_node(value, shapes, start_index, locations, weights, self.version)
        return result


@torch.library.custom_op("stages::plugin_node", mutates_args=())
def _plugin_node(
    value: torch.Tensor,
    shapes: torch.Tensor,
    start_index: torch.Tensor,
    locations: torch.Tensor,
    weights: torch.Tensor,
    version: str,
) -> torch.Tensor:
    """Exported as a node of the plugin; computed by gathers, for there is no such operator in PyTorch."""
    sizes = [(int(h), int(w)) for h, w in shapes]
    return Gather()(value, sizes, locations, weights).clone()  # type: ignore[no-any-return]


def _plugin_symbolic(
    g: Any, value: Any, shapes: Any, start_index: Any, locations: Any, weights: Any, version: Any
) -> Any:
    # TensorRT's parser ignores the domain, without which ONNX would look for an operator of its own.
    text = symbolic_helper._maybe_get_const(version, "s")
    inputs = value, shapes, start_index, locations, weights
    output = g.op(f"trt::{config.PLUGIN}", *inputs, plugin_version_s=text, plugin_namespace_s="")
    output.setType(g.original_node.output().type())
    return output


torch.onnx.register_custom_op_symbolic(  # type: ignore[attr-defined]  # public in its documentation
    "stages::plugin_node", _plugin_symbolic, 17
)


def by_kernel(value: torch.Tensor, samples: torch.Tensor, sizes: Sizes, heads: int, points: int) -> torch.Tensor:
    """By our own CUDA kernel, softmax and locations included; stages/engines/cuda/kernels/deformable_attention.cu.

    value [B, S, M * D] and samples [B, S, M * L * P * 3], offsets and then logits as `sample` has them.
    """
    flat = [axis for size in sizes for axis in size]
    sampled: torch.Tensor = kernel_node(value, samples, flat, heads, points)
    return sampled


@torch.library.custom_op("stages::deformable_attention", mutates_args=())
def kernel_node(value: torch.Tensor, samples: torch.Tensor, sizes: list[int], heads: int, points: int) -> torch.Tensor:
    """Exported as a node of the kernel; see `by_kernel`. Computed in float32 and rounded to the type of `value`."""
    pairs = list(zip(sizes[::2], sizes[1::2], strict=True))
    count = samples.shape[-1] // 3
    offsets, logits = samples[..., : 2 * count].float(), samples[..., 2 * count :].float()
    return sample(GridSample(), value.float(), offsets, logits, pairs, heads, points).to(value.dtype).clone()


def _kernel_symbolic(g: Any, value: Any, samples: Any, sizes: Any, heads: Any, points: Any) -> Any:
    attributes = {
        "sizes_i": symbolic_helper._maybe_get_const(sizes, "is"),
        "heads_i": symbolic_helper._maybe_get_const(heads, "i"),
        "points_i": symbolic_helper._maybe_get_const(points, "i"),
    }
    output = g.op(f"{catalog.DOMAIN}::DeformableAttention", value, samples, **attributes)
    output.setType(g.original_node.output().type())
    return output


torch.onnx.register_custom_op_symbolic(  # type: ignore[attr-defined]  # public in its documentation
    "stages::deformable_attention", _kernel_symbolic, 17
)

CUSTOM_OPSETS = {
    config.Sampler.kernels: {catalog.DOMAIN: 1},
    **{form: {"trt": 1} for form in config.PLUGINS},
}
"""ONNX domains beside the standard one, of the forms that need one, with versions."""

SAMPLERS: dict[config.Sampler, Callable[[], nn.Module]] = {
    config.Sampler.grid_sample: GridSample,
    config.Sampler.gather: Gather,
    **{form: partial(Plugin, version) for form, version in config.PLUGINS.items()},
}
