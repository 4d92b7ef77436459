"""The network as it is deployed: TAO's Mask2Former with camera bytes in and no data-dependent operator.

Same weights and same answer as TAO's model in eval mode. Three things differ:
- TAO unmasks queries that may attend nowhere by index assignment, which exports as NonZero + ScatterND;
  here it is a logical AND with the same effect.
- TAO computes each layer's full mask and resizes it to the attention's resolution. Resizing and the product with
  the queries are both linear, so here the features are resized, once per level.
- TAO assigns Swin's shifted-window masks slice by slice in each forward pass, which exports as ScatterND; they depend
  on sizes alone, so here they are constants.
"""

import copy
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from stages.tao.spec import PIXEL_MEAN, PIXEL_STD


class Deployed(nn.Module):
    """uint8 [1, H, W, 3] RGB frame -> class logits [1, Q, 1 + C], no-object at 0, and mask logits [1, Q, H/4, W/4]."""

    tao: Any
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, tao: nn.Module) -> None:
        """Wrap a copy of TAO's MaskFormerModel; the one given stays as it is."""
        super().__init__()
        network: Any = copy.deepcopy(tao)
        for layer in network.backbone.layers:
            layer.forward = partial(swin_stage, layer)
        self.tao = network
        self.register_buffer("mean", 255 * torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(PIXEL_STD).view(1, 3, 1, 1))

    def normalise(self, frame: torch.Tensor) -> torch.Tensor:
        """TAO's input of a frame: uint8 [1, H, W, 3] -> float32 [1, 3, H, W]."""
        # TensorRT takes uint8 only into a Cast, so that comes before the transpose.
        return (frame.to(torch.float32).permute(0, 3, 1, 2) - self.mean) / self.std

    def forward(self, frame: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the network on one frame; see the class for shapes."""
        features = self.tao.backbone(self.normalise(frame))
        head = self.tao.sem_seg_head
        mask_features, _, levels = head.pixel_decoder.forward_features(features)
        return decode(head.predictor, levels, mask_features)


def swin_stage(layer: Any, x: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, int, int, Any, int, int]:
    """One of Swin's four stages over TAO's blocks: [1, height * width, C] -> as TAO's BasicLayer returns it."""
    # While a graph is traced, sizes arrive as tensors; the deployed ones are fixed.
    height, width = int(height), int(width)
    mask = shifted_window_mask(height, width, layer.window_size, layer.shift_size)
    for block in layer.blocks:
        block.H, block.W = height, width
        x = block(x, mask)
    if layer.downsample is None:
        return x, height, width, x, height, width
    return x, height, width, layer.downsample(x, height, width), (height + 1) // 2, (width + 1) // 2


def shifted_window_mask(height: int, width: int, window: int, shift: int) -> torch.Tensor:
    """What a shifted window hides from each of its positions (Swin, arXiv:2103.14030, section 3.2).

    Returns float32 [windows, window^2, window^2]: 0 where two positions were neighbours before the shift, else -100.
    """
    padded_h, padded_w = -(-height // window) * window, -(-width // window) * window
    # Positions fall into three bands along each axis; only those of one region may see each other.
    rows, columns = (
        (np.arange(size) >= size - window).astype(int) + (np.arange(size) >= size - shift)
        for size in (padded_h, padded_w)
    )
    region = 3 * rows[:, None] + columns[None, :]
    tiled = region.reshape(padded_h // window, window, padded_w // window, window)
    windows = tiled.transpose(0, 2, 1, 3).reshape(-1, window * window)
    hidden = windows[:, None, :] != windows[:, :, None]
    return torch.from_numpy(np.where(hidden, np.float32(-100), np.float32(0)))


def decode(decoder: Any, levels: list[torch.Tensor], mask_features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The transformer decoder of Mask2Former (arXiv:2112.01527, section 3.2) over TAO's layers and weights.

    levels: three float32 [1, D, h, w], coarse to fine. mask_features: [1, D, H/4, W/4]. Returns as Deployed.
    """
    memory, position, attended = [], [], []
    for i, level in enumerate(levels):
        source = decoder.input_proj[i](level).flatten(2) + decoder.level_embed.weight[i][None, :, None]
        memory.append(source.permute(2, 0, 1))
        position.append(decoder.pe_layer(level, None).flatten(2).permute(2, 0, 1))
        resized = F.interpolate(mask_features, size=level.shape[-2:], mode="bilinear", align_corners=False)
        attended.append(resized.flatten(2))

    query_position = decoder.query_embed.weight.unsqueeze(1)
    queries = decoder.query_feat.weight.unsqueeze(1)
    for i in range(decoder.num_layers):
        level = i % decoder.num_feature_levels
        embedding = decoder.mask_embed(decoder.decoder_norm(queries).transpose(0, 1))
        # True where a query must not look: sigmoid < 0.5 in the original.
        blocked = (embedding @ attended[level]) < 0
        blocked = blocked & ~blocked.all(-1, keepdim=True)
        queries = decoder.transformer_cross_attention_layers[i](
            queries,
            memory[level],
            memory_mask=blocked.repeat(decoder.num_heads, 1, 1),
            memory_key_padding_mask=None,
            pos=position[level],
            query_pos=query_position,
        )
        queries = decoder.transformer_self_attention_layers[i](
            queries, tgt_mask=None, tgt_key_padding_mask=None, query_pos=query_position
        )
        queries = decoder.transformer_ffn_layers[i](queries)

    final = decoder.decoder_norm(queries).transpose(0, 1)
    masks = torch.einsum("bqc,bchw->bqhw", decoder.mask_embed(final), mask_features)
    return decoder.class_embed(final), masks
