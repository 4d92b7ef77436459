"""Weights from elsewhere and for elsewhere: the same network on both sides, and nothing read that could run."""

import gzip
import io
import json
import pickle
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from stages import config
from stages.commands import hugging_face
from stages.foundation import files
from stages.tao import spec, wheel
from stages.weights import compatibility, formats, hugging_face_config, importer, reader, state_dict
from tests.conftest import REPO, run

# TAO's Swin gives it on every network.
pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")

NAMES = ["person", "car", "sky", "road"]
LABEL_MAP = [{"id": i + 1, "name": name, "isthing": int(i < 2), "color": [0, 0, i]} for i, name in enumerate(NAMES)]
EMPTY = {"tao": torch.tensor([0.1, 1, 1, 1, 1]), "original": torch.tensor([1, 1, 1, 1, 0.1])}
"""Their criterion.empty_weight for four classes."""
SIZES = {
    "nano": {"embed_dim": 24, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8], "window_size": 4},
    "tiny": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
    "small": {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
    "base": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12},
    "large": {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48], "window_size": 12},
}

BY_SIZE = pytest.mark.parametrize(
    "size", [pytest.param(s, marks=[pytest.mark.slow] if s in ("base", "large") else []) for s in SIZES]
)


def model(size: str, **changes: Any) -> config.Model:
    kind = config.SwinType.custom if size == "nano" else config.SwinType[size]
    narrow = {"hidden_dim": 64, "nheads": 4, "dim_feedforward": 128, "enc_layers": 2, "dec_layers": 4}
    return config.Model(
        backbone=config.Backbone(type=kind, **SIZES[size]), **(narrow if size == "nano" else {}), **changes
    )


def folder(path: Path, cfg: config.Model) -> Path:
    """A checkpoint's folder with the spec alone."""
    path.mkdir(exist_ok=True)
    full = config.load(REPO / "params.yaml")
    full.model = cfg
    OmegaConf.save(spec.train_spec(path, len(NAMES), full), path / "spec.yaml")
    return path


def lightning(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As TAO's trainer saves it."""
    return {**{f"model.{name}": value for name, value in state.items()}, formats.EMPTY_WEIGHT: EMPTY["tao"]}


def random_network(path: Path, seed: int = 0) -> Any:
    """TAO's network of path/spec.yaml with weights that all differ, saved as its checkpoint too."""
    torch.manual_seed(seed)
    net = wheel.build_network(path / "spec.yaml").eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    torch.save({"state_dict": lightning(net.state_dict())}, path / "model.pth")
    return net


def theirs(path: Path) -> Any:
    """transformers' network of a folder."""
    import transformers

    net, report = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(path, output_loading_info=True)
    # Of its loss, and a norm that it never uses.
    unused = {f"model.pixel_level_module.encoder.swin.layernorm.{kind}" for kind in ("weight", "bias")}
    assert report["missing_keys"] <= unused | {"criterion.empty_weight"}
    assert not report["unexpected_keys"]
    return net.eval()


def require_same(ours: Any, hugging_face_net: Any, size: tuple[int, int]) -> None:
    """The same answer within 1e-4, the pixels that a query attends to being the same.

    A query attends to pixels where its mask is above 0. Where one is 0 but for rounding, which differs from CPU to CPU,
    the two may decide otherwise, and then answer otherwise by more. So theirs attends as ours does, which is as it
    would itself but for one decision in 100,000.
    """
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    predictor = ours.sem_seg_head.predictor
    heads, blocked, tipped = predictor.forward_prediction_heads, [], []

    def recorded(*args: Any, **kwargs: Any) -> Any:
        found = heads(*args, **kwargs)
        blocked.append(found[2].clone())
        return found

    def attend_as_ours(_module: Any, _args: Any, found: Any) -> Any:
        decided = blocked[len(tipped)]
        tipped.append(int((found[1] != decided).sum()))
        return found[0], decided

    predictor.forward_prediction_heads = recorded
    hook = hugging_face_net.model.transformer_module.decoder.mask_predictor.register_forward_hook(attend_as_ours)
    with torch.inference_mode():
        a, b = ours(pixels), hugging_face_net(pixels)
    hook.remove()
    del predictor.forward_prediction_heads
    assert len(tipped) == len(blocked) > 1
    assert sum(tipped) <= 1e-5 * sum(decided.numel() for decided in blocked)
    assert torch.allclose(a["pred_logits"].roll(-1, -1), b.class_queries_logits, atol=1e-4, rtol=0)
    assert torch.allclose(a["pred_masks"], b.masks_queries_logits, atol=1e-4, rtol=0)


@pytest.mark.usefixtures("tao_wheel")
@BY_SIZE
def test_the_same_answer_in_hugging_face_and_back(size: str, tmp_path: Path) -> None:
    checkpoint = folder(tmp_path / "checkpoint", model(size))
    ours = random_network(checkpoint)
    files.write_json(tmp_path / "label_map.json", LABEL_MAP)
    hugging_face.build(checkpoint, tmp_path / "label_map.json", tmp_path / "shared")
    network = theirs(tmp_path / "shared")
    require_same(ours, network, (384, 640))
    network.save_pretrained(tmp_path / "again")
    back = folder(tmp_path / "back", model(size, weights=str(tmp_path / "again")))
    importer.write_checkpoint(LABEL_MAP, model(size, weights=str(tmp_path / "again")), back)
    returned = wheel.load_model(back).state_dict()
    assert returned.keys() == ours.state_dict().keys()
    for name, value in ours.state_dict().items():
        assert torch.equal(returned[name], value), name


@pytest.mark.usefixtures("tao_wheel")
@BY_SIZE
def test_a_network_of_hugging_face_answers_the_same_in_tao(size: str, tmp_path: Path) -> None:
    import transformers

    cfg = model(size)
    content = hugging_face.network_config(_spec_model(tmp_path, cfg), NAMES)
    torch.manual_seed(3)
    network = transformers.Mask2FormerForUniversalSegmentation(transformers.Mask2FormerConfig.from_dict(content)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    network.save_pretrained(tmp_path / "theirs")
    back = folder(tmp_path / "back", model(size, weights=str(tmp_path / "theirs")))
    importer.write_checkpoint(LABEL_MAP, model(size, weights=str(tmp_path / "theirs")), back)
    require_same(wheel.load_model(back), network, (384, 640))


def _spec_model(path: Path, cfg: config.Model) -> dict[str, Any]:
    full = config.load(REPO / "params.yaml")
    full.model = cfg
    found: dict[str, Any] = spec.train_spec(path, len(NAMES), full)["model"]
    return found


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory, tao_wheel: None) -> tuple[Path, dict[str, torch.Tensor]]:
    """A checkpoint's folder, and its parameters."""
    path = folder(tmp_path_factory.mktemp("nano") / "checkpoint", model("nano"))
    return path, random_network(path).state_dict()


def original(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The network of the original code, with no-object last."""
    return {
        name: torch.cat([value[1:], value[:1]]) if name.startswith(state_dict.CLASS_HEAD) else value
        for name, value in state.items()
    }


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_checkpoints_of_the_original(nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model_final{suffix}"
    content = {**original(nano[1]), formats.EMPTY_WEIGHT: EMPTY["original"]}
    if suffix == ".pkl":
        arrays = {name: value.numpy() for name, value in content.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "third_party", "matching_heuristics": True}))
    else:
        torch.save({"model": content, "iteration": 9}, path)
    order = ["sky", "person", "road", "car"]
    cfg = model("nano", weights=str(path), weights_classes=order)
    found = importer.load_parameters(LABEL_MAP, cfg)
    for name, value in nano[1].items():
        if name.startswith(state_dict.CLASS_HEAD):
            value = value[[0, *(1 + order.index(wanted) for wanted in NAMES)]]
        if "relative_position_index" not in name:
            assert torch.equal(found[name], value), name


def test_a_training_starts_from_all_of_another_network(
    nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    out = folder(tmp_path / "out", model("nano"))
    cfg = model("nano", weights=str(nano[0] / "model.pth"), weights_classes=[config.LABEL_MAP])
    importer.write_initial_weights(LABEL_MAP, cfg, out, tmp_path / "start.pkl")
    state = pickle.loads((tmp_path / "start.pkl").read_bytes())["model"]
    for name, value in nano[1].items():
        assert np.array_equal(state[name], value.numpy()), name


def change(name: str, value: torch.Tensor | None) -> Any:
    def apply(state: dict[str, torch.Tensor]) -> None:
        if value is None:
            del state[name]
        else:
            state[name] = value

    return apply


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (
            change("backbone.norm0.weight", None),
            "backbone.norm0.weight is missing; set .* of the weights, or save the whole network$",
        ),
        (
            change("backbone.norm9.weight", torch.ones(3)),
            "backbone.norm9.weight is unexpected; set .* of the weights, or remove the unexpected parameters from",
        ),
        (change("backbone.norm0.weight", torch.ones(3)), r"backbone.norm0.weight is \(3,\), expected \(24,\)"),
    ],
)
def test_every_parameter_is_accounted_for(
    nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, apply: Any, message: str
) -> None:
    state = dict(nano[1])
    apply(state)
    path = tmp_path / "model.pth"
    torch.save({"state_dict": lightning(state)}, path)
    out = folder(tmp_path / "out", model("nano"))
    with pytest.raises(ValueError, match=message):
        importer.write_checkpoint(LABEL_MAP, model("nano", weights=str(path), weights_classes=[config.LABEL_MAP]), out)
    assert not (out / "model.pth").exists()


class Evil:
    """Its pickle runs a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_a_file_that_would_run_code_does_not(tmp_path: Path, suffix: str) -> None:
    path, mark = tmp_path / f"evil{suffix}", tmp_path / "mark"
    content = {"model": {"sem_seg_head.x": np.zeros(2)}, "more": Evil(mark)}
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=f"evil{suffix}: can't be read: it holds objects other than"):
        reader.read(path)
    assert not mark.exists()


def write(path: Path, content: bytes | dict[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.pth", None, "absent.pth not found"),
        ("model.onnx", b"x", "found a file of type '.onnx', expected a .pth or .pkl"),
        ("model.pkl", b"no pickle", "model.pkl: can't be read"),
        (
            "model.pth",
            b"no zip",
            "found a file of type '.pth', expected a .pth.*; it starts with b'no zip': download it",
        ),
        ("other.pkl", pickle.dumps({"model": {"conv1.weight": np.zeros(3)}}), "none of a Mask2Former"),
        ("list.pkl", pickle.dumps([1]), "found list"),
        ("text.pkl", pickle.dumps({"model": {"sem_seg_head.x": "y"}}), "'sem_seg_head.x' is str, expected a tensor"),
    ],
)
def test_what_is_no_network(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        reader.read(path)


SWIN = {"model_type": "mask2former", "backbone_config": {"model_type": "swin"}}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({}, "a folder without config.json"),
        (
            {"config.json": {"model_type": "maskformer"}},
            "model_type 'maskformer' with the backbone None, expected mask2former",
        ),
        ({"config.json": {**SWIN, "backbone_config": {"model_type": "resnet"}}}, "with the backbone 'resnet'"),
        (
            {"config.json": {**SWIN, "backbone_config": "swin"}},
            r"config.json: found .* expected mask2former with swin; ",
        ),
        ({"config.json": SWIN}, "holds neither model.safetensors"),
        ({"config.json": SWIN, "model.safetensors": b"broken"}, "model.safetensors: can't be read"),
    ],
)
def test_folders_that_hold_no_network(tmp_path: Path, contents: dict[str, Any], message: str) -> None:
    (tmp_path / "f").mkdir()
    for name, content in contents.items():
        write(tmp_path / "f" / name, content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        reader.read(tmp_path / "f")


def test_a_stranger_among_the_names_and_a_missing_part() -> None:
    with pytest.raises(ValueError, match=r"'model.stranger' is not a parameter"):
        state_dict.from_hugging_face({"model.stranger": torch.zeros(1)})
    layer = "model.transformer_module.decoder.layers.0.self_attn"
    with pytest.raises(ValueError, match=r"1 of the three parts of sem_seg_head.*self_attn.in_proj_weight"):
        state_dict.from_hugging_face({f"{layer}.q_proj.weight": torch.zeros(2, 2)})


def test_another_network_names_the_keys_to_set(tmp_path: Path) -> None:
    content = hugging_face.network_config(_spec_model(tmp_path, model("tiny")), NAMES)
    write(tmp_path / "f/config.json", content)
    write(tmp_path / "f/model.safetensors", b"\x02\0\0\0\0\0\0\0{}")
    cfg = model("nano", weights=str(tmp_path / "f"))
    with pytest.raises(ValueError, match=r"set model.backbone.embed_dim=96 model.backbone.depths=\[2, 2, 6, 2\]"):
        importer.load_parameters(LABEL_MAP, cfg)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "does not name its 4 classes; set model.weights_classes"),
        (["person", "car", "sky", "tree"], r": the label map has no 'tree'; the weights have no 'road'; set model"),
        (["person", "car", "sky"], r": 3 names for the 4 classes of \S+; the weights have no 'road'; set model"),
        (
            ["person", "car", "sky", "road", "tree"],
            r": 5 names for the 4 classes of \S+; the label map has no 'tree'; set",
        ),
        (["person", "car", "sky", "sky"], r": the name 'sky' appears twice; the weights have no 'road'; set model"),
    ],
)
def test_classes_that_do_not_fit(
    nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, classes: list[str], message: str
) -> None:
    cfg = model("nano", weights=str(nano[0] / "model.pth"), weights_classes=classes)
    with pytest.raises(ValueError, match=message):
        importer.load_parameters(LABEL_MAP, cfg)


def test_another_file_than_the_hash_says(nano: tuple[Path, dict[str, torch.Tensor]]) -> None:
    cfg = model("nano", weights=str(nano[0] / "model.pth"), weights_sha256="0" * 64)
    with pytest.raises(ValueError, match=rf"SHA-256 is \w+, expected {'0' * 64}; .* set model.weights_sha256"):
        importer.load_parameters(LABEL_MAP, cfg)


def imported_state(path: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """Return the import of a file of four classes in the label map's order."""
    return importer.load_parameters(
        LABEL_MAP, model("nano", weights=str(path), weights_classes=[config.LABEL_MAP], **changes)
    )


def require_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == state_dict.without_unused(expected).keys()
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def saved(path: Path, content: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    torch.save(content, path)
    return path


PREFIXES = ["", "module.", "model.", "model.module.", "_orig_mod.", "module._orig_mod.model.", "_forward_module.net."]
AROUND: dict[str, Any] = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state, "iteration": 9},
    "state_dict": lambda state: {"state_dict": state, "epoch": 9},
    "nested": lambda state: {"checkpoint": {"model": state}, "epoch": 9},
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_whose_a_network_is_counts_and_not_what_is_around_it(
    nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, prefix: str, around: str
) -> None:
    for kind, state in (("tao", nano[1]), ("original", original(nano[1]))):
        named = {f"{prefix}{name}": value for name, value in state.items()}
        for place in {prefix, ""}:
            content = {**named, f"{place}{formats.EMPTY_WEIGHT}": EMPTY[kind]}
            require_equal(imported_state(saved(tmp_path / "x.pth", AROUND[around](content))), nano[1])
        path = saved(tmp_path / "x.pth", AROUND[around](named))
        with pytest.raises(ValueError, match=r"does not show whether TAO wrote it.*set model.weights_format=tao or"):
            imported_state(path)
        require_equal(imported_state(path, weights_format=kind), nano[1])


@pytest.mark.usefixtures("tao_wheel")
def test_the_buffer_that_tells_is_taos_own() -> None:
    from nvidia_tao_pytorch.cv.mask2former.utils.criterion import SetCriterion

    loss = SetCriterion(len(NAMES), None, {}, 0.1, [], 9, 3.0, 0.75)
    assert torch.equal(loss.state_dict()["empty_weight"], EMPTY["tao"])


def test_wrappers_within_names_are_left_out(nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    inside = {name.replace("blocks.0.", "blocks.0._checkpoint_wrapped_module."): v for name, v in nano[1].items()}
    assert inside.keys() != nano[1].keys()
    content = {"state_dict": lightning(inside), "tao_model": "mask2former"}
    require_equal(imported_state(saved(tmp_path / "x.pth", content)), nano[1])


@pytest.mark.parametrize(
    ("empty", "stated", "kind"),
    [
        ([1, 1, 1, 1, 1], "", ""),
        ([0.05, 1, 2, 1, 0.1], "", ""),
        ([0.1, 1, 1], "", ""),
        ([1, 1, 1, 1, 0.1], "tao", "original"),
        ([0.1, 1, 1, 1, 1], "original", "tao"),
        ([0.1, 1, 1, 1, 1], "hugging_face", "tao"),
    ],
)
def test_a_buffer_that_does_not_tell_and_a_key_that_contradicts(
    nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, empty: list[float], stated: str, kind: str
) -> None:
    path = saved(tmp_path / "x.pth", {"model": {**nano[1], formats.EMPTY_WEIGHT: torch.tensor(empty)}})
    message = f"model.weights_format is {stated}, but its criterion.*set model.weights_format={kind}"
    with pytest.raises(ValueError, match=message if kind else "does not show whether"):
        imported_state(path, weights_format=stated)


def test_names_and_marks_of_one_of_the_two(nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    early = {name.replace("query_feat", "static_query"): value for name, value in original(nano[1]).items()}
    require_equal(imported_state(saved(tmp_path / "x.pth", early)), nano[1])
    with pytest.raises(ValueError, match=r"its queries are called static_query; set model.weights_format=original"):
        imported_state(tmp_path / "x.pth", weights_format="tao")
    require_equal(imported_state(saved(tmp_path / "x.pth", {"a": nano[1], "tao_model": "mask2former"})), nano[1])
    saved(tmp_path / "x.pth", {"a": early, "tao_model": "mask2former"})
    with pytest.raises(ValueError, match="as in TAO, but its queries are called static_query, as in the original"):
        imported_state(tmp_path / "x.pth")


def test_the_spec_beside_a_file(nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    path = saved(tmp_path / "a" / "x.pth", nano[1])
    spec_text = (nano[0] / "spec.yaml").read_text()
    (tmp_path / "a/experiment.yaml").write_text(spec_text)
    require_equal(imported_state(path), nano[1])
    with pytest.raises(ValueError, match=r"experiment.yaml is TAO's spec of a network with its 4 classes; set model"):
        imported_state(path, weights_format="original")
    # The file itself says more than what lies beside it.
    saved(path, {**original(nano[1]), formats.EMPTY_WEIGHT: EMPTY["original"]})
    require_equal(imported_state(path), nano[1])
    saved(path, nano[1])
    for other in (spec_text.replace("num_classes: 4", "num_classes: 5"), "model: [1", "MODEL: {META: x}", "- 1", ""):
        assert other != spec_text
        (tmp_path / "a/experiment.yaml").write_text(other)
        with pytest.raises(ValueError, match="does not show whether"):
            imported_state(path)


def test_a_spec_beside_a_file_that_computes_otherwise(
    nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    path = saved(tmp_path / "a" / "x.pth", nano[1])
    theirs: Any = OmegaConf.load(nano[0] / "spec.yaml")
    theirs.model.mask_former.pre_norm = True
    OmegaConf.save(theirs, tmp_path / "a/spec.yaml")
    with pytest.raises(ValueError, match=r"spec.yaml: model.mask_former.pre_norm is True, expected False.*tao_spec"):
        imported_state(path)
    out = folder(tmp_path / "out", model("nano"))
    ours: Any = OmegaConf.load(out / "spec.yaml")
    ours.model.mask_former.pre_norm = True
    OmegaConf.save(ours, out / "spec.yaml")
    cfg = model("nano", weights=str(path), weights_classes=[config.LABEL_MAP])
    assert importer.write_checkpoint(LABEL_MAP, cfg, out)
    theirs.dataset.pixel_mean = [0.5, 0.5, 0.5]
    OmegaConf.save(theirs, tmp_path / "a/spec.yaml")
    with pytest.raises(ValueError, match=r"spec.yaml: pictures are normalised by mean \[0.5"):
        importer.write_checkpoint(LABEL_MAP, cfg, out)


@pytest.mark.usefixtures("tao_wheel")
def test_an_imported_checkpoint_tells_whose_it_is_wherever_it_is_moved(
    nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    out = folder(tmp_path / "out", model("nano"))
    cfg = model("nano", weights=str(nano[0] / "model.pth"), weights_classes=[config.LABEL_MAP])
    importer.write_checkpoint(LABEL_MAP, cfg, out)
    state = torch.load(out / "model.pth", weights_only=True)["state_dict"]
    require_equal(imported_state(saved(tmp_path / "moved.pth", state)), nano[1])


def test_names_are_compared_before_format_and_classes(
    nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    out = folder(tmp_path / "out", model("nano"))
    for missing in ("backbone.norm0.weight", f"{state_dict.CLASS_HEAD}.bias", f"{state_dict.CLASS_HEAD}.weight"):
        path = saved(tmp_path / "x.pth", {k: v for k, v in nano[1].items() if k != missing})
        cfg = model("nano", weights=str(path), weights_classes=["person"])
        with pytest.raises(ValueError, match=f"{missing} is missing"):
            importer.write_checkpoint(LABEL_MAP, cfg, out)


ROLES = {"": hugging_face_config.MASK2FORMER, "backbone_config": hugging_face_config.SWIN}


def test_every_key_of_transformers_is_in_the_tables() -> None:
    import dataclasses

    import transformers

    assert transformers.__version__.startswith(hugging_face_config.TRANSFORMERS)
    kinds = transformers.Mask2FormerConfig, transformers.SwinConfig
    for kind, table, aliases in zip(kinds, ROLES.values(), hugging_face_config.ALIASES, strict=True):
        fields = {field.name: field.default for field in dataclasses.fields(kind)}
        # transformers keeps these two under names of their own.
        known = {name.removeprefix("_") for name in fields} | kind().to_dict().keys() | kind.attribute_map.keys()
        # Arguments that are no fields, in the docstring of the class of all.
        arguments = (transformers.PreTrainedConfig.__doc__ or "").partition("Arg:")[2]
        known |= set(re.findall(r"^        (\w+) \(`", arguments, re.MULTILINE)) | {"_name_or_path"}
        known -= {"name_or_path"}
        assert known <= table.keys() | aliases.keys()
        assert aliases.items() <= kind.attribute_map.items()
        for key, role in table.items():
            if not isinstance(role, hugging_face_config.NoEffect) and key in fields:
                default = fields[key]
                assert role.default == (list(default) if isinstance(default, tuple) else default), key
    assert transformers.SwinConfig().out_features == hugging_face_config.SWIN["out_features"].default
    backbone = transformers.Mask2FormerConfig().backbone_config
    assert {key: getattr(backbone, key) for key in hugging_face_config.DEFAULT_BACKBONE} == (
        hugging_face_config.DEFAULT_BACKBONE
    )


@pytest.mark.usefixtures("tao_wheel")
def test_every_field_of_taos_spec_is_a_size_or_in_the_table() -> None:
    from nvidia_tao_pytorch.config.mask2former.default_config import ExperimentConfig

    model_spec: Any = OmegaConf.to_container(OmegaConf.structured(ExperimentConfig).model)
    assert compatibility.spec_differences(model_spec, {}) == []
    sizes = (
        "backbone.swin.type embed_dim depths num_heads window_size transformer_enc_layers convs_dim mask_dim "
        "num_classes nheads num_object_queries hidden_dim dim_feedforward dec_layers"
    )
    training = (
        "pretrained_weights drop_rate attn_drop_rate drop_path_rate pretrain_img_size use_checkpoint dropout "
        "class_weight dice_weight mask_weight train_num_points oversample_ratio importance_sample_ratio "
        "deep_supervision no_object_weight precise_msda"
    )
    # `export` and what is below are of TAO's own steps after the network; EfficientViT is refused by backbone.type.
    after = "export mode object_mask_threshold overlap_threshold test_topk_per_image"
    known = set(f"{sizes} {training} {after}".split())

    def leaves(tree: Any, path: str) -> list[str]:
        if not isinstance(tree, dict):
            return [path]
        return [leaf for key, value in tree.items() for leaf in leaves(value, f"{path}.{key}".lstrip("."))]

    for leaf in leaves(model_spec, ""):
        named = leaf in compatibility.SPEC_DEFAULTS or leaf in known or leaf.rpartition(".")[2] in known
        assert named or leaf.startswith("backbone.efficientvit."), leaf


OTHER_VALUES = {
    "activation_function": "gelu", "pre_norm": True, "enforce_input_projection": True, "common_stride": 2,
    "feature_strides": [4, 4, 8, 16], "encoder_feedforward_dim": 512, "feature_size": 32, "mask_feature_size": 32,
    "backbone": "microsoft/swin-tiny-patch4-window7-224", "backbone_kwargs": {"depths": [1]}, "use_timm_backbone": True,
    "auto_map": {"AutoModel": "own.Net"}, "per_layer_config": {"1": {}},
    "tie_last_hidden_states": True, "quantization_config": {"bits": 8},
    "patch_size": 2, "num_channels": 4, "mlp_ratio": 2.0, "qkv_bias": False, "hidden_act": "gelu_new",
    "use_absolute_embeddings": True, "layer_norm_eps": 1e-12, "out_features": ["stage2", "stage3", "stage4"],
    "num_queries": 99, "hidden_dim": 96, "num_attention_heads": 2, "dim_feedforward": 64, "encoder_layers": 3,
    "decoder_layers": 5, "embed_dim": 48, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 4], "window_size": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def theirs_nano(nano: tuple[Path, dict[str, torch.Tensor]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of `nano` as a folder of Hugging Face, all of its keys written as transformers does."""
    path = tmp_path_factory.mktemp("theirs")
    files.write_json(path / "label_map.json", LABEL_MAP)
    hugging_face.build(nano[0], path / "label_map.json", path / "ours")
    theirs(path / "ours").save_pretrained(path / "theirs")
    return path / "theirs"


def changed(source: Path, path: Path, where: str = "", **values: Any) -> Path:
    """A copy of a folder of Hugging Face with other values in its config.json, `...` for a key left out."""
    if source != path:
        shutil.copytree(source, path, dirs_exist_ok=True)
    content = json.loads((path / "config.json").read_text())
    part = content[where] if where else content
    part.update(values)
    for key, value in values.items():
        if value is ...:
            del part[key]
    (path / "config.json").write_text(json.dumps(content))
    return path


CASES = [
    pytest.param(where, key, role, id=f"{where}.{key}".strip("."))
    for where, table in ROLES.items()
    for key, role in table.items()
    if not isinstance(role, hugging_face_config.NoEffect)
]


@pytest.mark.parametrize(("where", "key", "role"), CASES)
def test_a_key_that_changes_the_answer_is_compared(
    theirs_nano: Path, tmp_path: Path, where: str, key: str, role: Any
) -> None:
    path = changed(theirs_nano, tmp_path / "f", where, **{key: OTHER_VALUES[key]})
    if isinstance(role, hugging_face_config.Size):
        message = re.escape(f"set {role.parameter}={OTHER_VALUES[key]} in")
        message = message if key != "hidden_dim" else "feature_size is 64, expected 96"
    else:
        message = re.escape(f"{f'{where}.'.lstrip('.')}{key} is {OTHER_VALUES[key]!r}, expected ")
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}/config.json.*{message}"):
        importer.load_parameters(LABEL_MAP, model("nano", weights=str(path)))


@pytest.mark.parametrize(("where", "key", "role"), CASES)
def test_a_key_that_is_left_out_counts_as_transformers_default(
    theirs_nano: Path, tmp_path: Path, where: str, key: str, role: Any
) -> None:
    content = json.loads((theirs_nano / "config.json").read_text())
    part = content[where] if where else content
    path = changed(theirs_nano, tmp_path / "f", where, **({key: ...} if key in part else {}))
    # out_indices say the same as out_features.
    if key not in part or part[key] == role.default or key == "out_features":
        assert importer.load_parameters(LABEL_MAP, model("nano", weights=str(path)))
    else:
        with pytest.raises(ValueError, match=rf"{re.escape(str(role.default))}"):
            importer.load_parameters(LABEL_MAP, model("nano", weights=str(path)))


def test_without_out_features_transformers_takes_the_last_stage_alone(theirs_nano: Path, tmp_path: Path) -> None:
    path = changed(theirs_nano, tmp_path / "f", "backbone_config", out_features=..., out_indices=...)
    with pytest.raises(ValueError, match=r"backbone_config.out_features is \['stage4'\] by default, expected"):
        importer.load_parameters(LABEL_MAP, model("nano", weights=str(path)))


def test_keys_without_effect_change_no_answer(theirs_nano: Path, tmp_path: Path) -> None:
    other: dict[str, dict[str, Any]] = {
        "": {
            "chunk_size_feed_forward": 2, "class_weight": 3.0, "dice_weight": 1.0, "dropout": 0.3, "ignore_value": 0,
            "importance_sample_ratio": 0.5, "init_std": 0.5, "init_xavier_std": 2.0, "mask_weight": 1.0,
            "no_object_weight": 0.3, "output_auxiliary_logits": True, "output_hidden_states": True,
            "oversample_ratio": 2.0, "train_num_points": 9, "use_auxiliary_loss": False, "is_encoder_decoder": True,
        },
        "backbone_config": {
            "attention_probs_dropout_prob": 0.5, "chunk_size_feed_forward": 2, "drop_path_rate": 0.9,
            "encoder_stride": 16, "hidden_dropout_prob": 0.5, "hidden_size": 9, "image_size": 96, "num_layers": 4,
            "initializer_range": 0.5, "path_norm": False,
        },
    }  # fmt: skip
    path = tmp_path / "f"
    for where, values in other.items():
        assert all(isinstance(ROLES[where][key], hugging_face_config.NoEffect) for key in values)
        changed(path if where else theirs_nano, path, where, **values)
    pixels = torch.randn(1, 3, 128, 192, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        a, b = theirs(theirs_nano)(pixels), theirs(path)(pixels)
    assert torch.equal(a.class_queries_logits, b.class_queries_logits)
    assert torch.equal(a.masks_queries_logits, b.masks_queries_logits)
    found = importer.load_parameters(LABEL_MAP, model("nano", weights=str(path)))
    require_equal(found, importer.load_parameters(LABEL_MAP, model("nano", weights=str(theirs_nano))))


def test_other_forms_of_a_config(
    theirs_nano: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, nano: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    old = {"backbone": None, "backbone_kwargs": {}, "use_timm_backbone": False, "use_pretrained_backbone": False}
    path = changed(theirs_nano, tmp_path / "f", num_hidden_layers=4, my_own_note="x", **old)
    changed(path, path, "backbone_config", patch_size=[4, 4], path_norm=True)
    with caplog.at_level("INFO"):
        require_equal(importer.load_parameters(LABEL_MAP, model("nano", weights=str(path))), nano[1])
    assert "config.json: ignoring ['my_own_note'], which transformers 5.23 does not read either" in caplog.text
    changed(path, path, decoder_layers=9)
    with pytest.raises(ValueError, match="num_hidden_layers is 4 and decoder_layers is 9, expected one value"):
        importer.load_parameters(LABEL_MAP, model("nano", weights=str(path)))
    changed(theirs_nano, path, backbone_config=None)
    with pytest.raises(ValueError, match=r"set model.backbone.embed_dim=96 model.backbone.depths=\[2, 2, 18, 2\]"):
        importer.load_parameters(LABEL_MAP, model("nano", weights=str(path)))
    with pytest.raises(ValueError, match=r"model.weights_format is tao, but the folder is one of Hugging Face"):
        importer.load_parameters(LABEL_MAP, model("nano", weights=str(theirs_nano), weights_format="tao"))
    require_equal(
        importer.load_parameters(LABEL_MAP, model("nano", weights=str(theirs_nano), weights_format="hugging_face")),
        nano[1],
    )


MEAN, STD = [0.48500001430511475, 0.4560000002384186, 0.4059999883174896], [0.229, 0.224, 0.225]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"image_mean": MEAN, "image_std": STD, "size": 384}, ""),
        ({"do_rescale": False, "image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]}, ""),
        (
            {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]},
            r"by mean \[0.5, .*expected \[0.485",
        ),
        ({"image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]}, "normalised by mean"),
        ({"do_normalize": False}, r"by mean \[0.0, 0.0, 0.0\] and standard deviation \[1.0"),
        ({"do_rescale": False}, "normalised by mean"),
        ({"rescale_factor": 0}, "are not numbers"),
        ({"image_mean": None}, ""),
        ({"image_mean": None, "image_std": None}, ""),
        ({"image_mean": 0.5, "image_std": 0.5}, r"by mean \[0.5, 0.5, 0.5\] and standard deviation \[0.5, 0.5, 0.5\]"),
        ({"image_mean": "0.5"}, "are not numbers"),
        ({"image_mean": [0.485]}, r"by mean \[0.485\]"),
        ([1], "found list, expected an object"),
    ],
)
def test_pictures_that_are_normalised_otherwise(
    theirs_nano: Path, tmp_path: Path, nano: tuple[Path, dict[str, torch.Tensor]], content: Any, message: str
) -> None:
    path = changed(theirs_nano, tmp_path / "f")
    files.write_json(path / "preprocessor_config.json", content)
    if message:
        with pytest.raises(ValueError, match=rf"preprocessor_config.json: .*{message}"):
            importer.load_parameters(LABEL_MAP, model("nano", weights=str(path)))
    else:
        require_equal(importer.load_parameters(LABEL_MAP, model("nano", weights=str(path))), nano[1])


def test_a_spec_that_hugging_face_cannot_compute(
    nano: tuple[Path, dict[str, torch.Tensor]], theirs_nano: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(nano[0], tmp_path / "out")
    ours: Any = OmegaConf.load(out / "spec.yaml")
    ours.model.mask_former.pre_norm = True
    OmegaConf.save(ours, out / "spec.yaml")
    message = "model.mask_former.pre_norm is True, expected False: transformers' Mask2Former has the expected"
    with pytest.raises(ValueError, match=f"train.tao_spec: {message}"):
        importer.write_checkpoint(LABEL_MAP, model("nano", weights=str(theirs_nano)), out)
    files.write_json(tmp_path / "label_map.json", LABEL_MAP)
    with pytest.raises(ValueError, match=f"spec.yaml: {message}"):
        hugging_face.build(out, tmp_path / "label_map.json", tmp_path / "shared")
    assert not (tmp_path / "shared").exists()


@pytest.mark.parametrize(
    ("id2label", "message"),
    [
        (NAMES, ""),
        ({"3": "road", "0": "person", "2": "sky", "1": "car"}, ""),
        (
            {"0": "person", "1": "car", "3": "sky", "4": "road"},
            r"has the keys \['0', '1', '3', '4'\], expected .* 0 to 3",
        ),
        ({"1": "person", "2": "car", "3": "sky", "4": "road"}, "expected the numbers 0 to 3"),
        ({"0": "person", "1": "car", "2": "sky", "a": "road"}, "expected the numbers 0 to 3"),
        ({"0": "person", "00": "car", "2": "sky", "3": "road"}, "expected the numbers 0 to 3"),
        ({"person": 0, "car": 1, "sky": 2, "road": 3}, "expected the numbers 0 to 3"),
        ({"0": "person", "1": "car", "2": "sky", "3": 7}, "does not give each number a name"),
        ({"0": "person", "1": "car", "2": "sky", "3": ""}, "does not give each number a name"),
        ("person", "does not give each number a name"),
        ({"0": "person", "1": "car", "2": "car", "3": "road"}, r"'car' appears twice; the weights have no 'sky'"),
        ({"0": "person"}, r"1 names for the 4 classes"),
    ],
)
def test_names_of_classes(
    theirs_nano: Path, tmp_path: Path, nano: tuple[Path, dict[str, torch.Tensor]], id2label: Any, message: str
) -> None:
    path = changed(theirs_nano, tmp_path / "f", id2label=id2label)
    if not message:
        require_equal(importer.load_parameters(LABEL_MAP, model("nano", weights=str(path))), nano[1])
        return
    with pytest.raises(ValueError, match=message) as raised:
        importer.load_parameters(LABEL_MAP, model("nano", weights=str(path)))
    assert "[]" not in str(raised.value)
    # The key says all that the file does not.
    require_equal(importer.load_parameters(LABEL_MAP, model("nano", weights=str(path), weights_classes=NAMES)), nano[1])


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 190000000\n"
NETWORK: dict[str, Any] = {"sem_seg_head.x": torch.zeros(2)}


def old_saved(content: Any) -> bytes:
    """As PyTorch before 1.6 saved it."""
    return zip_saved(content, _use_new_zipfile_serialization=False)


def zip_saved(content: Any, **changes: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **changes)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.pth", LFS, r"x.pth is a pointer of Git LFS, not the file itself; run `git lfs pull`"),
        ("x.pkl", LFS, r"x.pkl is a pointer of Git LFS"),
        ("x.pth", b"\n<!DOCTYPE html><html>", "x.pth is a web page; download the file itself"),
        ("x.pth", b"", "x.pth is empty"),
        ("x.pth", zip_saved(NETWORK)[:200], "cut short or damaged (its end is missing); download or copy it again"),
        ("x.pth", old_saved(NETWORK)[:-3], "x.pth is cut short or damaged (unexpected EOF"),
        ("x.pth", old_saved(NETWORK)[:100], "x.pth is cut short or damaged (EOFError); download or copy it again"),
        ("x.pth", zip_saved(torch.nn.Linear(1, 1)), "GLOBAL torch.nn.modules.linear.Linear); save its state dict only"),
        ("x.pth", old_saved(torch.nn.Linear(1, 1)), "save its state dict only, torch.save(network.state_dict(), file)"),
        ("x.pth", bytes(4096), "x.pth starts with 512 zero bytes, so it is not complete; download or copy it again"),
        ("x.pkl", bytes(4096), "x.pkl starts with 512 zero bytes, so it is not complete; download or copy it again"),
        ("x.safetensors", bytes(9), "x.safetensors starts with 9 zero bytes, so it is not complete; download or copy"),
        ("x.pth", b'{"error": "not found"}', "it starts with b'{\"error\": \"not f': download it again"),
        ("x.pth", b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "x.pth is a web page"),
        ("x.pth", b"\xef\xbb\xbf<!DOCTYPE html>", "x.pth is a web page"),
        ("x.pth", gzip.compress(zip_saved(NETWORK)), "x.pth is a gzip file; unpack it (gunzip "),
        ("x.pkl", pickle.dumps({"model": {"sem_seg_head.x": np.zeros(99)}})[:-40], "x.pkl: can't be read: it is cut"),
        ("x.safetensors", b"\x09\0\0\0\0\0\0\0{", "x.safetensors: can't be read"),
        ("x.safetensors", b"{}", "x.safetensors: can't be read"),
        ("x.pth", zip_saved({"state_dict": b"1", "state_dict_encrypted": 1}), "a checkpoint that TAO encrypted"),
        ("x.pth", zip_saved({"state_dict": {"panoptic_head.cls_embed.weight": torch.zeros(1), "backbone.x": 1}}),
         r"found a network of mmdetection or mmsegmentation.*\['panoptic_head.cls_embed.weight'\]"),
        ("x.pth", zip_saved({"model": {"patch_embed.proj.weight": torch.zeros(1)}}), "a backbone only; set model"),
        ("x.pth", zip_saved({"model": {}}), "found the keys [], none of a Mask2Former"),
        ("x.pth", zip_saved(torch.zeros(1)), "x.pth: found Tensor, expected"),
        ("x.pth", zip_saved({"student": NETWORK, "teacher": NETWORK}), r"networks \['student', 'teacher'\], expec"),
        ("x.pth", zip_saved({**NETWORK, "ema.sem_seg_head.x": torch.zeros(2)}), r"networks, under \['', 'ema.'\]"),
        ("x.pth", zip_saved({**NETWORK, 5: torch.zeros(2)}), "found the name 5 of a tensor"),
        ("x.pth", zip_saved({**NETWORK, "_orig_mod.sem_seg_head.x": torch.zeros(2)}), "holds sem_seg_head.x twice"),
        ("x.pth", zip_saved({"model.pixel_level_module.x": torch.zeros(2)}), "without its config.json; set"),
        ("x.pth", zip_saved({"sem_seg_head.x": torch.zeros(2, dtype=torch.int8)}), "'sem_seg_head.x' is int8"),
        ("x.pth", zip_saved({"sem_seg_head.x": torch.zeros(2, device="meta")}), "'sem_seg_head.x' is a tensor without"),
        ("x.pth", zip_saved({"sem_seg_head.x": torch.tensor([1.0, float("nan")])}), "has 1 values that are NaN"),
        ("x.pth", zip_saved({"sem_seg_head.x": torch.tensor([float("inf")] * 2)}), "'sem_seg_head.x' has 2 values"),
        ("x.pth", zip_saved({"sem_seg_head.x": torch.tensor([1e300], dtype=torch.float64)}), "values that are NaN"),
        ("x.pkl", pickle.dumps({"model": {"sem_seg_head.x": np.array(["a"])}}), "'sem_seg_head.x' is an array of <U1"),
        ("x.pkl", pickle.dumps({"model": {"sem_seg_head.x": np.array([np.nan])}}), "NaN or infinite"),
    ],
)  # fmt: skip
def test_files_that_hold_no_network_to_be_taken(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = write(tmp_path / name, content)
    message = message if "\\" in message else re.escape(message)
    with pytest.raises(ValueError, match=message) as raised:
        reader.read(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)
    assert "weights_only" not in str(raised.value)


def damaged_in_the_middle(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(byte ^ 1 for byte in content[middle : middle + 64]) + content[middle + 64 :]


def test_a_damaged_tensor_is_noticed(nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    content = damaged_in_the_middle(zip_saved(lightning(nano[1])))
    path = write(tmp_path / "x.pth", content)
    # PyTorch itself loads it.
    assert torch.load(path, weights_only=True).keys() == lightning(nano[1]).keys()
    with pytest.raises(ValueError, match=r"x.pth is damaged \(the CRC-32 of \S+ differs\); download or copy it again$"):
        imported_state(path)


def test_a_file_that_was_saved_without_crc_is_read(nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "x.pth", lightning(nano[1]))
    finally:
        torch.serialization.set_crc32_options(True)
    require_equal(imported_state(path), nano[1])


def test_a_checkpoint_that_cannot_be_loaded_is_named_in_one_line(
    nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    good = (nano[0] / "model.pth").read_bytes()
    spec_text = (nano[0] / "spec.yaml").read_text()
    one_less = {name: value for name, value in lightning(nano[1]).items() if "norm0.bias" not in name}
    cases: list[tuple[str, bytes | None, str]] = [
        ("model.pth", None, r"c/model.pth not found; expected the folder of a checkpoint with spec.yaml and model.pth"),
        ("model.pth", good[:100_000], r"c/model.pth is cut short or damaged \(its end is missing\); download or copy"),
        ("model.pth", damaged_in_the_middle(good), r"c/model.pth is damaged \(the CRC-32 of"),
        ("model.pth", b"text", r"c/model.pth starts with b'text', expected a file of torch.save"),
        ("model.pth", zip_saved(nano[1]), r"c/model.pth: found no state_dict, expected a checkpoint"),
        (
            "model.pth",
            zip_saved({"state_dict": one_less}),
            r"c/model.pth does not fit the network .*backbone.norm0.bias",
        ),
        ("spec.yaml", None, r"c/spec.yaml not found; expected the folder of a checkpoint"),
        ("spec.yaml", b"model: [1", r"c/spec.yaml:\d+:\d+: not YAML"),
        ("spec.yaml", b"- 1", r"c/spec.yaml: found no keys, expected TAO's spec; use"),
        ("spec.yaml", f"{spec_text}\nodd: 1\n".encode(), r"c/spec.yaml: not TAO's spec \(.*odd.*\); use"),
    ]
    for name, content, message in cases:
        shutil.rmtree(tmp_path / "c", ignore_errors=True)
        shutil.copytree(nano[0], tmp_path / "c")
        (tmp_path / "c" / name).unlink()
        if content is not None:
            write(tmp_path / "c" / name, content)
        with pytest.raises((ValueError, FileNotFoundError), match=f"^{re.escape(str(tmp_path))}/{message}") as raised:
            wheel.load_model(tmp_path / "c")
        assert "\n" not in str(raised.value)
    with pytest.raises(FileNotFoundError, match=r"nowhere/spec.yaml not found; .*; run `make all`, or choose another"):
        wheel.load_model(tmp_path / "nowhere")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types(
    nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, dtype: torch.dtype
) -> None:
    state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in nano[1].items()}
    path = saved(tmp_path / "x.pth", lightning(state))
    require_equal(imported_state(path), {name: value.float() for name, value in state.items()})


def test_a_file_is_known_by_how_it_begins_and_not_by_its_suffix(
    nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    content = lightning({name: value.contiguous() for name, value in nano[1].items()})
    old = io.BytesIO()
    torch.save(content, old, _use_new_zipfile_serialization=False)
    arrays = {name: value.numpy() for name, value in content.items()}
    for name, written in (
        ("a.pkl", zip_saved(content)), ("b.pkl", old.getvalue()), ("c.pth", pickle.dumps(arrays)),
        ("d.ckpt", zip_saved(content)), ("e.weights", zip_saved(content)),
    ):  # fmt: skip
        require_equal(imported_state(write(tmp_path / name, written)), nano[1])
    save_file(content, tmp_path / "f.safetensors")
    require_equal(imported_state(tmp_path / "f.safetensors"), nano[1])


def test_a_file_out_of_a_folder_of_hugging_face(theirs_nano: Path) -> None:
    with pytest.raises(ValueError, match=r"without its config.json; set model.weights to the folder that holds both"):
        reader.read(theirs_nano / "model.safetensors")


def test_names_of_hugging_face_with_prefixes(
    theirs_nano: Path, tmp_path: Path, nano: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    from safetensors.torch import load_file

    path = tmp_path / "f"
    state = {f"module.{name}": value for name, value in load_file(theirs_nano / "model.safetensors").items()}
    shutil.copytree(theirs_nano, path, ignore=shutil.ignore_patterns("*.safetensors"))
    saved(path / "pytorch_model.bin", state)
    require_equal(importer.load_parameters(LABEL_MAP, model("nano", weights=str(path))), nano[1])


@pytest.fixture(params=["safetensors", "bin"])
def shards(theirs_nano: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder of Hugging Face in several files, one of them in a folder of its own."""
    from safetensors.torch import load_file, save_file

    state = load_file(theirs_nano / "model.safetensors")
    path = tmp_path / "shards"
    shutil.copytree(theirs_nano, path, ignore=shutil.ignore_patterns("*.safetensors"))
    (path / "more").mkdir()
    kind, write = (
        ("model.safetensors", save_file) if request.param == "safetensors" else ("pytorch_model.bin", torch.save)
    )
    names = sorted(state)
    places = {name: f"{'more/' if i % 2 else ''}x-{i % 2}.{request.param}" for i, name in enumerate(names)}
    for place in set(places.values()):
        write({name: state[name] for name in names if places[name] == place}, path / place)
    files.write_json(path / f"{kind}.index.json", {"metadata": {}, "weight_map": places})
    return path


def test_several_files(shards: Path, nano: tuple[Path, dict[str, torch.Tensor]]) -> None:
    require_equal(importer.load_parameters(LABEL_MAP, model("nano", weights=str(shards))), nano[1])
    shard = next(shards.glob("x-0.*"))
    link = shard.rename(shard.with_name("blob"))
    shard.symlink_to(link)
    # As in Hugging Face's cache.
    require_equal(importer.load_parameters(LABEL_MAP, model("nano", weights=str(shards))), nano[1])


def edit_index(change: Any) -> Any:
    def apply(path: Path) -> None:
        index = next(path.glob("*.index.json"))
        index.write_text(json.dumps(change(json.loads(index.read_text()))))

    return apply


def relisted(listed: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"weight_map": {**listed["weight_map"], **changes}}


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (lambda path: next(path.glob("x-0.*")).unlink(), r"x-0\.\w+ not found, which \S+.index.json lists; download"),
        (lambda path: next(path.glob("x-0.*")).write_bytes(LFS), r"x-0\.\w+ is a pointer of Git LFS"),
        (lambda path: next(path.glob("*.index.json")).write_bytes(LFS), r"index.json is a pointer of Git LFS"),
        (lambda path: (path / "config.json").write_bytes(LFS), r"config.json is a pointer of Git LFS"),
        (
            edit_index(lambda c: relisted(c, a="../../x-0.bin")),
            r"index.json: lists '../../x-0.bin', which is not in its",
        ),
        (edit_index(lambda c: relisted(c, a="/etc/passwd")), r"index.json: lists '/etc/passwd'"),
        (
            edit_index(lambda c: relisted(c, a=sorted(c["weight_map"].values())[-1])),
            r"holds other tensors than.*\['a'\]",
        ),
        (edit_index(lambda c: {"weight_map": {}}), "has no weight_map"),
        (edit_index(lambda c: {"weight_map": {"a": 1}}), "has no weight_map"),
        (edit_index(lambda c: []), "index.json: found list, expected an object"),
    ],
)
def test_several_files_of_which_one_is_wrong(shards: Path, apply: Any, message: str) -> None:
    apply(shards)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as raised:
        importer.load_parameters(LABEL_MAP, model("nano", weights=str(shards)))
    assert str(raised.value).startswith(str(shards))


def test_a_folder_of_something_else_names_the_step_that_helps(theirs_nano: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a folder without config.json, expected [^;]*$"):
        imported_state(tmp_path)
    saved(tmp_path / "model_final.pth", {})
    with pytest.raises(ValueError, match=r"; set model.weights to \S+/model_final.pth$"):
        imported_state(tmp_path)
    shutil.copytree(theirs_nano, tmp_path / "models--me--net/snapshots/0a1b")
    with pytest.raises(ValueError, match=r"; set model.weights to \S+/snapshots/0a1b$"):
        imported_state(tmp_path / "models--me--net")


def swin_file(path: Path, state: dict[str, torch.Tensor], **changes: Any) -> Path:
    """ImageNet weights of a backbone as the original Swin's releases have them."""
    names = {n.removeprefix("backbone."): v for n, v in state.items() if n.startswith("backbone.")}
    names = {n: v for n, v in names.items() if not n.startswith("norm")}
    return saved(path, {"model": {**names, "norm.weight": torch.ones(192), "head.bias": torch.zeros(9), **changes}})


def test_imagenet_weights_of_another_form_are_not_left_out_in_silence(
    nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    path, spec_file = tmp_path / "swin.pth", nano[0] / "spec.yaml"
    importer.check_backbone(swin_file(path, nano[1]), spec_file)
    theirs = {n.removeprefix("backbone."): v for n, v in nano[1].items() if n.startswith("backbone.")}
    for content, message in (
        ({"model": {f"module.{n}": v for n, v in theirs.items()}}, "layers.0.blocks.0.attn.proj.bias is missing"),
        ({"state_dict": theirs}, r"found \['state_dict'\], expected a .pth of the original Swin"),
        (theirs, "expected a .pth of the original Swin, whose one key is model"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))}.*{message}"):
            importer.check_backbone(saved(path, content), spec_file)
    swin_file(path, nano[1], **{"patch_embed.norm.bias": torch.zeros(96)})
    with pytest.raises(ValueError, match=r"patch_embed.norm.bias is \(96,\), expected \(24,\); set model.backbone"):
        importer.check_backbone(path, spec_file)


def stage(cwd: Path, *words: str) -> Any:
    return run(sys.executable, "-m", *words, cwd=cwd, PYTHONPATH=str(REPO))


def require_one_line(done: Any, message: str) -> None:
    assert done.returncode == 1, done.stderr
    assert re.search(message, done.stderr.splitlines()[-1]), done.stderr
    assert "Traceback" not in done.stderr


def test_train_ends_in_one_line(tmp_path: Path) -> None:
    train = ("stages.train", "--coco", "coco", "--out", "out", "--work", "work", "--metrics", "m.json")
    require_one_line(stage(tmp_path, *train), r"params.yaml not found; run `make params`")
    write(tmp_path / "x.pth", zip_saved({"model": {"sem_seg_head.x": torch.zeros(1)}}))
    overrides = "profile=sample", "train.runner=import", "model.weights=x.pth", "model.weights_format=tao"
    composed = stage(tmp_path, "stages.commands.params", "--conf", str(REPO / "conf"), *overrides)
    assert composed.returncode == 0, composed.stderr
    require_one_line(stage(tmp_path, *train), r"coco/label_map.json")
    write(tmp_path / "coco/label_map.json", json.dumps(LABEL_MAP).encode())
    done = stage(tmp_path, *train)
    require_one_line(done, r"^x.pth does not fit the network of `model` in conf/: backbone\S+ is missing;")
    assert not (tmp_path / "out").exists()


def test_hugging_face_ends_in_one_line(nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    out = shutil.copytree(nano[0], tmp_path / "c")
    write(tmp_path / "label_map.json", json.dumps(LABEL_MAP).encode())
    command = "stages.commands.hugging_face", "--checkpoint", "c", "--label-map", "label_map.json", "--out", "out"
    saved(out / "model.pth", {name: value for name, value in nano[1].items() if "class_embed" not in name})
    require_one_line(stage(tmp_path, *command), r"^c/model.pth: \S+class_embed.bias is missing")
    saved(out / "model.pth", {**nano[1], formats.EMPTY_WEIGHT: EMPTY["original"]})
    require_one_line(stage(tmp_path, *command), r"^c/model.pth: .* its criterion.empty_weight has no-object last")
    saved(out / "model.pth", nano[1])
    (out / "spec.yaml").write_text("model: {backbone: {}}\n")
    require_one_line(stage(tmp_path, *command), r"^c/spec.yaml: has no 'swin'; use the spec that train wrote")


def test_a_key_of_another_value() -> None:
    with pytest.raises(
        ValueError, match=r"model.weights_format: must be one of .*'hugging_face'.*, found 'detectron2'"
    ):
        model("nano", weights_format="detectron2")
