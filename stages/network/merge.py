"""Modules that compute the outputs of the deployed graph from class and mask logits.

Each computes what TAO's Mask2formerPlModule computes for its mode (Mask2Former, arXiv:2112.01527, appendix), with fixed
shapes and no operator whose output shape depends on data. Mask logits have a quarter of the size of the network's
input. As in TAO's evaluation, they are resized to the input, the padding is cut off, and they are resized to the frame.
"""

import torch
from torch import nn
from torch.nn import functional as F

from stages import config
from stages.inference import frames
from stages.operators.panoptic_merge import at_frame, panoptic, panoptic_merge


def sizes(cfg: config.Deploy) -> tuple[list[int], list[int], list[int]]:
    """Return [height, width] of the network's input, of the frame in the input, and of the frame."""
    return list(frames.input_size(cfg)), list(frames.frame_in_input(cfg)), list(frames.frame_size(cfg))


class Panoptic(nn.Module):
    """Computes a map of query ids, and area, score and category_id of each query; see `panoptic` for shapes."""

    OUTPUTS = ("query_ids", "areas", "scores", "category_ids")

    def __init__(self, cfg: config.Deploy, num_things: int) -> None:
        """Classes 1 to num_things are things, the others are stuff."""
        super().__init__()
        thresholds = cfg.object_mask_threshold, cfg.overlap_threshold
        self.arguments = (num_things, *thresholds, *sizes(cfg))

    def forward(self, class_logits: torch.Tensor, mask_logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute `panoptic` of class logits [B, Q, 1 + C] and mask logits [B, Q, h, w]."""
        return panoptic(class_logits, mask_logits, *self.arguments)


class PanopticKernel(Panoptic):
    """Computes Panoptic as one node of our operator PanopticMerge."""

    def __init__(self, cfg: config.Deploy, num_things: int) -> None:
        """Take the arguments of Panoptic."""
        super().__init__(cfg, num_things)
        self.mask_size = list(frames.mask_size(cfg))

    def forward(self, class_logits: torch.Tensor, mask_logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute `panoptic` of class logits [B, Q, 1 + C] and mask logits [B, Q, h * w]."""
        merged: tuple[torch.Tensor, ...] = panoptic_merge(class_logits, mask_logits, self.mask_size, *self.arguments)
        return merged


class Semantic(nn.Module):
    """Computes a map of classes."""

    OUTPUTS = ("class_ids",)

    def __init__(self, cfg: config.Deploy, num_things: int) -> None:
        """`num_things` is not used: things and stuff are treated alike."""
        super().__init__()
        self.sizes = sizes(cfg)

    def forward(self, class_logits: torch.Tensor, mask_logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return class_ids, uint8 [B, H, W] of category_ids from 1, of logits [B, Q, 1 + C] and [B, Q, h, w]."""
        masks = at_frame(mask_logits, *self.sizes).sigmoid()
        by_class = class_logits.softmax(-1)[..., 1:].transpose(1, 2) @ masks.flatten(2)
        best = by_class.argmax(1).view(masks.shape[0], *masks.shape[2:])
        # TensorRT converts floats to uint8, but no integers.
        return ((best + 1).to(class_logits.dtype).to(torch.uint8),)


class Instance(nn.Module):
    """Computes the top_k best pairs of query and class, with their masks."""

    OUTPUTS = ("mask_bits", "scores", "category_ids")
    bits: torch.Tensor

    def __init__(self, cfg: config.Deploy, num_things: int) -> None:
        """`num_things` is not used: TAO trains instance mode on things only."""
        super().__init__()
        self.sizes = sizes(cfg)
        self.top_k = cfg.top_k
        self.register_buffer("bits", torch.tensor([128.0, 64, 32, 16, 8, 4, 2, 1]))

    def forward(self, class_logits: torch.Tensor, mask_logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return mask_bits, scores and category_ids of logits [B, Q, 1 + C] and [B, Q, h, w]. K is top_k.

        mask_bits are uint8 [B, K, H, ceil(W / 8)], packed as np.packbits does, with the leftmost pixel in the highest
        bit. scores are [B, K]: the probability of the class times the mean probability inside the mask, as in TAO,
        sorted by the first factor. category_ids are int32 [B, K], from 1.
        """
        probabilities = class_logits.softmax(-1)[..., 1:]
        classes = probabilities.shape[-1]
        scores, pairs = probabilities.flatten(1).topk(self.top_k)
        query = torch.div(pairs, classes, rounding_mode="trunc")
        # Only the masks of these pairs are resized.
        kept = torch.stack([masks[index] for masks, index in zip(mask_logits, query, strict=True)])
        logits = at_frame(kept, *self.sizes)
        inside = (logits > 0).to(scores.dtype)
        mean = (logits.sigmoid() * inside).sum((2, 3)) / (inside.sum((2, 3)) + 1e-6)
        batch, top_k, height, width = inside.shape
        padded = F.pad(inside, (0, -width % 8)).view(batch, top_k, height, -1, 8)
        mask_bits = (padded * self.bits).sum(-1).to(torch.uint8)
        return mask_bits, scores * mean, (pairs - query * classes + 1).to(torch.int32)


Merge = type[Panoptic] | type[Semantic] | type[Instance]
MERGES: dict[config.Mode, Merge] = {
    config.Mode.panoptic: Panoptic,
    config.Mode.semantic: Semantic,
    config.Mode.instance: Instance,
}
