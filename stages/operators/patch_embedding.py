"""PatchEmbedding: from camera bytes to the tokens of Swin's first stage (arXiv:2103.14030, section 3.1).

Inputs: frame uint8 [B, H, W, 3], RGB; weight [P * P * 3, C], of which row (y * P + x) * 3 + colour is that of a value
of a patch of P x P pixels; bias [C]; optionally scale and shift [C], gains and shifts of a LayerNorm over the channels.
Attributes: input_size, height and width of the network's input; used_size, of the part of it that a frame takes; mean
and std of each colour, by which pixels are normalised; patch, P; epsilon of the LayerNorm. A frame is resized
bilinearly to used_size and padded with zeros at the bottom and the right before it is normalised. Output: [B, S, C] of
weight's type, S patches row by row.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from stages.inference.steps import Attributes, TensorSpec
from stages.operators import schema

NAME = "PatchEmbedding"


def normalise(
    frame: torch.Tensor, input_size: list[int], used_size: list[int], mean: torch.Tensor, std: torch.Tensor
) -> torch.Tensor:
    """Scale frames, pad them with black and normalise them, as TAO does.

    frame: uint8 [B, H, W, 3]. mean, std: [1, 3, 1, 1]. Returns float32 [B, 3, height, width] of `input_size`.
    """
    # TensorRT accepts uint8 only as the input of a Cast, so the transpose comes after it.
    pixels = frame.to(torch.float32).permute(0, 3, 1, 2)
    if tuple(used_size) != tuple(pixels.shape[2:]):
        pixels = F.interpolate(pixels, size=tuple(used_size), mode="bilinear", align_corners=False)
    height, width = (a - b for a, b in zip(input_size, used_size, strict=True))
    if height or width:
        pixels = F.pad(pixels, (0, width, 0, height))
    return (pixels - mean) / std


@torch.library.custom_op(f"{schema.DOMAIN}::patch_embedding", mutates_args=())
def patch_embedding(
    frame: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    input_size: list[int],
    used_size: list[int],
    mean: list[float],
    std: list[float],
    patch: int,
    epsilon: float,
) -> torch.Tensor:
    """Compute the operator in float32 and round to the type of weight."""
    by_colour = [torch.tensor(values, device=frame.device).view(1, 3, 1, 1) for values in (mean, std)]
    pixels = normalise(frame, input_size, used_size, *by_colour)
    # [K, C] -> the convolution's [C, 3, P, P].
    kernel = torch.unflatten(weight.float().T, 1, (patch, patch, 3)).permute(0, 3, 1, 2)
    found = F.conv2d(pixels, kernel, bias.float(), stride=patch).flatten(2).transpose(1, 2)
    if scale is not None and shift is not None:
        found = F.layer_norm(found, found.shape[-1:], scale.float(), shift.float(), epsilon)
    return found.to(weight.dtype).contiguous()


def output_specs(attributes: Attributes, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """See Operator.output_specs."""
    frame, *weights = inputs
    schema.require_inputs(NAME, weights, [2, *[1] * (len(weights) - 1)])
    (height, width), used = attributes.integers("input_size", 2), attributes.integers("used_size", 2)
    patch, (values, channels) = attributes.integer("patch"), weights[0].shape
    attributes.numbers("mean", 3)
    rules = {
        "frames uint8 [B, H, W, 3]": frame.dtype == "uint8" and len(frame.shape) == 4 and frame.shape[3] == 3,
        "weight and bias, and scale and shift or neither": len(weights) in (2, 4),
        "a weight for each value of a patch": patch >= 1 and values == 3 * patch * patch,
        "whole patches": patch >= 1 and height % patch == 0 and width % patch == 0,
        "a used_size inside input_size": 1 <= used[0] <= height and 1 <= used[1] <= width,
        "vectors of weight's columns": all(spec.shape == (channels,) for spec in weights[1:]),
        "a std other than 0": all(attributes.numbers("std", 3)),
    }
    schema.require(NAME, rules, attributes, inputs)
    return (TensorSpec((frame.shape[0], height // patch * (width // patch), channels), weights[0].dtype),)


def _compute(attributes: Attributes, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    frame, weight, bias, *norm = inputs
    scale, shift = norm or (None, None)
    sizes = [attributes.integers(name, 2) for name in ("input_size", "used_size")]
    colours = [attributes.numbers(name, 3) for name in ("mean", "std")]
    options = attributes.integer("patch"), attributes.number("epsilon")
    found: torch.Tensor = patch_embedding(frame, weight, bias, scale, shift, *sizes, *colours, *options)
    return (found,)


def _to_node(
    frame: torch.Value,
    weight: torch.Value,
    bias: torch.Value,
    scale: torch.Value,
    shift: torch.Value,
    input_size: torch.Value,
    used_size: torch.Value,
    mean: torch.Value,
    std: torch.Value,
    patch: torch.Value,
    epsilon: torch.Value,
) -> schema.NodeParts:
    attributes = {
        "input_size_i": schema.constant(input_size, "is"),
        "used_size_i": schema.constant(used_size, "is"),
        "mean_f": schema.constant(mean, "fs"),
        "std_f": schema.constant(std, "fs"),
        "patch_i": schema.constant(patch, "i"),
        "epsilon_f": schema.constant(epsilon, "f"),
    }
    return [frame, weight, bias, *([] if schema.is_none(scale) else [scale, shift])], attributes


schema.export_as(NAME, "patch_embedding", _to_node)
OPERATOR = schema.Operator(NAME, output_specs, _compute)
