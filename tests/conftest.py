import importlib
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from stages import config

REPO = Path(__file__).resolve().parents[1]
TABLES = REPO / "conf/tables"

# A shell starts programs in the background with SIGINT ignored. The commands that tests send Ctrl-C to would ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

SLOWEST = (
    "project/test_pipeline.py",
    "project/test_remotes.py",
    "weights/test_weights.py",
    "test_graph.py",
    "test_train.py",
    "commands/test_data.py",
    "commands/test_sweep.py",
)
"""The files whose tests take longest, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slowest files, so that no process of `make test` still works on one when the others are done.

    pytest-xdist hands files to processes in this order by `--dist loadfile --no-loadscope-reorder`; by default it
    begins with the files that hold most tests.
    """
    places = {REPO / "tests" / name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a value of bytes by its argument, since a test's name must be the same in every process of `make test`.

    By default pytest writes the bytes themselves, and gzip.compress puts the time of day in them: two processes that
    collected across a second's end had other names, and pytest-xdist stopped.
    """
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def vistas_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small generated set in Vistas layout: two training scenes and one for validation."""
    from stages import config, sample

    root = tmp_path_factory.mktemp("vistas") / "set"
    sample.build(root, config.Sample(train_images=2, val_images=1, height_px=128, width_px=192))
    return root


@pytest.fixture(scope="session")
def data_config() -> config.Data:
    return config.load(REPO / "params.yaml").data


@pytest.fixture(scope="session")
def tao_wheel() -> None:
    """Import TAO, which takes seconds and is done once per process, without its own warnings."""
    from stages.tao import wheel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wheel.prepare()
        importlib.import_module("nvidia_tao_pytorch.cv.mask2former.model.pl_model")


OUTER_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARGS", "JOBS")


def run(*command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command with this environment's programs first on PATH; never raises."""
    # uv is there where `make env` had to install it.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], str(REPO / ".tools/bin")])
    # Tests run in `make test`, whose flags and values are not meant for the `make` that a test runs.
    outer = {name: value for name, value in os.environ.items() if name not in OUTER_MAKE}
    full = {**outer, "PATH": path, **env}
    return subprocess.run(command, cwd=cwd, env=full, capture_output=True, text=True, check=False)


def must(*command: str, cwd: Path, **env: str) -> str:
    """Run a command that has to succeed; return stdout."""
    done = run(*command, cwd=cwd, **env)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def committed_copy(folder: Path) -> Path:
    """Copy the working tree without the figures of its run, and commit it to a repository of its own."""
    copy_working_tree(folder)
    shutil.rmtree(folder / "data/metrics", ignore_errors=True)
    must("git", "init", "-q", cwd=folder)
    must("git", "add", "-A", cwd=folder)
    must("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "start", cwd=folder)
    return folder


def copy_working_tree(folder: Path) -> Path:
    """Copy what git tracks, changes and new files included, but for dvc.lock; returns the folder."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPO, check=True, capture_output=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        source, copy = REPO / name, folder / name
        if source.exists() and name != "dvc.lock":
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)
    return folder
