"""make diff: the Markdown of a review."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from stages.commands import diff, params
from stages.review import figures
from tests.conftest import REPO, copy_working_tree, must
from tests.support import small_pipeline
from tests.support.small_pipeline import build, command, edit

LIMITS = {"verify": {"min_pixel_agreement_pct": 99.5, "max_pq_difference": 0.2}}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_pipeline.create(tmp_path_factory.mktemp("diff"))


@pytest.fixture
def workspace(start: Path, tmp_path: Path) -> Path:
    shutil.copytree(start.parent, tmp_path / "team", symlinks=True)
    return tmp_path / "team/one"


def test_nothing_changed(workspace: Path) -> None:
    assert diff.text(workspace, "main").splitlines()[2:] == [
        "**No parameter and no code of a stage changed.**",
        "",
        "**Stages**: dvc.lock is up to date, and none ran since.",
        "",
        "**Metrics**: no figure changed.",
    ]


def test_code_alone_is_said_so(workspace: Path) -> None:
    edit(workspace, "code/evaluate.py", "import json", "import json, os")
    (workspace / "code/other.py").write_text("")
    text = diff.text(workspace, "main")
    assert "**No parameter changed: code only.** <code>code/evaluate.py</code>\n" in text
    assert "**Stages**: `make all` will run 2 of 4\n" in text
    assert "| evaluate | will run | <code>code code/evaluate.py</code> |" in text
    assert "| report | will run | <code>after evaluate</code> |" in text


def test_a_branch_is_compared_with_where_it_began(workspace: Path) -> None:
    """Commits of others on main since then are no changes of this branch."""
    must("git", "switch", "-qc", "topic", cwd=workspace)
    edit(workspace, "params.yaml", "lr: 1", "lr: 2")
    build(workspace, "faster")
    must("git", "switch", "-q", "main", cwd=workspace)
    edit(workspace, "params.yaml", "title: one", "title: two")
    must("git", "commit", "-qam", "title", cwd=workspace)
    must("git", "switch", "-q", "topic", cwd=workspace)
    lines = diff.text(workspace, "main").splitlines()
    assert "| <code>train.lr</code> | <code>1</code> | <code>2</code> |" in lines
    assert not any("title" in line for line in lines)
    assert any(
        line.startswith("| train | ran | <code>parameters train.lr 1 -&gt; 2; outputs data/metrics/train.json")
        for line in lines
    )
    assert "| validation loss | 1.000 | 0.500 | -0.500 better |  |" in lines


def test_values_of_users_are_shown_as_they_are(workspace: Path) -> None:
    edit(workspace, "params.yaml", "title: one", "title: 'a | b `c` <img src=x> @team'")
    text = diff.text(workspace, "main")
    assert "<code>a &#124; b &#96;c&#96; &lt;img src=x&gt; @team</code> |" in text


@pytest.mark.parametrize("base", ["origin/gone", "--output=x"])
def test_a_base_that_is_not_here(workspace: Path, base: str) -> None:
    done = command("diff", f"--base={base}", cwd=workspace)
    assert done.returncode == 1
    assert done.stderr.startswith(f"BASE: {base} is no commit here; run `git fetch ")
    assert done.stderr.count("\n") == 1


def test_a_switch_of_the_profile_is_one_row_and_short(tmp_path: Path) -> None:
    """On the real project: what the profile sets is folded, and what was changed beside it is seen."""
    copy = copy_working_tree(tmp_path / "project")
    shutil.copy(REPO / "dvc.lock", copy)
    must("git", "init", "-q", "-b", "main", cwd=copy)
    must("git", "add", "-A", cwd=copy)
    must("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "start", cwd=copy)
    params.build(copy / "conf", copy / "params.yaml", ["profile=mapillary", "train.seed=7"])
    text = diff.text(copy, "main")
    lines = text.splitlines()
    rows = lines[lines.index("| parameter | before | after |") + 2 :]
    shown = rows[: rows.index("")]
    assert "| <code>profile</code> | <code>sample</code> | <code>mapillary</code> |" in shown
    assert "| <code>train.seed</code> | <code>1234</code> | <code>7</code> |" in shown
    assert len(shown) <= 3
    assert "parameters of the profile</summary><code>" in text
    assert len(lines) <= 60
    assert len(text) < 65536, "GitHub's limit of a comment"


def changes(stem: str, before: Any, after: Any) -> tuple[list[figures.Change], list[str]]:
    return figures.changes({stem: before}, {stem: after}, LIMITS)


def test_figures_have_direction_unit_and_limit() -> None:
    found, _ = changes(
        "verify_cpu",
        {"pixel_agreement_pct": 99.9, "pq_difference": -0.1, "pictures": 16},
        {"pixel_agreement_pct": 99.4, "pq_difference": 0.3, "pictures": 16},
    )
    shown = [(c.figure.name, c.figure.unit, c.of, c.verdict, c.limit, c.is_beyond) for c in found]
    assert shown == [
        ("agreement with the checkpoint", "%", "cpu", "worse", ">= 99.5", True),
        ("PQ difference", "/ 100", "cpu", "worse", "<= 0.2", True),
    ]


def test_what_is_equal_as_shown_is_not_listed() -> None:
    assert changes("evaluate", {"all": {"pq": 33.2601}}, {"all": {"pq": 33.2602}}) == ([], [])


def test_figures_of_a_source_have_its_name() -> None:
    """Names of sources may have dots."""
    before, after = (
        {"by_source": {"a.b": {"all": {"pq": pq}, "protocol": {"name": "x", "semantic": {"miou": 10 - pq}}}}}
        for pq in (1, 2)
    )
    shown = [(c.figure.name, c.of, c.verdict) for c in changes("evaluate", before, after)[0]]
    assert shown == [("PQ", "a.b", "better"), ("mIoU", "a.b, its own evaluation", "worse")]


HOST = {"name": "a", "cpu": "EPYC", "gpu": {"name": "L4", "driver": "1"}}


@pytest.mark.parametrize(
    ("before", "after", "is_compared"),
    [
        (HOST, HOST, True),
        (HOST, {**HOST, "gpu": {"name": "L4", "driver": "2"}}, True),
        (HOST, {**HOST, "name": "b"}, False),
        (HOST, {**HOST, "cpu": "Xeon"}, False),
        (HOST, {**HOST, "gpu": {"name": "L40"}}, False),
        (HOST, {**HOST, "gpu": None}, False),
        ({"cpu": "EPYC"}, {"cpu": "EPYC"}, False),
    ],
)
def test_timings_are_compared_on_one_machine_alone(before: Any, after: Any, is_compared: bool) -> None:
    old, new = ({"engine": {"end_to_end": {"hz": hz}}, "host": host} for hz, host in ((40.0, before), (50.0, after)))
    found, others = changes("benchmark_cpu", old, new)
    assert ([c.verdict for c in found], others) == ((["better"], []) if is_compared else ([], ["cpu"]))


def test_every_figure_of_the_project_has_a_name() -> None:
    """A new metric needs its line in FIGURES, with unit and direction."""
    named = [(figure.files, figure.key) for figure in figures.FIGURES]
    assert len(named) == len(set(named))
    counts = {"frames", "pictures", "nodes_before", "classes", "classes_present", "things"}
    for path in sorted((REPO / "data/metrics").glob("*.json")):
        found, _ = figures.changes({}, {path.stem: json.loads(path.read_text())}, {})
        unnamed = {change.figure.key for change in found if change.figure not in figures.FIGURES}
        unnamed = {key for key in unnamed if key.rpartition(".")[2] not in counts}
        if path.stem != "data":
            assert unnamed == set(), path
