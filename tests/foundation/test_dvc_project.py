"""What DVC leaves undone with exit status 0."""

import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from stages.foundation import dvc_project
from tests.conftest import must

WRITE = """
import os, resource
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
os.mkdir("out")
for name in "abc":
    with open(f"out/{name}", "wb") as file:
        file.write(os.urandom(4_000_000))
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A project whose cache is on another file system, so that DVC has to write the files into it."""
    with TemporaryDirectory(dir="/dev/shm") as cache:
        must("git", "init", "-q", cwd=tmp_path)
        must("dvc", "init", "-q", cwd=tmp_path)
        must("dvc", "config", "cache.dir", cache, cwd=tmp_path)
        (tmp_path / "write.py").write_text(WRITE)
        (tmp_path / "dvc.yaml").write_text("stages: {s: {cmd: python write.py, outs: [out]}}")
        yield tmp_path


def limited(*command: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command that can write no file of more than 3 MB, as on a full disk."""
    return subprocess.run(
        command, cwd=cwd, check=False, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY)),
    )  # fmt: skip


def test_a_full_cache_is_told_with_what_to_do(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    done = limited("dvc", "repro", cwd=project)
    assert done.returncode == 0, "DVC tells it by its exit status now: require_stored is not needed any more"
    assert "failed to transfer" in done.stderr
    with (
        dvc_project.opened() as repo,
        pytest.raises(RuntimeError, match=r"could not store out; \d+ MB are free.*`dvc commit --force s`"),
    ):
        dvc_project.require_stored(repo, ["s"])
    must("dvc", "commit", "--force", "s", cwd=project)
    with dvc_project.opened() as repo:
        dvc_project.require_stored(repo, ["s"])
    assert "didn't change, skipping" in must("dvc", "repro", cwd=project)


def test_a_set_that_the_cache_could_not_store(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    must("python", "write.py", cwd=project)
    shutil.move(project / "out", project / "set")
    done = limited("dvc", "add", "set", cwd=project)
    with dvc_project.opened() as repo:
        if done.returncode == 0:
            with pytest.raises(RuntimeError, match="could not store"):
                dvc_project.require_stored(repo, ["set.dvc"])
    must("dvc", "add", "set", cwd=project)
    with dvc_project.opened() as repo:
        dvc_project.require_stored(repo, ["set.dvc"])
