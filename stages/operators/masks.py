"""What the three merges have in common: mask logits and their way to the frame's size.

Attributes: mask_size, height and width of the mask logits; input_size, of the network's input; used_size, of the part
of it that a frame takes; frame_size, of the frame.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from stages.inference.steps import Attributes, AttributeValue, TensorSpec
from stages.operators import schema

SIZES = ("mask_size", "input_size", "used_size", "frame_size")


def at_frame(mask_logits: torch.Tensor, size: list[int], used: list[int], frame: list[int]) -> torch.Tensor:
    """Mask logits [B, Q, h, w] -> [B, Q, H, W] at the frame's size.

    They are resized to the network's input `size`, cut to the part `used` that a frame takes of it and, where the frame
    is scaled, resized to `frame`. All sizes are [height, width].
    """
    masks = F.interpolate(mask_logits, size=size, mode="bilinear", align_corners=False)
    masks = masks[..., : used[0], : used[1]]
    if used != frame:
        masks = F.interpolate(masks, size=frame, mode="bilinear", align_corners=False)
    return masks


def read_sizes(attributes: Attributes) -> list[list[int]]:
    """The four sizes of a node, in the order of SIZES."""
    return [attributes.integers(name, 2) for name in SIZES]


def size_attributes(sizes: Sequence[torch.Value]) -> dict[str, AttributeValue]:
    """Attributes of a node for the four sizes of a traced call, in the order of SIZES."""
    return {f"{name}_i": schema.constant(size, "is") for name, size in zip(SIZES, sizes, strict=True)}


def require_logits(
    name: str, attributes: Attributes, inputs: Sequence[TensorSpec], more: dict[str, bool] | None = None
) -> None:
    """Raise ValueError unless the inputs are class and mask logits, the sizes fit them, and the rules `more` hold."""
    schema.require_inputs(name, inputs, (3, 3))
    class_logits, mask_logits = inputs
    (batch, queries, pixels) = mask_logits.shape
    (height, width), (in_h, in_w), (used_h, used_w), _ = read_sizes(attributes)
    rules = {
        "class logits of each query": class_logits.shape[:2] == (batch, queries),
        "a mask logit for each pixel of mask_size": pixels == height * width,
        "a used_size inside input_size": used_h <= in_h and used_w <= in_w,
    }
    schema.require(name, rules | (more or {}), attributes, inputs)
