"""DeformableAttention: multi-scale deformable attention (Deformable DETR, arXiv:2010.04159, eq. 3).

Inputs: value [B, S, M * D] of S stacked positions; samples [B, S, M * L * P * 3], of which the first two thirds are
offsets [M, L, P, 2] as (x, y) in pixels of the level, and the last the logits [M, L * P] of the samples' weights.
Attributes: heads M, points P, and sizes, height and width of each of the L levels. Output: [B, S, M * D]. Sampling is
bilinear at pixel centres, with zeros outside.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

from stages.inference.steps import Attributes, TensorSpec
from stages.operators import schema

NAME = "DeformableAttention"

Sizes = list[tuple[int, int]]
"""(height, width) of each level, in the order in which they are stacked."""


class Sampler(Protocol):
    """A way to sample and add up, such as GridSample."""

    def __call__(
        self, value: torch.Tensor, sizes: Sizes, locations: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """See GridSample.forward."""
        ...


def sample(
    sampler: Sampler,
    value: torch.Tensor,
    offsets: torch.Tensor,
    logits: torch.Tensor,
    sizes: Sizes,
    heads: int,
    points: int,
) -> torch.Tensor:
    """Sample around each of S positions in each of L levels, for M heads of D channels.

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
    return sampled.reshape(batch, length, -1)


def centres(sizes: Sizes) -> torch.Tensor:
    """Centres of the pixels of stacked levels, as (x, y) in [0, 1]: float32 [S, 2]."""
    planes = [torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij") for h, w in sizes]
    levels = zip(planes, sizes, strict=True)
    return torch.cat([torch.stack([(x + 0.5) / w, (y + 0.5) / h], -1).flatten(0, 1) for (y, x), (h, w) in levels])


class GridSample(nn.Module):
    """Sample by ONNX's GridSample, once for each level."""

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


@torch.library.custom_op(f"{schema.DOMAIN}::deformable_attention", mutates_args=())
def _deformable_attention(
    value: torch.Tensor, samples: torch.Tensor, sizes: list[int], heads: int, points: int
) -> torch.Tensor:
    count = samples.shape[-1] // 3
    offsets, logits = samples[..., : 2 * count].float(), samples[..., 2 * count :].float()
    found = sample(GridSample(), value.float(), offsets, logits, _pairs(sizes), heads, points)
    return found.to(value.dtype).clone()


def deformable_attention(
    value: torch.Tensor, samples: torch.Tensor, sizes: Sizes, heads: int, points: int
) -> torch.Tensor:
    """Compute the operator in float32 and round to the type of value."""
    flat = [axis for size in sizes for axis in size]
    result: torch.Tensor = _deformable_attention(value, samples, flat, heads, points)
    return result


def _pairs(sizes: Sequence[int]) -> Sizes:
    return list(zip(sizes[::2], sizes[1::2], strict=True))


def output_specs(attributes: Attributes, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """See Operator.output_specs."""
    schema.require_inputs(NAME, inputs, (3, 3))
    value, samples = inputs
    heads, points, sizes = attributes.integer("heads"), attributes.integer("points"), attributes.integers("sizes")
    rules = {
        "whole heads": value.shape[2] % heads == 0,
        "height and width of each level": len(sizes) > 0 and len(sizes) % 2 == 0,
        "a position for each pixel of the levels": value.shape[1]
        == sum(h * w for h, w in zip(sizes[::2], sizes[1::2], strict=False)),
        "three numbers for each sample": samples.shape == (*value.shape[:2], heads * len(sizes) // 2 * points * 3),
    }
    schema.require(NAME, rules, attributes, inputs)
    return (value,)


def _compute(attributes: Attributes, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    (value, samples), sizes = inputs, _pairs(attributes.integers("sizes"))
    return (deformable_attention(value, samples, sizes, attributes.integer("heads"), attributes.integer("points")),)


def _to_node(
    value: torch.Value, samples: torch.Value, sizes: torch.Value, heads: torch.Value, points: torch.Value
) -> schema.NodeParts:
    attributes = {
        "sizes_i": schema.constant(sizes, "is"),
        "heads_i": schema.constant(heads, "i"),
        "points_i": schema.constant(points, "i"),
    }
    return [value, samples], attributes


schema.export_as(NAME, "deformable_attention", _to_node)
OPERATOR = schema.Operator(NAME, output_specs, _compute)
