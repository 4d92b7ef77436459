"""make check-lock: stale stages are found from git alone, and with data the same ones."""

import re
import shutil
from pathlib import Path

import pytest

from stages.review import lock, staleness
from tests.conftest import REPO, copy_working_tree, must
from tests.support import small_pipeline
from tests.support.small_pipeline import command, edit


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("review")
    one = small_pipeline.create(folder)
    must("git", "clone", "-q", str(one), "bare", cwd=folder)
    return folder


@pytest.fixture(params=["one", "bare"])
def workspace(start: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The repository with its data, and a clone without data and without DVC's cache."""
    return shutil.copytree(start / request.param, tmp_path / "workspace", symlinks=True)


def stale(folder: Path) -> dict[str, str]:
    with staleness.opened(folder) as pipeline:
        state = pipeline.state(lock.read(folder))
    return {name: "; ".join(map(str, reasons)) for name, reasons in state.stale.items()}


AFTER_TRAIN = {"evaluate": "after train", "report": "after evaluate"}


@pytest.mark.parametrize(
    ("path", "old", "new", "expected"),
    [
        ("code/train.py", "import json", "import json, os", {"train": "code code/train.py", **AFTER_TRAIN}),
        ("params.yaml", "lr: 1", "lr: 2", {"train": "parameters train.lr 1 -> 2", **AFTER_TRAIN}),
        ("dvc.yaml", "python code/train.py", "python -B code/train.py", {"train": "command", **AFTER_TRAIN}),
        ("dvc.lock", "  report:\n", "  former:\n", {"report": "not in dvc.lock"}),
        ("dvc.yaml", ", data/metrics]", "]", {"report": "code data/metrics"}),
        (
            "data/metrics/evaluate.json",
            "4",
            "5",
            {"evaluate": "metrics data/metrics/evaluate.json", "report": "after evaluate"},
        ),
    ],
)
def test_what_is_behind(workspace: Path, path: str, old: str, new: str, expected: dict[str, str]) -> None:
    assert stale(workspace) == {}
    if path == "data/metrics/evaluate.json":
        (workspace / path).write_text('{"all": {"pq": 99}}')
    else:
        edit(workspace, path, old, new)
    assert stale(workspace) == expected


def test_an_entry_that_was_built_from_another_output(workspace: Path) -> None:
    entries = lock.read(workspace)
    out = lock.outs(entries["prepare"])["data/set"]
    other = {**entries, "prepare": {**entries["prepare"], "outs": [{**out, "md5": "0" * 32 + ".dir"}]}}
    lock.write(workspace, other)
    assert stale(workspace)["train"] == "data data/set"


def test_a_folder_above_outputs_is_compared_without_data(workspace: Path) -> None:
    (workspace / "data/metrics/former.json").write_text("{}")
    assert stale(workspace) == {"report": f"data data/metrics{staleness.LEFTOVERS}"}


def test_a_part_of_an_output_is_compared_where_the_cache_is_and_listed_where_not(start: Path, tmp_path: Path) -> None:
    one = shutil.copytree(start / "one", tmp_path / "one", symlinks=True)
    entries = lock.read(one)
    deps = [{**dep, "md5": "1" * 32} if dep["path"] == "data/set/val" else dep for dep in entries["evaluate"]["deps"]]
    lock.write(one, {**entries, "evaluate": {**entries["evaluate"], "deps": deps}})
    assert stale(one) == {"evaluate": "data data/set/val", "report": "after evaluate"}
    with staleness.opened(start / "bare") as pipeline:
        state = pipeline.state(lock.read(start / "bare"))
    assert (state.stale, state.unknown) == ({}, {"evaluate": ["data/set/val"]})


def test_stages_of_other_machines_hold_nothing_up(start: Path, tmp_path: Path) -> None:
    one = shutil.copytree(start / "one", tmp_path / "one", symlinks=True)
    with (one / "params.yaml").open("a") as file:
        file.write("targets:\n  cpu: {builder: openvino, device: cpu}\n  ada: {builder: tensorrt, device: cuda}\n")
    with (one / "dvc.yaml").open("a") as file:
        file.write(
            "  engine:\n    foreach: ${targets}\n    do:\n      cmd: touch ${key}\n      deps: [data/model]\n"
            '      metrics: [{"data/metrics/engine_${key}.json": {cache: false}}]\n'
        )
    with staleness.opened(one) as pipeline:
        state = pipeline.state(lock.read(one))
    assert list(state.stale) == ["engine@cpu", "report"]
    assert list(state.elsewhere) == ["engine@ada"]


def test_the_command_on_the_project(tmp_path: Path) -> None:
    """The real dvc.yaml, params.yaml and conf/, without data: one line for each stale stage, exit status 1."""
    copy = copy_working_tree(tmp_path / "project")
    shutil.copy(REPO / "dvc.lock", copy)
    must("git", "init", "-q", cwd=copy)
    must("git", "add", "-A", cwd=copy)
    with (copy / "stages/sample.py").open("a") as file:
        file.write("# edited\n")
    done = command("check_lock", cwd=copy)
    assert done.returncode == 1
    assert re.search(r"^sample: code .*stages/sample\.py", done.stdout, re.MULTILINE)
    assert re.search(r"^convert: .*after sample", done.stdout, re.MULTILINE)
    assert "params.yaml is not" not in done.stdout
    assert re.fullmatch(r"error: dvc\.lock is behind in \d+ of \d+ stages; run `make all`.*\n", done.stderr)
    edit(copy, "conf/train/sample.yaml", "batch_size: 2", "batch_size: 3")
    done = command("check_lock", cwd=copy)
    assert "params.yaml is not what conf/ composes (train.batch_size); run `make params` and commit it" in done.stdout
