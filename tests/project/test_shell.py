"""Values of users on their way through make, DVC and the shell: they come out as they went in."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import REPO, copy_working_tree, run

ODD = "a b'c\"d&e;f$g(h)$(touch made)`touch made`|<i>#j\\k*ü"
"""Values that a shell or make would split, expand or run."""


@pytest.fixture
def front_door(tmp_path: Path) -> Path:
    """A folder with the Makefile and a `python` that prints its arguments as JSON."""
    shutil.copy2(REPO / "Makefile", tmp_path)
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name in ("pyproject.toml", "uv.lock", "scripts/env"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".venv/.locked").touch()
    shown = tmp_path / ".venv/bin/python"
    shown.write_text('#!/bin/bash\nfor word; do printf "%s\\0" "$word"; done\n')
    shown.chmod(0o755)
    return tmp_path


def arguments(folder: Path, *words: str, **env: str) -> list[str]:
    """Arguments of the first command that `make WORDS` runs by Python, without `-m`."""
    done = run("make", "--no-print-directory", *words, cwd=folder, **env)
    assert done.returncode == 0, done.stderr
    assert not (folder / "made").exists()
    return done.stdout.split("\0")[1:-1]


@pytest.mark.parametrize(
    ("target", "names", "options"),
    [
        ("params", ("PROFILE", "OVERRIDES"), ("profile", "overrides")),
        ("data", ("SRC", "NAME"), ("src", "name")),
        ("predict", ("ENGINE", "SOURCE", "OUT"), ("engine", "source", "out")),
        ("infer", ("SOURCE", "OUT"), ("source", "out")),
        ("hugging-face", ("OUT",), ("out",)),
        ("get", ("URL", "VERSION", "NAME", "OUT"), ("url", "version", "name", "out")),
        ("sbom", ("OUT",), ("out",)),
        ("deepstream", ("ENGINE", "OUT"), ("graph", "out")),
        ("triton", ("MODEL_REPOSITORY", "ENGINE", "BACKEND", "NAME"), ("repository", "engine", "backend", "name")),
    ],
)
@pytest.mark.parametrize("value", [ODD, "-x", "--help", "$$", "${HOME}"])
def test_make_hands_values_on_as_they_are(
    front_door: Path, target: str, names: tuple[str, ...], options: tuple[str, ...], value: str
) -> None:
    found = arguments(front_door, target, *(f"{name}={value}" for name in names))
    assert [f"--{option}={value}" for option in options] == [word for word in found if word.endswith(value)]


def test_make_hands_keys_on_by_the_environment(front_door: Path) -> None:
    shown = front_door / ".venv/bin/python"
    shown.write_text('#!/bin/bash\nprintf "%s\\n%s" "$SIGNING_KEY" "$ALLOWED_SIGNERS"\n')
    done = run("make", "--no-print-directory", "predict", f"SIGNING_KEY={ODD}", cwd=front_door, ALLOWED_SIGNERS="a b$c")
    assert done.stdout == f"{ODD}\na b$c"
    assert run("make", "--no-print-directory", "predict", cwd=front_door).stdout == "\n", "off where they are not set"


def test_common_names_in_the_environment_are_not_taken(front_door: Path) -> None:
    found = arguments(front_door, "predict", OUT="elsewhere")
    assert not [word for word in found if word.startswith("--out")]
    assert arguments(front_door, "data", SRC="set", NAME="a-host")[1:] == ["--src=set", "--name="]


def test_make_hands_the_target_on(front_door: Path) -> None:
    done = run("make", "--no-print-directory", "engines", f"TARGET={ODD}", cwd=front_door)
    assert f"\0--target={ODD}\0" in done.stdout
    assert not (front_door / "made").exists()


def test_make_takes_values_from_the_environment(front_door: Path) -> None:
    assert arguments(front_door, "data", SRC=ODD)[1:] == [f"--src={ODD}", "--name="]


@pytest.mark.parametrize("value", ["a=b$c", "a='(b c)'", "a=choice(1,2)", 'a="b c" d=[1, 2]', "a=${b}", ""])
def test_overrides_come_out_as_they_went_in(front_door: Path, value: str) -> None:
    assert arguments(front_door, "params", f"OVERRIDES={value}")[1:] == ["--profile=", f"--overrides={value}"]
    assert arguments(front_door, "params", OVERRIDES=value)[1:] == ["--profile=", f"--overrides={value}"]


def test_overrides_that_are_not_given_are_no_empty_ones(front_door: Path) -> None:
    assert arguments(front_door, "params")[1:] == ["--profile="]
    # Nor for a make within make.
    (front_door / "outer.mk").write_text(f"{(REPO / 'Makefile').read_text()}\nouter:\n\t@$(MAKE) params\n")
    assert arguments(front_door, "-f", "outer.mk", "outer")[1:] == ["--profile="]


def test_predict_without_out(front_door: Path) -> None:
    assert [word for word in arguments(front_door, "predict", OUT="") if word.startswith("--out")] == []


def test_args_are_a_piece_of_a_command(front_door: Path) -> None:
    assert arguments(front_door, "data", "SRC=x", "ARGS=--config 'my config.json'")[-2:] == [
        "--config",
        "my config.json",
    ]


def test_dvc_converts_a_set_whose_path_the_shell_would_take_apart(tmp_path: Path, vistas_set: Path) -> None:
    clone = copy_working_tree(tmp_path / "clone")
    # Signs that data.root refuses are in tests/config.
    root = "data/raw/a b (c) #d [e] {f} ~g %h ü"
    shutil.copytree(vistas_set, clone / root)
    for command in (
        ("git", "init", "-q"),
        ("python", "-m", "stages.commands.params", "--profile=smoke", f"data.root='{root}'", "data.workers=1"),
        ("dvc", "repro", "--single-item", "convert"),
    ):
        done = run(*command, cwd=clone, PYTHONPATH=str(clone))
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    counts = json.loads((clone / "data/metrics/data.json").read_text())
    assert counts["train"]["images"] == 2, counts
