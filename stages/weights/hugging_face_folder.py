"""Reads a folder of Hugging Face's transformers: config.json, preprocessor_config.json and the files of tensors."""

import re
from pathlib import Path

from stages.weights import state_dict, tensor_files, wrappers
from stages.weights.messages import first_five
from stages.weights.state_dict import StateDict

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
SAFETENSORS, TORCH = "model.safetensors", "pytorch_model.bin"
TENSORS = (SAFETENSORS, f"{SAFETENSORS}.index.json", TORCH, f"{TORCH}.index.json")
"""Files that hold or list a folder's tensors, in transformers' order: it reads the first that exists."""


def read_config(folder: Path) -> dict[str, object]:
    """Read a folder's config.json. Raises ValueError if there is none, or it is not of a Mask2Former with a Swin."""
    if not (folder / CONFIG).is_file():
        inner = sorted(str(p.parent) for pattern in ("*", "*/*", "*/*/*") for p in folder.glob(f"{pattern}/{CONFIG}"))
        files = sorted(str(p) for p in folder.glob("*") if p.suffix in (".pth", ".pkl", ".pt"))
        hint = f"; set model.weights to {(inner or files)[0]}" if inner or files else ""
        raise ValueError(f"{folder} (model.weights): a folder without {CONFIG}, {tensor_files.EXPECTED}{hint}")
    content = tensor_files.read_json_object(folder / CONFIG)
    backbone = content.get("backbone_config")
    kind, backbone_kind = content.get("model_type"), backbone.get("model_type") if isinstance(backbone, dict) else None
    # transformers uses a Swin if there is no backbone_config.
    if kind != "mask2former" or (backbone is not None and backbone_kind != "swin"):
        raise ValueError(
            f"{folder / CONFIG}: found model_type {kind!r} with the backbone {backbone_kind!r}, expected mask2former "
            "with swin; set model.weights to such a network"
        )
    return content


def read_preprocessor(folder: Path) -> dict[str, object] | None:
    """Read a folder's preprocessor_config.json; return None if there is none."""
    path = folder / PREPROCESSOR
    return tensor_files.read_json_object(path) if path.is_file() else None


def tensor_file(folder: Path) -> Path:
    """Return the path of the file that holds a folder's tensors or lists them; it may not exist."""
    return next((path for name in TENSORS if (path := folder / name).exists()), folder / SAFETENSORS)


def read_parameters(folder: Path) -> StateDict:
    """Read a folder's tensors: TAO's parameters, float32, with no-object first.

    Raises FileNotFoundError if a file is missing, ValueError if a file is damaged or not of a Mask2Former with a Swin.
    """
    path = tensor_file(folder)
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds neither {', '.join(TENSORS[:-1])} nor {TENSORS[-1]}; download the folder again"
        )
    content = _read_shards(path) if path.name.endswith(".json") else tensor_files.read(path)
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{path}: found no tensors by name, expected a state dict; download the file again")
    if wrappers.is_wrapped(content):
        content, _ = wrappers.unwrap(path, content)
    return state_dict.from_hugging_face(tensor_files.to_float32(path, state_dict.without_unused(content)))


def class_names(folder: Path, content: dict[str, object]) -> list[str] | None:
    """Return the names of the classes, in the order of the class head, from the content of config.json.

    None if it has no id2label. Raises ValueError if id2label does not give one name to each number from 0.
    """
    found = content.get("id2label")
    if not found:
        return None
    where = f"{folder / CONFIG}: id2label"
    if isinstance(found, dict):
        numbered = {int(key): value for key, value in found.items() if re.fullmatch("[0-9]{1,9}", key)}
        if len(numbered) != len(found) or sorted(numbered) != list(range(len(found))):
            raise ValueError(
                f"{where} has the keys {first_five(found)}, expected the numbers 0 to {len(found) - 1}; correct them, "
                "or name the classes in model.weights_classes"
            )
        found = [numbered[number] for number in range(len(numbered))]
    if not isinstance(found, list) or any(not isinstance(name, str) or not name for name in found):
        raise ValueError(f"{where} does not give each number a name; correct it, or set model.weights_classes")
    return found


def _read_shards(index: Path) -> dict[str, object]:
    """Read the tensors of all files that an index lists. Raises ValueError if a file holds other names than listed."""
    listed = tensor_files.read_json_object(index).get("weight_map")
    if not isinstance(listed, dict) or not listed or any(not isinstance(name, str) for name in listed.values()):
        raise ValueError(f"{index}: has no weight_map of names and files; download the folder again")
    result: dict[str, object] = {}
    for name in sorted(set(listed.values())):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{index}: lists {name!r}, which is not in its folder; download the folder again")
        if not (shard := index.parent / name).is_file():
            raise FileNotFoundError(f"{shard} not found, which {index.name} lists; download the folder again")
        found = tensor_files.read(shard)
        wanted = {key for key, place in listed.items() if place == name}
        if not isinstance(found, dict) or found.keys() != wanted:
            odd = found.keys() ^ wanted if isinstance(found, dict) else wanted
            raise ValueError(
                f"{shard}: holds other tensors than {index.name} lists ({first_five(odd)}); download the folder again"
            )
        result |= found
    return result
