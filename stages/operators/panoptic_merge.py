"""PanopticMerge: Mask2Former's panoptic merge (arXiv:2112.01527, appendix), from logits to a map of query ids.

Inputs: class logits [B, Q, 1 + C], no-object at 0; mask logits [B, Q, h * w]. Attributes: those of masks.py; things,
classes 1 to this number are things and the others stuff; score_threshold; overlap_threshold. Outputs: query_ids uint8
[B, H, W] at the frame's size, areas int32, scores float32 and category_ids int32 [B, Q].
"""

from collections.abc import Sequence

import torch

from stages.inference.segments import VOID_QUERY
from stages.inference.steps import Attributes, TensorSpec
from stages.operators import masks, schema

NAME = "PanopticMerge"


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

    The sizes are as in `masks.at_frame`. A pixel holds the id of the query whose segment it is in, or VOID_QUERY. Stuff
    of one class is one segment, under the first of its queries. A query without a segment of its own has area 0.
    """
    scores, classes = class_logits.softmax(-1)[..., 1:].max(-1)
    kept = (scores > score_threshold).to(scores.dtype)
    queries = torch.arange(scores.shape[1], device=scores.device)

    probabilities = masks.at_frame(mask_logits, size, used, frame).sigmoid()
    # Below zero for dropped queries: the product of a kept query is 0 or more.
    weighted = probabilities * (scores * kept)[..., None, None] + (kept - 1)[..., None, None]
    winner = weighted.argmax(1, keepdim=True)
    won = winner == queries[:, None, None]
    inside = probabilities >= 0.5
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
    few = all(spec.shape[1] <= VOID_QUERY for spec in inputs[:1])
    masks.require_logits(NAME, attributes, inputs, {f"at most {VOID_QUERY} queries": few})
    by_query, frame = inputs[0].shape[:2], attributes.integers("frame_size", 2)
    return (
        TensorSpec((by_query[0], *frame), "uint8"),
        TensorSpec(by_query, "int32"),
        TensorSpec(by_query, "float32"),
        TensorSpec(by_query, "int32"),
    )


def _compute(attributes: Attributes, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    thresholds = attributes.number("score_threshold"), attributes.number("overlap_threshold")
    mask_size, *sizes = masks.read_sizes(attributes)
    things = attributes.integer("things")
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
        "things_i": schema.constant(num_things, "i"),
        "score_threshold_f": schema.constant(score_threshold, "f"),
        "overlap_threshold_f": schema.constant(overlap_threshold, "f"),
        **masks.size_attributes((mask_size, *sizes)),
    }
    return [class_logits, mask_logits], attributes


schema.export_as(NAME, "panoptic_merge", _to_node, outputs=4)
OPERATOR = schema.Operator(NAME, output_specs, _compute)
