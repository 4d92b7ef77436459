"""make data: sets checked and tracked by real DVC."""

import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import config
from stages.commands import data
from stages.vistas import check
from tests.conftest import REPO, run
from tests.test_convert import write_set


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with our DVC settings."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    for command in (("git", "init", "-q"), ("dvc", "init", "-q")):
        assert run(*command, cwd=folder).returncode == 0
    shutil.copy(REPO / ".dvc/config", folder / ".dvc/config")
    (folder / "data").mkdir()
    shutil.copy(REPO / "data/.gitignore", folder / "data/.gitignore")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{REPO / '.venv/bin'}:/usr/bin:/bin")
    return folder


def test_a_folder_elsewhere_is_tracked_and_lies_in_the_cache_once(workspace: Path, tmp_path: Path) -> None:
    src, out = write_set(tmp_path / "my set", "v2.0"), Path("data/raw/both/mine")
    text = data.build(src, out, config.OnError.fail)
    assert text == (
        "v2.0: training 3, validation 2 pictures; 5 labels in config_v2.0.json, "
        "evaluated: 1 things, 2 stuff; 0 problems"
    )
    picture = out / "training/images/p000.jpg"
    cached = [
        p for p in (workspace / ".dvc/cache").rglob("*") if p.is_file() and p.read_bytes() == picture.read_bytes()
    ]
    assert len(cached) == 1
    shown = run("git", "status", "--short", "--untracked-files=all", cwd=workspace).stdout
    assert "data/raw/both/mine.dvc" in shown
    assert "p000" not in shown
    with pytest.raises(FileExistsError, match=r"dvc remove --outs data/raw/both/mine\.dvc.* another NAME"):
        data.build(src, out, config.OnError.fail)


@pytest.mark.parametrize("top", ["", "vistas/"])
def test_an_archive_is_unpacked_and_tracked(workspace: Path, tmp_path: Path, top: str) -> None:
    src = write_set(tmp_path / "set")
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as content:
        for path in sorted(src.rglob("*")):
            content.write(path, top + str(path.relative_to(src)))
        content.writestr("__MACOSX/._set", "")
    assert data.build(archive, Path("data/raw/set"), config.OnError.fail).startswith("flat: training 3, validation 2")
    assert (workspace / "data/raw/set/config.json").exists()
    assert (workspace / "data/raw/set.dvc").exists()


def test_an_archive_that_leaves_its_folder_is_refused(workspace: Path, tmp_path: Path) -> None:
    archive = tmp_path / "bad.zip"
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("../outside.txt", "no")
    with pytest.raises(ValueError, match=r"'\.\./outside\.txt' leaves the archive"):
        data.build(archive, Path("data/raw/bad"), config.OnError.fail)
    assert not Path("data/raw/bad").exists()
    with pytest.raises(FileNotFoundError, match="neither a folder nor a zip"):
        data.build(tmp_path / "none", Path("data/raw/none"), config.OnError.fail)


def test_a_set_with_problems_is_tracked_only_if_asked(workspace: Path, tmp_path: Path) -> None:
    src, out = write_set(tmp_path / "set"), Path("data/raw/set")
    (src / "training/instances/p001.png").unlink()
    with pytest.raises(ValueError, match=r"(?s)1 problems.*p001\.jpg: no mask at.*not tracked"):
        data.build(src, out, config.OnError.fail)
    assert not out.exists()
    assert "1 problems" in data.build(src, out, config.OnError.skip)
    assert out.exists()


def test_a_config_of_another_name(workspace: Path, tmp_path: Path) -> None:
    src = write_set(tmp_path / "set")
    (src / "config.json").rename(src / "mine.json")
    with pytest.raises(FileNotFoundError, match=r"config\.json not found \(found: \['mine\.json'\]\)"):
        data.build(src, Path("data/raw/set"), config.OnError.fail)
    assert "5 labels in mine.json" in data.build(src, Path("data/raw/set"), config.OnError.fail, "mine.json")


def panoptic(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    content: dict[str, Any] = {
        "images": [{"id": "a", "file_name": "a.jpg"}, {"id": "b", "file_name": "b.jpg"}],
        "annotations": [{"image_id": "a", "file_name": "a.png", "segments_info": [{"id": 7, "area": 3}]}],
    }
    change(content)
    return content


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["images"][1].update(id=2), "image ids are int and str, expected one kind"),
        (lambda c: c["annotations"][0].update(image_id=1), "image ids are int and str, expected one kind"),
        (lambda c: c["annotations"][0].pop("segments_info"), "no COCO panoptic JSON"),
        (lambda c: c["images"][1].update(file_name="../b.jpg"), r"file_name '\.\./b\.jpg' leaves the folder"),
        (lambda c: c["annotations"][0].update(file_name="/b.png"), "file_name '/b.png' leaves"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(area=0), "segment 7 of a.png has no pixel"),
        (lambda c: c.pop("images"), "no COCO panoptic JSON"),
    ],
)
def test_defects_of_a_sets_own_panoptic_json(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    src = write_set(tmp_path / "set")
    path = src / "training/panoptic/panoptic_2018.json"
    path.parent.mkdir()
    path.write_text(json.dumps(panoptic(lambda c: None)))
    assert [report.problems for report in check.check(src)] == [[]]
    path.write_text(json.dumps(panoptic(change)))
    ((problem,),) = (report.problems for report in check.check(src))
    assert problem.startswith(str(path))
    assert re.search(words, problem)
