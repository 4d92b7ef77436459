"""Modules of the deployed graph that turn class and mask logits into its outputs.

Each computes what TAO's Mask2formerPlModule does for its mode (Mask2Former, arXiv:2112.01527, appendix), in fixed
shapes and without an operator whose shape depends on data. Mask logits have a quarter of the size of the network's
input. They are resized as in TAO's evaluation: to the input, cut to the part that the frame takes, and to the frame.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from stages import config
from stages.inference import frames
from stages.operators.panoptic_merge import at_frame, panoptic, panoptic_merge


def sizes(cfg: config.Deploy) -> tuple[list[int], list[int], list[int]]:
    """[height, width] of the network's input, of the part of it that a frame takes, and of the frame."""
    return list(frames.input_size(cfg)), list(frames.frame_in_input(cfg)), list(frames.frame_size(cfg))


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


class PanopticKernel(Panoptic):
    """Panoptic as one node of our operator PanopticMerge."""

    def __init__(self, cfg: config.Deploy, num_things: int) -> None:
        """See Panoptic."""
        super().__init__(cfg, num_things)
        self.mask_size = list(frames.mask_size(cfg))

    def forward(self, class_logits: torch.Tensor, mask_logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See `panoptic`; mask_logits are [B, Q, h * w]."""
        merged: tuple[torch.Tensor, ...] = panoptic_merge(class_logits, mask_logits, self.mask_size, *self.arguments)
        return merged


class Semantic(nn.Module):
    """Map of classes."""

    OUTPUTS = ("class_ids",)

    def __init__(self, cfg: config.Deploy, num_things: int) -> None:
        """`num_things` is not used: things and stuff are treated alike."""
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
