"""Imports weights that were trained elsewhere: as a TAO checkpoint without training, or as the start of a training."""

import logging
import pickle
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import config
from stages.foundation import files
from stages.tao import wheel
from stages.weights import compatibility, formats, hugging_face_config, hugging_face_folder, messages, reader
from stages.weights.state_dict import CLASS_HEAD, StateDict, reorder_classes

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

LabelMap = Sequence[Mapping[str, object]]
"""Content of label_map.json, as convert writes it: the classes in order, each with its name."""


def load_parameters(label_map: LabelMap, model: config.Model, net: "nn.Module | None" = None) -> StateDict:
    """Return the parameters of model.weights by TAO's names, float32, with the classes in the order of the label map.

    With `net`, TAO's network, names and shapes are compared with it before the classes are. Raises FileNotFoundError if
    there is no such file, ValueError if file, network, parameters and label map do not agree.
    """
    found = _read(model, net)
    if net is not None:
        require_parameters(found.parameters, net, model.weights, any_shape=f"{CLASS_HEAD}.")
    return _order_classes(found, label_map, model)


def write_checkpoint(label_map: LabelMap, model: config.Model, draft: Path) -> int:
    """Write model.weights to draft/model.pth as TAO's trainer writes a checkpoint; return the number of parameters.

    draft/spec.yaml is TAO's spec of the network. Raises as `load_parameters`, and ValueError naming each parameter that
    is missing, unexpected or of another shape.
    """
    from importlib.metadata import version

    import torch

    net = wheel.build_network(draft / "spec.yaml")
    load_into(net, load_parameters(label_map, model, net), model.weights)
    full = {f"model.{name}": value for name, value in net.state_dict().items()}
    # This buffer of the loss marks a file in which no-object is first; see formats.py.
    empty_weight = torch.ones(len(label_map) + 1)
    empty_weight[0] = _tao_model_spec(net).mask_former.no_object_weight
    torch.save(
        {
            "state_dict": full | {formats.EMPTY_WEIGHT: empty_weight},
            "epoch": 0,
            "global_step": 0,
            "pytorch-lightning_version": version("pytorch-lightning"),
            "tao_model": "mask2former",
        },
        draft / "model.pth",
    )
    count = sum(int(p.numel()) for p in net.parameters())
    log.info("%s: %d parameters imported as a TAO checkpoint", model.weights, count)
    return count


def write_initial_weights(label_map: LabelMap, model: config.Model, draft: Path, out: Path) -> None:
    """Write model.weights to the pickle `out`, from which TAO starts a training of the network of draft/spec.yaml.

    The pickle has the format of the original's model zoo. If the weights are for another number of classes, the class
    head keeps its random weights. Raises as `write_checkpoint` for all other parameters.
    """
    net = wheel.build_network(draft / "spec.yaml")
    found = _read(model, net)
    parameters = found.parameters
    head = {name: value for name, value in net.state_dict().items() if name.startswith(f"{CLASS_HEAD}.")}
    require_parameters(head | parameters, net, model.weights, any_shape=f"{CLASS_HEAD}.")
    if all(name in parameters and parameters[name].shape == value.shape for name, value in head.items()):
        parameters = _order_classes(found, label_map, model)
    else:
        log.info(
            "%s: the number of classes is not the label map's, so %s starts from random weights",
            model.weights, CLASS_HEAD,
        )  # fmt: skip
        parameters |= head
    load_into(net, parameters, model.weights)
    with out.open("wb") as file:
        pickle.dump({"model": {name: value.numpy() for name, value in net.state_dict().items()}}, file)


def load_into(net: "nn.Module", state: StateDict, source: str) -> None:
    """Load parameters into TAO's network. Raises ValueError as `require_parameters`; `source` is for its message."""
    require_parameters(state, net, source)
    # Not strict: `state` lacks the buffers that the network computes.
    net.load_state_dict(state, strict=False)


def require_parameters(state: StateDict, net: "nn.Module", source: str, any_shape: str | None = None) -> None:
    """Raise ValueError unless `state` has exactly the parameters of a network, each with its shape.

    Parameters whose names start with `any_shape` may have any shape. `source` names the file in the message.
    """
    wanted = dict(net.named_parameters())
    missing = [f"{name} is missing" for name in sorted(wanted.keys() - state.keys())]
    unexpected = [f"{name} is unexpected" for name in sorted(state.keys() - net.state_dict().keys())]
    problems = missing + unexpected
    for name in sorted(wanted.keys() & state.keys()):
        if any_shape is not None and name.startswith(any_shape):
            continue
        if (theirs := tuple(state[name].shape)) != (ours := tuple(wanted[name].shape)):
            problems.append(f"{name} is {theirs}, expected {ours}")
    if problems:
        raise ValueError(
            f"{source} does not fit the network of `model` in conf/: {messages.problems(problems)}; set the sizes and "
            f"numbers of layers in `model` to those of the weights{', or save the whole network' * bool(missing)}"
            f"{', or remove the unexpected parameters from the file' * bool(unexpected)}"
        )


def check_backbone(path: Path, spec: Path) -> None:
    """Raise ValueError unless a file of ImageNet weights has every parameter of the backbone of a TAO spec.

    The norms of the four stages' outputs are excepted, because a classifier has none. TAO itself loads the parameters
    whose names it knows and leaves the others random, without an error.
    """
    found = reader.read_backbone(path)
    backbone: wheel.TaoModule = wheel.build_network(spec).backbone
    wanted = {name: value for name, value in backbone.named_parameters() if not re.match(r"norm\d\.", name)}
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    problems += [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in found and found[name].shape != value.shape
    ]
    if problems:
        raise ValueError(
            f"{path} does not fit the backbone of `model` in conf/: {messages.problems(problems)}; set model.backbone, "
            "or model.backbone.pretrained_weights to a file of the original Swin"
        )


def check_hash(path: Path, expected: str, key: str) -> None:
    """Check that the file of the parameter `key` exists, and that its SHA-256 is `expected` unless that is empty.

    Raises FileNotFoundError or ValueError; the messages name `key` and KEY_sha256.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found ({key}); put it there, or set the key to another path")
    if expected and (found := files.sha256(path)) != expected:
        raise ValueError(
            f"{path}: its SHA-256 is {found}, expected {expected}; download the file again, or set {key}_sha256 if you "
            "trust this one"
        )


def _tao_model_spec(net: "nn.Module") -> Any:
    """Return the part `model` of the OmegaConf spec that TAO's network was built from."""
    found: wheel.TaoModule = net
    return found.cfg.model


def _read(model: config.Model, net: "nn.Module | None") -> reader.Weights:
    """Read model.weights; check that their network has the settings of `net`, or TAO's defaults without `net`."""
    from omegaconf import OmegaConf

    path = Path(model.weights)
    hashed = reader.hashed_file(path)
    if hashed.is_file():
        check_hash(hashed, model.weights_sha256, "model.weights")
    ours: Any = OmegaConf.to_container(_tao_model_spec(net)) if net is not None else {}
    if path.is_dir():
        content = hugging_face_folder.read_config(path)
        hugging_face_config.check(path / hugging_face_folder.CONFIG, content, model)
        compatibility.check_spec("train.tao_spec", ours)
        if preprocessor := hugging_face_folder.read_preprocessor(path):
            compatibility.check_normalization(path / hugging_face_folder.PREPROCESSOR, preprocessor)
    found = reader.read(path, model.weights_format)
    if found.spec:
        theirs = found.spec.content
        if others := compatibility.spec_differences(theirs["model"], ours):
            raise ValueError(
                f"{found.spec.path}: {'; '.join(others)}: the weights would give other results than in their own "
                f"network; set these keys in train.tao_spec, or move {path.name} to another folder if the spec belongs "
                "to other weights"
            )
        dataset = theirs.get("dataset") or {}
        normalization = {
            f"image_{key}": dataset[f"pixel_{key}"] for key in ("mean", "std") if f"pixel_{key}" in dataset
        }
        compatibility.check_normalization(found.spec.path, normalization)
    return found


def _order_classes(found: reader.Weights, label_map: LabelMap, model: config.Model) -> StateDict:
    """Return the parameters with the classes in the order of the label map.

    Raises ValueError if the weights have other classes, or their names are not known.
    """
    path, names = f"{model.weights} (model.weights)", [str(entry["name"]) for entry in label_map]
    head = found.parameters.get(f"{CLASS_HEAD}.bias")
    if head is None:
        raise ValueError(
            f"{path} does not fit the network of `model` in conf/: {CLASS_HEAD}.bias is missing; use a whole network"
        )
    classes = len(head) - 1
    theirs = names if model.weights_classes == [config.LABEL_MAP] else model.weights_classes or found.classes
    if theirs is None:
        raise ValueError(
            f"{path} does not name its {classes} classes; set model.weights_classes to their names in order, or to "
            f"[{config.LABEL_MAP}] if they have the label map's order"
        )
    problems = [f"the name {name!r} appears twice" for name, count in Counter(theirs).items() if count > 1]
    if len(theirs) != classes:
        problems.append(f"{len(theirs)} names for the {classes} classes of {CLASS_HEAD}")
    if strange := [name for name in theirs if name not in names]:
        problems.append(f"the label map has no {', '.join(map(repr, strange[:3]))}")
    if absent := [name for name in names if name not in theirs]:
        problems.append(f"the weights have no {', '.join(map(repr, absent[:3]))}")
    if problems:
        raise ValueError(
            f"{path}: {'; '.join(problems)}; set model.weights_classes to the names in the label map, or choose the "
            "taxonomy that the weights were trained with (data.sources)"
        )
    return reorder_classes(found.state, [theirs.index(name) for name in names])
