"""make data: sets checked and tracked by real DVC."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages import config
from stages.commands import data
from stages.raw_sets import tracking
from stages.vistas import check
from tests.conftest import REPO, run
from tests.raw_sets.test_archives import pack, write
from tests.support import sets
from tests.test_convert import content, write_set


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    for command in (("git", "init", "-q"), ("dvc", "init", "-q")):
        assert run(*command, cwd=folder).returncode == 0
    shutil.copy(REPO / ".dvc/config", folder / ".dvc/config")
    (folder / "data").mkdir()
    shutil.copy(REPO / "data/.gitignore", folder / "data/.gitignore")
    return folder


@pytest.fixture
def workspace(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with our DVC settings."""
    folder = shutil.copytree(repository, tmp_path / "workspace")
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


@pytest.mark.parametrize("archive", [True, False])
def test_a_set_of_another_format_is_checked_and_tracked(workspace: Path, tmp_path: Path, archive: bool) -> None:
    src, out = sets.bdd100k(tmp_path / "parent/bdd100k"), Path("data/raw/bdd100k")
    with pytest.raises(ValueError, match=f"found a set in the layout of BDD100K in it; give SRC={src}"):
        data.build(src.parent, out, config.OnError.fail)
    given = pack(src.parent, tmp_path / "bdd100k.zip") if archive else src
    done = make_data("--src", str(given), "--format", "bdd100k" if archive else "auto")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "bdd100k: train 2, val 1 pictures; 40 labels, evaluated: 10 things, 30 stuff; 0 problems"
    )
    assert (out / "labels/pan_seg/bitmasks/val/b100.png").exists()
    assert Path(f"{out}.dvc").exists()


def test_a_set_of_another_format_with_problems(workspace: Path, tmp_path: Path) -> None:
    src = sets.bdd100k(tmp_path / "set")
    (src / "labels/pan_seg/bitmasks/train/b0.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"(?s)1 problems.*b0\.png: 0 bytes that are not a PNG; .*not tracked"):
        data.build(src, Path("data/raw/set"), config.OnError.fail)
    done = make_data("--src", str(src), "--format", "voc")
    assert done.returncode == 1
    assert "no set in the layout of Pascal VOC: no pictures at JPEGImages/*.jpg" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("top", ["", "vistas/"])
def test_an_archive_is_unpacked_and_tracked(workspace: Path, tmp_path: Path, top: str) -> None:
    src = write_set(tmp_path / "set")
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(src.rglob("*")):
            packed.write(path, top + str(path.relative_to(src)))
        packed.writestr("__MACOSX/._set", "")
    assert data.build(archive, Path("data/raw/set"), config.OnError.fail).startswith("flat: training 3, validation 2")
    assert (workspace / "data/raw/set/config.json").exists()
    assert (workspace / "data/raw/set.dvc").exists()


def test_an_archive_that_leaves_its_folder_is_refused(workspace: Path, tmp_path: Path) -> None:
    archive = write(tmp_path / "bad.zip", ("../outside.txt", "no"))
    with pytest.raises(ValueError, match=r"'\.\./outside\.txt' points outside the archive"):
        data.build(archive, Path("data/raw/bad"), config.OnError.fail)
    assert not Path("data/raw/bad").exists()
    with pytest.raises(FileNotFoundError, match="none not found; give SRC a folder or a zip archive"):
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


def make_data(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command line, in this folder."""
    return run(sys.executable, "-m", "stages.commands.data", *arguments, cwd=Path.cwd(), PYTHONPATH=str(REPO), **env)


def assert_refused(src: Path, words: str, out: str = "data/raw/new", kind: type[Exception] = ValueError) -> None:
    """Told in one line, with nothing left."""
    with pytest.raises(kind, match=words) as caught:
        data.build(src, Path(out), config.OnError.fail)
    assert "\n" not in str(caught.value)
    assert not Path(f"{out}.dvc").exists()
    assert [path.name for path in Path("data/raw").glob(".*.draft")] == []


def test_a_read_only_set_gets_ordinary_modes(workspace: Path, tmp_path: Path) -> None:
    src, out = write_set(tmp_path / "set"), Path("data/raw/set")
    for path in (src, *src.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    data.build(src, out, config.OnError.fail)
    assert {stat.S_IMODE(path.stat().st_mode) & 0o700 for path in (out, *out.rglob("*")) if path.is_dir()} == {0o700}
    assert run("dvc", "config", "cache.type", "copy", cwd=workspace).returncode == 0
    data.build(src, Path("data/raw/copied"), config.OnError.fail)
    copied = [path for path in Path("data/raw/copied").rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) & 0o600 for path in copied} == {0o600}
    assert run("dvc", "remove", "--outs", "data/raw/set.dvc", cwd=workspace).returncode == 0
    assert not out.exists()


def test_a_read_only_set_that_lies_in_place(workspace: Path) -> None:
    src = write_set(Path("data/raw/set"))
    for path in (src, *src.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    data.build(src, src, config.OnError.fail)
    assert {stat.S_IMODE(path.stat().st_mode) & 0o700 for path in (src, *src.rglob("*")) if path.is_dir()} == {0o700}
    # And again, as after a change.
    data.build(src, src, config.OnError.fail)


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_a_failed_dvc_add_leaves_nothing_and_says_what_dvc_says(workspace: Path, tmp_path: Path, kind: str) -> None:
    src = write_set(tmp_path / "set")
    if kind == "archive":
        src = pack(src, tmp_path / "set.zip")
    shutil.rmtree(workspace / ".dvc/cache", ignore_errors=True)
    (workspace / ".dvc/cache").write_text("no folder")
    words = r"dvc add data/raw/new: .*Not a directory: '.*\.dvc/cache.*data/raw/new was removed again"
    assert_refused(src, words, kind=RuntimeError)
    assert not Path("data/raw/new").exists()


def test_a_set_in_place_outlives_a_failed_dvc_add(workspace: Path) -> None:
    src = write_set(Path("data/raw/set"))
    (workspace / ".dvc/cache").write_text("no folder")
    before = content(src)
    assert_refused(src, "data/raw/set was not changed", "data/raw/set", RuntimeError)
    assert content(src) == before


def test_a_run_that_is_ended_leaves_nothing(workspace: Path, tmp_path: Path) -> None:
    src = write_set(tmp_path / "set")
    command = [sys.executable, "-m", "stages.commands.data", "--src", str(src), "--name", "new"]
    running = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(REPO)}, stderr=subprocess.PIPE, text=True)
    while running.poll() is None and not Path("data/raw/new").exists():
        time.sleep(0.005)
    running.terminate()
    _, said = running.communicate()
    assert running.returncode == 128 + signal.SIGTERM, said
    assert "Traceback" not in said
    assert not Path("data/raw/new").exists()
    assert not Path("data/raw/new.dvc").exists()


def test_a_run_that_is_ended_before_dvc_begins_leaves_nothing(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(out: Path, new: bool) -> None:
        assert out.exists()
        raise SystemExit(128 + signal.SIGTERM)

    monkeypatch.setattr(tracking, "add", end)
    src = write_set(tmp_path / "set")
    shutil.make_archive(str(tmp_path / "packed"), "zip", src)
    for source in (src, tmp_path / "packed.zip"):
        with pytest.raises(SystemExit):
            data.build(source, Path("data/raw/new"), config.OnError.fail)
        assert not Path("data/raw/new").exists()
    assert not [path.name for path in Path("data/raw").iterdir() if path.name.startswith((".new", "new"))]


def test_where_dvc_can_not_track(workspace: Path, tmp_path: Path) -> None:
    src = write_set(tmp_path / "set")
    data.build(src, Path("data/raw/set"), config.OnError.fail)
    assert_refused(src, r"data/raw/set/sub would overlap data/raw/set, an output of", "data/raw/set/sub", RuntimeError)
    inside = Path("data/raw/set/training")
    assert_refused(inside, "would overlap data/raw/set", str(inside), RuntimeError)
    assert_refused(src, r"git ignores data/raw/a/b/c\.dvc .*NAME of one or two parts", "data/raw/a/b/c", RuntimeError)
    (workspace / "dvc.yaml").write_text("stages:\n  sample:\n    cmd: 'true'\n    outs: [data/raw/sample]\n")
    assert_refused(src, "would overlap data/raw/sample, an output of sample", "data/raw/sample", RuntimeError)
    (workspace / ".git").rename(workspace / "no git")
    assert_refused(src, "is not a git repository; DVC needs one; .* `git init`", kind=RuntimeError)
    (workspace / "no git").rename(workspace / ".git")
    shutil.rmtree(workspace / ".dvc")
    assert_refused(src, r"not the project's folder: it has no \.dvc", kind=RuntimeError)


def test_dvc_is_found_without_path_and_home(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("HOME", raising=False)
    data.build(write_set(tmp_path / "set"), Path("data/raw/set"), config.OnError.fail)
    assert Path("data/raw/set.dvc").exists()


def test_links_in_the_way(workspace: Path, tmp_path: Path) -> None:
    src = write_set(tmp_path / "set")
    (tmp_path / "disk").mkdir()
    Path("data/raw").symlink_to(tmp_path / "disk")
    assert_refused(src, "data/raw is a link to .*/disk, and DVC can't track files behind a link; replace the link by")
    Path("data/raw").unlink()
    Path("data/raw").mkdir()
    Path("data/raw/new").symlink_to(src)
    for given in (src, Path("data/raw/new")):
        assert_refused(given, rf"data/raw/new is a link to {src}, and .*; remove the link and give SRC={src}")
    Path("data/raw/new").unlink()
    Path("data/raw/new").symlink_to(tmp_path / "nowhere")
    assert_refused(src, "data/raw/new is a link to .*nowhere")
    assert (src / "config.json").exists()


def test_places_that_lie_in_one_another(workspace: Path, tmp_path: Path) -> None:
    src = write_set(Path("data/raw"))
    assert_refused(src, "data/raw contains data/raw/new, the folder for the copy; move the set's files")
    inner = write_set(Path("data/raw/old/vistas"))
    assert_refused(inner, "data/raw/old/vistas is inside data/raw/old, the folder for the copy", "data/raw/old")
    assert (inner / "config.json").exists()
    Path("data/raw/new").mkdir()
    there = "data/raw/new already exists and is not tracked; give SRC=data/raw/new to track what is there, or choose"
    assert_refused(write_set(tmp_path / "set"), there, kind=FileExistsError)


def test_a_set_whose_record_is_there_without_its_files(workspace: Path, tmp_path: Path) -> None:
    src, out = write_set(tmp_path / "set"), Path("data/raw/set")
    data.build(src, out, config.OnError.fail)
    record = Path(f"{out}.dvc").read_text()
    shutil.rmtree(out)
    with pytest.raises(FileExistsError, match=r"data/raw/set\.dvc already exists; remove it"):
        data.build(write_set(tmp_path / "other", "v2.0"), out, config.OnError.fail)
    assert Path(f"{out}.dvc").read_text() == record


def link(path: str, to: str) -> Callable[[Path], None]:
    return lambda root: (root / path).symlink_to(to)


def bind(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "s"))


ENTRIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (lambda root: os.mkfifo(root / "training/pipe"), "set/training/pipe: a pipe, a socket or a device"),
    "socket": (bind, "set/s: a pipe, a socket or a device"),
    "link to a file": (link("passwd", "/etc/passwd"), "set/passwd: a link to /etc/passwd, outside of the set"),
    "link to a folder": (link("training/etc", "/etc"), "training/etc: a link to /etc, outside of the set; replace it"),
    "link up": (link("training/up", "../.."), "training/up: a link to .*, outside of the set"),
    "link around": (link("training/self", ".."), "training/self: a link to a folder that contains the link"),
    "link to itself": (link("loop", "loop"), "loop: a broken link"),
    "link to nothing": (link("gone", "nowhere"), "gone: a broken link; restore its target"),
    "name": (
        lambda root: (root / os.fsdecode(b"training/images/\xff.jpg")).write_bytes(b""),
        r"training/images/\\xff\.jpg: the name is not UTF-8",
    ),
}


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("place", ["elsewhere", "in place"])
def test_what_a_set_must_not_hold(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    make, words = ENTRIES[name]
    src = write_set(Path("data/raw/set") if place == "in place" else tmp_path / "set")
    with monkeypatch.context() as here:
        here.chdir(src)
        make(Path())
    with pytest.raises(ValueError, match=words) as caught:
        data.build(src, Path("data/raw/set"), config.OnError.skip)
    assert "\n" not in str(caught.value)
    assert not Path("data/raw/set.dvc").exists()
    assert Path("data/raw/set").exists() == (place == "in place")


def test_room_is_looked_for_before_anything_is_copied(workspace: Path, tmp_path: Path) -> None:
    src = write_set(tmp_path / "set")
    (src / "video.bin").touch()
    os.truncate(src / "video.bin", 1 << 42)
    assert_refused(src, "GiB free at .*data, and the set has 4096.0 GiB; make room")


def test_links_inside_a_set_are_followed(workspace: Path, tmp_path: Path) -> None:
    src = write_set(tmp_path / "set")
    (src / "config.json").rename(src / "labels.json")
    (src / "config.json").symlink_to("labels.json")
    data.build(src, Path("data/raw/set"), config.OnError.fail)
    assert Path("data/raw/set/config.json").read_bytes() == (src / "labels.json").read_bytes()


def test_what_is_no_set_at_all(workspace: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert_refused(tmp_path / "pipe", "is neither a folder nor a file")
    assert_refused(Path("/dev/null"), "is neither a folder nor a file")
    assert_refused(Path("https://example.com/set.zip"), "not found; download it first", kind=FileNotFoundError)


def test_problems_in_an_archive_are_told_by_its_name(workspace: Path, tmp_path: Path) -> None:
    src = write_set(tmp_path / "set")
    (src / "training/instances/p001.png").unlink()
    archive = pack(src, tmp_path / "set.zip")
    with pytest.raises(ValueError, match=rf"{archive}/training/images/p001\.jpg: no mask at {archive}/training"):
        data.build(archive, Path("data/raw/new"), config.OnError.fail)
    assert "data/raw/new/training/images/p001.jpg" in data.build(archive, Path("data/raw/new"), config.OnError.skip)


BAD_NAMES = ["my set", "a&b", "it's", 'a"b', "-a", ".a", "größe", "a;b", "a/b/c", "..", "a/../b", "$(a)", "a/", "/a"]
BAD_NAMES += ["x.dvc", "x.dvc.dvc", ".dvc", "a.dvc/b"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_of_sets_have_a_rule(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ValueError, match=r"NAME: must be a name of .*, found .*; give NAME=[A-Za-z0-9._/-]+$"
    ) as caught:
        data.place(Path("data/raw"), name, tmp_path)
    assert "no .dvc at the end" in str(caught.value)
    better = str(caught.value).rpartition("=")[2]
    assert data.place(Path("data/raw"), better, tmp_path) == Path("data/raw", better)


def test_a_sources_own_name(workspace: Path, tmp_path: Path) -> None:
    src = write_set(tmp_path / "my set")
    done = make_data("--src", str(src))
    assert "SRC's own name: must be a name of" in done.stderr
    assert done.stderr.endswith("found 'my set'; give NAME=my_set\n")
    src.rename(tmp_path / "set.1")
    done = make_data("--src", str(tmp_path / "set.1"))
    assert done.stdout.splitlines()[-1].startswith("data/raw/set.1 is tracked; add data/raw/set.1.dvc to git")
    # What lies in data/raw is tracked where it lies.
    write_set(Path("data/raw/both/mine"))
    assert "data/raw/both/mine is tracked" in make_data("--src", "data/raw/both/mine").stdout
    assert Path("data/raw/both/mine.dvc").exists()


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
        (lambda c: c["images"][1].update(id=2), "image ids are int and str, expected one type"),
        (lambda c: c["annotations"][0].update(image_id=1), "image ids are int and str, expected one type"),
        (lambda c: c["annotations"][0].pop("segments_info"), "not a COCO panoptic JSON"),
        (lambda c: c["images"][1].update(file_name="../b.jpg"), r"file_name '\.\./b\.jpg' points outside the folder"),
        (lambda c: c["annotations"][0].update(file_name="/b.png"), "file_name '/b.png' points outside"),
        (lambda c: c["annotations"][0]["segments_info"][0].update(area=0), "segment 7 of a.png has no pixel"),
        (lambda c: c.pop("images"), "not a COCO panoptic JSON"),
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


def test_a_zip_bomb_is_not_unpacked(workspace: Path, tmp_path: Path) -> None:
    src = write_set(tmp_path / "set")
    with (src / "training/images/p000.jpg").open("ab") as file:
        file.write(bytes(200_000_000))
    path = pack(src, tmp_path / "bomb.zip")
    assert path.stat().st_size < 1_000_000
    assert_refused(path, r"bomb\.zip would unpack to 0\.2 GiB, \d+ times its own size, expected at most 100")
    assert not list(Path("data/raw").glob("*"))


@pytest.mark.parametrize("packed", [True, False])
def test_a_set_larger_than_the_limit(workspace: Path, tmp_path: Path, packed: bool) -> None:
    src = write_set(tmp_path / "set")
    given = pack(src, tmp_path / "set.zip") if packed else src
    with pytest.raises(ValueError, match=r"has 0\.0 GiB unpacked, expected at most 0 \(data\.max_archive_gib\)"):
        data.build(given, Path("data/raw/new"), config.OnError.fail, max_gib=0)
    assert not list(Path("data/raw").glob("*"))
