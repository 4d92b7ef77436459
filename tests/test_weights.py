"""Weights from elsewhere and for elsewhere: the same network on both sides, and nothing read that could run."""

import json
import pickle
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
from stages.weights import imported, layouts, reading
from tests.conftest import REPO

# TAO's Swin gives it on every network.
pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")

NAMES = ["person", "car", "sky", "road"]
LABEL_MAP = [{"id": i + 1, "name": name, "isthing": int(i < 2), "color": [0, 0, i]} for i, name in enumerate(NAMES)]
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


def random_network(path: Path, seed: int = 0) -> Any:
    """TAO's network of path/spec.yaml with weights that all differ, saved as its checkpoint too."""
    torch.manual_seed(seed)
    net = wheel.build_network(path / "spec.yaml").eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    torch.save({"state_dict": {f"model.{k}": v for k, v in net.state_dict().items()}}, path / "model.pth")
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
    imported.checkpoint(LABEL_MAP, model(size, weights=str(tmp_path / "again")), back)
    returned = wheel.load_model(back).state_dict()
    assert returned.keys() == ours.state_dict().keys()
    for name, value in ours.state_dict().items():
        assert torch.equal(returned[name], value), name


@pytest.mark.usefixtures("tao_wheel")
@BY_SIZE
def test_a_network_of_hugging_face_answers_the_same_in_tao(size: str, tmp_path: Path) -> None:
    import transformers

    cfg = model(size)
    content = hugging_face.config(_spec_model(tmp_path, cfg), NAMES)
    torch.manual_seed(3)
    network = transformers.Mask2FormerForUniversalSegmentation(transformers.Mask2FormerConfig.from_dict(content)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    network.save_pretrained(tmp_path / "theirs")
    back = folder(tmp_path / "back", model(size, weights=str(tmp_path / "theirs")))
    imported.checkpoint(LABEL_MAP, model(size, weights=str(tmp_path / "theirs")), back)
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
    """As the original code saves it."""
    result = {"criterion.empty_weight": torch.ones(len(NAMES) + 1)}
    for name, value in state.items():
        if name.startswith(layouts.CLASSES):
            value = torch.cat([value[1:], value[:1]])
        result[name.replace("query_feat", "static_query")] = value
    return result


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_checkpoints_of_the_original(nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model_final{suffix}"
    content = original(nano[1])
    if suffix == ".pkl":
        arrays = {name: value.numpy() for name, value in content.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "third_party", "matching_heuristics": True}))
    else:
        torch.save({"model": content, "iteration": 9}, path)
    order = ["sky", "person", "road", "car"]
    cfg = model("nano", weights=str(path), weights_classes=order)
    found = imported.state(LABEL_MAP, cfg)
    for name, value in nano[1].items():
        if name.startswith(layouts.CLASSES):
            value = value[[0, *(1 + order.index(wanted) for wanted in NAMES)]]
        if "relative_position_index" not in name:
            assert torch.equal(found[name], value), name


def test_a_training_starts_from_all_of_another_network(
    nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    out = folder(tmp_path / "out", model("nano"))
    cfg = model("nano", weights=str(nano[0] / "model.pth"), weights_classes=[config.LABEL_MAP])
    imported.start(LABEL_MAP, cfg, out, tmp_path / "start.pkl")
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
        (change("backbone.norm0.weight", None), "backbone.norm0.weight is missing"),
        (change("backbone.norm9.weight", torch.ones(3)), "backbone.norm9.weight is left over"),
        (change("backbone.norm0.weight", torch.ones(3)), r"backbone.norm0.weight is \(3,\), expected \(24,\)"),
    ],
)
def test_every_parameter_is_accounted_for(
    nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, apply: Any, message: str
) -> None:
    state = dict(nano[1])
    apply(state)
    path = tmp_path / "model.pth"
    torch.save({"state_dict": {f"model.{name}": value for name, value in state.items()}}, path)
    out = folder(tmp_path / "out", model("nano"))
    with pytest.raises(ValueError, match=message):
        imported.checkpoint(LABEL_MAP, model("nano", weights=str(path), weights_classes=[config.LABEL_MAP]), out)
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
    with pytest.raises(ValueError, match=f"evil{suffix}: not read, for"):
        reading.read(path)
    assert not mark.exists()


def write(path: Path, content: bytes | dict[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.pth", None, "absent.pth not found"),
        ("model.onnx", b"x", "found a file of kind '.onnx', expected a .pth or .pkl"),
        ("model.pkl", b"no pickle", "model.pkl: not read"),
        ("model.pth", b"no zip", "model.pth: not read"),
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
        reading.read(path)


SWIN = {"model_type": "mask2former", "backbone_config": {"model_type": "swin"}}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({}, "a folder without config.json"),
        ({"config.json": {"model_type": "maskformer"}}, "model_type 'maskformer' with None, expected mask2former"),
        ({"config.json": {**SWIN, "backbone_config": {"model_type": "resnet"}}}, "with 'resnet'"),
        ({"config.json": SWIN}, "holds neither model.safetensors"),
        ({"config.json": SWIN, "model.safetensors": b"broken"}, "model.safetensors: can't be read"),
    ],
)
def test_folders_that_hold_no_network(tmp_path: Path, contents: dict[str, Any], message: str) -> None:
    (tmp_path / "f").mkdir()
    for name, content in contents.items():
        write(tmp_path / "f" / name, content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        reading.read(tmp_path / "f")


def test_a_stranger_among_the_names_and_a_missing_part() -> None:
    with pytest.raises(ValueError, match=r"'model.stranger' is no parameter"):
        layouts.from_hugging_face({"model.stranger": torch.zeros(1)})
    layer = "model.transformer_module.decoder.layers.0.self_attn"
    with pytest.raises(ValueError, match=r"1 of the three parts of sem_seg_head.*self_attn.in_proj_weight"):
        layouts.from_hugging_face({f"{layer}.q_proj.weight": torch.zeros(2, 2)})


def test_another_network_names_the_keys_to_set(tmp_path: Path) -> None:
    content = hugging_face.config(_spec_model(tmp_path, model("tiny")), NAMES)
    write(tmp_path / "f/config.json", content)
    write(tmp_path / "f/model.safetensors", b"\x02\0\0\0\0\0\0\0{}")
    cfg = model("nano", weights=str(tmp_path / "f"))
    with pytest.raises(ValueError, match=r"set model.backbone.embed_dim=96 model.backbone.depths=\[2, 2, 6, 2\]"):
        imported.state(LABEL_MAP, cfg)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "does not name its 4 classes; set model.weights_classes"),
        (["person", "car", "sky"], "3 classes for 4 rows"),
        (["person", "car", "sky", "tree"], r"lack \['tree'\] and which lack \['road'\]"),
    ],
)
def test_classes_that_do_not_fit(
    nano: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, classes: list[str], message: str
) -> None:
    cfg = model("nano", weights=str(nano[0] / "model.pth"), weights_classes=classes)
    with pytest.raises(ValueError, match=message):
        imported.state(LABEL_MAP, cfg)


def test_another_file_than_the_hash_says(nano: tuple[Path, dict[str, torch.Tensor]]) -> None:
    cfg = model("nano", weights=str(nano[0] / "model.pth"), weights_sha256="0" * 64)
    with pytest.raises(ValueError, match=rf"SHA-256 is \w+, expected {'0' * 64}; .* set model.weights_sha256"):
        imported.state(LABEL_MAP, cfg)
