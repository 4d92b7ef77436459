import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from stages import config, convert, sample, train
from stages.foundation import files
from stages.tao import runners, spec
from stages.training import resume, start
from tests.conftest import REPO, TABLES, run

DIGEST = "nvcr.io/nvidia/tao/tao-toolkit@sha256:" + "0" * 64


@pytest.fixture
def cfg() -> config.Config:
    return config.load(REPO / "params.yaml")


def container(cfg: config.Config, runner: config.Runner) -> config.Config:
    cfg.train.runner, cfg.train.gpus = runner, [2, 3]
    cfg.train.container = config.Container(image=DIGEST, shm_size_gib=8)
    return cfg


def test_the_command_of_docker_word_by_word(cfg: config.Config) -> None:
    cfg = container(cfg, config.Runner.docker)
    root = Path("/home/me/my set")
    paths = runners.Run(root / "w/spec.yaml", root / "w", root / "data/coco", None, root / "w/train/model.pth")
    assert runners.docker(paths, cfg.train, root, [Path("/cache/files")]) == [
        "docker", "run", "--rm", '--gpus="device=2,3"', f"--user={os.getuid()}:{os.getgid()}", "--shm-size=8g",
        "--ulimit=memlock=-1", "--ulimit=stack=67108864",
        "--volume=/home/me/my set:/home/me/my set", "--volume=/cache/files:/cache/files:ro",
        "--workdir=/home/me/my set", "--env=HOME=/tmp", DIGEST,
        "mask2former", "train", "-e", "/home/me/my set/w/spec.yaml", "results_dir=/home/me/my set/w",
        "train.resume_training_checkpoint_path=/home/me/my set/w/train/model.pth",
    ]  # fmt: skip
    # In the container the two GPUs are all there are.
    assert spec.train_spec(Path("data/coco"), 3, cfg)["train"]["gpu_ids"] == [0, 1]


def test_the_command_of_the_launcher_word_by_word(cfg: config.Config) -> None:
    cfg = container(cfg, config.Runner.launcher)
    paths = runners.Run(Path("/r/w/spec.yaml"), Path("/r/w"), Path("/r/coco"), Path("/r/w/start.pkl"))
    cfg.model.mode = config.Mode.semantic
    assert runners.launcher(paths, cfg) == [
        "tao", "model", "mask2former", "train", "-e", "/r/w/spec.yaml",
        "results_dir=/r/w", "train.pretrained_model_path=/r/w/start.pkl",
        "dataset.train.annot_file=/r/coco/train/semantic.jsonl", "dataset.train.root_dir=/r/coco/train",
        "dataset.val.annot_file=/r/coco/val/semantic.jsonl", "dataset.val.root_dir=/r/coco/val",
        "dataset.label_map=/r/coco/label_map.json",
    ]  # fmt: skip
    assert runners.mounts_file(cfg.train, Path("/r"), [Path("/cache/files")]) == {
        "Mounts": [
            {"source": "/r", "destination": "/r"},
            {"source": "/cache/files", "destination": "/cache/files"},
        ],
        "Envs": [{"variable": "HOME", "value": "/tmp"}],
        "DockerOptions": {
            "user": f"{os.getuid()}:{os.getgid()}",
            "shm_size": "8G",
            "ulimits": {"memlock": -1, "stack": 67108864},
            "tty": False,
        },
    }
    assert spec.train_spec(Path("data/coco"), 3, cfg)["train"]["gpu_ids"] == [2, 3]
    with pytest.raises(ValueError, match=r"/my set.*train.runner: docker"):
        runners.launcher(runners.Run(Path("/my set/spec.yaml"), Path("/r"), Path("/r/coco")), cfg)


@pytest.mark.parametrize(
    "name", ["Straße (copy)", "a=b, c", "it's [1] {2}", "back\\slash \\' ", "${HOME} $x", "plain set"]
)
def test_any_folder_is_a_value_for_hydra(name: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    paths = [Path("/r", name, part) for part in ("spec.yaml", "w", "coco", "start.pkl", "w/train/model.pth")]
    run = runners.Run(*paths)
    parsed = OverridesParser.create().parse_overrides(runners.overrides(run))
    values = OmegaConf.create({override.key_or_group.rpartition(".")[2]: override.value() for override in parsed})
    assert values.results_dir == str(run.results)
    assert values.resume_training_checkpoint_path == str(run.resume)


def test_the_command_of_several_processes_and_nodes(cfg: config.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg.train.gpus = [0, 1]
    paths = runners.Run(Path("w/spec.yaml"), Path("w"), Path("coco"))
    tail = ["-m", "stages.training.program", "--spec=w/spec.yaml", "--results=w", "--coco=coco"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    assert runners.wheel(paths, cfg.train) == [*torchrun, "--standalone", *tail]
    cfg.train.nodes = 3
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ValueError, match=r"MASTER_ADDR is not set.*train.nodes is 3"):
        runners.wheel(paths, cfg.train)
    monkeypatch.setenv("MASTER_ADDR", "first")
    nodes = ["--nnodes=3", "--rdzv-backend=c10d", "--rdzv-endpoint=first:29500"]
    assert runners.wheel(paths, cfg.train) == [*torchrun, *nodes, *tail]


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "docker not found on PATH; install Docker Engine"),
        ("echo no daemon >&2; exit 1", "Docker does not answer: no daemon"),
        ("echo '{\"runc\": {}}'", r"runtimes \['runc'\], expected nvidia.*nvidia-ctk"),
        ('[ "$1" = image ] && exit 1; echo "{\\"nvidia\\": {}}"', "docker login nvcr.io"),
    ],
)
def test_what_docker_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, message: str) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    if script:
        program(tmp_path, "docker", script)
    with pytest.raises(RuntimeError, match=message):
        runners.require_docker(DIGEST)


def test_a_login_or_the_image_itself_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    program(tmp_path, "docker", 'echo "{\\"nvidia\\": {}}"')
    runners.require_docker(DIGEST)
    program(tmp_path, "docker", '[ "$1" = image ] && exit 1; echo "{\\"nvidia\\": {}}"')
    (tmp_path / "config.json").write_text('{"auths": {"nvcr.io": {}}}', encoding="utf-8-sig")
    runners.require_docker(DIGEST)
    (tmp_path / "config.json").write_text("{auths")
    with pytest.raises(ValueError, match=r"config\.json:1:2: not JSON"):
        runners.require_docker(DIGEST)


def test_no_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="pip install nvidia-tao"):
        runners.require_launcher()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, vistas_set: Path) -> Path:
    """A folder with a converted set at data/coco and the parameters of the smoke profile."""
    folder = tmp_path_factory.mktemp("Straße (copy), a=b's")
    data = config.load(REPO / "params.yaml").data
    convert.build(vistas_set, folder / "data/coco", folder / "data.json", TABLES, data)
    return folder


def compose(workspace: Path, *overrides: str) -> None:
    done = run(
        sys.executable, "-m", "stages.commands.params", "--conf", str(REPO / "conf"), "--profile", "smoke", *overrides,
        cwd=workspace, PYTHONPATH=str(REPO),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def command(name: str) -> list[str]:
    return [
        sys.executable, "-m", "stages.train", "--coco", "data/coco", "--out", name, "--work", f"{name}_work",
        "--metrics", f"{name}.json",
    ]  # fmt: skip


def trained(workspace: Path, name: str) -> str:
    done = run(*command(name), cwd=workspace, PYTHONPATH=str(REPO))
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def same_weights(one: Path, other: Path) -> bool:
    a, b = (torch.load(p / "model.pth", weights_only=True)["state_dict"] for p in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_containers_status_and_messages_are_passed_through(workspace: Path, tmp_path: Path) -> None:
    program(tmp_path, "docker", '[ "$1" = run ] && { echo out of memory; exit 137; }; echo "{\\"nvidia\\": {}}"')
    compose(workspace, "train.runner=docker", f"train.container.image={DIGEST}", "model.backbone.type=tiny")
    path = f"{tmp_path}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command("c"), cwd=workspace, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 137
    assert "out of memory" in done.stdout
    assert "ended with exit status 137" in done.stderr
    shown = subprocess.run(
        [*command("c"), "--dry-run"], cwd=workspace, env=env, capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith("docker run --rm")
    assert DIGEST in shown.stdout
    assert not (workspace / "c").exists()


def test_an_error_of_taos_own_ends_in_one_line_after_its_messages(workspace: Path) -> None:
    compose(workspace, "+train.tao_spec.model.sem_seg_head.norm=nothing")
    for full in ("0", "1"):
        done = run(*command("e"), cwd=workspace, PYTHONPATH=str(REPO), HYDRA_FULL_ERROR=full)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == "TAO stopped with KeyError: 'nothing'; its messages are above"
        assert not (workspace / "e").exists()


@pytest.fixture(scope="module")
def uninterrupted(workspace: Path) -> Iterator[Path]:
    compose(workspace, "train.epochs=4", "train.milestones=[3]")
    trained(workspace, "whole")
    yield workspace / "whole"
    shutil.rmtree(workspace / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
def test_killed_and_started_again_it_ends_with_the_same_network(
    workspace: Path, uninterrupted: Path, broken: bool
) -> None:
    compose(workspace, "train.epochs=4", "train.milestones=[3]")
    name = f"killed_{broken}"
    log = workspace / f"{name}.log"
    with log.open("w") as file:
        env = {**os.environ, "PYTHONPATH": str(REPO)}
        process = subprocess.Popen(command(name), cwd=workspace, env=env, stderr=file, stdout=file)
        for _ in range(1200):
            if "epoch 3 of 4" in log.read_text():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (workspace / name).exists()
    newest, before = resume.checkpoints(workspace / f"{name}_work/train")[:2]
    if broken:
        newest.write_bytes(newest.read_bytes()[:100_000])
    messages = trained(workspace, name)
    assert f"resuming from {name}_work/train/{(before if broken else newest).name}" in messages
    assert ("it can't be read" in messages) == broken
    assert (workspace / name / "history.csv").read_text() == (uninterrupted / "history.csv").read_text()
    assert same_weights(workspace / name, uninterrupted)
    assert not resume.checkpoints(workspace / f"{name}_work/train"), "they are of no use any more"
    assert list((workspace / f"{name}_work/train/dvclive/plots/metrics").rglob("loss.tsv"))
    assert list((workspace / f"{name}_work/train/lightning_logs").rglob("events.out.tfevents*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["epoch_000", "epoch_003", "validation"])
def test_interrupted_it_says_so_and_started_again_it_ends_with_the_same_network(
    workspace: Path, uninterrupted: Path, moment: str, number: int
) -> None:
    """TAO and Lightning turn an interruption into success, and leave a checkpoint of an epoch without its row."""
    compose(workspace, "train.epochs=4", "train.milestones=[3]")
    name = f"{moment}_{number}"
    results = workspace / f"{name}_work/train"

    def reached() -> bool:
        if moment == "validation":  # Of the last epoch, whose training has ended.
            status = results / "status.json"
            return status.exists() and status.read_text().count("Eval metrics") == 4
        return any(moment in path.name for path in resume.checkpoints(results))

    env = {**os.environ, "PYTHONPATH": str(REPO)}
    with subprocess.Popen(command(name), cwd=workspace, env=env, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not reached():
            time.sleep(0.005)
        process.send_signal(number)
    assert process.returncode == 128 + number
    assert not (workspace / name).exists()
    trained(workspace, name)
    assert (workspace / name / "history.csv").read_text() == (uninterrupted / "history.csv").read_text()
    assert files.sha256(workspace / name / "model.pth") == files.sha256(uninterrupted / "model.pth")
    assert not resume.checkpoints(results)


def tao_module(cfg: config.Config, coco: Path, scheduler: str, results: Path) -> Any:
    """Return TAO's own module of a training."""
    from nvidia_tao_pytorch.config.mask2former.default_config import ExperimentConfig
    from nvidia_tao_pytorch.cv.mask2former.model.pl_model import Mask2formerPlModule

    written = OmegaConf.create(spec.train_spec(coco, len(files.read_json(coco / "label_map.json")), cfg))
    merged: Any = OmegaConf.merge(OmegaConf.structured(ExperimentConfig), written)
    merged.train.iters_per_epoch, merged.train.optim.lr_scheduler = 2, scheduler
    merged.results_dir = str(results)
    return Mask2formerPlModule(merged)


@pytest.mark.usefixtures("tao_wheel")
@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_an_exception_leaves_the_checkpoints_of_whole_epochs_as_they_are(
    cfg: config.Config, workspace: Path, tmp_path: Path
) -> None:
    from nvidia_tao_pytorch.cv.mask2former.model.pl_model import Mask2formerPlModule

    from stages.training import callbacks

    module = tao_module(cfg, workspace / "data/coco", "MultiStep", tmp_path)
    taos = [type(callback).__name__ for callback in module.configure_callbacks()]
    (tmp_path / "status.json").unlink()  # TAO warns where it is there already.
    configure = callbacks.without_exception_checkpoints(Mask2formerPlModule.configure_callbacks)
    kept = [type(callback).__name__ for callback in configure(module)]
    assert "TAOExceptionCheckpoint" in taos
    assert kept == [name for name in taos if name != "TAOExceptionCheckpoint"]


@pytest.mark.usefixtures("tao_wheel")
@pytest.mark.filterwarnings("ignore:torch.meshgrid")
@pytest.mark.parametrize("scheduler", ["MultiStep", "WarmupPoly"])
def test_every_parameter_keeps_its_rates_in_merge_param_groups(
    cfg: config.Config, workspace: Path, scheduler: str
) -> None:
    from nvidia_tao_pytorch.cv.mask2former.model.pl_model import Mask2formerPlModule

    from stages.training import callbacks

    cfg.train.milestones, cfg.train.backbone_multiplier = [1], 0.5
    module = tao_module(cfg, workspace / "data/coco", scheduler, workspace)
    rates = []
    for configure in (
        Mask2formerPlModule.configure_optimizers,
        callbacks.merge_param_groups(Mask2formerPlModule.configure_optimizers),
    ):
        found = configure(module)
        optimizer, schedule = found["optimizer"], found["lr_scheduler"]["scheduler"]
        of_each = []
        for _ in range(3):
            of_each.append({id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]})
            last = schedule.get_last_lr()
            assert last == [group["lr"] for group in optimizer.param_groups]
            optimizer.step()
            schedule.step()
        assert last[0] == pytest.approx(0.5 * last[-1]), "TAO takes them for the backbone's and the rest's"
        rates.append(of_each)
    assert rates[0] == rates[1]
    assert len(rates[0][0]) == len(list(module.model.parameters()))
    assert len(optimizer.param_groups) == 4


@pytest.mark.slow
@pytest.mark.usefixtures("tao_wheel")
@pytest.mark.filterwarnings("ignore:torch.meshgrid")
@pytest.mark.parametrize(
    ("mode", "column"), [("panoptic", "val_miou"), ("semantic", "val_pixel_accuracy"), ("instance", "val_map")]
)
def test_each_mode_trains_and_has_its_figures(workspace: Path, mode: str, column: str) -> None:
    from stages import evaluate

    compose(workspace, f"model.mode={mode}")
    trained(workspace, mode)
    last = (workspace / mode / "history.csv").read_text().splitlines()
    row = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
    assert row[column]
    cfg = config.load(workspace / "params.yaml")
    assert cfg.deploy.mode is config.Mode(mode)
    metrics = workspace / f"{mode}_evaluate.json"
    coco, root = workspace / "data/coco/val", workspace / cfg.data.root
    evaluate.build(workspace / mode, coco, root, TABLES, workspace / f"{mode}_maps", metrics, cfg)
    found = files.read_json(metrics)
    parts = {"panoptic": {"all", "semantic", "instance"}}.get(mode, {mode})
    assert {"all", "semantic", "instance"} & found.keys() == parts
    assert column in found["tao"]


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path: Path) -> None:
    # TAO wants a validation picture for each process.
    sample.build(tmp_path / "set", config.Sample(train_images=2, val_images=2, height_px=128, width_px=192))
    data = config.load(REPO / "params.yaml").data
    convert.build(tmp_path / "set", tmp_path / "data/coco", tmp_path / "data.json", TABLES, data)
    compose(tmp_path, "train.gpus=[0,1]", "train.batch_size=1")
    messages = trained(tmp_path, "two")
    assert "MEMBER: 2/2" in messages
    assert len((tmp_path / "two/history.csv").read_text().splitlines()) == 3


@pytest.mark.slow
def test_training_ends_early_and_the_best_is_kept(workspace: Path) -> None:
    # With a learning rate of nearly nothing no validation is better than the first.
    compose(workspace, "train.epochs=6", "train.lr=1e-12", "train.patience=2", "train.keep=best", "train.monitor=loss")
    trained(workspace, "early")
    rows = (workspace / "early/history.csv").read_text().splitlines()[1:]
    assert len(rows) < 6
    losses = [float(row.split(",")[2]) for row in rows]
    epoch = torch.load(workspace / "early/model.pth", weights_only=True)["epoch"]
    assert losses[epoch] == min(losses)
    assert files.read_json(workspace / "early.json")["val_loss"] == min(losses)


@pytest.mark.parametrize(
    ("losses", "patience", "ended"),
    [([3.0, 2.0, 2.5, 2.0], 2, True), ([3.0, 2.0, 2.5], 2, False), ([2.0, 2.5, 2.6], 0, False), ([], 1, False)],
)
def test_an_interruption_is_no_early_stop(cfg: config.Config, losses: list[float], patience: int, ended: bool) -> None:
    cfg.train.patience, cfg.train.monitor = patience, config.Monitor.loss
    rows: list[dict[str, Any]] = [{"epoch": i, "train_loss": 1.0, "val_loss": loss} for i, loss in enumerate(losses)]
    assert start.ended_early([{"epoch": 9, "train_loss": 1.0}, *rows], cfg) == ended


def test_more_pictures_a_step_than_there_are(
    workspace: Path, cfg: config.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    cfg.train.batch_size, cfg.train.gpus = 2, [0, 1]
    with pytest.raises(ValueError, match=r"train.batch_size 2 on 2 GPUs is 4 pictures a step, more than the 2"):
        train.build(Path("data/coco"), Path("x"), Path("x_work"), Path("x.json"), cfg)
