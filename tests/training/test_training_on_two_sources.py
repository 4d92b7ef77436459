"""Whole trainings with train.partial_labels and repeated pictures."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from stages import config, convert
from stages.training import resume
from tests.conftest import REPO, TABLES, must, run

OVERRIDES = ("train.partial_labels=true", "train.repeat_threshold=0.9", "train.epochs=3", "train.milestones=[2]")


@pytest.fixture(scope="module")
def workspace(vistas_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same scenes as two sources: b has no sky, and its curbs may be sidewalks."""
    folder = tmp_path_factory.mktemp("two_sources")
    table = (TABLES / "vistas_v2_0.csv").read_text()
    (folder / "a.csv").write_text(table)
    rows = ["source,target,crowd,union"]
    for line in table.splitlines()[1:]:
        label = line.split(",")[0]
        union = f"{label}; construction--flat--sidewalk" if label.endswith("--curb") else ""
        rows.append(f"{label},void,,{union}" if union or label == "nature--sky" else f"{line},")
    (folder / "b.csv").write_text("\n".join(rows) + "\n")
    sources = {"a": config.Source(root="set", taxonomy="a"), "b": config.Source(root="set", taxonomy="b", repeat=1.5)}
    convert.build(vistas_set.parent, folder / "coco", folder / "data.json", folder, config.Data(sources=sources))
    return folder


def compose(workspace: Path, *overrides: str) -> None:
    command = [sys.executable, "-m", "stages.commands.params", "--conf", str(REPO / "conf"), "--profile", "smoke"]
    must(*command, *OVERRIDES, *overrides, cwd=workspace, PYTHONPATH=str(REPO))


def command(name: str) -> list[str]:
    outputs = ["--out", name, "--work", f"{name}_work", "--metrics", f"{name}.json"]
    return [sys.executable, "-m", "stages.train", "--coco", "coco", *outputs]


def trained(workspace: Path, name: str, resumed: bool = False) -> dict[str, torch.Tensor]:
    done = run(*command(name), cwd=workspace, PYTHONPATH=str(REPO))
    assert done.returncode == 0, done.stderr[-3000:]
    assert ("resuming from" in done.stdout + done.stderr) == resumed
    weights: dict[str, torch.Tensor] = torch.load(workspace / name / "model.pth", weights_only=True)["state_dict"]
    return weights


@pytest.mark.slow
def test_killed_and_resumed_it_ends_with_the_same_network(workspace: Path) -> None:
    compose(workspace)
    expected = trained(workspace, "whole")
    assert len((workspace / "whole/history.csv").read_text().splitlines()) == 4
    log = workspace / "killed.log"
    with log.open("w") as file:
        env = {**os.environ, "PYTHONPATH": str(REPO)}
        process = subprocess.Popen(command("killed"), cwd=workspace, env=env, stderr=file, stdout=file)
        for _ in range(1200):
            if "epoch 2 of 3" in log.read_text():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert "an epoch has 7 pictures, of 4 that come 1 to 2.0 times" in log.read_text()
    assert resume.checkpoints(workspace / "killed_work/train")
    shutil.copytree(workspace / "killed_work", workspace / "off_work")
    found = trained(workspace, "killed", resumed=True)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    # Another loss is another training, which does not continue the killed one.
    compose(workspace, "train.partial_labels=false")
    found = trained(workspace, "off")
    assert not all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["semantic", "instance"])
def test_the_other_modes_train(workspace: Path, mode: str) -> None:
    compose(workspace, f"model.mode={mode}")
    assert all(torch.isfinite(value).all() for value in trained(workspace, mode).values())


@pytest.mark.slow
def test_two_processes_share_an_epoch(workspace: Path) -> None:
    compose(workspace, "train.gpus=[0,1]", "train.batch_size=1")
    trained(workspace, "two")
    events = (workspace / "two/history.csv").read_text().splitlines()
    assert len(events) == 4
