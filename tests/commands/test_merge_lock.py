"""make merge-lock: real merges of two clones with a shared remote, real DVC."""

import re
import shutil
from pathlib import Path

import pytest

from stages.review import lock, staleness
from tests.conftest import must, run
from tests.support import small_pipeline
from tests.support.small_pipeline import build, clone, command, edit


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Remotes and two clones, both built and up to date."""
    folder = tmp_path_factory.mktemp("merge")
    must("dvc", "push", "-q", cwd=small_pipeline.create(folder))
    clone(folder, "two")
    return folder


@pytest.fixture
def two_clones(start: Path, tmp_path: Path) -> tuple[Path, Path]:
    folder = shutil.copytree(start, tmp_path / "team", symlinks=True)
    clones = folder / "one", folder / "two"
    must("git", "switch", "-q", "-c", "topic", cwd=clones[1])
    return clones


def merge(folder: Path) -> list[str]:
    """Merge main into the clone's branch, which stops; returns the paths in conflict."""
    must("git", "fetch", "-q", "origin", cwd=folder)
    assert run("git", "merge", "origin/main", cwd=folder).returncode == 1
    return conflicts(folder)


def conflicts(folder: Path) -> list[str]:
    return must("git", "diff", "--name-only", "--diff-filter=U", cwd=folder).split()


def stale(folder: Path) -> list[str]:
    with staleness.opened(folder) as pipeline:
        return list(pipeline.state(lock.read(folder)).stale)


def stages_run(folder: Path) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", must("dvc", "repro", cwd=folder))


def test_what_neither_side_built_from_the_merged_inputs_runs_again(two_clones: tuple[Path, Path]) -> None:
    one, two = two_clones
    edit(one, "params.yaml", "lr: 1", "lr: 2")
    build(one, "another rate")
    must("dvc", "push", "-q", cwd=one)
    edit(two, "params.yaml", "top_k: 1", "top_k: 2")
    edit(two, "code/evaluate.py", "float(len(model + val))", "float(len(val))")
    build(two, "another figure")
    assert "dvc.lock" in merge(two)
    done = command("merge_lock", cwd=two)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^train +theirs$", done.stdout, re.MULTILINE)
    assert re.search(
        r"^evaluate +dropped, ours: data data/model \| theirs: parameters .*code", done.stdout, re.MULTILINE
    )
    assert "`make all` will run: evaluate, report" in done.stdout
    assert conflicts(two) == []
    assert list(lock.read(two)) == ["prepare", "train"]
    assert stale(two) == ["evaluate", "report"]
    must("dvc", "pull", "-q", "train", cwd=two)
    assert stages_run(two) == ["evaluate", "report"]
    assert stale(two) == []
    must("git", "commit", "-qam", "merged", cwd=two)


def test_of_two_builds_from_the_same_inputs_ours_is_taken_with_all_that_follows(two_clones: tuple[Path, Path]) -> None:
    for folder in two_clones:
        edit(folder, "params.yaml", "random: false", "random: true")
        build(folder, "random", HOST=folder.name)
    _, two = two_clones
    former = lock.read(two), (two / "data/metrics/evaluate.json").read_text()
    assert set(merge(two)) >= {"dvc.lock", "data/metrics/evaluate.json"}
    done = command("merge_lock", cwd=two)
    assert done.returncode == 0, done.stderr
    assert (lock.read(two), (two / "data/metrics/evaluate.json").read_text()) == former
    assert "`make all` will run: nothing" in done.stdout
    assert conflicts(two) == []
    assert stale(two) == []


def test_the_side_that_fits_is_taken_with_its_metrics(two_clones: tuple[Path, Path]) -> None:
    one, two = two_clones
    edit(one, "params.yaml", "lr: 1", "lr: 2")
    build(one, "two")
    edit(two, "params.yaml", "lr: 1", "lr: 4")
    build(two, "four")
    found = merge(two)
    refused = command("merge_lock", cwd=two)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "in conflict too: params.yaml; resolve" in refused.stderr
    assert conflicts(two) == found, "nothing was resolved"
    must("git", "checkout", "-q", "--theirs", "params.yaml", cwd=two)
    must("git", "add", "params.yaml", cwd=two)
    done = command("merge_lock", cwd=two)
    assert done.returncode == 0, done.stderr
    assert conflicts(two) == []
    assert (two / "dvc.lock").read_text() == (one / "dvc.lock").read_text()
    for metric in ("train", "evaluate"):
        assert (two / f"data/metrics/{metric}.json").read_text() == (one / f"data/metrics/{metric}.json").read_text()
    assert stale(two) == []


def test_a_rebase_that_stops_at_dvc_lock(two_clones: tuple[Path, Path]) -> None:
    one, two = two_clones
    edit(one, "params.yaml", "title: one", "title: two")
    build(one, "title")
    edit(two, "params.yaml", "top_k: 1", "top_k: 2")
    edit(two, "code/evaluate.py", "float(len(model + val))", "float(len(val))")
    build(two, "top_k")
    must("git", "fetch", "-q", "origin", cwd=two)
    assert run("git", "rebase", "origin/main", cwd=two).returncode == 1
    assert conflicts(two) == ["dvc.lock"]
    done = command("merge_lock", cwd=two)
    assert done.returncode == 0, done.stderr
    assert "`make all` will run: report" in done.stdout
    must("git", "rebase", "--continue", cwd=two, GIT_EDITOR="true")
    assert stale(two) == ["report"]


def test_a_lock_merged_line_by_line_is_found_stale(two_clones: tuple[Path, Path]) -> None:
    """Without .gitattributes git merges two locks into one that no build wrote, and reports no conflict."""
    one, two = two_clones
    edit(one, "params.yaml", "pictures: 4", "pictures: 5")
    build(one, "pictures", "prepare")
    edit(two, "params.yaml", "title: one", "title: two")
    (two / ".gitattributes").unlink()
    build(two, "title")
    must("git", "fetch", "-q", "origin", cwd=two)
    must("git", "merge", "-q", "--no-edit", "origin/main", cwd=two)
    assert stale(two) == ["train", "evaluate", "report"]
    # And with it the merge stops, so that stage by stage is the only way.
    must("git", "reset", "-q", "--hard", "HEAD^1", cwd=two)
    must("git", "checkout", "-q", "HEAD~1", "--", ".gitattributes", cwd=two)
    must("git", "commit", "-qm", "attributes", cwd=two)
    assert merge(two) == ["dvc.lock"]
    assert b"<<<<" not in (two / "dvc.lock").read_bytes()


def test_outside_of_a_merge(two_clones: tuple[Path, Path]) -> None:
    one, _ = two_clones
    before = (one / "dvc.lock").read_bytes()
    done = command("merge_lock", cwd=one)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "dvc.lock is not in conflict; run this when `git merge`" in done.stderr
    assert (one / "dvc.lock").read_bytes() == before
