"""The choice of profile and overrides: recorded by one command, used by the next."""

import shutil
from pathlib import Path

import pytest

from stages import config
from stages.commands import params
from stages.config import choice
from stages.config.choice import Choice
from tests.conftest import REPO, run


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder with what a composition needs, and no params.yaml."""
    for name in ("conf", "hydra_plugins", "stages"):
        shutil.copytree(REPO / name, tmp_path / name)
    return tmp_path


def make_params(workspace: Path, *arguments: str, status: int = 0) -> list[str]:
    """Lines that `make params` prints there."""
    done = run("python", "-m", "stages.commands.params", *arguments, cwd=workspace, PYTHONPATH=str(workspace))
    assert done.returncode == status, done.stderr
    return (done.stdout + done.stderr).splitlines()


@pytest.mark.parametrize(
    ("start", "more", "found"),
    [
        (Choice("a", ("x=1",)), [], Choice("a", ("x=1",))),
        (Choice("a", ("x=1", "y=2")), ["x=3"], Choice("a", ("y=2", "x=3"))),
        (Choice("a", ("x=1",)), ["+x=3"], Choice("a", ("x=1", "+x=3"))),
        (Choice("a", ("+x.y=1",)), ["+x.y=2"], Choice("a", ("+x.y=2",))),
        (Choice("a", ("+t@u.v=c",)), ["+t@u.w=c"], Choice("a", ("+t@u.v=c", "+t@u.w=c"))),
        (Choice("a", ("x=1",)), ["profile=a", "y=1"], Choice("a", ("x=1", "y=1"))),
        (Choice("a", ("x=1",)), ["profile='b'", "y=1"], Choice("b", ("y=1",))),
        (Choice("", ("x='a b'",)), ["~z"], Choice("", ("x='a b'", "~z"))),
    ],
)
def test_overrides_that_are_added(start: Choice, more: list[str], found: Choice) -> None:
    assert start.extended(more) == found


def test_the_choice_is_kept_until_it_is_changed(workspace: Path) -> None:
    recorded, out = "(recorded in params.yaml)", workspace / "params.yaml"
    assert make_params(workspace)[1:] == [f"profile sample {recorded}"]
    chosen = f"profile smoke with train.epochs=3 train.milestones=[2] {recorded}"
    assert make_params(workspace, "--profile=smoke", "--overrides=train.epochs=3 train.milestones=[2]")[1:] == [chosen]
    assert make_params(workspace) == ["params.yaml: up to date", chosen]
    assert make_params(workspace, "--profile=smoke") == ["params.yaml: up to date", chosen]
    loaded = config.load(out)
    assert (loaded.profile, loaded.sample.train_images, loaded.train.epochs) == ("smoke", 4, 3)
    # An edit of conf/ is composed with it.
    with (workspace / "conf/train/sample.yaml").open("a") as file:
        file.write("seed: 7\n")
    assert make_params(workspace) == ["params.yaml: updated", chosen]
    assert (config.load(out).train.seed, config.load(out).train.epochs) == (7, 3)
    # OVERRIDES states all of them, also none.
    assert make_params(workspace, "--overrides=train.lr=0.5") == [
        "dropped train.epochs=3 train.milestones=[2], which params.yaml recorded: OVERRIDES states all",
        "params.yaml: updated",
        f"profile smoke with train.lr=0.5 {recorded}",
    ]
    assert make_params(workspace, "--overrides=")[-1] == f"profile smoke {recorded}"
    make_params(workspace, "--overrides=train.lr=0.5")
    assert make_params(workspace, "--profile=sample") == [
        "dropped train.lr=0.5, which params.yaml recorded: they were for profile smoke",
        "params.yaml: updated",
        f"profile sample {recorded}",
    ]


def test_a_board_gets_the_workspaces_choice(workspace: Path) -> None:
    make_params(workspace, "--profile=smoke", "--overrides=targets.cpu.threads=1")
    make_params(workspace, "--out=params.json")
    loaded = config.load(workspace / "params.json")
    assert (loaded.profile, loaded.targets["cpu"].threads) == ("smoke", 1)


@pytest.mark.parametrize(
    "override",
    ["model.name='a$b (c)'", "model.name='choice(1,2)'", "model.name=a$b", """model.name="it's" """, "data.root='a, b'",
     r"model.name='a\${b}'", "model.name=${profile}", "model.weights_classes=['a b',\"c\"]",
     "+target@targets.pc=cpu", "+train.tao_spec.train.cudnn.deterministic=false", "train=mapillary"],
)  # fmt: skip
def test_any_override_composes_to_the_same_the_second_time(workspace: Path, override: str) -> None:
    make_params(workspace, f"--overrides={override}")
    first = (workspace / "params.yaml").read_bytes()
    assert choice.recorded(workspace / "params.yaml").overrides == (override.strip(),)
    assert make_params(workspace)[0] == "params.yaml: up to date"
    assert (workspace / "params.yaml").read_bytes() == first
    assert first != (REPO / "params.yaml").read_bytes()


def test_a_record_that_no_longer_composes_is_named(workspace: Path) -> None:
    shutil.copy2(workspace / "conf/profile/smoke.yaml", workspace / "conf/profile/mine.yaml")
    make_params(workspace, "--profile=mine", "--overrides=+target@targets.pc=ada")
    (workspace / "conf/target/ada.yaml").unlink()
    before = (workspace / "params.yaml").read_bytes()
    fix = "; params.yaml records the choice: state another by PROFILE=name or OVERRIDES='...'"
    (line,) = make_params(workspace, status=1)
    assert "conf/target/ada.yaml not found" in line
    assert line.endswith(fix)
    shutil.copy2(REPO / "conf/target/ada.yaml", workspace / "conf/target")
    (workspace / "conf/profile/mine.yaml").unlink()
    (line,) = make_params(workspace, status=1)
    assert "profile/mine.yaml not found" in line
    assert line.endswith(fix)
    assert (workspace / "params.yaml").read_bytes() == before
    make_params(workspace, "--profile=smoke")


@pytest.mark.parametrize(
    "content", ["<<<<<<< ours\nprofile: a\n=======\n", "profile: [1]\n", "profile: a\noverrides: x\n", "- a\n", ""]
)
def test_a_record_that_cant_be_read_is_not_guessed(workspace: Path, content: str) -> None:
    (workspace / "params.yaml").write_text(content)
    for arguments in ([], ["--profile=smoke"], ["--overrides=train.lr=1"]):
        (line,) = make_params(workspace, *arguments, status=1)
        assert "make params PROFILE=name OVERRIDES='...'" in line
        assert (workspace / "params.yaml").read_text() == content
    assert make_params(workspace, "--profile=smoke", "--overrides=")[-1] == "profile smoke (recorded in params.yaml)"


def test_a_params_yaml_of_an_older_version_has_no_overrides(workspace: Path) -> None:
    (workspace / "params.yaml").write_text("profile: smoke\nsample: {seed: 2020}\n")
    assert make_params(workspace)[-1] == "profile smoke (recorded in params.yaml)"


def test_a_profile_is_recorded_by_its_files_name(workspace: Path) -> None:
    (workspace / "conf/profile/mine.yaml").write_text("# @package _global_\ndefaults: [smoke, _self_]\n")
    make_params(workspace, "--profile=mine")
    assert config.load(workspace / "params.yaml").profile == "mine"


def test_build_takes_the_overrides_alone(workspace: Path) -> None:
    make_params(workspace, "--profile=smoke", "--overrides=train.lr=0.5")
    params.build(workspace / "conf", workspace / "params.yaml", [])
    assert choice.recorded(workspace / "params.yaml") == Choice("sample")
