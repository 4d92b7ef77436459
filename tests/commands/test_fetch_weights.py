"""fetch_weights with DVC's own import-url, from a server on this machine."""

import functools
import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.commands import fetch_weights
from stages.foundation import files
from tests.conftest import REPO, run

NAME = "swin_tiny_patch4_window7_224_22k.pth"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "server" / fetch_weights.RELEASES[NAME]
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(b"weights")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "server"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    assert run("git", "init", "-q", cwd=folder).returncode == 0
    assert run("dvc", "init", "-q", cwd=folder).returncode == 0
    monkeypatch.chdir(folder)
    return folder


def test_weights_are_fetched_once_and_tracked(project: Path, server: str) -> None:
    path = Path("data/raw") / NAME
    digest = fetch_weights.build(path, "", server)
    assert path.read_bytes() == b"weights"
    assert digest == files.sha256(path)
    tracked = (project / f"{path}.dvc").read_text()
    assert f"{server}/v1.0.8/{NAME}" in tracked
    assert fetch_weights.build(path, digest, "http://127.0.0.1:1") == digest, "not fetched again"
    with pytest.raises(ValueError, match=r"expected 00.*make weights"):
        fetch_weights.build(path, "00", server)


def test_offline(project: Path) -> None:
    path = Path("data/raw") / NAME
    with pytest.raises(RuntimeError, match=rf"127.0.0.1:1/v1.0.8/{NAME} can't be downloaded.*dvc add {path}"):
        fetch_weights.build(path, "", "http://127.0.0.1:1")
    assert not path.exists()


def test_a_file_of_no_release(project: Path) -> None:
    with pytest.raises(ValueError, match=r"swin_base_patch4_window12_384_22k\.pth"):
        fetch_weights.build(Path("data/raw/mine.pth"), "")


def test_it_ends_in_one_line(tmp_path: Path) -> None:
    for content, message in ((None, "params.yaml not found"), ("model: {x: 1}\n", "model.x: must be one of the keys")):
        if content:
            (tmp_path / "params.yaml").write_text(content)
        done = run(sys.executable, "-m", "stages.commands.fetch_weights", cwd=tmp_path, PYTHONPATH=str(REPO))
        assert done.returncode == 1
        assert done.stderr.startswith(message)
        assert len(done.stderr.splitlines()) == 1
