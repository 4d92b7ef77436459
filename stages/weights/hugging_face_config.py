"""Compares Hugging Face's config.json with the network that TAO builds.

Two tables hold every key of transformers' Mask2FormerConfig and SwinConfig; a test compares them with transformers.
Each key is a size that one of our parameters sets, a value that is fixed in TAO's network, or without effect on
predictions. A key that a file leaves out has transformers' default. Names and shapes of the parameters do not show
whether these values agree: weights with another activation function would load without an error and give wrong results.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages import config
from stages.weights.compatibility import same_value
from stages.weights.messages import first_five

if TYPE_CHECKING:
    from stages.foundation.files import Json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Size:
    """A key whose value one of our parameters sets."""

    parameter: str
    default: object


@dataclass(frozen=True)
class Fixed:
    """A key that has one value in TAO's network, whatever our parameters are."""

    value: object
    default: object


@dataclass(frozen=True)
class SameAs:
    """A key that must have the value of another key in the same file, because TAO's spec has one parameter for both."""

    other: str
    default: object


@dataclass(frozen=True)
class NoEffect:
    """A key that changes no prediction: for training, for additional outputs, or not read by transformers."""


def _fixed(value: object) -> Fixed:
    return Fixed(value, value)


type Role = Size | Fixed | SameAs | NoEffect
_NO_EFFECT = NoEffect()
_ABSENT = _fixed(None)
_COMMON: dict[str, Role] = {
    **dict.fromkeys(
        (
            "_name_or_path", "architectures", "chunk_size_feed_forward", "dtype", "id2label", "initializer_range",
            "is_encoder_decoder", "label2id", "model_type", "num_labels", "output_attentions", "output_hidden_states",
            "problem_type", "return_dict", "torch_dtype", "transformers_version",
        ),
        _NO_EFFECT,
    ),
    # Code in the folder, settings that differ by layer, quantised weights, and changed outputs.
    **dict.fromkeys(("auto_map", "per_layer_config", "quantization_config", "tie_last_hidden_states"), _ABSENT),
}  # fmt: skip
MASK2FORMER: dict[str, Role] = {
    **_COMMON,
    "num_queries": Size("model.num_object_queries", 100),
    "hidden_dim": Size("model.hidden_dim", 256),
    "num_attention_heads": Size("model.nheads", 8),
    "dim_feedforward": Size("model.dim_feedforward", 2048),
    "encoder_layers": Size("model.enc_layers", 6),
    "decoder_layers": Size("model.dec_layers", 10),
    "feature_size": SameAs("hidden_dim", 256),
    "mask_feature_size": SameAs("hidden_dim", 256),
    "encoder_feedforward_dim": _fixed(1024),
    "activation_function": _fixed("relu"),
    "pre_norm": _fixed(False),
    "enforce_input_projection": _fixed(False),
    "common_stride": _fixed(4),
    "feature_strides": _fixed([4, 8, 16, 32]),
    # With these keys transformers takes the backbone's settings from elsewhere.
    "backbone": _ABSENT,
    "backbone_kwargs": _ABSENT,
    "use_timm_backbone": _ABSENT,
    **dict.fromkeys(
        (
            "backbone_config", "class_weight", "dice_weight", "dropout", "ignore_value", "importance_sample_ratio",
            "init_std", "init_xavier_std", "mask_weight", "no_object_weight", "output_auxiliary_logits",
            "oversample_ratio", "train_num_points", "use_auxiliary_loss", "use_pretrained_backbone",
        ),
        _NO_EFFECT,
    ),
}  # fmt: skip
STAGES = ["stage1", "stage2", "stage3", "stage4"]
SWIN: dict[str, Role] = {
    **_COMMON,
    "embed_dim": Size("model.backbone.embed_dim", 96),
    "depths": Size("model.backbone.depths", [2, 2, 6, 2]),
    "num_heads": Size("model.backbone.num_heads", [3, 6, 12, 24]),
    "window_size": Size("model.backbone.window_size", 7),
    "patch_size": _fixed(4),
    "num_channels": _fixed(3),
    "mlp_ratio": _fixed(4.0),
    "qkv_bias": _fixed(True),
    "hidden_act": _fixed("gelu"),
    "use_absolute_embeddings": _fixed(False),
    "layer_norm_eps": _fixed(1e-5),
    "out_features": Fixed(STAGES, ["stage4"]),
    **dict.fromkeys(
        (
            # image_size is for absolute embeddings. hidden_size and num_layers follow from embed_dim and depths.
            "attention_probs_dropout_prob", "drop_path_rate", "encoder_stride", "hidden_dropout_prob", "hidden_size",
            "image_size", "num_hidden_layers", "num_layers", "out_indices", "path_norm", "stage_names",
        ),
        _NO_EFFECT,
    ),
}  # fmt: skip
TRANSFORMERS = "5.23"
"""Version of transformers that the tables are for."""
ALIASES = {"hidden_size": "hidden_dim", "num_hidden_layers": "decoder_layers"}, {"num_attention_heads": "num_heads"}
"""Alias -> key in transformers: of MASK2FORMER, and of SWIN."""
DEFAULT_BACKBONE = {"model_type": "swin", "depths": [2, 2, 18, 2], "out_features": STAGES}
"""transformers' default of backbone_config."""


def check(path: Path, content: "dict[str, Json]", model: config.Model) -> None:
    """Raise ValueError unless a config.json describes the network of the parameters `model`.

    `content` is that of the file `path`, which must be of a Mask2Former with a Swin. Keys that transformers does not
    know are logged.
    """
    swin = _resolve_aliases(path, content.get("backbone_config") or DEFAULT_BACKBONE, ALIASES[1])
    if "out_features" not in swin and isinstance(swin.get("out_indices"), list):
        swin["out_features"] = [f"stage{index}" for index in swin["out_indices"]]
    sizes: list[str] = []
    others: list[str] = []
    tables = (("backbone_config.", SWIN, swin), ("", MASK2FORMER, _resolve_aliases(path, content, ALIASES[0])))
    for where, table, values in tables:
        for key, role in table.items():
            if isinstance(role, NoEffect):
                continue
            theirs = values.get(key, role.default)
            if isinstance(role, Size):
                if not same_value(theirs, ours := _parameter(model, role.parameter)):
                    sizes.append(f"{role.parameter}={theirs}")
                continue
            ours = values.get(role.other, role.default) if isinstance(role, SameAs) else role.value
            # An empty value counts as absent: old files have use_timm_backbone: false and backbone_kwargs: {}.
            if not same_value(theirs, ours) and (ours is not None or theirs):
                others.append(f"{where}{key} is {theirs!r}{'' if key in values else ' by default'}, expected {ours!r}")
        if unknown := sorted(values.keys() - table.keys()):
            names = first_five(f"{where}{key}" for key in unknown)
            log.info("%s: ignoring %s, which transformers %s does not read either", path, names, TRANSFORMERS)
    if others:
        raise ValueError(
            f"{path}: {'; '.join(others)}: TAO's network has the expected values only; set model.weights to a network "
            "with these values"
        )
    if sizes:
        raise ValueError(f"{path} has other sizes than `model`: set {' '.join(sizes)} in conf/model")


def _resolve_aliases(path: Path, values: "Mapping[str, Json]", aliases: Mapping[str, str]) -> "dict[str, Json]":
    """Return a copy in which each alias is replaced by its key. Raises ValueError if alias and key differ."""
    result = dict(values)
    for alias, key in aliases.items():
        if alias in result:
            if not same_value(result.setdefault(key, result[alias]), result[alias]):
                raise ValueError(
                    f"{path}: {alias} is {result[alias]!r} and {key} is {result[key]!r}, expected one value, because "
                    "both name the same size; delete the wrong one"
                )
            del result[alias]
    return result


def _parameter(model: config.Model, name: str) -> object:
    """Return the value of a parameter by its full name, such as model.backbone.depths."""
    value: object = model
    for part in name.removeprefix("model.").split("."):
        value = getattr(value, part)
    return value
