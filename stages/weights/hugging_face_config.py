"""What config.json and preprocessor_config.json of Hugging Face say of a network, against what is computed here.

One table has every key of Mask2FormerConfig and SwinConfig of transformers (a test compares them): a size that a
parameter of ours sets, a value that TAO's network is built with, or a key that changes no answer. A key that a file
does not have counts as transformers' default. Weights fit by their shapes alone where only such a value differs, so
without this they would be taken for a network that answers otherwise.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages import config
from stages.inference.normalization import PIXEL_MEAN, PIXEL_STD

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Size:
    """A key that one of our parameters sets."""

    parameter: str
    default: Any


@dataclass(frozen=True)
class Fixed:
    """A key with the one value that TAO's network is built with, whatever our parameters are."""

    value: Any
    default: Any


@dataclass(frozen=True)
class SameAs:
    """A key that must have the value of another key of the same file, for TAO's spec has one parameter for both."""

    other: str
    default: Any


@dataclass(frozen=True)
class NoEffect:
    """A key that changes no answer: of the loss, of the training, of what is returned beside the answer, or unread."""


def _fixed(value: Any) -> Fixed:
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
    # Code of the folder's own, layers that differ from each other, weights that are no plain numbers, other outputs.
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
    # A backbone by name has its settings elsewhere.
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
            # image_size is of absolute embeddings; the others are counted from depths and embed_dim.
            "attention_probs_dropout_prob", "drop_path_rate", "encoder_stride", "hidden_dropout_prob", "hidden_size",
            "image_size", "num_hidden_layers", "num_layers", "out_indices", "path_norm", "stage_names",
        ),
        _NO_EFFECT,
    ),
}  # fmt: skip
TRANSFORMERS = "5.23"
"""The version that the tables are of."""
ALIASES = {"hidden_size": "hidden_dim", "num_hidden_layers": "decoder_layers"}, {"num_attention_heads": "num_heads"}
"""Other names that transformers knows keys by: of MASK2FORMER, and of SWIN."""
DEFAULT_BACKBONE = {"model_type": "swin", "depths": [2, 2, 18, 2], "out_features": STAGES}
"""What transformers takes without backbone_config."""
SPEC = {
    "backbone.type": "swin",
    "backbone.swin.patch_size": 4,
    "backbone.swin.mlp_ratio": 4.0,
    "backbone.swin.qkv_bias": True,
    "backbone.swin.qk_scale": None,
    "backbone.swin.ape": False,
    "backbone.swin.patch_norm": True,
    "backbone.swin.out_indices": [0, 1, 2, 3],
    "backbone.swin.out_features": ["res2", "res3", "res4", "res5"],
    "sem_seg_head.common_stride": 4,
    "sem_seg_head.deformable_transformer_encoder_in_features": ["res3", "res4", "res5"],
    "sem_seg_head.norm": "GN",
    "mask_former.pre_norm": False,
}
"""TAO's defaults of what its spec's `model` could change beside the sizes: those that the tables above stand for."""


def check(path: Path, content: dict[str, Any], model: config.Model) -> None:
    """Raise ValueError where the config.json of a Mask2Former with a Swin says another network than `model`."""
    swin = _unaliased(path, content.get("backbone_config") or DEFAULT_BACKBONE, ALIASES[1])
    if "out_features" not in swin and isinstance(swin.get("out_indices"), list):
        swin["out_features"] = [f"stage{index}" for index in swin["out_indices"]]
    sizes: list[str] = []
    others: list[str] = []
    tables = (("backbone_config.", SWIN, swin), ("", MASK2FORMER, _unaliased(path, content, ALIASES[0])))
    for where, table, values in tables:
        for key, role in table.items():
            if isinstance(role, NoEffect):
                continue
            theirs = values.get(key, role.default)
            if isinstance(role, Size):
                if not _same(theirs, ours := _parameter(model, role.parameter)):
                    sizes.append(f"{role.parameter}={theirs}")
                continue
            ours = values.get(role.other, role.default) if isinstance(role, SameAs) else role.value
            # An old file has backbone: null, use_timm_backbone: false and backbone_kwargs: {}.
            if not _same(theirs, ours) and (ours is not None or theirs):
                others.append(f"{where}{key} is {theirs!r}{'' if key in values else ' by default'}, expected {ours!r}")
        if unknown := sorted(values.keys() - table.keys()):
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            log.info(
                "%s: transformers %s reads no %s%s%s: left out here, too",
                path, TRANSFORMERS, where, ", ".join(unknown[:5]), more,
            )  # fmt: skip
    if others:
        raise ValueError(
            f"{path}: {'; '.join(others)}: with that the same weights answer otherwise than TAO's network; take other "
            "weights"
        )
    if sizes:
        raise ValueError(f"{path} is another network than `model` says: set {' '.join(sizes)} in conf/model")


def check_preprocessor(path: Path, content: dict[str, Any]) -> None:
    """Raise ValueError where a preprocessor_config.json normalises pictures otherwise than TAO and the engines do."""
    try:
        factor = float(content.get("rescale_factor", 1 / 255)) if content.get("do_rescale", True) else 1.0
        mean, std = (
            content.get("image_mean", PIXEL_MEAN),
            content.get("image_std", PIXEL_STD),
        )
        if not content.get("do_normalize", True):
            mean, std = [0.0] * 3, [1.0] * 3
        # (factor x - mean) / std of pixels x from 0 to 255 is (x / 255 - m) / s with these m and s.
        found = [[float(number) / (255 * factor) for number in numbers] for numbers in (mean, std)]
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{path}: image_mean, image_std and rescale_factor are no numbers ({error})") from error
    expected = [PIXEL_MEAN, PIXEL_STD]
    # The originals' files have float32's 0.48500001430511475.
    if not all(
        len(theirs) == 3 and all(abs(a - b) < 1e-4 for a, b in zip(theirs, ours, strict=True))
        for theirs, ours in zip(found, expected, strict=True)
    ):
        raise ValueError(
            f"{path}: pictures are normalised by mean {found[0]} and standard deviation {found[1]} of RGB in [0, 1], "
            f"here by {expected[0]} and {expected[1]}: the network would see other pictures than it was trained on; "
            "take other weights, or delete the file if it is not theirs"
        )


def check_spec(where: str, model: dict[str, Any]) -> None:
    """Raise ValueError unless the `model` of a spec of TAO is one that the tables stand for, whatever its sizes."""
    if others := differences(model, {}):
        raise ValueError(f"{where}: {'; '.join(others)}: Hugging Face's network can't compute that")


def differences(model: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Where the `model` of one spec of TAO computes otherwise than that of another, sizes apart."""
    result = []
    for path, default in SPEC.items():
        found, expected = _at(model, path, default), _at(other, path, default)
        if not _same(found, expected):
            result.append(f"model.{path} is {found!r}, expected {expected!r}")
    return result


def _at(tree: Any, path: str, default: Any) -> Any:
    for key in path.split("."):
        if not isinstance(tree, dict) or key not in tree:
            return default
        tree = tree[key]
    return tree


def _unaliased(path: Path, values: Any, aliases: dict[str, str]) -> dict[str, Any]:
    """A copy with each alias put under the key's own name. Raises ValueError where both say something else."""
    result = dict(values)
    for alias, key in aliases.items():
        if alias in result:
            if not _same(result.setdefault(key, result[alias]), result[alias]):
                raise ValueError(
                    f"{path}: {alias} is {result[alias]!r} and {key} is {result[key]!r}, two names of one size; delete "
                    "the wrong one"
                )
            del result[alias]
    return result


def _parameter(model: config.Model, name: str) -> Any:
    value: Any = model
    for part in name.removeprefix("model.").split("."):
        value = getattr(value, part)
    return value


def _same(a: Any, b: Any) -> bool:
    """Whether two values are equal, a pair of equal sides (patch_size) being one side."""
    if isinstance(a, list | tuple) and not isinstance(b, list | tuple):
        return len(a) == 2 and a[0] == a[1] == b
    return bool(list(a) == list(b)) if isinstance(b, list | tuple) and isinstance(a, list | tuple) else bool(a == b)
