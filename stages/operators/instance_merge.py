"""InstanceMerge: Mask2Former's instance inference (arXiv:2112.01527, appendix), from logits to the best masks.

Inputs: class logits [B, Q, 1 + C], no-object at 0; mask logits [B, Q, h * w]. Attributes: those of masks.py; top_k, the
number K of pairs of query and class. Outputs: mask_bits uint8 [B, K, H, ceil(W / 8)], packed as np.packbits does, with
the leftmost pixel in the highest bit; scores float32 [B, K], sorted by the probability of the class; category_ids int32
[B, K], from 1.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from stages.inference.steps import Attributes, TensorSpec
from stages.operators import masks, schema

NAME = "InstanceMerge"


def instance(
    class_logits: torch.Tensor,
    mask_logits: torch.Tensor,
    bits: torch.Tensor,
    top_k: int,
    size: list[int],
    used: list[int],
    frame: list[int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[B, Q, 1 + C] and [B, Q, h, w] -> mask_bits, scores and category_ids; see the module.

    A score is the probability of the class times the mean probability inside the mask, as in TAO. bits: float [8], the
    values of a byte's bits, the highest first. The sizes are as in `masks.at_frame`.
    """
    probabilities = class_logits.softmax(-1)[..., 1:]
    classes = probabilities.shape[-1]
    scores, pairs = probabilities.flatten(1).topk(top_k)
    query = torch.div(pairs, classes, rounding_mode="trunc")
    # Only the masks of these pairs are resized.
    kept = torch.stack([plane[index] for plane, index in zip(mask_logits, query, strict=True)])
    logits = masks.at_frame(kept, size, used, frame)
    inside = (logits > 0).to(scores.dtype)
    mean = (logits.sigmoid() * inside).sum((2, 3)) / (inside.sum((2, 3)) + 1e-6)
    batch, top_k, height, width = inside.shape
    padded = F.pad(inside, (0, -width % 8)).view(batch, top_k, height, -1, 8)
    mask_bits = (padded * bits).sum(-1).to(torch.uint8)
    return mask_bits, scores * mean, (pairs - query * classes + 1).to(torch.int32)


def bit_values() -> torch.Tensor:
    """The values of a byte's bits, the highest first: float32 [8]."""
    return torch.tensor([128.0, 64, 32, 16, 8, 4, 2, 1])


@torch.library.custom_op(f"{schema.DOMAIN}::instance_merge", mutates_args=())
def instance_merge(
    class_logits: torch.Tensor,
    mask_logits: torch.Tensor,
    top_k: int,
    mask_size: list[int],
    size: list[int],
    used: list[int],
    frame: list[int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the operator in float32; see `instance`."""
    logits = class_logits.float(), torch.unflatten(mask_logits.float(), 2, mask_size)
    return instance(*logits, bit_values().to(class_logits.device), top_k, size, used, frame)


def output_specs(attributes: Attributes, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """See Operator.output_specs."""
    top_k = attributes.integer("top_k")
    enough = all(1 <= top_k <= spec.shape[1] * (spec.shape[2] - 1) for spec in inputs[:1] if len(spec.shape) == 3)
    masks.require_logits(NAME, attributes, inputs, {"a top_k of 1 to queries x classes": enough})
    batch, (height, width) = inputs[0].shape[0], attributes.integers("frame_size", 2)
    return (
        TensorSpec((batch, top_k, height, -(-width // 8)), "uint8"),
        TensorSpec((batch, top_k), "float32"),
        TensorSpec((batch, top_k), "int32"),
    )


def _compute(attributes: Attributes, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    found: tuple[torch.Tensor, ...] = instance_merge(
        *inputs, attributes.integer("top_k"), *masks.read_sizes(attributes)
    )
    return found


def _to_node(
    class_logits: torch.Value, mask_logits: torch.Value, top_k: torch.Value, *sizes: torch.Value
) -> schema.NodeParts:
    return [class_logits, mask_logits], {"top_k_i": schema.constant(top_k, "i"), **masks.size_attributes(sizes)}


schema.export_as(NAME, "instance_merge", _to_node, outputs=3)
OPERATOR = schema.Operator(NAME, output_specs, _compute)
