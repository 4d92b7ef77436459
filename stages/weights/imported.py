"""Weights from elsewhere as a TAO checkpoint, without a training run, and as the start of one."""

import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

from stages import config
from stages.foundation import files
from stages.tao import wheel
from stages.weights import hugging_face_config, layouts, reading

log = logging.getLogger(__name__)


def state(label_map: list[dict[str, Any]], model: config.Model, net: Any = None) -> "layouts.State":
    """TAO's parameters of the network of model.weights, its classes in the order of the label map.

    With `net`, TAO's network that they are for, their names and shapes are compared before their classes. Raises
    FileNotFoundError, or ValueError where file, parameters and label map don't fit.
    """
    found = _read(model, net)
    if net is not None:
        require_parameters(found.parameters, net, model.weights, but=f"{layouts.CLASSES}.")
    return _ordered(found, label_map, model)


def _read(model: config.Model, net: Any) -> reading.Weights:
    """The weights of model.weights, of a network that computes as `net`, or without it as TAO's defaults do."""
    from omegaconf import OmegaConf

    path = Path(model.weights)
    main = reading.main_file(path)
    if main.is_file():
        check_hash(main, model.weights_sha256, "model.weights")
    # TAO's network knows the whole spec that it was built from.
    ours: Any = OmegaConf.to_container(net.cfg.model) if net is not None else {}
    if path.is_dir():
        hugging_face_config.check(path / reading.CONFIG, reading.read_config(path), model)
        hugging_face_config.check_spec("train.tao_spec", ours)
        if preprocessor := reading.read_preprocessor(path):
            hugging_face_config.check_preprocessor(path / reading.PREPROCESSOR, preprocessor)
    found = reading.read(path, model.weights_format)
    if found.spec:
        where, theirs = found.spec
        if others := hugging_face_config.differences(theirs["model"], ours):
            raise ValueError(
                f"{where}: {'; '.join(others)}: with that the same weights answer otherwise; set it in train.tao_spec, "
                f"or move {path.name} to a folder of its own if the spec is another's"
            )
        dataset = theirs.get("dataset") or {}
        normalised = {f"image_{key}": dataset[f"pixel_{key}"] for key in ("mean", "std") if f"pixel_{key}" in dataset}
        hugging_face_config.check_preprocessor(where, normalised)
    return found


def checkpoint(label_map: list[dict[str, Any]], model: config.Model, draft: Path) -> int:
    """Write draft/model.pth, as TAO's trainer would, for the network of draft/spec.yaml; return its parameters' count.

    Raises what `state` does, and ValueError naming each parameter that is missing, left over or of another shape.
    """
    from importlib.metadata import version

    import torch

    net: Any = wheel.build_network(draft / "spec.yaml")
    fit(state(label_map, model, net), net, model.weights)
    full = {f"model.{name}": value for name, value in net.state_dict().items()}
    # By this buffer of the loss a file tells that no-object is first in it.
    loss = torch.ones(len(label_map) + 1)
    loss[0] = net.cfg.model.mask_former.no_object_weight
    torch.save(
        {
            "state_dict": full | {reading.EMPTY_WEIGHT: loss},
            "epoch": 0,
            "global_step": 0,
            "pytorch-lightning_version": version("pytorch-lightning"),
            "tao_model": "mask2former",
        },
        draft / "model.pth",
    )
    count = sum(int(p.numel()) for p in net.parameters())
    log.info("%s: %d parameters", model.weights, count)
    return count


def start(label_map: list[dict[str, Any]], model: config.Model, draft: Path, out: Path) -> None:
    """Write what the training of draft/spec.yaml starts from, as TAO's loader for the original's pickles takes it.

    Where the weights have another number of classes, class_embed starts anew; raises as `checkpoint` for the rest.
    """
    import pickle

    net = wheel.build_network(draft / "spec.yaml")
    found = _read(model, net)
    parameters = found.parameters
    head = {name: value for name, value in net.state_dict().items() if name.startswith(f"{layouts.CLASSES}.")}
    require_parameters(head | parameters, net, model.weights, but=f"{layouts.CLASSES}.")
    if all(name in parameters and parameters[name].shape == value.shape for name, value in head.items()):
        parameters = _ordered(found, label_map, model)
    else:
        log.info("%s: other classes than the label map's, so %s starts anew", model.weights, layouts.CLASSES)
        parameters |= head
    fit(parameters, net, model.weights)
    with out.open("wb") as file:
        pickle.dump({"model": {name: value.numpy() for name, value in net.state_dict().items()}}, file)


def fit(state: "layouts.State", net: Any, path: str) -> None:
    """Load TAO's parameters into TAO's network, all of them into all of it, or raise ValueError naming the others."""
    require_parameters(state, net, path)
    net.load_state_dict(state, strict=False)


def require_parameters(state: "layouts.State", net: Any, path: str, but: str = "-") -> None:
    """Raise ValueError unless `state` has all of a network's parameters in their shapes and no more.

    Those whose names begin with `but` may be of another shape.
    """
    wanted = dict(net.named_parameters())
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - state.keys())]
    problems += [f"{name} is left over" for name in sorted(state.keys() - net.state_dict().keys())]
    for name in sorted(name for name in wanted.keys() & state.keys() if not name.startswith(but)):
        if (theirs := tuple(state[name].shape)) != (ours := tuple(wanted[name].shape)):
            problems.append(f"{name} is {theirs}, expected {ours}")
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{path} is not the network of `model` in conf/: {'; '.join(problems[:5])}{more}; set model")


def check_backbone(path: Path, spec: Path) -> None:
    """Raise ValueError unless a file of ImageNet weights has every parameter of the backbone of a spec of TAO.

    Norms of the stages' outputs apart, which no classifier has. TAO loads what has a known name and leaves the rest as
    random as it was, without a word.
    """
    found = reading.read_backbone(path)
    net: Any = wheel.build_network(spec).backbone
    wanted = {name: value for name, value in net.named_parameters() if not re.match(r"norm\d\.", name)}
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    problems += [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in found and found[name].shape != value.shape
    ]
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(
            f"{path} is not the backbone of `model` in conf/: {'; '.join(problems[:5])}{more}; set model.backbone, or "
            "model.backbone.pretrained_weights to a file of the original Swin"
        )


def check_hash(path: Path, expected: str, key: str) -> None:
    """Raise FileNotFoundError or ValueError unless a file is there and has the SHA-256 that the key KEY_sha256 says."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found ({key}); put it there, or set the key to another path")
    if expected and (found := files.sha256(path)) != expected:
        raise ValueError(
            f"{path}: its SHA-256 is {found}, expected {expected}; get the file anew, or set {key}_sha256 if you trust "
            "this one"
        )


def _ordered(found: reading.Weights, label_map: list[dict[str, Any]], model: config.Model) -> "layouts.State":
    """The weights with their classes in the label map's order. Raises ValueError where they are others."""
    path, names = f"{model.weights} (model.weights)", [str(entry["name"]) for entry in label_map]
    head = found.parameters.get(f"{layouts.CLASSES}.bias")
    if head is None:
        raise ValueError(f"{path} is not the network of `model` in conf/: {layouts.CLASSES}.bias is missing")
    classes = len(head) - 1
    theirs = names if model.weights_classes == [config.LABEL_MAP] else model.weights_classes or found.classes
    if theirs is None:
        raise ValueError(
            f"{path} does not name its {classes} classes; set model.weights_classes to their names in order, or to "
            f"[{config.LABEL_MAP}] where they are in the label map's"
        )
    problems = [f"the name {name!r} stands twice" for name, count in Counter(theirs).items() if count > 1]
    if len(theirs) != classes:
        problems.append(f"{len(theirs)} classes for {classes} rows of {layouts.CLASSES}")
    if strange := [name for name in theirs if name not in names]:
        problems.append(f"the label map has no {', '.join(map(repr, strange[:3]))}")
    if absent := [name for name in names if name not in theirs]:
        problems.append(f"the weights have no {', '.join(map(repr, absent[:3]))}")
    if problems:
        raise ValueError(
            f"{path}: {'; '.join(problems)}; name them as the label map does in model.weights_classes, or choose the "
            "taxonomy that they were trained with (data.sources)"
        )
    return layouts.reordered(found.state, [theirs.index(name) for name in names])
