"""Experiments with the real DVC, git and submitit, on stages that cost seconds: the recorded choice holds in all."""

import re
from pathlib import Path

import pytest

from stages import config
from stages.config import choice
from tests.conftest import copy_working_tree, run

SMOKE = "profile smoke with sample.val_images=1"


def must(*command: str, cwd: Path) -> str:
    done = run(*command, cwd=cwd, PYTHONPATH=str(cwd))
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def commit(folder: Path) -> None:
    must("git", "add", "-A", cwd=folder)
    must(
        "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "x", "--allow-empty", cwd=folder
    )


def make_params(folder: Path, *arguments: str) -> str:
    return must("python", "-m", "stages.commands.params", *arguments, cwd=folder)


def apply(folder: Path, name: str) -> None:
    """Take an experiment over. DVC's exit status is not 0 here, since most stages were never run."""
    run("dvc", "exp", "apply", name, cwd=folder)


def ran(text: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", text)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with this working tree and the choice of a very small set, as `make params` recorded it."""
    folder = copy_working_tree(tmp_path_factory.mktemp("experiments") / "repo")
    must("git", "init", "-q", cwd=folder)
    # As `make env` leaves it.
    (folder / ".git/info/exclude").write_text(".venv\n")
    make_params(folder, "--profile=smoke", "--overrides=sample.val_images=1")
    commit(folder)
    return folder


@pytest.fixture
def repo(base: Path) -> Path:
    """The repository as it was at first: no experiment, no output."""
    must("git", "checkout", "-q", "-f", "HEAD", cwd=base)
    must("git", "clean", "-qfdx", "data", "outputs", cwd=base)
    return base


def test_an_experiment_starts_from_the_recorded_choice_and_records_its_own(repo: Path) -> None:
    assert f"{SMOKE} (recorded in params.yaml)" in must("dvc", "exp", "run", "sample", cwd=repo)
    assert must("git", "status", "--porcelain", "params.yaml", cwd=repo) == ""
    must("dvc", "exp", "run", "sample", "-S", "sample.train_images=1", cwd=repo)
    loaded = config.load(repo / "params.yaml")
    assert (loaded.profile, loaded.sample.train_images, loaded.sample.val_images) == ("smoke", 1, 1)
    assert len(list((repo / "data/raw/sample/training/images").iterdir())) == 1
    # What is made after it is of the same choice.
    assert "up to date" in make_params(repo)
    assert config.load(repo / "params.yaml") == loaded
    must("dvc", "exp", "run", "sample", "-S", "profile=smoke", "-S", "sample.train_images=2", cwd=repo)
    assert choice.recorded(repo / "params.yaml").overrides == ("sample.val_images=1", "sample.train_images=2")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs=x", "override train.epochs=x: train.epochs: must be a whole number, 1 or more, found x"),
        ("train.epochs=0", "override train.epochs=0: train.epochs: must be 1 or more, found 0"),
        ("profile=nix", "conf/profile/nix.yaml not found; in conf/profile there are ['ade150', 'camvid'"),
    ],
)
def test_a_bad_override_of_an_experiment_is_one_line(repo: Path, override: str, message: str) -> None:
    before = (repo / "params.yaml").read_bytes()
    done = run("dvc", "exp", "run", "sample", "-S", override, cwd=repo)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0].startswith(f"ERROR: {message}"), done.stderr
    assert "unexpected" not in done.stderr
    assert (repo / "params.yaml").read_bytes() == before


def test_a_grid_on_dvcs_queue(repo: Path) -> None:
    """Two by two, through make's own command; the workspace stays as it is."""
    grid = "sample.seed=1,2 sample.width_px=choice(160,192) sample.train_images=1"
    before = must("git", "status", "--porcelain", cwd=repo)
    text = must("python", "-m", "stages.commands.sweep", f"--grid={grid}", "--stage=sample", "--name=grid", cwd=repo)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows == [
        "| experiment | sample.seed | sample.width_px |",
        "| --- | --- | --- |",
        "| grid-1 | 1 | 160 |",
        "| grid-2 | 1 | 192 |",
        "| grid-3 | 2 | 160 |",
        "| grid-4 | 2 | 192 |",
    ]
    assert must("git", "status", "--porcelain", cwd=repo) == before
    # Another sweep of that name would show these figures for an experiment that fails.
    command = ("python", "-m", "stages.commands.sweep", f"--grid={grid}", "--stage=sample", "--name=grid")
    done = run(*command, cwd=repo, PYTHONPATH=str(repo))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "NAME: must be new, found grid-1, which is an experiment already; choose another" in done.stderr
    apply(repo, "grid-3")
    recorded = choice.recorded(repo / "params.yaml")
    assert str(recorded) == f"{SMOKE} sample.seed=2 sample.width_px=160 sample.train_images=1"
    # Its output comes from the cache.
    assert ran(must("dvc", "repro", "sample", cwd=repo)) == []


def test_a_grid_as_jobs_of_submitit_of_which_one_fails(repo: Path) -> None:
    # An uncommitted change of the workspace counts too.
    make_params(repo, "--overrides=sample.val_images=1 sample.train_images=1")
    grid = "data.min_segment_px=20 data.root=data/raw/sample,data/raw/none"
    command = ("python", "-m", "stages.commands.sweep", f"--grid={grid}", "--stage=convert", "--name=jobs", "--jobs=2")
    done = run(*command, "--launcher=local", cwd=repo, PYTHONPATH=str(repo))
    assert done.returncode == 1
    assert "jobs-2 failed; its messages: outputs/sweeps/jobs-1/logs" in done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| jobs")]
    assert [row[:2] for row in rows] == [["jobs-1", "data/raw/sample"], ["jobs-2", "data/raw/none"]]
    assert rows[0][4] == "1", "images of training"
    assert rows[1][2:] == [], "no figures"
    assert [path.name for path in (repo / "outputs/sweeps/jobs-1").iterdir() if path.name == "jobs-1"] == []
    apply(repo, "jobs-1")
    assert choice.recorded(repo / "params.yaml").overrides[-2:] == (
        "data.min_segment_px=20",
        "data.root=data/raw/sample",
    )
    assert ran(must("dvc", "repro", "convert", cwd=repo)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--grid=train.epochs=2,x"],
            "GRID, at train.epochs=x: override train.epochs=x: train.epochs: must be a whole number, 1 or more",
        ),
        (["--grid=train.epochs=1,2"], "GRID, at train.epochs=1: conf/profile/smoke.yaml:7: train.milestones: must be"),
        (["--grid=train.epochs=(1"], "GRID: override train.epochs=(1: Hydra can't read it"),
        (["--grid=train.epochs=2,3", "--stage=nix"], "STAGE: must be a stage of dvc.yaml, found 'nix'"),
        (["--grid=sample.seed=5", "--name=HEAD"], "NAME: must be new, found HEAD, which is a commit already"),
        (["--grid=train.epochs=2,3", "--jobs=many"], "JOBS: must be auto or a whole number, found 'many'"),
        (["--grid=train.epochs=2,3", "--launcher=slurm"], "LAUNCHER=slurm: srun not found on this host"),
    ],
)
def test_a_sweep_that_cant_start_queues_nothing(repo: Path, options: list[str], message: str) -> None:
    done = run("python", "-m", "stages.commands.sweep", *options, cwd=repo, PYTHONPATH=str(repo))
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Queued" not in must("dvc", "queue", "status", cwd=repo)


def test_an_experiment_in_a_copy_has_the_tracked_set(repo: Path, vistas_set: Path) -> None:
    """`--temp` and the queue work in copies of the workspace: what git and DVC track is there, and the run cache."""
    must("python", "-m", "stages.commands.data", f"--src={vistas_set}", "--name=mine", cwd=repo)
    make_params(repo, "--overrides=data.root=data/raw/mine")
    must("git", "add", "-A", cwd=repo)
    text = must("dvc", "exp", "run", "--temp", "convert", cwd=repo)
    assert "convert" in ran(text)
    assert not (repo / "data/coco").exists()
    again = must("dvc", "exp", "run", "--temp", "convert", "-S", "data.workers=1", cwd=repo)
    assert "convert" not in ran(again)


def test_convert_comes_back_from_the_run_cache_and_from_the_cache_after_a_failure(repo: Path) -> None:
    must("dvc", "repro", "convert", cwd=repo)
    first = (repo / "data/coco/train/panoptic.json").read_bytes()
    make_params(repo, "--profile=smoke", "--overrides=sample.val_images=1 sample.seed=9")
    assert ran(must("dvc", "repro", "convert", cwd=repo)) == ["sample", "convert"]
    assert (repo / "data/coco/train/panoptic.json").read_bytes() != first
    make_params(repo, "--overrides=sample.val_images=1")
    assert ran(must("dvc", "repro", "convert", cwd=repo)) == []
    assert (repo / "data/coco/train/panoptic.json").read_bytes() == first
    make_params(repo, "--overrides=sample.val_images=1 data.root=data/raw/none")
    assert run("dvc", "repro", "--single-item", "convert", cwd=repo).returncode != 0
    must("dvc", "checkout", "data/coco", cwd=repo)
    assert (repo / "data/coco/train/panoptic.json").read_bytes() == first
