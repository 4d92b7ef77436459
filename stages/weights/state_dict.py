"""Converts Mask2Former's parameters between TAO, the original code and Hugging Face's transformers.

TAO has the original's names (github.com/facebookresearch/Mask2Former), but has the class no-object in the first row of
the class head, not in the last. transformers has other names and splits the fused projections of the backbone and of
self-attention into query, key and value. The names here are those of its files, which differ from those in memory.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

type StateDict = dict[str, torch.Tensor]
"""Parameters by name."""

CLASS_HEAD = "sem_seg_head.predictor.class_embed"
"""Linear layer of the classes: weight [1 + C, D] and bias [1 + C]."""
STATIC_QUERY, QUERY = "static_query", "query_feat"
"""Names of the queries: in early checkpoints of the original, and in all others."""
_UNUSED = re.compile(
    r"\.relative_position_index$|^criterion\.|^model\.pixel_level_module\.encoder\.(swin\.)?layernorm\."
)
"""Names that predictions don't depend on: buffers that networks compute, the loss, a norm that transformers ignores."""

_SWIN, _DECODER = "model.pixel_level_module.encoder", "model.pixel_level_module.decoder"
_BLOCK, _HF_BLOCK = "backbone.layers.#.blocks.#", f"{_SWIN}.encoder.layers.#.blocks.#"
_PIXEL, _ENCODER = "sem_seg_head.pixel_decoder", "sem_seg_head.pixel_decoder.transformer.encoder.layers.#"
_PREDICTOR, _TRANSFORMER = "sem_seg_head.predictor", "model.transformer_module"
_SELF, _CROSS, _FFN = (f"{_PREDICTOR}.transformer_{x}_layers.#" for x in ("self_attention", "cross_attention", "ffn"))
_HF_LAYER = f"{_TRANSFORMER}.decoder.layers.#"

RENAMED = {
    "backbone.patch_embed.proj": f"{_SWIN}.embeddings.patch_embeddings.projection",
    "backbone.patch_embed.norm": f"{_SWIN}.embeddings.norm",
    f"{_BLOCK}.norm1": f"{_HF_BLOCK}.layernorm_before",
    f"{_BLOCK}.attn.relative_position_bias_table": f"{_HF_BLOCK}.attention.self.relative_position_bias_table",
    f"{_BLOCK}.attn.proj": f"{_HF_BLOCK}.attention.output.dense",
    f"{_BLOCK}.norm2": f"{_HF_BLOCK}.layernorm_after",
    f"{_BLOCK}.mlp.fc1": f"{_HF_BLOCK}.intermediate.dense",
    f"{_BLOCK}.mlp.fc2": f"{_HF_BLOCK}.output.dense",
    "backbone.layers.#.downsample": f"{_SWIN}.encoder.layers.#.downsample",
    **{f"backbone.norm{i}": f"{_SWIN}.hidden_states_norms.stage{i + 1}" for i in range(4)},
    f"{_PIXEL}.input_proj": f"{_DECODER}.input_projections",
    f"{_PIXEL}.transformer.level_embed": f"{_DECODER}.level_embed",
    f"{_ENCODER}.self_attn": f"{_DECODER}.encoder.layers.#.self_attn",
    f"{_ENCODER}.norm1": f"{_DECODER}.encoder.layers.#.self_attn_layer_norm",
    f"{_ENCODER}.linear1": f"{_DECODER}.encoder.layers.#.fc1",
    f"{_ENCODER}.linear2": f"{_DECODER}.encoder.layers.#.fc2",
    f"{_ENCODER}.norm2": f"{_DECODER}.encoder.layers.#.final_layer_norm",
    f"{_PIXEL}.mask_features": f"{_DECODER}.mask_projection",
    f"{_PIXEL}.adapter_#.norm": f"{_DECODER}.adapter_#.1",
    f"{_PIXEL}.adapter_#": f"{_DECODER}.adapter_#.0",
    f"{_PIXEL}.layer_#.norm": f"{_DECODER}.layer_#.1",
    f"{_PIXEL}.layer_#": f"{_DECODER}.layer_#.0",
    f"{_PREDICTOR}.query_feat": f"{_TRANSFORMER}.queries_features",
    f"{_PREDICTOR}.query_embed": f"{_TRANSFORMER}.queries_embedder",
    f"{_PREDICTOR}.level_embed": f"{_TRANSFORMER}.level_embed",
    f"{_SELF}.self_attn.out_proj": f"{_HF_LAYER}.self_attn.out_proj",
    f"{_SELF}.norm": f"{_HF_LAYER}.self_attn_layer_norm",
    f"{_CROSS}.multihead_attn": f"{_HF_LAYER}.cross_attn",
    f"{_CROSS}.norm": f"{_HF_LAYER}.cross_attn_layer_norm",
    f"{_FFN}.linear1": f"{_HF_LAYER}.fc1",
    f"{_FFN}.linear2": f"{_HF_LAYER}.fc2",
    f"{_FFN}.norm": f"{_HF_LAYER}.final_layer_norm",
    f"{_PREDICTOR}.decoder_norm": f"{_TRANSFORMER}.decoder.layernorm",
    f"{_PREDICTOR}.mask_embed.layers.#": f"{_TRANSFORMER}.decoder.mask_predictor.mask_embedder.#.0",
    CLASS_HEAD: "class_predictor",
}
"""Start of a name in TAO -> start in transformers; # stands for a number. The rest of the name is the same."""
SPLIT = {
    f"{_BLOCK}.attn.qkv.": [f"{_HF_BLOCK}.attention.self.{x}." for x in ("query", "key", "value")],
    f"{_SELF}.self_attn.in_proj_": [f"{_HF_LAYER}.self_attn.{x}_proj." for x in "qkv"],
}
"""Start of the name of a fused projection in TAO -> starts of its three parts in transformers, along the first axis."""


def without_unused[Value](state: Mapping[str, Value]) -> dict[str, Value]:
    """Return the entries that predictions depend on: no buffers that networks compute, nothing of the loss."""
    return {k: v for k, v in state.items() if not _UNUSED.search(k)}


def from_original(state: "Mapping[str, torch.Tensor]") -> StateDict:
    """Convert the original code's parameters to TAO's."""
    return _roll_classes({k.replace(STATIC_QUERY, QUERY): v for k, v in without_unused(state).items()}, 1)


def from_hugging_face(state: "Mapping[str, torch.Tensor]") -> StateDict:
    """Convert the parameters of transformers' Mask2FormerForUniversalSegmentation to TAO's.

    Raises ValueError naming a parameter that no Mask2Former with a Swin backbone has, or a fused projection of which a
    part is missing.
    """
    import torch

    parts: dict[str, list[torch.Tensor | None]] = {}
    result: StateDict = {}
    renames = _patterns((theirs, ours) for ours, theirs in RENAMED.items())
    splits = _patterns((name, (ours, place)) for ours, names in SPLIT.items() for place, name in enumerate(names))
    for name, value in without_unused(state).items():
        for pattern, (ours, place) in splits:
            if found := pattern.match(name):
                fused = _fill(ours, found) + name[found.end() :]
                parts.setdefault(fused, [None] * 3)[place] = value
                break
        else:
            result[_rename(name, renames)] = value
    for name, values in parts.items():
        present = [value for value in values if value is not None]
        if len(present) < 3:
            raise ValueError(f"found {len(present)} of the three parts of {name}; download the weights again")
        result[name] = torch.cat(present)
    return _roll_classes(result, 1)


def to_hugging_face(state: "Mapping[str, torch.Tensor]") -> StateDict:
    """Convert TAO's parameters to transformers', the reverse of `from_hugging_face`."""
    result: StateDict = {}
    renames, splits = _patterns(RENAMED.items()), _patterns(SPLIT.items())
    for name, value in _roll_classes(without_unused(state), -1).items():
        for pattern, theirs in splits:
            if found := pattern.match(name):
                for target, part in zip(theirs, value.chunk(3), strict=True):
                    result[_fill(target, found) + name[found.end() :]] = part.contiguous()
                break
        else:
            result[_rename(name, renames)] = value
    return result


def reorder_classes(state: StateDict, order: list[int]) -> StateDict:
    """Reorder the classes of TAO's parameters: class i of the result is class order[i] of `state`, both from 0."""
    rows = [0, *(1 + old for old in order)]
    return {k: v[rows] if k.startswith(f"{CLASS_HEAD}.") else v for k, v in state.items()}


def _roll_classes(state: StateDict, by: int) -> StateDict:
    """Shift the rows of the class head by `by`: 1 moves no-object from the last row to the first, -1 back."""
    return {k: v.roll(by, 0) if k.startswith(f"{CLASS_HEAD}.") else v for k, v in state.items()}


def _patterns[Target](pairs: Iterable[tuple[str, Target]]) -> list[tuple[re.Pattern[str], Target]]:
    """Compile starts of names to patterns. # matches any number; a match ends at a dot or at the end of the name."""
    result = []
    for name, target in pairs:
        end = "" if name.endswith((".", "_")) else r"(?=\.|$)"
        result.append((re.compile(re.escape(name).replace(r"\#", r"(\d+)") + end), target))
    return result


def _fill(name: str, found: "re.Match[str]") -> str:
    """Put the numbers that a pattern of `_patterns` matched in place of each # of `name`."""
    numbers = iter(found.groups())
    return re.sub("#", lambda _: next(numbers), name)


def _rename(name: str, renames: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, target in renames:
        if found := pattern.match(name):
            return _fill(target, found) + name[found.end() :]
    raise ValueError(
        f"{name!r} is not a parameter of a Mask2Former with a Swin backbone; set model.weights to such a network"
    )
