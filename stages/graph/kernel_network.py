"""The network in the form `kernels`: TAO's layers and weights, computed on tokens [B, S, C] by kernels of ours.

Left to the builder are the convolutions, GroupNorm, resizing, and what moves tokens about. The same answer as
stages/graph/network.py, with three things more done ahead of time: LayerNorms before a linear layer are in its weights,
the positions and levels that keys and values begin with are constants, and the decoder's first layer, whose queries
are constants, begins with its projections.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from stages import config
from stages.graph import attention, deformable, merge
from stages.graph.linear import Linear, products


class Network(nn.Module):
    """As stages.graph.network.Network; for the panoptic merge, a kernel, mask logits are [B, Q, H/4 * W/4]."""

    def __init__(self, tao: nn.Module, cfg: config.Deploy) -> None:
        """Wrap a copy of TAO's MaskFormerModel; the one given stays as it is."""
        super().__init__()
        self.plane = None if cfg.mode is config.Mode.panoptic else cfg.mask_size
        network: Any = copy.deepcopy(tao)
        for layer in network.backbone.layers:
            layer.forward = partial(swin_stage, layer)
        self.backbone = network.backbone
        self.pixel_decoder = PixelDecoder(network.sem_seg_head.pixel_decoder)
        self.decoder = Decoder(network.sem_seg_head.predictor, network.sem_seg_head.pixel_decoder.mask_features)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the network; see the class for shapes."""
        class_logits, mask_logits = self.decoder(*self.pixel_decoder(self.backbone(pixels), self.decoder.positions))
        return class_logits, torch.unflatten(mask_logits, 2, self.plane) if self.plane else mask_logits


def swin_stage(
    layer: Any, x: torch.Tensor, height: int, width: int
) -> tuple[torch.Tensor, int, int, torch.Tensor, int, int]:
    """One of Swin's four stages over TAO's blocks: [B, height * width, C] -> as TAO's BasicLayer returns it."""
    # While a graph is traced, sizes arrive as tensors; the deployed ones are fixed.
    height, width = int(height), int(width)
    for block in layer.blocks:
        x = swin_block(block, x, height, width)
    if layer.downsample is None:
        return x, height, width, x, height, width
    return x, height, width, merge_patches(layer.downsample, x, height, width), (height + 1) // 2, (width + 1) // 2


def swin_block(block: Any, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """TAO's SwinTransformerBlock.forward: [B, height * width, C] -> the same."""
    layer, mlp = block.attn, block.mlp
    qkv = Linear(layer.qkv.weight, layer.qkv.bias, before=block.norm1)(x)
    # What tokens that fill up windows have: they are zero after the LayerNorm.
    bias = layer.qkv.bias if layer.qkv.bias is not None else torch.zeros(qkv.shape[-1])
    tokens = layer.window_size[0] * layer.window_size[1]
    # [N * N, M] -> [M, N, N]: a constant of the graph.
    position = layer.relative_position_bias_table[layer.relative_position_index.view(-1)]
    position = position.view(tokens, tokens, -1).permute(2, 0, 1)
    sizes = height, width, layer.window_size[0], block.shift_size
    attended = attention.window_attention(qkv, bias, position, layer.num_heads, *sizes)
    x = Linear(layer.proj.weight, layer.proj.bias)(attended, residual=x)
    hidden = Linear(mlp.fc1.weight, mlp.fc1.bias, before=block.norm2, activation="gelu")(x)
    return Linear(mlp.fc2.weight, mlp.fc2.bias)(hidden, residual=x)


def merge_patches(layer: Any, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """TAO's PatchMerging.forward: [B, height * width, C] -> [B, ceil(height / 2) * ceil(width / 2), 2 * C]."""
    plane = x.view(x.shape[0], height, width, -1)
    if height % 2 or width % 2:
        plane = F.pad(plane, (0, 0, 0, width % 2, 0, height % 2))
    corners = [plane[:, y::2, x::2] for x in (0, 1) for y in (0, 1)]
    merged = torch.cat(corners, -1).flatten(1, 2)
    return Linear(layer.reduction.weight, before=layer.norm)(merged)


class PixelDecoder(nn.Module):
    """TAO's pixel decoder (MSDeformAttnPixelDecoder) but for its last convolution."""

    def __init__(self, tao: Any) -> None:
        super().__init__()
        self.tao: Any = tao

    def forward(
        self, features: dict[str, torch.Tensor], positions: Callable[[deformable.Sizes], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, deformable.Sizes]:
        """Features by name, [B, C, h, w], and what gives the positions [S, C] that the decoder adds, for levels' sizes.

        Returns pixel features [B, C, H/4, W/4], the levels' tokens [B, S, C], the same with positions, and the levels'
        sizes.
        """
        tao, transformer = self.tao, self.tao.transformer
        sources = [
            project(features[name])
            for project, name in zip(tao.input_proj, tao.transformer_in_features[::-1], strict=True)
        ]
        sizes = [(int(source.shape[2]), int(source.shape[3])) for source in sources]
        places = [tao.pe_layer(source)[0].flatten(1).T for source in sources]
        position = torch.cat([place + level for place, level in zip(places, transformer.level_embed, strict=True)])
        tokens = torch.cat([source.flatten(2).transpose(1, 2) for source in sources], 1)
        moved, layers = tokens + position, transformer.encoder.layers
        for i, layer in enumerate(layers):
            following = position if i + 1 < len(layers) else positions(sizes)
            tokens, moved = encoder_layer(layer, tokens, moved, following, sizes)

        finest = tokens[:, -sizes[-1][0] * sizes[-1][1] :].transpose(1, 2)
        fine = torch.unflatten(finest, 2, sizes[-1])
        for i, name in enumerate(tao.in_features[: tao.num_fpn_levels][::-1]):
            lateral = tao.lateral_convs[i](features[name])
            resized = F.interpolate(fine, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
            fine = tao.output_convs[i](lateral + resized)
        return fine, tokens, moved, sizes


def encoder_layer(
    layer: Any, tokens: torch.Tensor, moved: torch.Tensor, position: torch.Tensor, sizes: deformable.Sizes
) -> tuple[torch.Tensor, torch.Tensor]:
    """TAO's encoder layer: tokens [B, S, C], and with positions -> the same, with another position [S, C] added."""
    own = layer.self_attn
    value = Linear(own.value_proj.weight, own.value_proj.bias)(tokens)
    to_samples = own.sampling_offsets, own.attention_weights
    weight, bias = torch.cat([to.weight for to in to_samples]), torch.cat([to.bias for to in to_samples])
    sampled = deformable.by_kernel(value, Linear(weight, bias)(moved), sizes, own.n_heads, own.n_points)
    tokens = Linear(own.output_proj.weight, own.output_proj.bias, after=layer.norm1)(sampled, residual=tokens)
    hidden = Linear(layer.linear1.weight, layer.linear1.bias, activation="relu")(tokens)
    last = Linear(layer.linear2.weight, layer.linear2.bias, after=layer.norm2)
    return last.moved(hidden, position, residual=tokens)


class Decoder(nn.Module):
    """The transformer decoder of Mask2Former (arXiv:2112.01527, section 3.2)."""

    def __init__(self, tao: Any, mask_features: nn.Conv2d) -> None:
        """Take TAO's MultiScaleMaskedTransformerDecoder, and of its pixel decoder the last convolution.

        Raises ValueError for what there is no kernel for.
        """
        super().__init__()
        blocks = (*tao.transformer_cross_attention_layers, *tao.transformer_ffn_layers)
        if any(block.normalize_before for block in blocks) or any(len(list(p.parameters())) for p in tao.input_proj):
            raise ValueError(
                "deformable_attention `kernels` serves decoders without pre_norm and with as many channels as the "
                "pixel decoder; take another form in conf/target"
            )
        self.tao, self.heads = tao, tao.num_heads
        self.channels = tao.query_feat.weight.shape[1]
        *hidden, last = tao.mask_embed.layers
        norms = [tao.decoder_norm, *[None] * len(hidden)]
        self.to_embedding = [
            Linear(layer.weight, layer.bias, before=norm, activation="relu")
            for layer, norm in zip(hidden, norms, strict=False)
        ]
        # The convolution that makes the mask features is 1 x 1 and so goes into the last layer; its bias gives a
        # column, with seven of zeros after it, which fill a vector.
        kernel = torch.cat([mask_features.weight.flatten(1).T, mask_features.bias[None]])  # type: ignore[index]
        kernel = F.pad(kernel, (0, 0, 0, 7))
        self.to_embedding.append(Linear(kernel @ last.weight, kernel @ last.bias))

    def positions(self, sizes: deformable.Sizes) -> torch.Tensor:
        """What keys have beside the tokens of all levels, coarse to fine: [S, C]."""
        fixed = [self.tao.pe_layer(torch.zeros(1, 1, *size), None)[0].flatten(1).T for size in sizes]
        return torch.cat([place + level for place, level in zip(fixed, self.tao.level_embed.weight, strict=True)])

    def embedding(self, queries: torch.Tensor) -> torch.Tensor:
        """Queries [B, Q, C] -> what pixel features are multiplied with, and a constant: [B, Q, C + 8]."""
        for layer in self.to_embedding:
            queries = layer(queries)
        return queries

    def memory(
        self, tokens: torch.Tensor, moved: torch.Tensor, sizes: deformable.Sizes
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of each level for all layers that look at it, side by side: [B, h * w, layers * C]."""
        found, first = [], 0
        for level, (height, width) in enumerate(sizes):
            layers = self.tao.transformer_cross_attention_layers[level :: len(sizes)]
            inside = [layer.multihead_attn for layer in layers]
            _, keys, values = zip(*(a.in_proj_weight.chunk(3) for a in inside), strict=True)
            _, key_biases, value_biases = zip(*(a.in_proj_bias.chunk(3) for a in inside), strict=True)
            weight = torch.cat(values)
            bias = torch.cat(value_biases) + weight @ self.tao.level_embed.weight[level]
            rows = height * width
            key = Linear(torch.cat(keys), torch.cat(key_biases))(moved, first=first, rows=rows)
            found.append((key, Linear(weight, bias)(tokens, first=first, rows=rows)))
            first += rows
        return found

    def forward(
        self, pixel_features: torch.Tensor, tokens: torch.Tensor, moved: torch.Tensor, sizes: deformable.Sizes
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What PixelDecoder gives -> class logits [B, Q, 1 + C] and mask logits [B, Q, H/4 * W/4]."""
        tao, batch, width = self.tao, int(tokens.shape[0]), self.channels
        memory = self.memory(tokens, moved, sizes)
        seen = [
            F.interpolate(pixel_features, size=size, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
            for size in sizes
        ]
        position = tao.query_embed.weight
        queries = tao.query_feat.weight.detach()[None].expand(batch, -1, -1)
        moved = queries + position
        for i in range(tao.num_layers):
            level, turn = i % len(sizes), i // len(sizes)
            cross, own, ffn = (
                layers[i]
                for layers in (
                    tao.transformer_cross_attention_layers,
                    tao.transformer_self_attention_layers,
                    tao.transformer_ffn_layers,
                )
            )
            logits = products(self.embedding(queries), seen[level])
            layer = cross.multihead_attn
            query = Linear(layer.in_proj_weight[:width], layer.in_proj_bias[:width])(moved)
            firsts = [0, turn * width, turn * width]
            attended = attention.masked_attention(query, *memory[level], logits, self.heads, width, firsts)
            last = Linear(layer.out_proj.weight, layer.out_proj.bias, after=cross.norm)
            queries, moved = last.moved(attended, position, residual=queries)

            layer = own.self_attn
            both = Linear(layer.in_proj_weight[: 2 * width], layer.in_proj_bias[: 2 * width])(moved)
            value = Linear(layer.in_proj_weight[2 * width :], layer.in_proj_bias[2 * width :])(queries)
            attended = attention.masked_attention(both, both, value, None, self.heads, width, [0, width, 0])
            queries = Linear(layer.out_proj.weight, layer.out_proj.bias, after=own.norm)(attended, residual=queries)

            hidden = Linear(ffn.linear1.weight, ffn.linear1.bias, activation="relu")(queries)
            last = Linear(ffn.linear2.weight, ffn.linear2.bias, after=ffn.norm)
            if i + 1 < tao.num_layers:
                queries, moved = last.moved(hidden, position, residual=queries)
            else:
                queries = last(hidden, residual=queries)

        masks = products(self.embedding(queries), pixel_features.flatten(2).transpose(1, 2))
        classes = Linear(tao.class_embed.weight, tao.class_embed.bias, before=tao.decoder_norm)
        return classes(queries), masks


MERGES: dict[config.Mode, Any] = {**merge.MERGES, config.Mode.panoptic: merge.PanopticKernel}
