"""Weights from elsewhere as a TAO checkpoint, without a training run, and as the start of one."""

import logging
from pathlib import Path
from typing import Any

from stages import config
from stages.foundation import files
from stages.tao import wheel
from stages.weights import layouts, reading

log = logging.getLogger(__name__)


def state(label_map: list[dict[str, Any]], model: config.Model) -> "layouts.State":
    """TAO's parameters of the network of model.weights, its classes in the order of the label map.

    Raises FileNotFoundError, or ValueError where file, parameters and label map don't fit.
    """
    found = _read(model)
    rows = len(found.state.get(f"{layouts.CLASSES}.bias", ()))
    return layouts.reordered(found.state, _order(found, [c["name"] for c in label_map], rows - 1, model))


def _read(model: config.Model) -> reading.Weights:
    path = Path(model.weights)
    check_hash(reading.main_file(path), model.weights_sha256, "model.weights")
    found = reading.read(path)
    if found.config:
        _compare(path, found.config, model)
    return found


def checkpoint(label_map: list[dict[str, Any]], model: config.Model, draft: Path) -> int:
    """Write draft/model.pth, as TAO's trainer would, for the network of draft/spec.yaml; return its parameters' count.

    Raises what `state` does, and ValueError naming each parameter that is missing, left over or of another shape.
    """
    from importlib.metadata import version

    import torch

    found = state(label_map, model)
    net = wheel.build_network(draft / "spec.yaml")
    fit(found, net, model.weights)
    full = {f"model.{name}": value for name, value in net.state_dict().items()}
    torch.save(
        {
            "state_dict": full,
            "epoch": 0,
            "global_step": 0,
            "pytorch-lightning_version": version("pytorch-lightning"),
            "tao_model": "mask2former",
        },
        draft / "model.pth",
    )
    count = sum(p.numel() for p in net.parameters())
    log.info("%s: %d parameters", model.weights, count)
    return count


def start(label_map: list[dict[str, Any]], model: config.Model, draft: Path, out: Path) -> None:
    """Write what the training of draft/spec.yaml starts from, as TAO's loader for the original's pickles takes it.

    Where the weights have another number of classes, class_embed starts anew; raises as `checkpoint` for the rest.
    """
    import pickle

    net = wheel.build_network(draft / "spec.yaml")
    found = _read(model).state
    head = {name: value for name, value in net.state_dict().items() if name.startswith(f"{layouts.CLASSES}.")}
    if all(name in found and found[name].shape == value.shape for name, value in head.items()):
        found = state(label_map, model)
    else:
        log.info("%s: other classes than the label map's, so %s starts anew", model.weights, layouts.CLASSES)
        found |= head
    fit(found, net, model.weights)
    with out.open("wb") as file:
        pickle.dump({"model": {name: value.numpy() for name, value in net.state_dict().items()}}, file)


def fit(state: "layouts.State", net: Any, path: str) -> None:
    """Load TAO's parameters into TAO's network, all of them into all of it, or raise ValueError naming the others."""
    wanted = dict(net.named_parameters())
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - state.keys())]
    problems += [f"{name} is left over" for name in sorted(state.keys() - net.state_dict().keys())]
    for name in sorted(wanted.keys() & state.keys()):
        if (theirs := tuple(state[name].shape)) != (ours := tuple(wanted[name].shape)):
            problems.append(f"{name} is {theirs}, expected {ours}")
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{path} is not the network of `model` in conf/: {'; '.join(problems[:5])}{more}; set model")
    net.load_state_dict(state, strict=False)


def check_hash(path: Path, expected: str, key: str) -> None:
    """Raise FileNotFoundError or ValueError unless a file is there and has the SHA-256 that the key KEY_sha256 says."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found ({key}); put it there, or set the key to another path")
    if expected and (found := files.sha256(path)) != expected:
        raise ValueError(
            f"{path}: its SHA-256 is {found}, expected {expected}; get the file anew, or set {key}_sha256 if you trust "
            "this one"
        )


def _compare(path: Path, theirs: dict[str, Any], model: config.Model) -> None:
    """Raise ValueError where config.json of Hugging Face says another network than ours."""
    swin, ours = theirs["backbone_config"], model.backbone
    pairs = {
        "model.backbone.embed_dim": (ours.embed_dim, swin.get("embed_dim", 96)),
        "model.backbone.depths": (ours.depths, swin.get("depths", [2, 2, 18, 2])),
        "model.backbone.num_heads": (ours.num_heads, swin.get("num_heads", [3, 6, 12, 24])),
        "model.backbone.window_size": (ours.window_size, swin.get("window_size", 7)),
        "model.num_object_queries": (model.num_object_queries, theirs.get("num_queries", 100)),
        "model.hidden_dim": (model.hidden_dim, theirs.get("hidden_dim", 256)),
        "model.nheads": (model.nheads, theirs.get("num_attention_heads", 8)),
        "model.dim_feedforward": (model.dim_feedforward, theirs.get("dim_feedforward", 2048)),
        "model.enc_layers": (model.enc_layers, theirs.get("encoder_layers", 6)),
        "model.dec_layers": (model.dec_layers, theirs.get("decoder_layers", 10)),
    }
    if others := [f"{key}={their}" for key, (our, their) in pairs.items() if our != their]:
        raise ValueError(f"{path} is another network than `model` says: set {' '.join(others)} in conf/model")


def _order(found: reading.Weights, names: list[str], classes: int, model: config.Model) -> list[int]:
    """For each class of the label map its number among the weights' classes, from 0."""
    path = f"{model.weights} (model.weights)"
    theirs = names if model.weights_classes == [config.LABEL_MAP] else model.weights_classes or found.classes
    if theirs is None:
        raise ValueError(
            f"{path} does not name its {classes} classes; set model.weights_classes to their names in order, or to "
            f"[{config.LABEL_MAP}] where they are in the label map's"
        )
    if len(theirs) != classes or sorted(theirs) != sorted(names):
        strange, absent = sorted(set(theirs) - set(names)), sorted(set(names) - set(theirs))
        raise ValueError(
            f"{path}: {len(theirs)} classes for {classes} rows of {layouts.CLASSES}, of which the label map's "
            f"{len(names)} lack {strange[:3]} and which lack {absent[:3]}; name them as the label map does in "
            "model.weights_classes, or choose the taxonomy that they were trained with (data.sources)"
        )
    return [theirs.index(name) for name in names]
