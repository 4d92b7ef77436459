from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stages import config
from stages.commands import params
from tests.conftest import REPO

PROFILES = sorted(p.stem for p in (REPO / "conf/profile").glob("*.yaml"))


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_composes_and_is_valid(tmp_path: Path, profile: str) -> None:
    out = tmp_path / "params.yaml"
    assert params.build(REPO / "conf", out, [f"profile={profile}"])
    assert config.load(out).profile == profile
    assert not params.build(REPO / "conf", out, [f"profile={profile}"])


def test_params_yaml_is_what_conf_composes(tmp_path: Path) -> None:
    params.build(REPO / "conf", tmp_path / "params.yaml", [])
    assert (tmp_path / "params.yaml").read_text() == (REPO / "params.yaml").read_text(), "run `make params`"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epochz=3", ["epochz"]),
        ("train.epochs=many", ["train.epochs", "many"]),
        ("train.epochs=0", ["train.epochs", "1 or more", "0"]),
        ("train.crop_height_px=100", ["train.crop_height_px", "multiple of 32", "100"]),
        ("train.min_sizes_px=[192]", ["train.min_sizes_px", "two or more"]),
        ("deploy.opset=16", ["deploy.opset", "17 to 20", "16"]),
        ("model.num_object_queries=256", ["model.num_object_queries", "1 to 255", "256"]),
        ("model.backbone.num_heads=[5,2,4,8]", ["model.backbone.num_heads[0]", "divisor of 24", "5"]),
        ("measured=[gpu]", ["measured", "cpu", "gpu"]),
        ("targets.rtx.compute_capabilities=[]", ["targets.rtx.compute_capabilities", "one or more"]),
        ("targets.rtx.compute_capabilities=['9.0']", ["targets.rtx.compute_capabilities", "8.9", "9.0"]),
        ("targets.cpu.threads=0", ["targets.cpu.threads", "1 or more"]),
        ("train.gpus=[0,0]", ["train.gpus", "each once"]),
        ("train.runner=docker", ["train.container.image", "train.runner: docker"]),
        ("train.checkpoint_interval=5", ["train.checkpoint_interval", "a divisor of 52"]),
        ("train.container.image=tao:latest", ["train.container.image", "@sha256:"]),
        ("train.milestones=[999]", ["train.milestones", "999"]),
        ("train.weight_decay=-1", ["train.weight_decay", "0 or more"]),
        ("train.max_size_px=100", ["train.max_size_px", "100"]),
        ("deploy.max_logit_difference=0", ["deploy.max_logit_difference", "above 0"]),
        ("data.splits=file", ["data.split_file", "exactly for data.splits: file"]),
        ("data.val_fraction=1", ["data.val_fraction", "in (0, 1)"]),
        ("data.max_edge_px=10", ["data.max_edge_px", "0, or 64 or more", "10"]),
        ("data.sources.vistas.taxonomi=x", ["taxonomi"]),
        ("targets.cpu.builder=openvin", ["targets.cpu.builder", "openvin"]),
        ("+train.tao_spec.model.mask_former.dropot=0.1", ["train.tao_spec.model.mask_former.dropot"]),
        ("+train.tao_spec.train.cudnn.benchmark=7x", ["train.tao_spec.train.cudnn.benchmark", "7x"]),
        ("+train.tao_spec.train.optim.lr=0.1", ["train.tao_spec.train.optim.lr", "docs/parameters.md"]),
    ],
)
def test_a_bad_value_names_key_rule_and_value_and_leaves_the_file(
    tmp_path: Path, override: str, words: list[str]
) -> None:
    out = tmp_path / "params.yaml"
    out.write_text("old")
    with pytest.raises((ValueError, OmegaConfBaseException, HydraException)) as caught:
        params.build(REPO / "conf", out, [override])
    assert [w for w in words if w not in str(caught.value)] == []
    assert out.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["params.yaml"]


def test_one_switch_for_the_mode(tmp_path: Path) -> None:
    for mode in ("semantic", "instance"):
        params.build(REPO / "conf", tmp_path / "params.yaml", [f"model.mode={mode}"])
        assert config.load(tmp_path / "params.yaml").deploy.mode.value == mode
        with pytest.raises(ValueError, match=rf"deploy\.mode: must be {mode}.*found 'panoptic'"):
            params.build(REPO / "conf", tmp_path / "params.yaml", [f"model.mode={mode}", "deploy.mode=panoptic"])


@pytest.mark.parametrize("model", ["swin_tiny", "swin_small", "swin_base", "swin_large"])
def test_every_model_is_one_that_tao_knows(tmp_path: Path, model: str) -> None:
    params.build(REPO / "conf", tmp_path / "params.yaml", ["profile=mapillary", f"model={model}"])
    assert config.load(tmp_path / "params.yaml").model.backbone.type.value == model.removeprefix("swin_")


def test_fsdp_is_for_the_wheel(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.strategy: must be ddp for train\.runner: launcher.*found 'fsdp'"):
        params.build(REPO / "conf", tmp_path / "params.yaml", ["train.runner=launcher", "train.strategy=fsdp"])


def test_hand_edited_params_are_checked(tmp_path: Path) -> None:
    edited = OmegaConf.load(REPO / "params.yaml")
    edited.verify.min_pixel_agreement_pct = 101
    OmegaConf.save(edited, tmp_path / "params.yaml")
    with pytest.raises(ValueError, match=r"verify\.min_pixel_agreement_pct"):
        config.load(tmp_path / "params.yaml")


def test_missing_params_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make params"):
        config.load(tmp_path / "params.yaml")


def test_plain_form_round_trips() -> None:
    loaded = config.load(REPO / "params.yaml")
    found: Any = config.plain(loaded)
    assert found == OmegaConf.to_container(OmegaConf.load(REPO / "params.yaml"))


def test_names_of_sources_become_names_of_files() -> None:
    with pytest.raises(ValueError, match=r"data\.sources: must be names of A-Z a-z 0-9 -, found 'a/b'"):
        config.Data(sources={"a/b": config.Source()})
