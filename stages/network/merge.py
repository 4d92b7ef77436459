"""Modules that compute the outputs of the deployed graph from class and mask logits.

Each computes what TAO's Mask2formerPlModule computes for its mode (Mask2Former, arXiv:2112.01527, appendix), with fixed
shapes and no operator whose output shape depends on data. Mask logits have a quarter of the size of the network's
input. As in TAO's evaluation, they are resized to the input, the padding is cut off, and they are resized to the frame.
"""

import torch
from torch import nn

from stages import config
from stages.inference import frames
from stages.operators.instance_merge import bit_values, instance, instance_merge
from stages.operators.panoptic_merge import panoptic, panoptic_merge
from stages.operators.semantic_merge import semantic, semantic_merge


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
    """Computes a map of classes; see `semantic`."""

    OUTPUTS = ("class_ids",)

    def __init__(self, cfg: config.Deploy, num_things: int) -> None:
        """`num_things` is not used: things and stuff are treated alike."""
        super().__init__()
        self.sizes = sizes(cfg)

    def forward(self, class_logits: torch.Tensor, mask_logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute `semantic` of class logits [B, Q, 1 + C] and mask logits [B, Q, h, w]: class_ids."""
        return (semantic(class_logits, mask_logits, *self.sizes),)


class SemanticKernel(Semantic):
    """Computes Semantic as one node of our operator SemanticMerge."""

    def __init__(self, cfg: config.Deploy, num_things: int) -> None:
        """Take the arguments of Semantic."""
        super().__init__(cfg, num_things)
        self.mask_size = list(frames.mask_size(cfg))

    def forward(self, class_logits: torch.Tensor, mask_logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute `semantic` of class logits [B, Q, 1 + C] and mask logits [B, Q, h * w]."""
        return (semantic_merge(class_logits, mask_logits, self.mask_size, *self.sizes),)


class Instance(nn.Module):
    """Computes the top_k best pairs of query and class, with their masks; see `instance`."""

    OUTPUTS = ("mask_bits", "scores", "category_ids")
    bits: torch.Tensor

    def __init__(self, cfg: config.Deploy, num_things: int) -> None:
        """`num_things` is not used: TAO trains instance mode on things only."""
        super().__init__()
        self.sizes = sizes(cfg)
        self.top_k = cfg.top_k
        self.register_buffer("bits", bit_values())

    def forward(self, class_logits: torch.Tensor, mask_logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute `instance` of class logits [B, Q, 1 + C] and mask logits [B, Q, h, w]."""
        return instance(class_logits, mask_logits, self.bits, self.top_k, *self.sizes)


class InstanceKernel(Instance):
    """Computes Instance as one node of our operator InstanceMerge."""

    def __init__(self, cfg: config.Deploy, num_things: int) -> None:
        """Take the arguments of Instance."""
        super().__init__(cfg, num_things)
        self.mask_size = list(frames.mask_size(cfg))

    def forward(self, class_logits: torch.Tensor, mask_logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute `instance` of class logits [B, Q, 1 + C] and mask logits [B, Q, h * w]."""
        found: tuple[torch.Tensor, ...] = instance_merge(
            class_logits, mask_logits, self.top_k, self.mask_size, *self.sizes
        )
        return found


Merge = type[Panoptic] | type[Semantic] | type[Instance]
MERGES: dict[config.Mode, Merge] = {
    config.Mode.panoptic: Panoptic,
    config.Mode.semantic: Semantic,
    config.Mode.instance: Instance,
}
KERNEL_MERGES: dict[config.Mode, Merge] = {
    config.Mode.panoptic: PanopticKernel,
    config.Mode.semantic: SemanticKernel,
    config.Mode.instance: InstanceKernel,
}
"""Merges of the variant `cuda`, which take mask logits in a row."""
