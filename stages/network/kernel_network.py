"""The network of the variant `cuda`: TAO's layers and weights, computed on tokens [B, S, C] by our own kernels.

It computes the same function as stages/network/network.py, of frames. Nothing but our operators and constants is left
of the graph. Two more steps are computed at export: scale and shift of a LayerNorm before a linear layer are folded
into the layer's weights, and the position and level embeddings of keys and values are constants.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from stages import config
from stages.inference import frames
from stages.inference.normalization import PIXEL_MEAN, PIXEL_STD
from stages.network import tokens
from stages.network.linear import Linear, products
from stages.network.tokens import Size
from stages.operators.deformable_attention import Sizes, deformable_attention
from stages.operators.masked_attention import masked_attention
from stages.operators.patch_embedding import patch_embedding
from stages.operators.resize import resize
from stages.operators.window_attention import window_attention

if TYPE_CHECKING:
    from stages.tao.wheel import TaoModule

FIX = "set another variant in conf/target"


@dataclass(frozen=True)
class Feature:
    """Output of a stage of the backbone."""

    tokens: torch.Tensor
    """[B, height * width, C]."""
    norm: nn.LayerNorm
    """LayerNorm that must be applied to the tokens before use."""
    size: Size


class Network(nn.Module):
    """Computes what network.Network computes, of RGB frames uint8 [B, H, W, 3]; mask logits are [B, Q, H/4 * W/4]."""

    def __init__(self, tao: nn.Module, cfg: config.Deploy) -> None:
        """Wrap a copy of TAO's MaskFormerModel, which is not changed.

        Raises ValueError for a network that our kernels can't compute.
        """
        super().__init__()
        network: TaoModule = copy.deepcopy(tao)
        if network.backbone.ape:
            raise ValueError(f"variant `cuda`: found a Swin with ape, expected one without; {FIX}")
        self.patches = Patches(network.backbone.patch_embed, cfg)
        self.backbone = network.backbone
        self.pixel_decoder = PixelDecoder(network.sem_seg_head.pixel_decoder)
        self.decoder = Decoder(network.sem_seg_head.predictor, network.sem_seg_head.pixel_decoder.mask_features)

    def features(self, frame: torch.Tensor) -> dict[str, Feature]:
        """Run the backbone on frames; return the output of each stage by TAO's name, res2 to res5."""
        x, found = self.patches(frame), {}
        height, width = self.patches.size
        for i, layer in enumerate(self.backbone.layers):
            for block in layer.blocks:
                x = swin_block(block, x, height, width)
            found[f"res{i + 2}"] = Feature(x, getattr(self.backbone, f"norm{i}"), (height, width))
            if layer.downsample is not None:
                # TAO's PatchMerging.
                merge_patches = Linear(layer.downsample.reduction.weight, pre_norm=layer.downsample.norm)
                x = merge_patches.patch_merging(x, height, width)
                height, width = (height + 1) // 2, (width + 1) // 2
        return found

    def forward(self, frame: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the network; see the class for shapes."""
        found: tuple[torch.Tensor, torch.Tensor] = self.decoder(
            *self.pixel_decoder(self.features(frame), self.decoder.pos_embed)
        )
        return found


class Patches(nn.Module):
    """Computes the tokens of Swin's first stage, [B, height / 4 * width / 4, C], of frames uint8 [B, H, W, 3]."""

    def __init__(self, tao: "TaoModule", cfg: config.Deploy) -> None:
        """Take TAO's PatchEmbed. Raises ValueError for one that our kernel can't compute."""
        super().__init__()
        conv: nn.Conv2d = tao.proj
        (patch, _), kind = conv.kernel_size, (conv.in_channels, conv.kernel_size, conv.stride, conv.padding)
        if kind != (3, (4, 4), (4, 4), (0, 0)) or (conv.dilation, conv.groups) != ((1, 1), 1) or conv.bias is None:
            raise ValueError(
                f"variant `cuda`: found patches by {conv}, expected a convolution of 3 channels with bias, kernel and "
                f"stride 4; {FIX}"
            )
        if not isinstance(tao.norm, nn.LayerNorm | nn.Identity | None):
            raise ValueError(f"variant `cuda`: found patches with {tao.norm}, expected LayerNorm or none; {FIX}")
        # [C, 3, P, P] -> [P * P * 3, C], the order of a frame's bytes.
        self.weight = conv.weight.detach().permute(2, 3, 1, 0).flatten(0, 2).contiguous()
        self.bias, self.patch, self.epsilon = conv.bias.detach(), patch, 0.0
        self.scale: torch.Tensor | None = None
        self.shift: torch.Tensor | None = None
        if isinstance(tao.norm, nn.LayerNorm):
            self.scale, self.shift, self.epsilon = tao.norm.weight.detach(), tao.norm.bias.detach(), tao.norm.eps
        input_size = frames.input_size(cfg)
        self.size: Size = (input_size[0] // patch, input_size[1] // patch)
        self.sizes = [list(input_size), list(frames.frame_in_input(cfg))]
        self.colours = [[255.0 * value for value in values] for values in (PIXEL_MEAN, PIXEL_STD)]

    def forward(self, frame: torch.Tensor) -> torch.Tensor:
        """Run it; see the class for shapes."""
        weights = self.weight, self.bias, self.scale, self.shift
        found: torch.Tensor = patch_embedding(frame, *weights, *self.sizes, *self.colours, self.patch, self.epsilon)
        return found


def swin_block(block: "TaoModule", x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Compute TAO's SwinTransformerBlock.forward: [B, height * width, C] -> the same shape."""
    layer, mlp = block.attn, block.mlp
    qkv = Linear(layer.qkv.weight, layer.qkv.bias, pre_norm=block.norm1)(x)
    # Padding tokens of a window are zeros after the LayerNorm, so their qkv is the bias.
    bias = layer.qkv.bias if layer.qkv.bias is not None else torch.zeros(qkv.shape[-1])
    count = layer.window_size[0] * layer.window_size[1]
    # [N * N, M] -> [M, N, N]: a constant of the graph.
    position_bias = layer.relative_position_bias_table[layer.relative_position_index.view(-1)]
    position_bias = position_bias.view(count, count, -1).permute(2, 0, 1)
    sizes = height, width, layer.window_size[0], block.shift_size
    attended = window_attention(qkv, bias, position_bias, layer.num_heads, *sizes)
    x = Linear(layer.proj.weight, layer.proj.bias)(attended, residual=x)
    hidden = Linear(mlp.fc1.weight, mlp.fc1.bias, pre_norm=block.norm2, activation="gelu")(x)
    return Linear(mlp.fc2.weight, mlp.fc2.bias)(hidden, residual=x)


class PixelDecoder(nn.Module):
    """TAO's pixel decoder (MSDeformAttnPixelDecoder) without its last convolution."""

    def __init__(self, tao: "TaoModule") -> None:
        """Take TAO's module. Raises ValueError for one that our kernels can't compute."""
        super().__init__()
        self.tao: TaoModule = tao
        levels = len(tao.transformer_in_features), tao.maskformer_num_feature_levels
        if levels != (3, 3):
            raise ValueError(f"variant `cuda`: found {levels} levels, expected (3, 3); {FIX}")
        convolutions = (*tao.lateral_convs, *tao.output_convs)
        if not all(isinstance(conv.norm, nn.GroupNorm) for conv in convolutions):
            raise ValueError(f"variant `cuda`: found a pixel decoder without GroupNorm, expected GroupNorm; {FIX}")
        shapes = {(c.kernel_size, c.stride, c.padding, c.dilation, c.groups) for c in tao.output_convs}
        if shapes - {((3, 3), (1, 1), (1, 1), (1, 1), 1)}:
            raise ValueError(
                f"variant `cuda`: found output convolutions {sorted(shapes)} (kernel, stride, padding, "
                f"dilation, groups), expected plain 3 x 3; {FIX}"
            )

    def forward(
        self, features: dict[str, Feature], next_pos_embed: Callable[[Sizes], torch.Tensor]
    ) -> tuple[torch.Tensor, Size, torch.Tensor, torch.Tensor, Sizes]:
        """Decode the features of the backbone.

        next_pos_embed: returns the embedding [S, C] that the decoder adds to levels of given sizes. Returns pixel
        features [B, H/4 * W/4, C] and their size; the levels' tokens [B, S, C], coarse to fine; the same with the
        decoder's embedding added; and the levels' sizes.
        """
        tao, transformer = self.tao, self.tao.transformer
        used = [features[name] for name in tao.transformer_in_features[::-1]]
        sizes = [feature.size for feature in used]
        pos_embed = level_pos_embed(tao.pe_layer, transformer.level_embed, sizes)
        projected = [project(conv, feature) for (conv, _), feature in zip(tao.input_proj, used, strict=True)]
        levels, with_pos_embed = tokens.normalise_with_pos_embed(
            projected, [norm for _, norm in tao.input_proj], pos_embed
        )
        layers = transformer.encoder.layers
        for i, layer in enumerate(layers):
            following = pos_embed if i + 1 < len(layers) else next_pos_embed(sizes)
            levels, with_pos_embed = encoder_layer(layer, levels, with_pos_embed, following, sizes)

        fine, size, first_row = levels, sizes[-1], sum(height * width for height, width in sizes[:-1])
        for i, name in enumerate(tao.in_features[: tao.num_fpn_levels][::-1]):
            lateral, last, feature = tao.lateral_convs[i], tao.output_convs[i], features[name]
            coarse = resize(fine, first_row, list(size), list(feature.size))
            fine, size, first_row = project(lateral, feature), feature.size, 0
            fine = tokens.normalise([fine], [lateral.norm], residual=coarse)
            fine = Linear(last.weight.permute(0, 2, 3, 1).flatten(1), last.bias).conv3x3(fine, *size)
            fine = tokens.normalise([fine], [last.norm], activation="relu")
        return fine, size, levels, with_pos_embed, sizes


def level_pos_embed(pe_layer: "TaoModule", level_embed: torch.Tensor, sizes: Sizes) -> torch.Tensor:
    """Return TAO's position embedding of each token plus the embedding of its level, level_embed [L, C]: [S, C]."""
    # The layer reads only the size of its input.
    fixed = [pe_layer(torch.zeros(1, 1, *size))[0].flatten(1).T for size in sizes]
    return torch.cat([one + level for one, level in zip(fixed, level_embed, strict=True)])


def project(conv: nn.Conv2d, feature: Feature) -> torch.Tensor:
    """Apply a feature's LayerNorm and a 1 x 1 convolution; return tokens [B, S, C]."""
    return Linear(conv.weight.flatten(1), conv.bias, pre_norm=feature.norm)(feature.tokens)


def encoder_layer(
    layer: "TaoModule", levels: torch.Tensor, with_pos_embed: torch.Tensor, next_pos_embed: torch.Tensor, sizes: Sizes
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute TAO's encoder layer of levels [B, S, C]. with_pos_embed: the levels plus their embedding.

    Returns the layer's output, and the output plus next_pos_embed [S, C].
    """
    own = layer.self_attn
    value = Linear(own.value_proj.weight, own.value_proj.bias)(levels)
    to_samples = own.sampling_offsets, own.attention_weights
    weight, bias = torch.cat([to.weight for to in to_samples]), torch.cat([to.bias for to in to_samples])
    sampled = deformable_attention(value, Linear(weight, bias)(with_pos_embed), sizes, own.n_heads, own.n_points)
    levels = Linear(own.output_proj.weight, own.output_proj.bias, post_norm=layer.norm1)(sampled, residual=levels)
    hidden = Linear(layer.linear1.weight, layer.linear1.bias, activation="relu")(levels)
    last = Linear(layer.linear2.weight, layer.linear2.bias, post_norm=layer.norm2)
    return last.with_pos_embed(hidden, next_pos_embed, residual=levels)


class Decoder(nn.Module):
    """The transformer decoder of Mask2Former (arXiv:2112.01527, section 3.2)."""

    def __init__(self, tao: "TaoModule", mask_features: nn.Conv2d) -> None:
        """Take TAO's MultiScaleMaskedTransformerDecoder and the last convolution of TAO's pixel decoder.

        Raises ValueError for a decoder that our kernels can't compute.
        """
        super().__init__()
        blocks = (*tao.transformer_cross_attention_layers, *tao.transformer_ffn_layers)
        if any(block.normalize_before for block in blocks) or any(len(list(p.parameters())) for p in tao.input_proj):
            raise ValueError(
                "variant `cuda`: found a decoder with pre_norm or with other channels than the pixel "
                f"decoder, expected neither; {FIX}"
            )
        self.tao, self.heads = tao, tao.num_heads
        self.channels = tao.query_feat.weight.shape[1]
        *hidden, last = tao.mask_embed.layers
        norms = [tao.decoder_norm, *[None] * len(hidden)]
        self.to_embedding = [
            Linear(layer.weight, layer.bias, pre_norm=norm, activation="relu")
            for layer, norm in zip(hidden, norms, strict=False)
        ]
        # The convolution that computes the mask features is 1 x 1, so it is folded into the last layer. Its bias adds a
        # column. Seven columns of zeros pad that to the eight values that a kernel loads at once.
        kernel = torch.cat([mask_features.weight.flatten(1).T, mask_features.bias[None]])  # type: ignore[index]
        kernel = F.pad(kernel, (0, 0, 0, 7))
        self.to_embedding.append(Linear(kernel @ last.weight, kernel @ last.bias))

    def pos_embed(self, sizes: Sizes) -> torch.Tensor:
        """Return the embedding [S, C] that is added to the keys' tokens of all levels, coarse to fine."""
        return level_pos_embed(self.tao.pe_layer, self.tao.level_embed.weight, sizes)

    def embedding(self, queries: torch.Tensor) -> torch.Tensor:
        """Compute mask embeddings of queries [B, Q, C]: [B, Q, C + 8], that is C values, a constant, seven zeros."""
        for layer in self.to_embedding:
            queries = layer(queries)
        return queries

    def memory(
        self, levels: torch.Tensor, with_pos_embed: torch.Tensor, sizes: Sizes
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return keys and values of each level, [B, h * w, layers * C], side by side for all layers that read it."""
        found, first_row = [], 0
        # A decoder with few layers uses the first levels only.
        for level, (height, width) in enumerate(sizes[: self.tao.num_layers]):
            layers = self.tao.transformer_cross_attention_layers[level :: len(sizes)]
            inside = [layer.multihead_attn for layer in layers]
            _, keys, values = zip(*(a.in_proj_weight.chunk(3) for a in inside), strict=True)
            _, key_biases, value_biases = zip(*(a.in_proj_bias.chunk(3) for a in inside), strict=True)
            weight = torch.cat(values)
            bias = torch.cat(value_biases) + weight @ self.tao.level_embed.weight[level]
            rows = height * width
            key = Linear(torch.cat(keys), torch.cat(key_biases))(with_pos_embed, first_row=first_row, rows=rows)
            found.append((key, Linear(weight, bias)(levels, first_row=first_row, rows=rows)))
            first_row += rows
        return found

    def forward(
        self,
        pixels: torch.Tensor,
        size: Size,
        levels: torch.Tensor,
        with_pos_embed: torch.Tensor,
        sizes: Sizes,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode the output of PixelDecoder; return class logits [B, Q, 1 + C] and mask logits [B, Q, H/4 * W/4]."""
        tao, batch, width = self.tao, int(levels.shape[0]), self.channels
        memory = self.memory(levels, with_pos_embed, sizes)
        seen = [resize(pixels, 0, list(size), list(level)) for level in sizes]
        pos_embed = tao.query_embed.weight
        queries = tao.query_feat.weight.detach()[None].expand(batch, -1, -1)
        with_pos_embed = queries + pos_embed
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
            query = Linear(layer.in_proj_weight[:width], layer.in_proj_bias[:width])(with_pos_embed)
            first_columns = [0, turn * width, turn * width]
            attended = masked_attention(query, *memory[level], logits, self.heads, width, first_columns)
            last = Linear(layer.out_proj.weight, layer.out_proj.bias, post_norm=cross.norm)
            queries, with_pos_embed = last.with_pos_embed(attended, pos_embed, residual=queries)

            layer = own.self_attn
            both = Linear(layer.in_proj_weight[: 2 * width], layer.in_proj_bias[: 2 * width])(with_pos_embed)
            value = Linear(layer.in_proj_weight[2 * width :], layer.in_proj_bias[2 * width :])(queries)
            attended = masked_attention(both, both, value, None, self.heads, width, [0, width, 0])
            queries = Linear(layer.out_proj.weight, layer.out_proj.bias, post_norm=own.norm)(attended, residual=queries)

            hidden = Linear(ffn.linear1.weight, ffn.linear1.bias, activation="relu")(queries)
            last = Linear(ffn.linear2.weight, ffn.linear2.bias, post_norm=ffn.norm)
            if i + 1 < tao.num_layers:
                queries, with_pos_embed = last.with_pos_embed(hidden, pos_embed, residual=queries)
            else:
                queries = last(hidden, residual=queries)

        masks = products(self.embedding(queries), pixels)
        classes = Linear(tao.class_embed.weight, tao.class_embed.bias, pre_norm=tao.decoder_norm)
        return classes(queries), masks
