"""Compares the sizes of a Swin in a file of weights with model.backbone, before hours go into data and training.

The shapes of a Swin's parameters tell its sizes: a table of relative positions has (2 w - 1)^2 rows for windows of side
w, 169 for 7 and 529 for 12, and a column for each head (Liu et al., 2021, section 3.2). Only the file's list of tensors
is read, so this takes no longer for a large network; `train` compares every parameter.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages import config
from stages.weights import hugging_face_config, hugging_face_folder, reader, tensor_files, wrappers

_BLOCK = re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.attn\.relative_position_bias_table$")
_PATCHES = "patch_embed.proj.weight"


def check(root: Path, model: config.Model) -> None:
    """Raise ValueError unless the weights that a training starts from fit model.backbone. Paths are relative to `root`.

    The message names the parameters to set. Does nothing where no file is named, or it is not there yet.
    """
    named = model.weights or model.backbone.pretrained_weights
    path = root / named
    if not named or not path.exists():
        return
    if path.is_dir():
        content = hugging_face_folder.read_config(path)
        hugging_face_config.check(path / hugging_face_folder.CONFIG, content, model)
        return
    key = "model.weights" if model.weights else "model.backbone.pretrained_weights"
    shapes = _shapes(path, whole=bool(model.weights))
    backbone = model.backbone
    given = {
        "embed_dim": backbone.embed_dim,
        "depths": backbone.depths,
        "num_heads": backbone.num_heads,
        "window_size": backbone.window_size,
    }
    found = _sizes(shapes)
    if different := [name for name in given if found.get(name, given[name]) != given[name]]:
        steps = " ".join(f"model.backbone.{name}={str(found[name]).replace(' ', '')}" for name in different)
        ours = ", ".join(f"{name} {given[name]}" for name in different)
        raise ValueError(
            f"{path} ({key}) has a Swin of other sizes than model.backbone, which has {ours}: set {steps}, or {key} to "
            "weights of those sizes"
        )


def _shapes(path: Path, whole: bool) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter of the backbone. Raises ValueError as reader.read and reader.read_backbone."""
    content = _content(path)
    if whole:
        network, _ = wrappers.extract(path, content)
        start = "backbone."
    else:
        state = content.get("model") if isinstance(content, dict) else None
        network, start = state if isinstance(state, dict) else dict[str, object](reader.read_backbone(path)), ""
    return {
        str(name).removeprefix(start): tuple(getattr(value, "shape", ()))
        for name, value in network.items()
        if str(name).startswith(start)
    }


def _content(path: Path) -> Any:
    """Return what a file of weights holds. The tensors of a file of torch.save stay on the disk."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # Another kind of file, one of PyTorch before 1.6, or a damaged one, which this explains.
        return tensor_files.read(path)


def _sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, object]:
    """Return the fields of model.backbone that a Swin's shapes tell."""
    result: dict[str, object] = {}
    if len(patches := shapes.get(_PATCHES, ())) == 4:
        result["embed_dim"] = patches[0]
    tables = {
        (int(found[1]), int(found[2])): shape
        for name, shape in shapes.items()
        if (found := _BLOCK.search(name)) and len(shape) == 2
    }
    if tables:
        stages = range(max(stage for stage, _ in tables) + 1)
        result["depths"] = [sum(stage == one for stage, _ in tables) for one in stages]
        result["num_heads"] = [tables.get((one, 0), (0, 0))[1] for one in stages]
        result["window_size"] = (math.isqrt(tables[min(tables)][0]) + 1) // 2
    return result
