"""Weights that others trained: files of the original Mask2Former, of TAO, and folders of Hugging Face's transformers.

Nothing that a file says is run: tensors are read with weights_only or from safetensors, and a pickle by an unpickler
that makes arrays alone.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.foundation import files
from stages.weights import layouts

if TYPE_CHECKING:
    from stages.weights.layouts import State

CONFIG, SAFETENSORS, INDEX, TORCH = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
)
_EXPECTED = "expected a .pth or .pkl of Mask2Former or TAO, or a folder of Hugging Face with config.json"
_HARMLESS = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"{core}.numeric", "_frombuffer") for core in ("numpy.core", "numpy._core")),
    *((f"{core}.multiarray", name) for core in ("numpy.core", "numpy._core") for name in ("_reconstruct", "scalar")),
}
"""All that a pickled array needs."""


@dataclass(frozen=True)
class Weights:
    """A network's parameters."""

    state: "State"
    """By TAO's names, float32; class_embed with no-object first."""
    config: dict[str, Any] | None = None
    """Hugging Face's config.json."""

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes in their order, where the file has them."""
        names = (self.config or {}).get("id2label")
        return [str(names[key]) for key in sorted(names, key=int)] if names else None


def read(path: Path) -> Weights:
    """Weights of a file or folder. Raises FileNotFoundError, or ValueError saying what it holds instead."""
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found (model.weights); put it there, {_EXPECTED}")
    if path.suffix == ".pkl":
        return _of(path, _unpickled(path))
    if path.suffix in (".pth", ".pt"):
        return _of(path, _loaded(path))
    raise ValueError(f"{path} (model.weights): found a file of kind {path.suffix!r}, {_EXPECTED}")


def main_file(path: Path) -> Path:
    """The file whose hash stands for the weights: of a folder the one with, or the one that lists, its tensors."""
    if not path.is_dir():
        return path
    return next((p for p in (path / SAFETENSORS, path / INDEX, path / TORCH) if p.exists()), path / SAFETENSORS)


def _of(path: Path, content: Any) -> Weights:
    if not isinstance(content, dict):
        raise ValueError(f"{path}: found {type(content).__name__}, {_EXPECTED}")
    if isinstance(state := content.get("state_dict"), dict):
        # Lightning's, with the loss's own buffers beside the network.
        network = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
        return Weights(_tensors(path, network))
    state = content.get("model", content)
    if not isinstance(state, dict) or not any(str(key).startswith("sem_seg_head.") for key in state):
        raise ValueError(f"{path}: found the keys {sorted(map(str, content))[:5]}, none of a Mask2Former; {_EXPECTED}")
    return Weights(layouts.from_original(_tensors(path, state)))


def _folder(path: Path) -> Weights:
    if not (path / CONFIG).is_file():
        raise ValueError(f"{path} (model.weights): a folder without {CONFIG}, {_EXPECTED}")
    config = files.read_json(path / CONFIG)
    kinds = config.get("model_type"), (config.get("backbone_config") or {}).get("model_type")
    if kinds != ("mask2former", "swin"):
        raise ValueError(f"{path / CONFIG}: model_type {kinds[0]!r} with {kinds[1]!r}, expected mask2former with swin")
    if not (file := main_file(path)).is_file():
        raise FileNotFoundError(f"{path} holds neither {SAFETENSORS}, {INDEX} nor {TORCH}; get the folder anew")
    if file.name == TORCH:
        state = _loaded(file)
    else:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        shards = {file}
        if file.name == INDEX:
            shards = {path / Path(name).name for name in files.read_json(file)["weight_map"].values()}
        state = {}
        for shard in sorted(shards):
            try:
                state |= load_file(shard)
            except (SafetensorError, OSError) as error:
                raise ValueError(f"{shard}: can't be read ({error}); get it anew") from error
    return Weights(layouts.from_hugging_face(_tensors(file, state)), config)


def _loaded(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path}: not read, for it holds more than tensors, or is broken ({reason}); save its state dict alone: "
            "torch.save({'model': network.state_dict()}, file)"
        ) from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _unpickled(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path}: not read, for a pickle can run code and this one holds more than arrays, or is broken ({error}); "
            "take a file of the model zoo, or save the state dict as .pth"
        ) from error


def _tensors(path: Path, state: dict[Any, Any]) -> "State":
    import numpy as np
    import torch

    result = {}
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value.copy())
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(f"{path}: {name!r} is {type(value).__name__}, expected a tensor; get the file anew")
        result[name] = value.float() if value.is_floating_point() else value
    return result
