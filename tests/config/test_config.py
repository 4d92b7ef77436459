import re
import shutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from dvc.utils.hydra import compose_and_dump
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stages import config
from stages.commands import parameters_doc, params
from stages.config import choice
from tests.conftest import REPO, run

PROFILES = sorted(p.stem for p in (REPO / "conf/profile").glob("*.yaml"))


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_composes_and_is_valid(tmp_path: Path, profile: str) -> None:
    out = tmp_path / "params.yaml"
    assert params.build(REPO / "conf", out, [f"profile={profile}"])
    assert config.load(out).profile == profile
    assert not params.build(REPO / "conf", out, [f"profile={profile}"])


def test_params_yaml_is_what_conf_composes(tmp_path: Path) -> None:
    params.build(REPO / "conf", tmp_path / "params.yaml", choice.recorded(REPO / "params.yaml").for_hydra())
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
        ("runnable=[board]", ["runnable", "cpu", "board"]),
        ("targets.cpu.variant=cuda", ["targets.cpu.variant", "onnx or onnx_gather for a CPU target", "GPUs only"]),
        ("targets.rtx.variant=onnx_plugin_v1", ["targets.rtx.variant", "one without plugins", "onnx_plugin_v1"]),
        (
            "targets.rtx.variant=cuda",
            ["targets.rtx.variant", "an ONNX variant for builder: tensorrt_rtx; our kernels", "cuda"],
        ),
        ("targets.rtx.cuda_major=12", ["targets.rtx.cuda_major", "0 for builder: tensorrt_rtx", "12"]),
        ("targets.rtx.architecture=any", ["targets.rtx.architecture", "that of a CPU", "any"]),
        ("targets.gpu.variant=onnx", ["targets.gpu.variant", "cuda for builder: cuda", "onnx"]),
        ("targets.gpu.cuda_major=11", ["targets.gpu.cuda_major", "one of [12, 13]", "11"]),
        ("targets.gpu.cuda_major=12", ["targets.gpu.builder_version", "begins with cuda_major 12", "13.0"]),
        ("targets.gpu.architecture=x86_64", ["targets.gpu.architecture", "any for builder: cuda", "x86_64"]),
        ("targets.gpu.compute_capabilities=['7.0']", ["targets.gpu.compute_capabilities", "7.5 or later", "7.0"]),
        ("targets.gpu.compute_capabilities=['sm_90']", ["targets.gpu.compute_capabilities", "one or more", "sm_90"]),
        ("targets.gpu.compute_capabilities=['9.0','9.0']", ["targets.gpu.compute_capabilities", "each once"]),
        ("targets.rtx.variant=onnx_gather", ["targets.rtx.variant", "among deploy.variants", "onnx_gather"]),
        ("deploy.variants=[]", ["deploy.variants", "one variant or more"]),
        ("deploy.graph=tao", ["deploy.variants", "without cuda"]),
        ("targets.rtx.compute_capabilities=[]", ["targets.rtx.compute_capabilities", "one or more"]),
        ("targets.rtx.compute_capabilities=['9.0']", ["targets.rtx.compute_capabilities", "8.9", "9.0"]),
        ("targets.cpu.threads=0", ["targets.cpu.threads", "1 or more"]),
        ("train.gpus=[0,0]", ["train.gpus", "each once"]),
        ("train.runner=docker", ["train.container.image", "train.runner: docker"]),
        ("data.sources.vistas.repeat=0.5", ["data.sources.vistas.repeat", "1 to 1000", "0.5"]),
        ("train.repeat_threshold=1.5", ["train.repeat_threshold", "0 to 1", "1.5"]),
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


SECTIONS = [kind for kind in vars(config).values() if is_dataclass(kind) and kind is not config.Range]


@pytest.mark.parametrize("section", SECTIONS)
def test_config_holds_fields_and_checks_alone(section: Any) -> None:
    """No stage depends on stages/config, so a result must not depend on its code: what computes is elsewhere."""
    names = {field.name for field in fields(section)}
    # What a dataclass with no more than fields has by itself.
    of_all_dataclasses = set(vars(make_dataclass("Empty", ["x"]))) | {"__annotations_cache__", "__annotate_func__"}
    more = set(vars(section)) - of_all_dataclasses - names
    assert {name for name in more if not re.fullmatch(r"__post_init__|_?check(_\w+)?", name)} == set()
    for name in sorted(more):
        hints = get_type_hints(vars(section)[name])
        assert hints.get("return") is type(None), f"{name} is to raise or to return nothing"


def test_what_config_offers_besides_sections_and_choices() -> None:
    """A function or constant more: one that a result depends on belongs to where the result is made."""
    kinds = [name for name in config.__all__ if isinstance(getattr(config, name), type)]
    assert sorted(set(config.__all__) - set(kinds)) == [
        "CONTAINER_RUNNERS", "CPU_BUILDERS", "LABEL_MAP", "PLUGIN_VARIANTS", "RULES", "TILE", "find_target", "is_name",
        "load", "name_rule", "parse_deploy", "parse_target", "plain", "ranges", "require",
    ]  # fmt: skip


NUMBERS = [
    (kind, key, name, allowed)
    for key, kind in parameters_doc.sections(config.Config, "")
    for name, allowed in config.ranges(kind).items()
]


def outside(allowed: config.Range) -> Iterator[float]:
    """The nearest numbers beyond each end of a range."""
    if allowed.at_least is not None:
        yield allowed.at_least - 1
    if allowed.above is not None:
        yield allowed.above
    if allowed.at_most is not None:
        yield allowed.at_most + 1
    if allowed.below is not None:
        yield allowed.below
    if allowed.multiple_of is not None:
        yield allowed.multiple_of + 1


def section_with(kind: Any, name: str, value: float) -> None:
    """Make a section, checked, with one value other than the default."""
    if kind is config.Target:
        config.parse_target("cpu", {"builder_version": "1", name: value})
    elif kind is config.Source:
        config.Data(sources={"cpu": config.Source(**{name: value})})
    else:
        kind(**{name: value})


@pytest.mark.parametrize(("kind", "key", "name", "allowed"), NUMBERS)
def test_every_range_is_checked_and_in_the_document(kind: Any, key: str, name: str, allowed: config.Range) -> None:
    key = key.replace("NAME", "cpu")
    found = list(outside(allowed))
    assert found
    for value in found:
        with pytest.raises(ValueError, match=re.escape(f"{key}.{name}: must be {allowed.words()}, found {value!r};")):
            section_with(kind, name, value)
    assert allowed.words().removeprefix("in ") in (REPO / "docs/parameters.md").read_text()


@pytest.mark.parametrize(
    ("allowed", "good", "bad", "words"),
    [
        (config.Range(at_least=1), [1, 99], [0, -1], "1 or more"),
        (config.Range(at_least=2, at_most=5), [2, 5], [1, 6], "2 to 5"),
        (config.Range(above=0), [1e-9], [0, -1], "above 0"),
        (config.Range(above=0, below=1), [0.5], [0, 1], "in (0, 1)"),
        (config.Range(at_least=0, below=1), [0, 0.9], [-0.1, 1], "in [0, 1)"),
        (config.Range(above=0, at_most=1), [0.1, 1], [0, 1.1], "in (0, 1]"),
        (config.Range(above=0, multiple_of=32), [32, 64], [0, -32, 33], "a positive multiple of 32"),
        (config.Range(at_least=64, or_zero=True), [0, 64], [1, 63, -64], "0, or 64 or more"),
    ],
)
def test_ranges(allowed: config.Range, good: list[float], bad: list[float], words: str) -> None:
    assert [value for value in good if not allowed.holds(value)] == []
    assert [value for value in [*bad, float("nan")] if allowed.holds(value)] == []
    assert allowed.words() == words


def test_missing_params_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make params"):
        config.load(tmp_path / "params.yaml")


def test_plain_form_round_trips() -> None:
    loaded = config.load(REPO / "params.yaml")
    found: Any = config.plain(loaded)
    assert found == OmegaConf.to_container(OmegaConf.load(REPO / "params.yaml"))


BAD_NAMES = ["", "-x", "..", ".", "a b", "a'b", 'a"b', "a&b", "a;b", "a$b", "a/b", "a\nb", "ä", "x\n", "a.dvc"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_need_quotes_or_leave_their_folder(name: str) -> None:
    assert not config.is_name(name)
    with pytest.raises(ValueError, match=r"data\.sources: must be a name of a-z A-Z 0-9 -, with a letter") as caught:
        config.Data(sources={name: config.Source()})
    assert repr(name) in str(caught.value)
    with pytest.raises(ValueError, match=r"targets: must be a name of a-z A-Z 0-9 _ -, with a letter"):
        config.parse_target(name, {"builder_version": "1"})


def test_names_that_are_good() -> None:
    assert all(config.is_name(name) for name in ("mapillary", "2024_01", "v1.2-b", "A"))
    assert not config.is_name("a.b", "_-")
    assert "no .dvc at the end" in config.name_rule()
    assert ".dvc" not in config.name_rule("_-")
    assert config.parse_target("orin_jp6-2", {"builder_version": "1"}).builder_version == "1"


BOMB = "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}' if i else 'x'] * 10)}]\n" for i in range(10))
"""Ten lines that stand for 10^10 values."""


def profile(choice: str) -> str:
    return (REPO / "conf/profile/sample.yaml").read_text().replace("/target@targets.cpu: cpu", choice)


CASES = [
    # (file of conf, content, words of the message)
    ("train/sample.yaml", "epochs: 52\n\tlr: 1\n", ["sample.yaml:2:1", "use blanks in place of tabs"]),
    ("train/sample.yaml", "epochs: 52\nepochs: 60\n", ["sample.yaml:2:1", "duplicate key epochs"]),
    ("train/sample.yaml", "epochs: [52\nlr: 3\n", ["sample.yaml:2:3", "not YAML"]),
    ("train/sample.yaml", "epochs: 3\n---\nlr: 1\n", ["sample.yaml:2:1", "another document"]),
    ("train/sample.yaml", "- a\n", ["sample.yaml:1", "a mapping", "a list"]),
    ("train/sample.yaml", "just text\n", ["sample.yaml:1", "a mapping", "just text"]),
    ("train/sample.yaml", "# lost\n", ["sample.yaml", "found no key"]),
    ("train/sample.yaml", b"epochs: 52\n# \xfc\n", ["sample.yaml:2", "0xfc", "UTF-8"]),
    ("train/sample.yaml", "epochs: 52\n".encode("utf-16"), ["sample.yaml", "UTF-16", "save the file as UTF-8"]),
    ("train/sample.yaml", "epochs: 52\n# \x01\n", ["sample.yaml:2", "0x01"]),
    ("train/sample.yaml", "seed: &a [*a]\n", ["alias within itself"]),
    ("train/sample.yaml", "seed: ${nix}\n", ["sample.yaml:1", "nix"]),
    ("train/sample.yaml", "seed: ${\n", ["sample.yaml:1", "seed"]),
    ("train/sample.yaml", "\nseed: ${oc.env:HOME}\n", ["sample.yaml:2", "which git keeps; write the value itself"]),
    ("train/sample.yaml", "seed: ${oc.decode:${oc.env:NO,3}}\n", ["sample.yaml:1", "oc.env"]),
    ("train/sample.yaml", "epochs: !!python/object/apply:os.abort []\n", ["sample.yaml:1:9", "not YAML", "the tag"]),
    ("train/sample.yaml", "epochs: 1" + "0" * 30, ["sample.yaml:1", "train.epochs", "64 bits"]),
    ("train/sample.yaml", "lr: .nan\n", ["train.lr", "finite", "nan"]),
    ("train/sample.yaml", BOMB, ["sample.yaml", "aliases", "stand for 12345679021 values", "write out what is meant"]),
    ("data/sample.yaml", "root: ../../etc\n", ["sample.yaml:1", "data.root", "without ..", "../../etc"]),
    ("data/sample.yaml", "root: a; touch pwned\n", ["sample.yaml:1", "data.root", "a; touch pwned"]),
    ("profile/sample.yaml", profile("/target@targets.a;touch: cpu"), ["targets", "a name of", "a;touch"]),
    ("profile/sample.yaml", profile("/target@targets.a/../b: cpu"), ["target/cpu.yaml", "not in 'Target'"]),
    ("train/sample.yaml", "epochs:\n  a: 3\n", ["sample.yaml:2", "train.epochs: must be a whole number", "a mapping"]),
    ("train/sample.yaml", "milestones: {a: 3}\n", ["sample.yaml:1", "train.milestones: must be a list"]),
    ("train/sample.yaml", "container:\n", ["sample.yaml:1", "train.container: must be a mapping", "nothing"]),
    (
        "train/sample.yaml",
        "activation_checkpoint: 5\n",
        ["sample.yaml:1", "train.activation_checkpoint", "true or false"],
    ),
    ("train/sample.yaml", "precision: no\n", ["sample.yaml:1", "train.precision", "fp16", "found no"]),
    ("train/sample.yaml", "seed: 3\nepochz: 3\n", ["sample.yaml:2", "train.epochz", "did you mean epochs"]),
    ("train/sample.yaml", "lr: .inf\n", ["train.lr", "finite", "inf"]),
    ("train/sample.yaml", "defaults: [{a: 3}]\n", ["sample.yaml:1", "names of files", "'3'"]),
    ("train/sample.yaml", "defaults: nix\n", ["sample.yaml:1", "defaults: must be a list"]),
    ("train/sample.yaml", "defaults: [nix]\n", ["train/nix.yaml not found", "mapillary"]),
    ("train/sample.yaml", "tao_spec: {wandb: {name: 2024_01}}\n", ["train.tao_spec.wandb.name", "text", "202401"]),
    (
        "train/sample.yaml",
        "tao_spec: {train: {cudnn: {benchmark: 5}}}\n",
        ["tao_spec.train.cudnn.benchmark", "true or false"],
    ),
    ("data/sample.yaml", "sources: {007: {root: x}}\n", ["sample.yaml:1", "data.sources", "write '007'"]),
    ("data/sample.yaml", "sources: {no: {root: x}}\n", ["sample.yaml:1", "data.sources", "write 'no'"]),
    ("data/sample.yaml", "root: a\nsources: {null: {root: x}}\n", ["sample.yaml:2", "data.sources", "write 'null'"]),
    ("train/sample.yaml", "lr: 1\nseed: &a [*a]\n", ["sample.yaml:2: an alias within itself", "write out"]),
    ("train/sample.yaml", "tao_spec: &a {b: {c: *a}}\n", ["train/sample.yaml:1: an alias within itself"]),
    ("train/sample.yaml", "seed: " + "[" * 900 + "]" * 900, ["train/sample.yaml: nested too deeply", "fewer levels"]),
    ("train/sample.yaml", "seed: ${nix}\n", ["'nix' not found", "write the full key of another value"]),
    # Other files have ${...} too.
    ("data/sample.yaml", "# ${oc.decode:12}\nsplit_file: ${oc.decode:12}\n", ["data/sample.yaml:2:", "give it text"]),
    ("data/sample.yaml", "sources: {a b: {root: x}}\n", ["data.sources", "a name of", "a b"]),
    ("data/sample.yaml", "sources: [a]\n", ["sample.yaml:1", "data.sources: must be a mapping"]),
    ("data/sample.yaml", "sources: {a: {root: ../b}}\n", ["data.sources.a.root", "../b"]),
    ("data/sample.yaml", "sources: {a: {version: 2.0}}\n", ["sample.yaml:1", "data.sources.a.version", "write '2.0'"]),
    (
        "profile/sample.yaml",
        b"\xef\xbb\xbf" + (REPO / "conf/profile/sample.yaml").read_bytes(),
        ["sample.yaml:1", "byte order"],
    ),
    ("profile/sample.yaml", "defaults: [/data: sample]\n", ["sample.yaml:1", "# @package _global_"]),
]


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A copy of conf/, with the plugin that registers the schema beside it."""
    shutil.copytree(REPO / "conf", tmp_path / "conf")
    shutil.copytree(REPO / "hydra_plugins", tmp_path / "hydra_plugins")
    return tmp_path / "conf"


def refused(conf: Path, *overrides: str) -> str:
    """The message of a composition that fails: one line, and the file stays."""
    out = conf.parent / "params.yaml"
    out.write_text("old")
    with pytest.raises(ValueError, match=r".") as caught:
        params.build(conf, out, list(overrides))
    assert out.read_text() == "old"
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("name", "content", "words"), CASES)
def test_a_fault_in_a_file_is_one_line_with_place_rule_and_value(
    conf: Path, name: str, content: str | bytes, words: list[str]
) -> None:
    (conf / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refused(conf)
    assert [word for word in words if word not in message] == [], message


TARGET = """description: RTX 6000 Ada
builder: tensorrt
builder_version: VERSION
device: cuda
compute_capabilities: ["8.9"]
precision: fp16
variant: onnx
typing: weak
"""


@pytest.mark.parametrize(
    "written", ["10.10", "10.0", "010", "1e1", "12:30", "0x10", ".5", "1_000", "no", "on", "null", "~", "true", "9"]
)
def test_text_that_yaml_takes_for_something_else_is_refused_with_the_quoted_form(conf: Path, written: str) -> None:
    (conf / "target/ada.yaml").write_text(TARGET.replace("VERSION", written))
    message = refused(conf, "+target@targets.ada=ada")
    assert "target/ada.yaml:3: targets.ada.builder_version: must be text" in message
    assert f"found {written}" in message
    assert f"write '{written}', with the quotes" in message


def test_text_in_quotes_stays_as_it_is(conf: Path) -> None:
    (conf / "target/ada.yaml").write_text(TARGET.replace("VERSION", "'10.10'"))
    params.build(conf, conf.parent / "params.yaml", ["+target@targets.ada=ada"])
    assert config.load(conf.parent / "params.yaml").targets["ada"].builder_version == "10.10"


def test_names_of_classes_are_text(conf: Path) -> None:
    words = ["no", "on", "1e3", "010", "null", "1_000", "12:30"]
    for i, word in enumerate(words):
        listed = ", ".join([*(f"'{w}'" for w in words[:i]), word])
        (conf / "model/nano.yaml").write_text(f"weights_classes: [{listed}]\n")
        assert f"nano.yaml:1: model.weights_classes[{i}]: must be text, found {word}" in refused(conf)


TEXTS = ["no", "on", "1e3", "010", "null", "1_000", "12:30", "2024-01-01", "0x10", ".5", "~", "0123", "2024_01", "a: b"]


def test_names_of_classes_in_quotes_come_out_as_they_are(conf: Path) -> None:
    listed = ", ".join(f"'{word}'" for word in TEXTS)
    params.build(conf, conf.parent / "params.yaml", [f"model.weights_classes=[{listed}]"])
    assert config.load(conf.parent / "params.yaml").model.weights_classes == TEXTS


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.split_file=2024_01", ["data.split_file: must be text", "found 2024_01", "data.split_file='2024_01'"]),
        ("model.name=10.10", ["model.name: must be text", "found 10.10", "model.name='10.10'"]),
        ("model.name=1e3", ["model.name='1e3'"]),
        ("model.name=true", ["model.name='true'"]),
        ("model.name=null", ["model.name='null'"]),
        ("model.name=${train.epochs}", ["override model.name", "model.name", "52"]),
        ("model.weights_classes=[a,1e3]", ["model.weights_classes[1]: must be text", "[a,1e3]", "quotes"]),
        ("train.activation_checkpoint=5", ["train.activation_checkpoint: must be true or false", "found 5"]),
        ("train.epochs=x", ["train.epochs: must be a whole number", "found x"]),
        ("train.epochs=3.0", ["train.epochs: must be a whole number", "found 3.0"]),
        ("train.epochs=true", ["train.epochs: must be a whole number", "found true"]),
        ("train.lr=true", ["train.lr: must be a number", "found true"]),
        ("train.lr=inf", ["train.lr: must be a finite number"]),
        ("verify.max_pq_difference=nan", ["verify.max_pq_difference: must be a finite number"]),
        ("train.precision=16", ["train.precision: must be one of", "fp16", "found 16"]),
        # TAO raises NotImplementedError for it, after the data are loaded.
        ("train.precision=int8", ["train.precision: must be one of ['fp32', 'fp16']", "found int8"]),
        ("deploy.lower_precisions=[fp32]", ["deploy.lower_precisions[0]: must be one of ['fp16', 'int8']"]),
        ("train.gpus=0", ["train.gpus: must be a list", "found 0"]),
        ("train=4", ["override train=4", "conf/train", "train='4'"]),
        ("train=nix", ["train/nix.yaml not found", "mapillary"]),
        ("profile=nix", ["profile/nix.yaml not found", "smoke"]),
        ("train.epochs=[", ["override train.epochs=[", "quotes"]),
        ("data.root=(a)", ["override data.root=(a)", "quotes"]),
        ("~train.epochs", ["train.epochs", "can't be deleted"]),
        ("+targets.x.threads=1", ["+targets={x: {threads: 1}}"]),
        ("+targets.x.compute_capabilities=[8.9]", ["+targets={x: {compute_capabilities: ['8.9']}}"]),
        ("+data.sources.a.root=08", ["+data.sources={a: {root: 08}}"]),
        ("+data.sources.a.root=2024_01", ["+data.sources={a: {root: '2024_01'}}"]),
        ("+data.sources.a.root=b", ["+data.sources={a: {root: b}}"]),
        ("+model.weights_classes=[road,null]", ["model.weights_classes[1]: must be text", "write null in quotes"]),
        ("targets.cpu.compute_capabilities=[null]", ["targets.cpu.compute_capabilities[0]: must be text"]),
        ("data.sources={null: {root: a}}", ["a name must be text", "a file under conf/"]),
        ("data.sources={1: {root: a}}", ["a name must be text", "a file under conf/"]),
        ("tables=x", ["override tables=x: no defaults list names tables", "'data'", "'train'"]),
        ("target=cpu", ["'target'", "target@targets.cpu"]),
        ("data.root=${nix}", ["override data.root=${nix}", "write the full key of another value"]),
        ("data.root=", ["data.root", "a path"]),
        ('data.root="it\'s"', ["data.root", "apostrophes", "it's"]),
        ("data.sources.vistas.config=/etc/x.json", ["data.sources.vistas.config", "/etc/x.json"]),
        ("profile='a b'", ["profile/a b.yaml not found"]),
        ("+target@targets.a b=cpu", ["override +target@targets.a b=cpu"]),
        ("+targets={a b: {builder_version: '1'}}", ["targets: must be a name of", "'a b'"]),
        ("targets.cpu.builder_version=???", ["targets.cpu.builder_version: must be given"]),
    ],
)
def test_a_fault_in_an_override_is_one_line_with_key_rule_and_value(
    conf: Path, override: str, words: list[str]
) -> None:
    message = refused(conf, override)
    assert [word for word in words if word not in message] == [], message


GOOD = {"int": "a whole number", "float": "a number", "bool": "true or false"}
FIELDS = [
    (f"{key}.{known.name}".lstrip(".").replace("NAME", "cpu" if key.startswith("targets") else "vistas"), kind, known)
    for key, kind in parameters_doc.sections(config.Config, "")
    for known in fields(kind)
    if get_type_hints(kind)[known.name] in (int, float, bool)
]


def test_a_value_of_another_type_says_type_range_value_and_mend_for_every_number(conf: Path) -> None:
    assert len(FIELDS) > 60
    for key, kind, known in FIELDS:
        rule = GOOD[get_type_hints(kind)[known.name].__name__]
        if known.name in config.ranges(kind):
            rule += f", {config.ranges(kind)[known.name].words()}"
        message = refused(conf, f"{key}=x")
        assert message.startswith(f"override {key}=x: {key}: must be {rule}, found x; give another value"), message
        assert f"such as {key}=" in message, message


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "train.epochs=0",
            ["override train.epochs=0: train.epochs: must be 1 or more, found 0", "such as train.epochs="],
        ),
        ("train.gpus={a: 1}", ["train.gpus: must be a list, each item a whole number, found {a: 1}"]),
        ("train.gpus=[x]", ["train.gpus[0]: must be a whole number", "found [x]", "such as train.gpus=[0]"]),
        ("train.runner=x", ["one of ['wheel', 'docker', 'launcher', 'import'], found x"]),
        ("train.container=3", ["train.container: must be a mapping", "such as train.container.shm_size_gib=16"]),
        ("targets.cpu=3", ["targets.cpu: must be a mapping, found 3", "such as targets.cpu.builder=openvino"]),
        ("data.root=a(b)", ["as data.root='a(b)'"]),
        ("b", ["override b: Hydra can't read it; write key=value", "key='a value'"]),
        ("train.epochs=choice(1,2)", ["must be one value", "make sweep GRID='train.epochs=choice(1,2)'"]),
        ("train.lr=range(1,4)", ["must be one value", "make sweep GRID='train.lr=range(1,4)'"]),
        ("data.root=a,b", ["must be one value", "a text with commas data.root='a,b'"]),
        ("overrides=[a]", ["overrides is the record of all others"]),
    ],
)
def test_an_override_that_is_refused_says_what_to_write(conf: Path, override: str, words: list[str]) -> None:
    message = refused(conf, override)
    assert [word for word in words if word not in message] == [], message


def test_a_value_out_of_range_in_a_file_is_told_with_its_line(conf: Path) -> None:
    (conf / "train/sample.yaml").write_text("lr: 0.1\nepochs: 0\n")
    assert "train/sample.yaml:2: train.epochs: must be 1 or more, found 0; edit it" in refused(conf)
    (conf / "train/sample.yaml").write_text("lr: 0.1\nepochs: x\n")
    assert "train/sample.yaml:2: train.epochs: must be a whole number, 1 or more, found x" in refused(conf)


def test_a_folder_that_the_profile_does_not_choose_from(conf: Path) -> None:
    (conf / "profile/p.yaml").write_text("# @package _global_\ntargets: {a: {builder_version: '1'}}\n")
    message = refused(conf, "profile=p", "data=sample")
    assert message == "override data=sample: no defaults list names data; write +data=sample to add it"
    params.build(conf, conf.parent / "params.yaml", ["profile=p", "+data=sample"])


def test_dvc_itself_composes_no_text_of_numbers(tmp_path: Path) -> None:
    for overrides in (["model.name=10.10"], ["model.weights_classes=[1e3]"], ["train.activation_checkpoint=5"]):
        with pytest.raises(ConfigCompositionException):
            compose_and_dump(tmp_path / "p.yaml", str(REPO / "conf"), None, "config", str(REPO), overrides)
    assert not (tmp_path / "p.yaml").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.root=0o17", ["data.root: must be text", "'0o17', which DVC reads as 15"]),
        ("model.weights_classes=[a,0o17]", ["model.weights_classes[1]"]),
    ],
)
def test_text_that_dvc_takes_for_a_number(conf: Path, override: str, words: list[str]) -> None:
    message = refused(conf, override)
    assert [word for word in words if word not in message] == [], message


def test_a_target_that_dvc_takes_for_a_number(conf: Path) -> None:
    profile = conf / "profile/sample.yaml"
    profile.write_text(profile.read_text().replace("  - _self_", "  - /target@targets.0o17: cpu\n  - _self_"))
    message = refused(conf)
    assert "targets: must be text" in message
    assert "'0o17'" in message
    assert "15" in message


@pytest.mark.parametrize("written", ["1e-4", "1.0E-4", "'1e-4'", "0.0001"])
def test_numbers_are_read_however_they_are_written(conf: Path, written: str) -> None:
    with (conf / "train/sample.yaml").open("a") as file:
        file.write(f"weight_decay: {written}\n")
    params.build(conf, conf.parent / "params.yaml", [])
    assert config.load(conf.parent / "params.yaml").train.weight_decay == 1e-4


def test_files_with_a_byte_order_mark_or_line_ends_of_windows(conf: Path) -> None:
    for path in conf.rglob("*.yaml"):
        content = path.read_bytes().replace(b"\n", b"\r\n")
        path.write_bytes(content if b"@package" in content else b"\xef\xbb\xbf" + content)
    params.build(conf, conf.parent / "params.yaml", [])
    assert (conf.parent / "params.yaml").read_text() == (REPO / "params.yaml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "builder_version: 2026.4.1",
            "builder_version: 10.10",
            ["targets.cpu.builder_version: must be text, in quotes"],
        ),
        ("profile: sample", "profile: 1", ["profile: must be text, in quotes"]),
        ("  cpu:", "  7:", ["targets: must be a mapping with names of text", "'7'"]),
        ("lr: 0.001", "lr: .nan", ["train.lr: must be a finite number"]),
        ("epochs: 52", "epochs: '52'", ["train.epochs: must be a whole number", "'52'"]),
        ("  seed: 2020", "\tseed: 2020", ["params.yaml:3:1", "use blanks in place of tabs"]),
        ("  seed: 2020", "  seed: 2020\n  seed: 1", ["params.yaml:4:3", "duplicate key seed"]),
    ],
)
def test_hand_edits_of_params_yaml_are_checked_alike(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    content = (REPO / "params.yaml").read_text()
    assert old in content
    (tmp_path / "params.yaml").write_text(content.replace(old, new, 1))
    with pytest.raises(ValueError, match=r".") as caught:
        config.load(tmp_path / "params.yaml")
    assert [word for word in words if word not in str(caught.value)] == [], caught.value


def test_params_json_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text('{"profile": "sample",\n "sample": }\n')
    with pytest.raises(ValueError, match=r"params\.json:2:12: not JSON"):
        config.load(tmp_path / "params.json")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("train.epochs=3  train.lr=1\n", ["train.epochs=3", "train.lr=1"]),
        ("data.split_file='2024_01' a=\"b c\"", ["data.split_file='2024_01'", 'a="b c"']),
        ("m=[a, 'b ]', c] x={a: {b: 1}}", ["m=[a, 'b ]', c]", "x={a: {b: 1}}"]),
        ("'data.root=a b' \"x=1\"", ["data.root=a b", "x=1"]),
        ("""v="'10.10'" m='[a,b]'""", ["v='10.10'", "m=[a,b]"]),
        ("a=b$c d=${e} f=choice(1, 2)", ["a=b$c", "d=${e}", "f=choice(1, 2)"]),
        ("""a="b\\" c" d""", ['a="b\\" c"', "d"]),
        ("a=[", ["a=["]),
        (" ", []),
    ],
)
def test_overrides_in_one_text(text: str, found: list[str]) -> None:
    assert params.split(text) == found


@pytest.mark.parametrize("profile", ["nix", "a b", "../config", "é", "-x", "sample'", "$HOME"])
def test_a_profile_that_is_not_there(tmp_path: Path, profile: str) -> None:
    out = str(tmp_path / "params.yaml")
    done = run("python", "-m", "stages.commands.params", f"--profile={profile}", "--out", out, cwd=REPO)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "PROFILE: must be the name of a file in conf/profile, one of ['ade150', 'camvid'" in done.stderr
    assert repr(profile) in done.stderr


def test_a_profile_named_by_a_year(conf: Path) -> None:
    (conf / "profile/2024.yaml").write_text("# @package _global_\ndefaults: [sample, _self_]\nprofile: '2024'\n")
    out = conf.parent / "params.yaml"
    done = run(
        "python", "-m", "stages.commands.params", "--conf", str(conf), "--profile=2024", "--out", str(out), cwd=REPO
    )
    assert done.returncode == 0, done.stderr
    assert config.load(out).profile == "2024"


def test_no_conf_where_it_is_run(tmp_path: Path) -> None:
    done = run("python", "-m", "stages.commands.params", cwd=tmp_path, PYTHONPATH=str(REPO))
    assert done.returncode == 1
    assert "config.yaml not found" in done.stderr
    assert done.stderr.count("\n") == 1
