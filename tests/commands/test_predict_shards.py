"""Shards of predict over a tree: the same bytes for any N, kills, faults and jobs of submitit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

from stages import config
from stages.commands import predict_tree
from stages.foundation import locks
from stages.media import picture_tree, tree_results
from tests.conftest import REPO
from tests.support import bright

CPU = config.Target(builder=config.Builder.onnxruntime, builder_version="1.32")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright.build(tmp_path_factory.mktemp("engine"), CPU)


def video(path: Path, frames: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20, bright.SIZE[::-1])
    for number in range(frames):
        writer.write(bright.picture(8 + number)[..., ::-1])
    writer.release()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Pictures at three depths, one of a name that is not UTF-8, videos, and files that are neither."""
    root = tmp_path / "drives"
    (root / "a b/c").mkdir(parents=True)
    (root / ".hidden").mkdir()
    png = cv2.imencode(".png", bright.picture(16)[..., ::-1])[1].tobytes()
    for number, name in enumerate(["1.png", "a b/2.png", "a b/c/3.png", "a b/c/4.png", "z.png"]):
        (root / name).write_bytes(cv2.imencode(".png", bright.picture(8 * number + 8)[..., ::-1])[1].tobytes())
    Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.png")).write_bytes(png)
    (root / "by content").write_bytes(png)
    (root / f"{'n' * 250}.png").write_bytes(png)
    video(root / "a b/drive.mp4", 12)
    video(root / "c.mp4", 7)
    (root / "c.mp4").rename(root / "c.png")  # a video, whatever its name says
    (root / "notes.txt").write_text("no picture")
    (root / ".hidden/h.png").write_bytes(png)
    (root / "a b/again").symlink_to(root)
    return root


def files_of(out: Path) -> dict[str, bytes]:
    """The results in a folder, without what the shards know of each other."""
    return {
        os.fsencode(path.relative_to(out)).decode("utf-8", "backslashreplace"): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.parent.name != tree_results.SHARDS
    }


def command(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "stages.commands.predict", *arguments]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.run(command(*arguments), env=environment, capture_output=True, text=True, check=False)


def test_any_number_of_shards_gives_the_same_bytes(built: Path, tree: Path, tmp_path: Path) -> None:
    expected = None
    for count in (1, 3, 20):
        out = tmp_path / f"out {count}"
        # The last first: no shard needs another.
        done = [predict_tree.run_shard(built, tree, out, shard, count) for shard in range(count, 0, -1)]
        assert sum(left for _, left in done) == 10
        found = files_of(out)
        expected = expected or found
        assert found.keys() == expected.keys()
        assert [name for name in found if found[name] != expected[name]] == []
    assert expected is not None
    lines = [json.loads(line) for line in expected["segments.jsonl"].decode().splitlines()]
    names = [
        "1.png",
        "a b/2.png",
        "a b/c/3.png",
        "a b/c/4.png",
        "by content",
        r"caf\xe9.png",
        "n" * 250 + ".png",
        "z.png",
    ]
    assert [line["picture"] for line in lines] == names
    assert lines[2]["segments"][0]["bbox"] == [0, 0, 24, 48]
    summary = json.loads(expected["summary.json"])
    assert (summary["pictures"], summary["videos"], summary["frames"]) == (8, 2, 8 + 12 + 7)
    assert summary["unreadable"] == {}
    assert len(expected["videos/a b/drive.mp4/segments.jsonl"].splitlines()) == 12
    assert len(expected["videos/c.png/segments.jsonl"].splitlines()) == 7
    assert "overlays/a b/c/4.png.png" in expected


def test_what_is_done_is_not_done_again_and_what_has_changed_is(
    built: Path, tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    out = tmp_path / "out"
    assert predict_tree.run_shard(built, tree, out, 1, 2) == (0, 5)
    with pytest.raises(
        ValueError, match=r"5 of 10 pictures and videos have no result yet, such as a b/2\.png; run the"
    ):
        predict_tree.gather(tree, out)
    assert not (out / "segments.jsonl").exists()
    # With another N.
    assert predict_tree.run_shard(built, tree, out, 1, 1) == (5, 5)
    assert "all shards are done; 8 pictures and 2 videos of 27 frames in all, 0 files could not be read" in caplog.text
    first = files_of(out)
    assert predict_tree.run_shard(built, tree, out, 2, 3)[1] == 0
    # A new content, a lost overlay, and a new file.
    (tree / "1.png").write_bytes(cv2.imencode(".png", bright.picture(40)[..., ::-1])[1].tobytes())
    os.utime(tree / "1.png", ns=(1, 1))
    (out / "overlays/z.png.png").unlink()
    shutil.rmtree(out / "videos/c.png")
    shutil.copy(tree / "z.png", tree / "zz.png")
    with pytest.raises(ValueError, match=r"2 of 11 .* such as 1\.png"):
        predict_tree.gather(tree, out)
    assert predict_tree.run_shard(built, tree, out, 1, 1) == (7, 4)
    second = files_of(out)
    changed = {name for name in second if second[name] != first.get(name)}
    assert changed == {"overlays/1.png.png", "overlays/zz.png.png", "segments.jsonl", "summary.json"}


def test_a_killed_shard_goes_on_where_it_was(built: Path, tmp_path: Path) -> None:
    tree, out, whole = tmp_path / "tree", tmp_path / "out", tmp_path / "whole"
    tree.mkdir()
    for number in range(120):
        shutil.copyfile(tree / "0.png", tree / f"{number}.png") if number else cv2.imwrite(
            str(tree / "0.png"), bright.picture(16)[..., ::-1]
        )
    arguments = ("--engine", built, "--source", tree, "--out", out, "--shard", "1/1")
    running = subprocess.Popen(command(*arguments), env={**os.environ, "PYTHONPATH": str(REPO)}, stderr=subprocess.PIPE)
    journal = out / "shards/1-of-1.jsonl"
    for _ in range(600):
        if journal.exists() and journal.stat().st_size > 2000:
            break
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    before = len(journal.read_bytes().splitlines())
    assert 5 < before < 240
    # As where the kill came in the middle of a line.
    with journal.open("ab") as lines:
        lines.write(b'{"item": "cut')
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    kept, left = predict_tree.run_shard(built, tree, out, 1, 1)
    assert (kept, left) == (120, 0)
    whole_lines = [line for line in journal.read_bytes().splitlines() if line.endswith(b"}")]
    items = [json.loads(line)["item"] for line in whole_lines if line.startswith(b'{"item"')]
    assert len(items) == len(set(items)) == 120, "what was done was not done again"
    predict_tree.run_shard(built, tree, whole, 1, 1)
    assert files_of(whole) == files_of(out)


def test_files_that_can_not_be_read_are_told_and_the_others_are_done(built: Path, tree: Path, tmp_path: Path) -> None:
    (tree / "a b/broken.jpg").write_bytes(b"no picture")
    (tree / "cut.mp4").write_bytes((tree / "a b/drive.mp4").read_bytes()[:500])
    (tree / "gone.png").symlink_to(tree / "nowhere")
    out = tmp_path / "out"
    done = run("--engine", built, "--source", tree, "--out", out, "--shard", "1/1")
    assert done.returncode == 0, done.stderr
    assert "broken.jpg: can't be read as a picture" in done.stderr
    summary = json.loads((out / "summary.json").read_text())
    assert sorted(summary["unreadable"]) == ["a b/broken.jpg", "cut.mp4", "gone.png"]
    assert (summary["pictures"], summary["videos"]) == (8, 2)
    (tree / "a b/broken.jpg").write_bytes((tree / "1.png").read_bytes())
    assert predict_tree.run_shard(built, tree, out, 1, 1) == (10, 3)
    assert sorted(json.loads((out / "summary.json").read_text())["unreadable"]) == ["cut.mp4", "gone.png"]

    only = tmp_path / "only"
    only.mkdir()
    (only / "broken.jpg").write_bytes(b"no picture")
    done = run("--engine", built, "--source", only, "--out", tmp_path / "none", "--shard", "1/1")
    assert done.returncode == 1
    assert "no picture or video could be read (1 are there)" in done.stderr.splitlines()[-1]


def test_what_no_shard_wrote_stays(built: Path, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"has files and no run\.json, so no shard made it"):
        predict_tree.run_shard(built, tree, out, 1, 1)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").unlink()
    predict_tree.run_shard(built, tree, out, 1, 2)
    mine = out / "overlays/a b/2.png.png"
    mine.write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"2\.png\.png is there, and no shard wrote it"):
        predict_tree.run_shard(built, tree, out, 2, 2)
    assert mine.read_bytes() == b"mine"
    with pytest.raises(ValueError, match="is in SOURCE, so its pictures would be read"):
        predict_tree.run_shard(built, tree, tree / "out", 1, 1)


def test_another_engine_and_the_same_shard_twice_are_refused(built: Path, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_tree.run_shard(built, tree, out, 1, 2)
    run_file = out / "run.json"
    content = json.loads(run_file.read_text())
    run_file.write_text(json.dumps({**content, "engine_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="has results of another engine"):
        predict_tree.run_shard(built, tree, out, 2, 2)
    run_file.write_text(json.dumps(content))
    lock = str(out / "shards/2-of-2.jsonl")
    hold = (
        "import sys\nfrom pathlib import Path\nfrom stages.foundation import locks\n"
        "with locks.held(Path(sys.argv[1])):\n    print('held', flush=True)\n    input()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPO, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(locks.LockedError, match="is being written by process"):
        predict_tree.run_shard(built, tree, out, 2, 2)
    holder.communicate("\n")
    predict_tree.run_shard(built, tree, out, 2, 2)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "-1/2", "a/b", "1/2/3"])
def test_a_shard_that_is_none_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="expected I/N with I from 1 to N"):
        predict_tree.parse_shard(text)


def test_options_that_contradict_are_said(built: Path, tree: Path, tmp_path: Path) -> None:
    base = ("--engine", built, "--source", tree)
    for more in (
        ("--shard", "1/1"),
        ("--gather", "--shard", "1/1", "--out", tmp_path / "o"),
        ("--limit", "1", "--gather"),
    ):
        done = run(*base, *more)
        assert done.returncode == 1
        assert done.stderr.splitlines() == ["--shard and --gather need OUT, exclude each other, and take no --limit"]
    done = run(*base, "--gather", "--out", tmp_path / "o")
    assert "run.json not found; run the shards first" in done.stderr
    done = run("--engine", built, "--source", tree / "1.png", "--shard", "1/1", "--out", tmp_path / "o")
    assert "1.png is not a folder; give SOURCE one" in done.stderr
    assert not (tmp_path / "o").exists()


def test_shards_at_once_and_as_jobs_of_submitit(built: Path, tree: Path, tmp_path: Path) -> None:
    jobs = [sys.executable, "-m", "stages.commands.predict_shards", "--engine", built, "--source", tree]
    jobs += ["--out", tmp_path / "jobs", "--jobs", "3", "--launcher", "local", "--", "timeout_min=5"]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(jobs, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "8 pictures and 2 videos of 27 frames in all" in done.stderr
    predict_tree.run_shard(built, tree, tmp_path / "one", 1, 1)
    assert files_of(tmp_path / "jobs") == files_of(tmp_path / "one")
    # A job that fails is told, and a run of the command after that does what is left.
    (tmp_path / "jobs/overlays/1.png.png").unlink()
    shutil.rmtree(tmp_path / "jobs/shards")
    done = subprocess.run(jobs, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "3 of 3 shards failed; run the command again" in done.stderr.splitlines()[-1]
    assert "no shard wrote it" in done.stderr.splitlines()[-1]


def test_an_engine_of_no_signer_is_refused(built: Path, tree: Path, tmp_path: Path) -> None:
    signers = tmp_path / "signers"
    signers.write_text("")
    environment = {**os.environ, "PYTHONPATH": str(REPO), "ALLOWED_SIGNERS": str(signers)}
    ways = (["predict", "--shard", "1/1"], ["predict_shards", "--jobs", "1"])
    for program, *more in ways:
        arguments = [sys.executable, "-m", f"stages.commands.{program}", "--engine", built, "--source", tree, *more]
        arguments += ["--out", tmp_path / "out"]
        done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "release.json" in done.stderr or "manifest" in done.stderr, done.stderr
        assert not (tmp_path / "out").exists()


def test_a_tree_is_listed_by_content_and_each_folder_once(tree: Path) -> None:
    found, others = picture_tree.items(tree)
    assert others == 1
    assert len(found) == 10
    assert {item.key for item in found if not item.is_picture} == {"a b/drive.mp4", "c.png"}


@pytest.fixture(autouse=True)
def no_jobs_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Submitit tells a job's process from its own by the environment."""
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
