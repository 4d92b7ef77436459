"""Extracts a network's parameters from what training programs wrap around them.

Training programs save a state dict inside other dicts (`state_dict`, `model`) and put names of modules before or into
the parameters' names (`module.`, `model.`, `_orig_mod.`).
"""

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from stages.weights.messages import first_five
from stages.weights.tensor_files import EXPECTED

log = logging.getLogger(__name__)

_WRAPPERS = re.compile(r"(?:^|(?<=\.))_(?:orig_mod|forward_module|fsdp_wrapped_module|checkpoint_wrapped_module)\.")
"""Modules that torch.compile, Lightning, FSDP and activation checkpointing add to names, also in the middle."""
_HEAD = r"sem_seg_head|model\.pixel_level_module|model\.transformer_module"
_PART = re.compile(rf"(?:^|(?<=\.))(?:{_HEAD}|backbone|class_predictor|criterion)\.")
"""Start of a parameter's own name. Text before it names modules around the network, such as `module.model.`."""


def extract(path: Path, content: object) -> tuple[dict[str, object], dict[str, object]]:
    """Return the network's parameters by their own names, and the buffers of the loss, from a file's content.

    `path` is for messages. Raises ValueError if the content holds no Mask2Former, or more than one.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{path}: found {type(content).__name__}, {EXPECTED}")
    if content.get("state_dict_encrypted"):
        raise ValueError(f"{path}: found a checkpoint that TAO encrypted; save it without an encryption key")
    try:
        found = dict(_state_dicts(content, ""))
    except RecursionError as error:
        raise ValueError(f"{path}: its dicts are nested too deeply, or within themselves; save one network") from error
    if not found:
        raise ValueError(f"{path}: {_describe(content)}; {EXPECTED}")
    names = set(found) if len(found) == 1 else set(found) & {"state_dict", "model"}
    if len(names) != 1:
        raise ValueError(f"{path}: found the networks {first_five(found)}, expected one; save one of them")
    return unwrap(path, found[names.pop()])


def is_wrapped(state: Mapping[str, object]) -> bool:
    """Return whether any name holds a part of a Mask2Former, possibly after names of other modules."""
    return any(map(_PART.search, state))


def unwrap(path: Path, state: Mapping[object, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Return the network's parameters without the names of modules around it, and the buffers of the loss.

    `state` must hold at least one name of a Mask2Former. `path` is for messages. Raises ValueError if `state` holds
    several networks, such as an average of weights beside the weights, or a name twice.
    """
    own: dict[str, dict[str, object]] = {}
    criterion: dict[str, object] = {}
    outside: list[tuple[str, object]] = []
    for name, value in state.items():
        if not isinstance(name, str):
            raise ValueError(f"{path}: found the name {name!r} of a tensor, expected text; download the file again")
        plain = _WRAPPERS.sub("", name)
        if not (part := _PART.search(plain)):
            outside.append((plain, value))
        elif part[0] == "criterion.":
            criterion[plain] = value
        elif plain[part.start() :] in own.setdefault(plain[: part.start()], {}):
            raise ValueError(f"{path}: holds {plain} twice, once as {name}; download the file again")
        else:
            own[plain[: part.start()]][plain[part.start() :]] = value
    if len(own) > 1:
        raise ValueError(f"{path}: found several networks, under {first_five(own)}, expected one; save one of them")
    ((prefix, network),) = own.items()
    for name, value in outside:
        # Names under the network's prefix may be parameters: the importer compares them with TAO's network later.
        if name.startswith(prefix):
            network[name.removeprefix(prefix)] = value
        else:
            log.info("%s: ignoring %s, which is not a part of the network", path, name)
    return network, criterion


def _state_dicts(content: Mapping[object, object], where: str) -> Iterator[tuple[str, Mapping[object, object]]]:
    """Find each dict within `content` that holds a Mask2Former's head; yield the keys that lead to it, and the dict."""
    if any(isinstance(name, str) and re.search(rf"(?:^|\.)(?:{_HEAD})\.", name) for name in content):
        yield where, content
        return
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _state_dicts(value, f"{where}.{name}".lstrip("."))


def _describe(content: Mapping[object, object]) -> str:
    """Say what a file without a Mask2Former's head holds."""
    inner = next((found for key in ("state_dict", "model") if isinstance(found := content.get(key), dict)), content)
    names = [str(name) for name in inner]
    if any(re.search(r"(?:^|\.)(?:panoptic_head|decode_head)\.", name) for name in names):
        return (
            "found a network of mmdetection or mmsegmentation, whose parameters have other names and layouts, such as "
            f"{first_five(name for name in names if 'head.' in name)}"
        )
    if any(re.search(r"(?:^|\.)(?:patch_embed|embeddings\.patch_embeddings)\.", name) for name in names):
        return "found a backbone only; set model.backbone.pretrained_weights to it instead"
    return f"found the keys {first_five(names)}, none of a Mask2Former"
