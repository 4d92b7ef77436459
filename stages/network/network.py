"""The deployed network: TAO's Mask2Former from camera bytes to maps, without operators of data-dependent shapes.

It has the weights of TAO's model in eval mode and computes the same function. Five computations differ:
- If a query may attend to no pixel, TAO lets it attend to all by an indexed assignment, which is exported as NonZero
  and ScatterND. Here it is a logical AND.
- TAO computes the full mask of each layer and resizes it to the attention's resolution. Resizing and the product with
  the queries are both linear, so here the features are resized instead, once per level.
- The convolution that computes the mask features is 1 x 1, so here it is applied to the embeddings of a few hundred
  queries instead of tens of thousands of pixels.
- TAO assigns Swin's shifted-window masks slice by slice in each forward pass, which is exported as ScatterND. They
  depend on sizes only, so here they are constants.
- TAO merges the masks in Python, query by query. Here the merge is part of the graph: stages/network/merge.py.
"""

import copy
import importlib
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from stages import config
from stages.inference import description, frames, segments
from stages.inference.normalization import PIXEL_MEAN, PIXEL_STD
from stages.network import deformable, kernel_network, merge
from stages.operators.patch_embedding import normalise
from stages.operators.window_attention import shifted_window_mask

if TYPE_CHECKING:
    from stages.tao.wheel import TaoModule


class Network(nn.Module):
    """Computes what TAO's MaskFormerModel computes.

    Its input is normalised RGB, float32 [B, 3, H, W]. It returns class logits [B, Q, 1 + C], with no-object at 0, and
    mask logits [B, Q, H/4, W/4].
    """

    def __init__(self, tao: nn.Module, variant: config.Variant) -> None:
        """Wrap a copy of TAO's MaskFormerModel, which is not changed."""
        super().__init__()
        network: TaoModule = copy.deepcopy(tao)
        for layer in network.backbone.layers:
            layer.forward = partial(swin_stage, layer)
        deformable.use(network.sem_seg_head.pixel_decoder, variant)
        self.backbone = network.backbone
        self.pixel_decoder = PixelDecoder(network.sem_seg_head.pixel_decoder)
        self.decoder = Decoder(network.sem_seg_head.predictor, self.pixel_decoder.mask_features)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the network; see the class for shapes."""
        pixel_features, levels = self.pixel_decoder(self.backbone(pixels))
        class_logits, mask_logits = self.decoder(levels, pixel_features)
        return class_logits, mask_logits


class Fused(nn.Module):
    """Computes the outputs of deploy.mode, then class and mask logits, of RGB frames uint8 [B, H, W, 3].

    The stages compare the logits with TAO's. `simplify` removes them from the deployed graph's outputs.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, tao: nn.Module, variant: config.Variant, num_things: int, cfg: config.Deploy) -> None:
        """`tao`: TAO's MaskFormerModel, which is not changed. Classes 1 to num_things are things."""
        super().__init__()
        self.by_kernel = variant is config.Variant.cuda
        self.input_size, self.used_size = list(frames.input_size(cfg)), list(frames.frame_in_input(cfg))
        self.network = kernel_network.Network(tao, cfg) if self.by_kernel else Network(tao, variant)
        merges = merge.KERNEL_MERGES if self.by_kernel else merge.MERGES
        self.merge = merges[cfg.mode](cfg, num_things)
        self.input_name, self.output_names = description.FUSED_INPUT, (*self.merge.OUTPUTS, *segments.LOGITS)
        self.register_buffer("mean", 255 * torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(PIXEL_STD).view(1, 3, 1, 1))

    def forward(self, frame: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the network and the merge; see the class for shapes."""
        if not self.by_kernel:
            frame = normalise(frame, self.input_size, self.used_size, self.mean, self.std)
        class_logits, mask_logits = self.network(frame)
        return (*self.merge(class_logits, mask_logits), class_logits, mask_logits)


class TaoShaped(nn.Module):
    """Computes the outputs of TAO's own exporter, with the same names, shapes and meaning, then the logits.

    Its input is normalised RGB, float32 [B, 3, H, W], with H and W deploy.height_px and width_px. Outputs by
    deploy.mode: panoptic prob_masks and pred_masks [B, Q, H, W], pred_scores and pred_classes [B, Q]; semantic
    pred_masks [B, C, H, W]; instance pred_masks [B, K, H, W], pred_scores and pred_classes [B, K].
    """

    OUTPUTS = {  # noqa: RUF012  # a constant
        config.Mode.panoptic: ("prob_masks", "pred_masks", "pred_scores", "pred_classes"),
        config.Mode.semantic: ("pred_masks",),
        config.Mode.instance: ("pred_masks", "pred_scores", "pred_classes"),
    }

    def __init__(self, tao: nn.Module, variant: config.Variant, num_things: int, cfg: config.Deploy) -> None:
        """Take the arguments of Fused. `num_things` is not used, because TAO's graph does not merge."""
        super().__init__()
        self.network = Network(tao, variant)
        self.input_name, self.output_names = description.TAO_INPUT, (*self.OUTPUTS[cfg.mode], *segments.LOGITS)
        predictor: TaoModule = self.network.decoder.tao
        model: TaoModule = importlib.import_module("nvidia_tao_pytorch.cv.mask2former.model.mask2former")
        # The part of TAO's spec that its Postprocessor reads.
        head = SimpleNamespace(num_classes=predictor.class_embed.out_features - 1)
        queries = SimpleNamespace(num_object_queries=predictor.num_queries)
        spec = SimpleNamespace(
            test_topk_per_image=cfg.top_k, sem_seg_head=head, mask_former=queries, mode=cfg.mode.value
        )
        size = SimpleNamespace(input_height=cfg.height_px, input_width=cfg.width_px)
        self.merge = model.Postprocessor(SimpleNamespace(model=spec, export=size))

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the network and TAO's own Postprocessor."""
        class_logits, mask_logits = self.network(inputs)
        merged = self.merge({"pred_logits": class_logits, "pred_masks": mask_logits})
        outputs = (merged,) if isinstance(merged, torch.Tensor) else merged
        return (*outputs, class_logits, mask_logits)


GRAPHS: dict[config.GraphKind, type[Fused] | type[TaoShaped]] = {
    config.GraphKind.fused: Fused,
    config.GraphKind.tao: TaoShaped,
}


class PixelDecoder(nn.Module):
    """TAO's pixel decoder. Returns pixel features [B, C, H/4, W/4] and three levels [B, C, h, w], coarse to fine."""

    def __init__(self, tao: "TaoModule") -> None:
        """Take TAO's pixel decoder without its last convolution, `mask_features`."""
        super().__init__()
        self.mask_features = tao.mask_features
        tao.mask_features = nn.Identity()
        self.tao: TaoModule = tao

    def forward(self, features: dict[str, torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Run TAO's forward_features. TAO returns the coarsest level twice; this returns it once."""
        pixel_features, _, levels = self.tao.forward_features(features)
        return pixel_features, levels


def swin_stage(
    layer: "TaoModule", x: torch.Tensor, height: int, width: int
) -> tuple[torch.Tensor, int, int, torch.Tensor, int, int]:
    """Compute one of Swin's four stages of x [B, height * width, C]; return what TAO's BasicLayer.forward returns."""
    # Sizes are tensors while a graph is traced. The sizes of the deployed graph are fixed.
    height, width = int(height), int(width)
    mask = shifted_window_mask(height, width, layer.window_size, layer.shift_size)
    for block in layer.blocks:
        block.H, block.W = height, width
        x = block(x, mask)
    if layer.downsample is None:
        return x, height, width, x, height, width
    return x, height, width, layer.downsample(x, height, width), (height + 1) // 2, (width + 1) // 2


class Decoder(nn.Module):
    """The transformer decoder of Mask2Former (arXiv:2112.01527, section 3.2), with TAO's layers and weights."""

    def __init__(self, tao: nn.Module, mask_features: nn.Conv2d) -> None:
        """Take TAO's MultiScaleMaskedTransformerDecoder and the last convolution of TAO's pixel decoder."""
        super().__init__()
        self.tao: TaoModule = tao
        self.mask_features = mask_features

    def masks(self, queries: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Return mask logits [B, Q, S] of queries [Q, B, D] at S pixels with features [B, C, S]."""
        embedding = self.tao.mask_embed(queries.transpose(0, 1))
        # The bias adds a constant for each query, which resizing does not change.
        constant = embedding @ self.mask_features.bias[:, None]  # type: ignore[index]  # it has one
        logits: torch.Tensor = embedding @ self.mask_features.weight.flatten(1) @ pixels + constant
        return logits

    def forward(self, levels: list[torch.Tensor], pixel_features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits as Network. levels: three [B, D, h, w], coarse to fine. pixel_features: [B, C, H/4, W/4]."""
        tao, (batch, _, *size) = self.tao, pixel_features.shape
        memory, position, attended = [], [], []
        for i, level in enumerate(levels):
            source = tao.input_proj[i](level).flatten(2) + tao.level_embed.weight[i][None, :, None]
            memory.append(source.permute(2, 0, 1))
            position.append(tao.pe_layer(level, None).flatten(2).permute(2, 0, 1))
            resized = F.interpolate(pixel_features, size=level.shape[-2:], mode="bilinear", align_corners=False)
            attended.append(resized.flatten(2))

        query_position = tao.query_embed.weight.unsqueeze(1).repeat(1, batch, 1)
        queries = tao.query_feat.weight.unsqueeze(1).repeat(1, batch, 1)
        for i in range(tao.num_layers):
            level = i % tao.num_feature_levels
            logits = self.masks(tao.decoder_norm(queries), attended[level])
            # True where a query must not attend: sigmoid < 0.5 in the original.
            blocked = logits < 0
            blocked = blocked & ~blocked.all(-1, keepdim=True)
            mask = blocked.unsqueeze(1).repeat(1, tao.num_heads, 1, 1).flatten(0, 1)
            queries = tao.transformer_cross_attention_layers[i](
                queries,
                memory[level],
                memory_mask=mask,
                memory_key_padding_mask=None,
                pos=position[level],
                query_pos=query_position,
            )
            queries = tao.transformer_self_attention_layers[i](
                queries, tgt_mask=None, tgt_key_padding_mask=None, query_pos=query_position
            )
            queries = tao.transformer_ffn_layers[i](queries)

        final = tao.decoder_norm(queries)
        masks = self.masks(final, pixel_features.flatten(2)).view(batch, -1, *size)
        return tao.class_embed(final.transpose(0, 1)), masks
