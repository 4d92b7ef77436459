"""Checks that weights give the same results in our network as in the one that they were trained in, sizes apart.

Parameters can fit by name and shape although a setting without parameters differs, such as pre_norm or the
normalisation of pictures. Such weights would load without an error and give wrong results.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stages.inference.normalization import PIXEL_MEAN, PIXEL_STD

if TYPE_CHECKING:
    from stages.foundation.files import Json

SPEC_DEFAULTS: dict[str, object] = {
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
"""Keys of `model` in TAO's spec that change results, sizes apart -> TAO's defaults.

The tables of hugging_face_config.py assume these values.
"""


def check_spec(where: str, model: Mapping[str, object]) -> None:
    """Raise ValueError unless the network of a TAO spec's `model` can be computed by transformers, whatever its sizes.

    `where` is the file or parameter that the spec is from, for the message.
    """
    if others := spec_differences(model, {}):
        raise ValueError(f"{where}: {'; '.join(others)}: transformers' Mask2Former has the expected values only")


def spec_differences(model: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """Compare the `model` of two TAO specs: list the keys of SPEC_DEFAULTS that differ, as text."""
    result = []
    for path, default in SPEC_DEFAULTS.items():
        found, expected = _lookup(model, path, default), _lookup(other, path, default)
        if not same_value(found, expected):
            result.append(f"model.{path} is {found!r}, expected {expected!r}")
    return result


def check_normalization(path: Path, content: "Mapping[str, Json]") -> None:
    """Raise ValueError unless a preprocessor_config.json normalises pictures as TAO and the engines do.

    `content` is that of the file, or the same keys from another file `path`. Keys: image_mean and image_std (RGB),
    rescale_factor, do_rescale, do_normalize; transformers' defaults apply to missing ones, and to an image_mean or
    image_std that is null. One number stands for all three channels.
    """
    try:
        factor = float(content.get("rescale_factor", 1 / 255)) if content.get("do_rescale", True) else 1.0
        mean, std = _channels(content.get("image_mean"), PIXEL_MEAN), _channels(content.get("image_std"), PIXEL_STD)
        if not content.get("do_normalize", True):
            mean, std = [0.0] * 3, [1.0] * 3
        # (factor x - mean) / std of pixels x from 0 to 255 is (x / 255 - m) / s with these m and s.
        found = [[float(number) / (255 * factor) for number in numbers] for numbers in (mean, std)]
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"{path}: image_mean, image_std and rescale_factor are not numbers above 0 ({error}); correct the file"
        ) from error
    expected = [PIXEL_MEAN, PIXEL_STD]
    # Tolerance: the files of the published networks have float32's 0.48500001430511475.
    if not all(
        len(theirs) == 3 and all(abs(a - b) < 1e-4 for a, b in zip(theirs, ours, strict=True))
        for theirs, ours in zip(found, expected, strict=True)
    ):
        raise ValueError(
            f"{path}: pictures are normalised by mean {found[0]} and standard deviation {found[1]} of RGB in [0, 1], "
            f"expected {expected[0]} and {expected[1]}, as TAO and the engines do; use other weights, or remove the "
            "file if it belongs to other weights"
        )


def same_value(a: object, b: object) -> bool:
    """Return whether two values of a configuration are equal. A pair of equal sides, [4, 4], equals one side, 4."""
    if isinstance(a, list | tuple):
        if isinstance(b, list | tuple):
            return list(a) == list(b)
        return len(a) == 2 and bool(a[0] == a[1] == b)
    return bool(a == b)


def _channels(found: "Json", default: list[float]) -> "Json":
    """Return image_mean or image_std of a preprocessor_config.json as a list: null, a number, or already a list."""
    if found is None:
        return default
    return [found] * 3 if isinstance(found, int | float) else found


def _lookup(tree: object, path: str, default: object) -> object:
    for key in path.split("."):
        if not isinstance(tree, dict) or key not in tree:
            return default
        tree = tree[key]
    return tree
