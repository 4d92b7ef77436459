"""SemanticMerge: Mask2Former's semantic inference (arXiv:2112.01527, appendix), from logits to a map of classes.

Inputs: class logits [B, Q, 1 + C], no-object at 0; mask logits [B, Q, h * w]. Attributes: those of masks.py. Output:
class_ids uint8 [B, H, W] at the frame's size: category_ids from 1.
"""

from collections.abc import Sequence

import torch

from stages.inference.steps import Attributes, TensorSpec
from stages.operators import masks, schema

NAME = "SemanticMerge"
MAX_CLASSES = 255
"""category_ids are bytes."""


def semantic(
    class_logits: torch.Tensor, mask_logits: torch.Tensor, size: list[int], used: list[int], frame: list[int]
) -> torch.Tensor:
    """[B, Q, 1 + C] and [B, Q, h, w] -> uint8 [B, H, W], the category_id with the largest sum over all queries.

    A query adds the probability of the class times that of its mask. The sizes are as in `masks.at_frame`.
    """
    probabilities = masks.at_frame(mask_logits, size, used, frame).sigmoid()
    by_class = class_logits.softmax(-1)[..., 1:].transpose(1, 2) @ probabilities.flatten(2)
    best = by_class.argmax(1).view(probabilities.shape[0], *probabilities.shape[2:])
    # TensorRT converts floats to uint8, but no integers.
    return (best + 1).to(class_logits.dtype).to(torch.uint8)


@torch.library.custom_op(f"{schema.DOMAIN}::semantic_merge", mutates_args=())
def semantic_merge(
    class_logits: torch.Tensor,
    mask_logits: torch.Tensor,
    mask_size: list[int],
    size: list[int],
    used: list[int],
    frame: list[int],
) -> torch.Tensor:
    """Compute the operator in float32; see `semantic`."""
    return semantic(class_logits.float(), torch.unflatten(mask_logits.float(), 2, mask_size), size, used, frame)


def output_specs(attributes: Attributes, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """See Operator.output_specs."""
    few = all(spec.shape[-1] <= 1 + MAX_CLASSES for spec in inputs[:1])
    masks.require_logits(NAME, attributes, inputs, {f"at most {MAX_CLASSES} classes": few})
    return (TensorSpec((inputs[0].shape[0], *attributes.integers("frame_size", 2)), "uint8"),)


def _compute(attributes: Attributes, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    found: torch.Tensor = semantic_merge(*inputs, *masks.read_sizes(attributes))
    return (found,)


def _to_node(class_logits: torch.Value, mask_logits: torch.Value, *sizes: torch.Value) -> schema.NodeParts:
    return [class_logits, mask_logits], masks.size_attributes(sizes)


schema.export_as(NAME, "semantic_merge", _to_node)
OPERATOR = schema.Operator(NAME, output_specs, _compute)
