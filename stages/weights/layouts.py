"""Names and layouts of Mask2Former's parameters in TAO, in the original code and in Hugging Face's transformers.

TAO kept the original's names (github.com/facebookresearch/Mask2Former), and moved the class no-object from the last
row of class_embed to the first. transformers has names of its own, in the form that its files have on disk; it splits
the backbone's and the self-attention's fused projections into query, key and value.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

CLASSES = "sem_seg_head.predictor.class_embed"
STATIC_QUERY = "static_query", "query_feat"
"""What early checkpoints of the original call the queries; TAO never does."""
_UNUSED = re.compile(
    r"\.relative_position_index$|^criterion\.|^model\.pixel_level_module\.encoder\.(swin\.)?layernorm\."
)
"""Buffers that a network computes itself, what belongs to training alone, and a norm that transformers never uses."""

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
    CLASSES: "class_predictor",
}
"""TAO's beginning of a name -> Hugging Face's; # is a number. The rest of the name is the same."""
SPLIT = {
    f"{_BLOCK}.attn.qkv.": [f"{_HF_BLOCK}.attention.self.{x}." for x in ("query", "key", "value")],
    f"{_SELF}.self_attn.in_proj_": [f"{_HF_LAYER}.self_attn.{x}_proj." for x in "qkv"],
}
"""TAO's beginning of a name -> those of the three that Hugging Face has for it, along the first axis."""


def used(state: "Mapping[str, torch.Tensor]") -> "State":
    """What an answer depends on: without buffers that a network computes itself, and what is of training alone."""
    return {k: v for k, v in state.items() if not _UNUSED.search(k)}


def from_original(state: "Mapping[str, torch.Tensor]") -> "State":
    """TAO's parameters from the original code's."""
    return _rotated({k.replace(*STATIC_QUERY): v for k, v in used(state).items()}, 1)


def from_hugging_face(state: "Mapping[str, torch.Tensor]") -> "State":
    """TAO's parameters from those of transformers' Mask2FormerForUniversalSegmentation.

    Raises ValueError naming one that no Mask2Former with a Swin backbone has, and one whose parts are not all there.
    """
    import torch

    state = used(state)
    parts: dict[str, list[torch.Tensor | None]] = {}
    result: State = {}
    renames = _patterns((theirs, ours) for ours, theirs in RENAMED.items())
    splits = _patterns((name, (ours, place)) for ours, names in SPLIT.items() for place, name in enumerate(names))
    for name, value in state.items():
        for pattern, (ours, place) in splits:
            if found := pattern.match(name):
                fused = _filled(ours, found) + name[found.end() :]
                parts.setdefault(fused, [None] * 3)[place] = value
                break
        else:
            result[_renamed(name, renames)] = value
    for name, values in parts.items():
        present = [value for value in values if value is not None]
        if len(present) < 3:
            raise ValueError(f"the weights hold {len(present)} of the three parts of {name}; get the file anew")
        result[name] = torch.cat(present)
    return _rotated(result, 1)


def to_hugging_face(state: "Mapping[str, torch.Tensor]") -> "State":
    """The reverse of `from_hugging_face`."""
    result: State = {}
    renames, splits = _patterns(RENAMED.items()), _patterns(SPLIT.items())
    for name, value in _rotated(used(state), -1).items():
        for pattern, theirs in splits:
            if found := pattern.match(name):
                for target, part in zip(theirs, value.chunk(3), strict=True):
                    result[_filled(target, found) + name[found.end() :]] = part.contiguous()
                break
        else:
            result[_renamed(name, renames)] = value
    return result


def reordered(state: "State", order: list[int]) -> "State":
    """TAO's parameters with classes in another order: class i becomes what class order[i] was, both from 0."""
    rows = [0, *(1 + old for old in order)]
    return {k: v[rows] if k.startswith(f"{CLASSES}.") else v for k, v in state.items()}


def _rotated(state: "State", by: int) -> "State":
    """With the rows of class_embed moved on by `by`: no-object is TAO's first class and the others' last."""
    return {k: v.roll(by, 0) if k.startswith(f"{CLASSES}.") else v for k, v in state.items()}


def _patterns[Target](pairs: Iterable[tuple[str, Target]]) -> list[tuple[re.Pattern[str], Target]]:
    """Of beginnings of names, # any number. They end where a part of the name does."""
    result = []
    for name, target in pairs:
        end = "" if name.endswith((".", "_")) else r"(?=\.|$)"
        result.append((re.compile(re.escape(name).replace(r"\#", r"(\d+)") + end), target))
    return result


def _filled(name: str, found: "re.Match[str]") -> str:
    numbers = iter(found.groups())
    return re.sub("#", lambda _: next(numbers), name)


def _renamed(name: str, renames: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, target in renames:
        if found := pattern.match(name):
            return _filled(target, found) + name[found.end() :]
    raise ValueError(f"{name!r} is no parameter of a Mask2Former with a Swin backbone; other networks can't be taken")
