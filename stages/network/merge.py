"""From class and mask logits to what leaves the device, as modules of the deployed graph.

Each computes what TAO's Mask2formerPlModule does for its mode (Mask2Former, arXiv:2112.01527, appendix), in fixed
shapes and without an operator whose shape depends on data. Mask logits come at a quarter of the network's input and
are resized as in TAO's evaluation: to the input, cut to what the frame takes of it, and to the frame.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.onnx import symbolic_helper

from stages import config
from stages.engines.cuda import catalog
from stages.inference import frames
from stages.inference.segments import VOID_QUERY


def at_frame(mask_logits: torch.Tensor, size: list[int], used: list[int], frame: list[int]) -> torch.Tensor:
    """Mask logits [B, Q, h, w] -> [B, Q, H, W] at the frame's size; sizes as in `sizes`.

    Two bilinear steps, or one where the frame is not scaled.
    """
    masks = F.interpolate(mask_logits, size=size, mode="bilinear", align_corners=False)
    masks = masks[..., : used[0], : used[1]]
    if used != frame:
        masks = F.interpolate(masks, size=frame, mode="bilinear", align_corners=False)
    return masks


def sizes(cfg: config.Deploy) -> tuple[list[int], list[int], list[int]]:
    """[height, width] of the network's input, of what a frame takes of it, and of the frame."""
    return list(cfg.input_size), list(frames.frame_in_input(cfg)), list(cfg.frame_size)


class Panoptic(nn.Module):
    """Merged map of query ids, and area, score and category_id of each query."""

    OUTPUTS = ("query_ids", "areas", "scores", "category_ids")

    def __init__(self, cfg: config.Deploy, num_things: int) -> None:
        """Classes 1 to num_things are things, the others stuff."""
        super().__init__()
        thresholds = cfg.object_mask_threshold, cfg.overlap_threshold
        self.arguments = (num_things, *thresholds, *sizes(cfg))

    def forward(self, class_logits: torch.Tensor, mask_logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See `panoptic`."""
        return panoptic(class_logits, mask_logits, *self.arguments)


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
    """[B, Q, 1 + C] and [B, Q, h, w] -> query_ids [B, H, W] and areas, scores, category_ids [B, Q].

    uint8, int32, float32, int32; the last three arguments are what `sizes` gives. A pixel holds the id of the query
    whose segment it is in, or VOID_QUERY. Stuff of one class is one segment, under the first of its queries. A query
    without a segment of its own has area 0.
    """
    scores, classes = class_logits.softmax(-1)[..., 1:].max(-1)
    kept = (scores > score_threshold).to(scores.dtype)
    queries = torch.arange(scores.shape[1], device=scores.device)

    masks = at_frame(mask_logits, size, used, frame).sigmoid()
    # Below zero for the dropped: a kept query's product can be 0 at the least.
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


class PanopticKernel(Panoptic):
    """The same, exported as a node of our kernel."""

    def __init__(self, cfg: config.Deploy, num_things: int) -> None:
        """As Panoptic."""
        super().__init__(cfg, num_things)
        self.low = list(cfg.mask_size)

    def forward(self, class_logits: torch.Tensor, mask_logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See `panoptic`; mask_logits are [B, Q, h * w]."""
        merged: tuple[torch.Tensor, ...] = panoptic_node(class_logits, mask_logits, self.low, *self.arguments)
        return merged


@torch.library.custom_op("stages::panoptic_merge", mutates_args=())
def panoptic_node(
    class_logits: torch.Tensor,
    mask_logits: torch.Tensor,
    low: list[int],
    num_things: int,
    score_threshold: float,
    overlap_threshold: float,
    size: list[int],
    used: list[int],
    frame: list[int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `panoptic`; mask logits are [B, Q, h * w] of `low` h and w, and the logits may be float16."""
    logits = class_logits.float(), torch.unflatten(mask_logits.float(), 2, low)
    return panoptic(*logits, num_things, score_threshold, overlap_threshold, size, used, frame)


def _panoptic_symbolic(
    g: Any,
    class_logits: Any,
    mask_logits: Any,
    low: Any,
    num_things: Any,
    score_threshold: Any,
    overlap_threshold: Any,
    size: Any,
    used: Any,
    frame: Any,
) -> Any:
    const = symbolic_helper._maybe_get_const
    attributes = {
        "low_i": const(low, "is"),
        "things_i": const(num_things, "i"),
        "score_threshold_f": const(score_threshold, "f"),
        "overlap_threshold_f": const(overlap_threshold, "f"),
        "input_i": const(size, "is"),
        "used_i": const(used, "is"),
        "frame_i": const(frame, "is"),
    }
    outputs = g.op(f"{catalog.DOMAIN}::PanopticMerge", class_logits, mask_logits, outputs=4, **attributes)
    for output, traced in zip(outputs, g.original_node.outputs(), strict=True):
        output.setType(traced.type())
    return outputs


torch.onnx.register_custom_op_symbolic(  # type: ignore[attr-defined]  # public in its documentation
    "stages::panoptic_merge", _panoptic_symbolic, 17
)


class Semantic(nn.Module):
    """Map of classes."""

    OUTPUTS = ("class_ids",)

    def __init__(self, cfg: config.Deploy, num_things: int) -> None:
        """`num_things` is not used: the classes compete alike."""
        super().__init__()
        self.sizes = sizes(cfg)

    def forward(self, class_logits: torch.Tensor, mask_logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """[B, Q, 1 + C] and [B, Q, h, w] -> class_ids uint8 [B, H, W], category_ids from 1."""
        masks = at_frame(mask_logits, *self.sizes).sigmoid()
        by_class = class_logits.softmax(-1)[..., 1:].transpose(1, 2) @ masks.flatten(2)
        best = by_class.argmax(1).view(masks.shape[0], *masks.shape[2:])
        # TensorRT makes uint8 of floats alone.
        return ((best + 1).to(class_logits.dtype).to(torch.uint8),)


class Instance(nn.Module):
    """The top_k best pairs of query and class, with their masks."""

    OUTPUTS = ("mask_bits", "scores", "category_ids")
    bits: torch.Tensor

    def __init__(self, cfg: config.Deploy, num_things: int) -> None:
        """`num_things` is not used: TAO's instance mode is trained on things alone."""
        super().__init__()
        self.sizes = sizes(cfg)
        self.top_k = cfg.top_k
        self.register_buffer("bits", torch.tensor([128.0, 64, 32, 16, 8, 4, 2, 1]))

    def forward(self, class_logits: torch.Tensor, mask_logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """[B, Q, 1 + C] and [B, Q, h, w] -> mask_bits uint8 [B, K, H, ceil(W / 8)], scores and category_ids [B, K].

        Bits are packed as np.packbits does, the leftmost pixel highest. Scores fall from the first to the last but
        for the factor that TAO multiplies them with, the mean probability inside the mask.
        """
        probabilities = class_logits.softmax(-1)[..., 1:]
        classes = probabilities.shape[-1]
        scores, pairs = probabilities.flatten(1).topk(self.top_k)
        query = torch.div(pairs, classes, rounding_mode="trunc")
        # Only the masks kept are resized.
        kept = torch.stack([masks[index] for masks, index in zip(mask_logits, query, strict=True)])
        logits = at_frame(kept, *self.sizes)
        inside = (logits > 0).to(scores.dtype)
        mean = (logits.sigmoid() * inside).sum((2, 3)) / (inside.sum((2, 3)) + 1e-6)
        batch, top_k, height, width = inside.shape
        padded = F.pad(inside, (0, -width % 8)).view(batch, top_k, height, -1, 8)
        mask_bits = (padded * self.bits).sum(-1).to(torch.uint8)
        return mask_bits, scores * mean, (pairs - query * classes + 1).to(torch.int32)


MERGES: dict[config.Mode, Any] = {
    config.Mode.panoptic: Panoptic,
    config.Mode.semantic: Semantic,
    config.Mode.instance: Instance,
}
