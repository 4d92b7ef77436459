"""PanopticMerge: Mask2Former's panoptic merge (arXiv:2112.01527, appendix), from logits to a map of query ids.

Inputs: class logits [B, Q, 1 + C], no-object at 0; mask logits [B, Q, h * w]. Attributes: mask_size, h and w; things,
classes 1 to this number are things and the others stuff; score_threshold; overlap_threshold; input_size, height and
width of the network's input; used_size, of the part of it that a frame takes; frame_size, of the frame. Outputs:
query_ids uint8 [B, H, W] at the frame's size, areas int32, scores float32 and category_ids int32 [B, Q].
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from stages.inference.segments import VOID_QUERY
from stages.inference.steps import Attributes, TensorSpec
from stages.operators import schema

NAME = "PanopticMerge"
_SIZES = ("input_size", "used_size", "frame_size")


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


def panoptic(
    class_logits: torch.Tensor,
    mask_logits: torch.Tensor,
    num_things: int,
    score_threshold: float,
    overlap_threshold: float,
    size: list[int],
    used: list[int],
    frame: list[int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """[B, Q, 1 + C] and [B, Q, h, w] -> query_ids uint8 [B, H, W]; areas, scores, category_ids [B, Q].

    The sizes are as in `at_frame`. A pixel holds the id of the query whose segment it is in, or VOID_QUERY. Stuff of
    one class is one segment, under the first of its queries. A query without a segment of its own has area 0.
    """
    scores, classes = class_logits.softmax(-1)[..., 1:].max(-1)
    kept = (scores > score_threshold).to(scores.dtype)
    queries = torch.arange(scores.shape[1], device=scores.device)

    masks = at_frame(mask_logits, size, used, frame).sigmoid()
    # Below zero for dropped queries: the product of a kept query is 0 or more.
    weighted = masks * (scores * kept)[..., None, None] + (kept - 1)[..., None, None]
    winner = weighted.argmax(1, keepdim=True)
    won = winner == queries[:, None, None]
    inside = masks >= 0.5
    here = (won & inside).to(scores.dtype)
    won_area, mask_area, here_area = (m.to(scores.dtype).sum((2, 3)) for m in (won, inside, here))
    overlaps = won_area / mask_area.clamp(min=1) >= overlap_threshold
    found = (kept > 0) & (here_area > 0) & overlaps

    stuff = classes >= num_things
    alike = (classes[:, :, None] == classes[:, None, :]) & found[:, None, :] & stuff[:, :, None]
    first = torch.where(stuff, alike.to(scores.dtype).argmax(-1), queries)
    label = torch.where(found, first, VOID_QUERY).to(scores.dtype)
    # At most one query holds a pixel, so the sum picks its label.
    query_ids = VOID_QUERY + (here * (label - VOID_QUERY)[..., None, None]).sum(1)
    holds = ((first[:, :, None] == queries) & found[:, :, None]).to(scores.dtype)
    # No matrix product: TensorRT-RTX has none in float32 for compute capability 7.5.
    areas = (here_area[:, :, None] * holds).sum(1)
    return query_ids.to(torch.uint8), areas.to(torch.int32), scores, (classes + 1).to(torch.int32)


@torch.library.custom_op(f"{schema.DOMAIN}::panoptic_merge", mutates_args=())
def panoptic_merge(
    class_logits: torch.Tensor,
    mask_logits: torch.Tensor,
    mask_size: list[int],
    num_things: int,
    score_threshold: float,
    overlap_threshold: float,
    size: list[int],
    used: list[int],
    frame: list[int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the operator in float32; see `panoptic`."""
    logits = class_logits.float(), torch.unflatten(mask_logits.float(), 2, mask_size)
    return panoptic(*logits, num_things, score_threshold, overlap_threshold, size, used, frame)


def output_specs(attributes: Attributes, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """See Operator.output_specs."""
    schema.require_inputs(NAME, inputs, (3, 3))
    class_logits, mask_logits = inputs
    (batch, queries, pixels), (height, width) = mask_logits.shape, attributes.integers("mask_size", 2)
    (in_h, in_w), (used_h, used_w), frame = (attributes.integers(name, 2) for name in _SIZES)
    rules = {
        "class logits of each query": class_logits.shape[:2] == (batch, queries),
        f"at most {VOID_QUERY} queries": queries <= VOID_QUERY,
        "a mask logit for each pixel of mask_size": pixels == height * width,
        "a used_size inside input_size": used_h <= in_h and used_w <= in_w,
    }
    schema.require(NAME, rules, attributes, inputs)
    by_query = (batch, queries)
    return (
        TensorSpec((batch, *frame), "uint8"),
        TensorSpec(by_query, "int32"),
        TensorSpec(by_query, "float32"),
        TensorSpec(by_query, "int32"),
    )


def _compute(attributes: Attributes, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    thresholds = attributes.number("score_threshold"), attributes.number("overlap_threshold")
    sizes = [attributes.integers(name, 2) for name in _SIZES]
    mask_size, things = attributes.integers("mask_size", 2), attributes.integer("things")
    merged: tuple[torch.Tensor, ...] = panoptic_merge(*inputs, mask_size, things, *thresholds, *sizes)
    return merged


def _to_node(
    class_logits: torch.Value,
    mask_logits: torch.Value,
    mask_size: torch.Value,
    num_things: torch.Value,
    score_threshold: torch.Value,
    overlap_threshold: torch.Value,
    *sizes: torch.Value,
) -> schema.NodeParts:
    attributes = {
        "mask_size_i": schema.constant(mask_size, "is"),
        "things_i": schema.constant(num_things, "i"),
        "score_threshold_f": schema.constant(score_threshold, "f"),
        "overlap_threshold_f": schema.constant(overlap_threshold, "f"),
        **{f"{name}_i": schema.constant(size, "is") for name, size in zip(_SIZES, sizes, strict=True)},
    }
    return [class_logits, mask_logits], attributes


schema.export_as(NAME, "panoptic_merge", _to_node, outputs=4)
OPERATOR = schema.Operator(NAME, output_specs, _compute)
