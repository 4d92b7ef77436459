"""doctor in workspaces and on a board that lack something."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stages.doctor import host, project
from tests.conftest import REPO, must, run
from tests.support import project as small
from tests.support import servers

Found = dict[str, dict[str, object]]


def ask(folder: Path, check: str, **env: str) -> Found:
    """Run one check in a folder, as doctor runs it apart; returns its lines by name."""
    shown = must("python", "-m", "stages.commands.doctor", "--only", check, cwd=folder, PYTHONPATH=str(folder), **env)
    return {line["name"]: line for line in json.loads(shown.splitlines()[-1])}


def examine(folder: Path, *command: str, path: str = "", **env: str) -> tuple[int, Found]:
    """Run doctor in a folder; returns the exit status and its lines by name."""
    # uv is there where `make env` had to install it.
    own = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], str(REPO / ".tools/bin")])
    clean = {"PATH": path or own, "PYTHONPATH": str(folder), "HOME": str(folder), **env}
    command = (*(command or ("python", "-m", "stages.commands.doctor")), "--json")
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    lines = json.loads(done.stdout)
    for line in lines:
        assert list(line) == ["name", "required", "found", "ok", "level", "fix"]
        assert line["ok"] or line["fix"], line
        assert "\n" not in line["found"]
    return done.returncode, {line["name"]: line for line in lines}


def failing(found: Found) -> set[str]:
    return {name for name, line in found.items() if line["level"] == "required" and not line["ok"]}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished workspace with this environment as its .venv and a remote that is a folder."""
    folder = small.build(tmp_path_factory.mktemp("doctor") / "project")
    (folder / ".venv").symlink_to(Path(sys.prefix))
    (folder.parent / "remote").mkdir()
    must("dvc", "remote", "add", "-q", "-f", "-d", "team", str(folder.parent / "remote"), cwd=folder)
    return folder


@pytest.fixture
def own(workspace: Path, tmp_path: Path) -> Path:
    """A copy of the workspace for one test."""
    return Path(shutil.copytree(workspace, tmp_path / "own", symlinks=True))


def test_a_finished_workspace(workspace: Path) -> None:
    status, found = examine(workspace)
    # A machine with little memory or room may fail these two.
    assert failing(found) <= {"memory", "disk"}
    assert status == (1 if failing(found) else 0)
    names = "Python uv environment disk memory cores load GPU driver CUDA TensorRT TensorRT-RTX docker data dvc.lock"
    expected = {
        *names.split(),
        "NVRTC 13",
        "TAO's wheel",
        "TAO's compiled op",
        "remote read",
        "remote write",
        "build cpu",
        "run cpu",
    }
    assert set(found) == expected
    for name in ("Python", "uv", "environment", "TAO's wheel", "remote read", "remote write", "data", "dvc.lock"):
        assert found[name]["ok"], found[name]
    assert found["build cpu"]["ok"]
    assert found["run cpu"]["ok"]
    assert list((workspace.parent / "remote").rglob("*probe*")) == [], "the probe is removed"
    assert must("git", "status", "--porcelain", "--untracked-files=no", "stages", "data", cwd=workspace) == ""


def test_make_doctor_prints_a_table_and_builds_no_environment(own: Path) -> None:
    (own / ".venv").unlink()
    done = run("make", "doctor", cwd=own)
    assert done.returncode != 0
    assert "fix: make env" in done.stdout
    assert "environment" in done.stdout.splitlines()[-1], done.stdout[-300:]
    assert not (own / ".venv").exists()
    assert "Traceback" not in done.stdout + done.stderr


def test_a_newcomer_with_the_systems_python_and_nothing_installed(own: Path, tmp_path: Path) -> None:
    """`make doctor` before `make env`: an interpreter without NumPy, DVC and all else; no uv, no docker."""
    must(sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare"), cwd=tmp_path)
    (own / ".venv").unlink()
    shutil.rmtree(own / ".tools", ignore_errors=True)
    path = f"{tmp_path / 'bare/bin'}:/usr/bin:/bin"
    if shutil.which("uv", path=path):
        pytest.skip("uv is one of the system's programs here")
    status, found = examine(own, str(tmp_path / "bare/bin/python"), "-m", "stages.commands.doctor", path=path)
    assert status == 1
    assert {"uv", "environment", "TAO's wheel", "remote"} <= failing(found)
    assert found["environment"]["found"] == "no .venv"
    assert {found[name]["fix"] for name in ("uv", "environment", "remote", "targets")} == {"make env"}
    assert "GiB the environment" in str(found["disk"]["required"])


def test_a_broken_environment_is_a_line(own: Path) -> None:
    (own / ".venv").unlink()
    (own / ".venv/bin").mkdir(parents=True)
    (own / ".venv/bin/python").write_text("#!/nowhere/python\n")
    (own / ".venv/bin/python").chmod(0o755)
    found = ask(own, "host.environment")
    assert found["environment"]["found"] == ".venv/bin/python does not run"


def test_an_environment_out_of_step_with_the_lock(own: Path) -> None:
    lock = own / "uv.lock"
    lock.write_text(lock.read_text().replace('name = "vistas2engine"\nversion', 'name = "vistas2other"\nversion'))
    assert failing(ask(own, "host.environment")) == {"environment"}


def test_what_dvc_finds_changed(own: Path) -> None:
    shutil.rmtree(own / "data/engines")
    found = ask(own, "project.tracked")
    assert found["dvc.lock"]["ok"] is False
    assert "engine@cpu" in str(found["dvc.lock"]["found"])
    assert "dvc.lock" not in failing(found), "make all repairs it"


def test_a_tracked_set_that_is_not_here_fails(own: Path) -> None:
    (own / "data/raw/mine").mkdir()
    (own / "data/raw/mine/a.txt").write_text("a")
    must("dvc", "add", "-q", "data/raw/mine", cwd=own)
    shutil.rmtree(own / "data/raw/mine")
    found = ask(own, "project.tracked")
    assert failing(found) == {"data"}
    assert found["data"]["found"] == "changed or missing: data/raw/mine"


def test_a_remote_that_is_not_there_and_none_at_all(own: Path) -> None:
    must("dvc", "remote", "modify", "-q", "team", "url", "/proc/nowhere", cwd=own)
    found = ask(own, "project.remote")
    assert found["remote write"]["ok"] is False
    assert "/proc/nowhere" in str(found["remote write"]["found"])
    must("dvc", "config", "-q", "--unset", "core.remote", cwd=own)
    found = ask(own, "project.remote")
    assert found["remote read"]["found"] == "no shared remote yet"
    assert "remote read" not in failing(found)
    assert "make remote URL=" in str(found["remote read"]["fix"])


def test_a_check_that_crashes_is_a_line(own: Path) -> None:
    """A library that ends its process takes no other line with it."""
    (own / "onnxruntime.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    _, found = examine(own)
    assert found["targets"]["found"] == "ended by signal 11"
    assert found["dvc.lock"]["ok"]


def test_wrong_parameters_are_a_line(own: Path) -> None:
    path = own / "params.yaml"
    path.write_text(path.read_text().replace("profile: smoke", "profile: smoke\nextra: 1"))
    found = ask(own, "gpu.targets")
    assert "extra: must be one of the keys" in str(found["targets"]["found"])


def test_a_board(own: Path, tmp_path: Path) -> None:
    """A folder without DVC: its checks are `not here`, and its targets are those of params.json."""
    board = tmp_path / "board"
    shutil.copytree(own / "stages", board / "stages")
    must("python", "-m", "stages.commands.params", "--profile", "smoke", "--out", str(board / "params.json"), cwd=own)
    _, found = examine(board)
    for name in ("uv", "environment", "TAO's wheel", "remote", "data, dvc.lock"):
        assert (found[name]["level"], found[name]["ok"]) == ("not here", True)
    assert found["Python"]["required"] == "3.10 or newer"
    assert found["NumPy, OpenCV"]["ok"]
    assert found["build cpu"]["ok"]


def test_disk_counts_what_is_not_here(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own)
    assert "artifacts" not in host.disk()[0].required
    missing = sum(path.stat().st_size for path in (own / "data/onnx").rglob("*") if path.is_file())
    shutil.rmtree(own / "data/onnx")
    assert host._artifacts() == {"for artifacts of profile smoke that are in dvc.lock and not here": missing}
    params = own / "params.yaml"
    params.write_text(params.read_text().replace("profile: smoke", "profile: other"))
    assert "for artifacts of profile other, never built here" in host.disk()[0].required


def test_the_locked_version_of_tao(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own)
    assert project.tao()[0].ok
    lock = own / "uv.lock"
    lock.write_text(
        lock.read_text().replace('"nvidia-tao-pytorch"\nversion = "7.3.0"', '"nvidia-tao-pytorch"\nversion = "9.9"')
    )
    found = project.tao()[0]
    assert (found.required, found.found, found.fix) == ("9.9", "7.3.0", "make env")


def test_no_secret_of_a_remote_is_printed(own: Path) -> None:
    url = "ssh://user:pa55word@127.0.0.1:1/x"  # pragma: allowlist secret
    must("dvc", "remote", "modify", "-q", "--local", "team", "url", url, cwd=own)
    found = ask(own, "project.remote")
    assert failing(found) == {"remote read"}
    assert "127.0.0.1:1/x" in str(found["remote read"]["found"])
    assert "pa55word" not in json.dumps(found)


def test_rights_and_keys_of_a_remote(own: Path) -> None:
    """By the probe and the causes of `make remote`: a reader, a wrong key, no bucket, no server."""
    s3 = servers.S3()
    s3.start()
    try:
        for key, value in (("url", f"s3://{servers.BUCKET}/x"), ("endpointurl", s3.url), ("region", "us-east-1")):
            must("dvc", "remote", "modify", "-q", "team", key, value, cwd=own)
        writer, reader = s3.variables("writer"), s3.variables("reader")
        found = ask(own, "project.remote", **writer)
        assert found["remote read"]["ok"], found
        assert found["remote write"]["ok"], found
        assert not [key for key in s3.objects() if "probe" in key]
        s3.client("s3", s3.keys["writer"]).put_object(Bucket=servers.BUCKET, Key="x/files/md5/00/0", Body=b"1")
        found = ask(own, "project.remote", **reader)
        assert found["remote read"]["ok"], found
        assert "this user may not do that there" in str(found["remote write"]["found"])
        found = ask(own, "project.remote", **{**writer, "AWS_SECRET_ACCESS_KEY": "wrong"})
        assert failing(found) == {"remote read"}
        assert "the key or password is wrong" in str(found["remote read"]["found"])
        must("dvc", "remote", "modify", "-q", "team", "url", "s3://nobodys/x", cwd=own)
        found = ask(own, "project.remote", **writer)
        assert failing(found) == {"remote read"}
        assert "the bucket or folder does not exist" in str(found["remote read"]["found"])
    finally:
        s3.kill()
    found = ask(own, "project.remote", **writer)
    assert "can't be reached" in str(found["remote read"]["found"])


def test_a_folder_that_is_gone_is_not_made(own: Path, tmp_path: Path) -> None:
    must("dvc", "remote", "modify", "-q", "team", "url", str(tmp_path / "gone"), cwd=own)
    found = ask(own, "project.remote")
    assert failing(found) == {"remote read"}
    assert "the bucket or folder does not exist" in str(found["remote read"]["found"])
    assert not (tmp_path / "gone").exists()
