"""Weights that others trained: files of the original Mask2Former, of TAO, and folders of Hugging Face's transformers.

Nothing that a file says is run: tensors are read with weights_only or from safetensors, and a pickle by an unpickler
that makes arrays alone. Whose a file is, its content says, or model.weights_format: neither its name nor the dict
around its tensors counts.
"""

import logging
import pickle
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.foundation import text
from stages.weights import layouts

if TYPE_CHECKING:
    from stages.weights.layouts import State

log = logging.getLogger(__name__)

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
SAFETENSORS, TORCH = "model.safetensors", "pytorch_model.bin"
TENSORS = (SAFETENSORS, f"{SAFETENSORS}.index.json", TORCH, f"{TORCH}.index.json")
"""Files of a folder that hold, or list, its tensors; transformers takes the first that is there."""
SPECS = ("spec.yaml", "experiment.yaml")
"""Names of TAO's experiment spec beside a checkpoint."""
TAO, ORIGINAL, HUGGING_FACE = "tao", "original", "hugging_face"
EMPTY_WEIGHT = "criterion.empty_weight"
"""Buffer of the loss, float [1 + C]: 1 for each class and less for no-object.

No-object is first in TAO (nvidia_tao_pytorch 7.3, cv/mask2former/utils/criterion.py), and last in the original
(facebookresearch/Mask2Former, mask2former/modeling/criterion.py), as its row in class_embed is.
"""
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
_PLACEHOLDERS = {
    b"version https://git-lfs.github.com/spec/": "a pointer of Git LFS, not the file itself; run `git lfs pull` there",
    b"<!doctype html": "a web page; download the file itself",
    b"<html": "a web page; download the file itself",
}
"""How a file begins that stands in another's place, lower case, and what it is."""
_TORCH_STARTS = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""PyTorch's zip, and its form before 1.6: a pickle that begins with a number of its own."""
_WRAPPERS = re.compile(r"(?:^|(?<=\.))_(?:orig_mod|forward_module|fsdp_wrapped_module|checkpoint_wrapped_module)\.")
"""What torch.compile, Lightning, FSDP and activation checkpointing put into names, also in their middle."""
_HEAD = r"sem_seg_head|model\.pixel_level_module|model\.transformer_module"
_PART = re.compile(rf"(?:^|(?<=\.))(?:{_HEAD}|backbone|class_predictor|criterion)\.")
"""Where a parameter's own name begins. What is before it is of modules around the network: module., model., both."""


type Spec = tuple[Path, dict[str, Any]]
"""An experiment spec of TAO: its path and its content."""


@dataclass(frozen=True)
class Weights:
    """A network's parameters."""

    path: Path
    parameters: "State"
    """By TAO's names, float32; class_embed with no-object first, unless it is undecided."""
    undecided: str = ""
    """Why it is not known which row of class_embed is no-object."""
    config: dict[str, Any] | None = None
    """Hugging Face's config.json."""
    spec: Spec | None = None
    """For a file of TAO, its experiment spec, where one lies beside it."""

    @property
    def state(self) -> "State":
        """The parameters, with no-object first. Raises ValueError where that is undecided."""
        if self.undecided:
            raise ValueError(self.undecided)
        return self.parameters

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes in their order, where the file has them. Raises ValueError where they are ambiguous."""
        found = (self.config or {}).get("id2label")
        if not found:
            return None
        where = f"{self.path / CONFIG}: id2label"
        if isinstance(found, dict):
            numbered = {int(key): value for key, value in found.items() if re.fullmatch("[0-9]{1,9}", key)}
            if len(numbered) != len(found) or sorted(numbered) != list(range(len(found))):
                raise ValueError(
                    f"{where} has the keys {_some(found)}, expected the numbers 0 to {len(found) - 1}; mend it, or "
                    "name the classes in model.weights_classes"
                )
            found = [numbered[number] for number in range(len(numbered))]
        if not isinstance(found, list) or any(not isinstance(name, str) or not name for name in found):
            raise ValueError(f"{where} is not a name for each number; mend it, or set model.weights_classes")
        return found


def read(path: Path, stated: str = "") -> Weights:
    """Weights of a file or folder, of the format `stated` (model.weights_format) or, if empty, as the content tells.

    Raises FileNotFoundError, or ValueError saying what it holds instead, or that `stated` is another format.
    """
    if path.is_dir():
        return _folder(path, stated)
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found (model.weights); put it there, {_EXPECTED}")
    content = _content(path)
    own, criterion = _network(path, content)
    if any(name.startswith("model.") or name.startswith("class_predictor.") for name in own):
        raise ValueError(
            f"{path}: a network of Hugging Face's transformers without its {CONFIG}; set model.weights to the folder "
            "that holds both"
        )
    state = _tensors(path, own)
    beside = _spec_beside(path, len(state.get(f"{layouts.CLASSES}.bias", ())) - 1)
    kind = _format(path, content.get("tao_model") == "mask2former", state, criterion, beside, stated)
    if kind == TAO:
        return Weights(path, state, spec=beside)
    undecided = (
        f"{path}: nothing tells whether it is of TAO, whose {layouts.CLASSES} has no-object first, or of the original "
        f"Mask2Former, which has it last (no {EMPTY_WEIGHT} in it, no {SPECS[0]} of TAO beside it); set "
        f"model.weights_format={TAO} or model.weights_format={ORIGINAL}"
    )
    return Weights(path, layouts.from_original(state), undecided="" if kind else undecided)


def read_backbone(path: Path) -> "State":
    """Parameters of a Swin by the original Swin's names, from a file as its releases have them: {"model": ...}.

    Raises ValueError where it holds something else: TAO would leave out what it does not know, without a word.
    """
    content = _content(path)
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        found = _some(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: found {found}, expected a .pth of the original Swin, whose one key is model")
    return _tensors(path, state)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder of Hugging Face. Raises ValueError where there is none, or no Mask2Former's."""
    if not (folder / CONFIG).is_file():
        inner = sorted(str(p.parent) for pattern in ("*", "*/*", "*/*/*") for p in folder.glob(f"{pattern}/{CONFIG}"))
        files = sorted(str(p) for p in folder.glob("*") if p.suffix in (".pth", ".pkl", ".pt"))
        hint = f"; set model.weights to {(inner or files)[0]}" if inner or files else ""
        raise ValueError(f"{folder} (model.weights): a folder without {CONFIG}, {_EXPECTED}{hint}")
    content = _json(folder / CONFIG)
    backbone = content.get("backbone_config")
    kinds = content.get("model_type"), backbone.get("model_type") if isinstance(backbone, dict) else backbone
    # Without a backbone_config transformers takes a Swin.
    if kinds[0] != "mask2former" or (backbone is not None and kinds[1] != "swin"):
        raise ValueError(
            f"{folder / CONFIG}: model_type {kinds[0]!r} with {kinds[1]!r}, expected mask2former with swin"
        )
    return content


def read_preprocessor(folder: Path) -> dict[str, Any] | None:
    """The preprocessor_config.json of a folder of Hugging Face, where it has one."""
    return _json(folder / PREPROCESSOR) if (folder / PREPROCESSOR).is_file() else None


def main_file(path: Path) -> Path:
    """The file whose hash stands for the weights: of a folder the one with, or the one that lists, its tensors."""
    if not path.is_dir():
        return path
    return next((p for name in TENSORS if (p := path / name).exists()), path / SAFETENSORS)


def _format(
    path: Path, says_tao: bool, state: "State", criterion: dict[str, Any], beside: Spec | None, stated: str
) -> str:
    """TAO or ORIGINAL, by which row of class_embed is no-object; empty where nothing tells. Raises as `read`."""
    rows = len(state.get(f"{layouts.CLASSES}.bias", ()))
    if not rows:
        return ORIGINAL  # Nothing to move; what is missing is told with all that is.
    found = {}
    for name, value in criterion.items():
        if name.endswith(EMPTY_WEIGHT) and getattr(value, "shape", None) == (rows,):
            numbers = [float(number) for number in value]
            if numbers[0] != 1 and set(numbers[1:]) == {1.0}:
                found[TAO] = f"its {EMPTY_WEIGHT} has no-object first"
            elif numbers[-1] != 1 and set(numbers[:-1]) == {1.0}:
                found[ORIGINAL] = f"its {EMPTY_WEIGHT} has no-object last"
    if any(layouts.STATIC_QUERY[0] in name for name in state):
        found.setdefault(ORIGINAL, "its queries are called static_query")
    if says_tao:
        found.setdefault(TAO, "it says tao_model: mask2former")
    # A folder can hold several files, so the spec counts where the file itself tells nothing.
    if not found and beside:
        found[TAO] = f"{beside[0]} is a spec of TAO for its {rows - 1} classes"
    if len(found) > 1:
        raise ValueError(
            f"{path}: {found[TAO]}, as in TAO, but {found[ORIGINAL]}, as in the original Mask2Former; save it anew "
            "from the program that trained it"
        )
    kind = next(iter(found), stated if stated in (TAO, ORIGINAL) else "")
    if stated not in ("", kind):
        reason = found.get(kind, "it is a file of parameters by TAO's and the original's names")
        raise ValueError(
            f"{path}: model.weights_format is {stated}, but {reason}; set model.weights_format={kind or TAO}, or take "
            "the right file"
        )
    return kind


def _spec_beside(path: Path, classes: int) -> Spec | None:
    """The experiment spec of a Mask2Former of TAO with as many classes that lies beside a file."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    for name in SPECS:
        if not (found := path.parent / name).is_file():
            continue
        try:
            content: Any = OmegaConf.to_container(OmegaConf.create(text.read(found)))
        except (OSError, ValueError, YAMLError):
            continue  # not TAO's
        model = content.get("model") if isinstance(content, dict) else None
        head, decoder = (model.get(k) if isinstance(model, dict) else None for k in ("sem_seg_head", "mask_former"))
        # 200 is TAO's default.
        if isinstance(head, dict) and isinstance(decoder, dict) and head.get("num_classes", 200) == classes:
            return found, content
    return None


def _network(path: Path, content: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A network's parameters by their own names, and what is of its loss, from what a file holds around them."""
    if not isinstance(content, dict):
        raise ValueError(f"{path}: found {type(content).__name__}, {_EXPECTED}")
    if content.get("state_dict_encrypted"):
        raise ValueError(f"{path}: a checkpoint that TAO encrypted; save it without an encryption key")
    if not (found := dict(_networks(content, ""))):
        raise ValueError(f"{path}: {_stranger(content)}; {_EXPECTED}")
    names = set(found) if len(found) == 1 else set(found) & {"state_dict", "model"}
    if len(names) != 1:
        raise ValueError(f"{path}: found the networks {_some(found)}; save the one that is meant alone")
    return _unwrapped(path, found[names.pop()])


def _networks(content: dict[Any, Any], where: str) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Each dict within `content` that holds a Mask2Former's head, and the keys that lead to it."""
    if any(isinstance(name, str) and re.search(rf"(?:^|\.)(?:{_HEAD})\.", name) for name in content):
        yield where, content
        return
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _networks(value, f"{where}.{name}".lstrip("."))


def _stranger(content: dict[Any, Any]) -> str:
    """What a file without a Mask2Former's head looks like."""
    inner = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)), content)
    names = [str(name) for name in inner]
    if any(re.search(r"(?:^|\.)(?:panoptic_head|decode_head)\.", name) for name in names):
        return (
            "found the form of mmdetection or mmsegmentation, whose names and layouts are others (as in "
            f"{_some(name for name in names if 'head.' in name)})"
        )
    if any(re.search(r"(?:^|\.)(?:patch_embed|embeddings\.patch_embeddings)\.", name) for name in names):
        return "found a backbone alone, which model.backbone.pretrained_weights takes"
    return f"found the keys {_some(names)}, none of a Mask2Former"


def _unwrapped(path: Path, state: dict[Any, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`state` without the names of modules around the network, and apart from it what is of the loss.

    Raises ValueError where there are several networks in it, as with an average of weights beside them.
    """
    own: dict[str, dict[str, Any]] = {}
    criterion, outside = {}, []
    for name, value in state.items():
        if not isinstance(name, str):
            raise ValueError(f"{path}: found the name {name!r} among its tensors, expected text; get the file anew")
        plain = _WRAPPERS.sub("", name)
        if not (part := _PART.search(plain)):
            outside.append((plain, value))
        elif part[0] == "criterion.":
            criterion[plain] = value
        elif plain[part.start() :] in own.setdefault(plain[: part.start()], {}):
            raise ValueError(f"{path}: holds {plain} twice, once as {name}; get the file anew")
        else:
            own[plain[: part.start()]][plain[part.start() :]] = value
    if len(own) > 1:
        raise ValueError(
            f"{path}: found several networks, under {_some(own)}; save the parameters of the one that is meant alone"
        )
    ((prefix, network),) = own.items()
    for name, value in outside:
        # Metrics and the like of a module around the network; whether all of the network is there is told later.
        if name.startswith(prefix):
            network[name.removeprefix(prefix)] = value
        else:
            log.info("%s: %s is not of the network and left out", path, name)
    return network, criterion


def _folder(path: Path, stated: str) -> Weights:
    config = read_config(path)
    if stated not in ("", HUGGING_FACE):
        raise ValueError(
            f"{path}: model.weights_format is {stated}, but the folder is one of Hugging Face ({CONFIG}); set "
            f"model.weights_format={HUGGING_FACE}, or model.weights to a file"
        )
    if not (file := main_file(path)).is_file():
        raise FileNotFoundError(
            f"{path} holds neither {', '.join(TENSORS[:-1])} nor {TENSORS[-1]}; get the folder anew"
        )
    state = _shards(file) if file.name.endswith(".json") else _content(file)
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"{file}: holds no tensors by name; get it anew")
    if state:
        state = _unwrapped(file, state)[0] if any(map(_PART.search, state)) else state
    return Weights(path, layouts.from_hugging_face(_tensors(file, state)), config=config)


def _shards(index: Path) -> dict[str, Any]:
    """The tensors of all files that an index lists, each of which holds what the index says."""
    listed = _json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed or any(not isinstance(name, str) for name in listed.values()):
        raise ValueError(f"{index}: has no weight_map of names and files; get the folder anew")
    result: dict[str, Any] = {}
    for name in sorted(set(listed.values())):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{index}: lists {name!r}, which is not in its folder; get the folder anew")
        if not (shard := index.parent / name).is_file():
            raise FileNotFoundError(f"{shard} not found, which {index.name} lists; get the folder anew")
        found = _content(shard)
        wanted = {key for key, place in listed.items() if place == name}
        if not isinstance(found, dict) or found.keys() != wanted:
            odd = found.keys() ^ wanted if isinstance(found, dict) else wanted
            raise ValueError(f"{shard}: holds other tensors than {index.name} says ({_some(odd)}); get the folder anew")
        result |= found
    return result


def _content(path: Path) -> Any:
    """What a file holds, by how it begins, or else by its suffix. Raises ValueError where it can't be read safely."""
    start = _start(path)
    size = int.from_bytes(start[:8], "little")
    if path.suffix == ".safetensors" or (start[8:9] == b"{" and size < path.stat().st_size):
        return _safe(path)
    if start.startswith(_TORCH_STARTS):
        return _loaded(path)
    if path.suffix == ".pkl" or (start[:1] == b"\x80" and start[1:2] <= b"\x05"):
        return _unpickled(path)
    if path.suffix in (".pth", ".pt", ".bin", ".ckpt"):
        return _loaded(path)
    raise ValueError(f"{path} (model.weights): found a file of kind {path.suffix!r}, {_EXPECTED}")


def _start(path: Path) -> bytes:
    """The first bytes of a file. Raises ValueError where it is empty or stands in another's place."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise ValueError(f"{path} is empty; get it anew")
    for mark, what in _PLACEHOLDERS.items():
        if start.lstrip().lower().startswith(mark):
            raise ValueError(f"{path} is {what}")
    return start


def _json(path: Path) -> dict[str, Any]:
    _start(path)
    content = text.read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: found {type(content).__name__}, expected an object; get it anew")
    return content


def _safe(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: can't be read ({_line(error)}); get it anew") from error


def _loaded(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises anything on a file that is broken.
        raise ValueError(
            f"{path}: not read, for it holds more than tensors, or is broken ({_line(error)}); save its state dict "
            "alone, torch.save(network.state_dict(), file), and say whose it is in model.weights_format"
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
    except Exception as error:  # A pickle that is broken raises anything.
        raise ValueError(
            f"{path}: not read, for a pickle can run code and this one holds more than arrays, or is broken "
            f"({_line(error)}); take a file of the model zoo, or save the state dict as .pth"
        ) from error


def _tensors(path: Path, state: dict[str, Any]) -> "State":
    """The parameters that an answer depends on, as float32. Raises ValueError naming one that can't be one."""
    import numpy as np
    import torch

    result = {}
    for name, value in layouts.used(state).items():
        found: Any = value
        try:
            tensor = torch.from_numpy(found.copy()) if isinstance(found, np.ndarray) else found
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {name!r} is an array of {found.dtype}, expected float32") from error
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{path}: {name!r} is {type(found).__name__}, expected a tensor; get the file anew")
        dense = tensor.layout is torch.strided and not tensor.is_meta
        if not dense or not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.") if dense else "without values of its own"
            raise ValueError(f"{path}: {name!r} is {kind}, expected float32; save the network as it was trained")
        result[name] = tensor.detach().float()
        if not bool(torch.isfinite(result[name]).all()):
            count = int((~torch.isfinite(result[name])).sum())
            raise ValueError(
                f"{path}: {name!r} has {count} values that are NaN or infinite; take a checkpoint from before they came"
            )
    return result


def _some(names: Iterable[Any]) -> str:
    """The first five of names, for a message."""
    found = sorted(map(str, names))
    return f"{found[:5]}{f' and {len(found) - 5} more' if len(found) > 5 else ''}"


def _line(error: Exception) -> str:
    """An error's first line, or its type where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
