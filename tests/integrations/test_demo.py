"""The page of `make demo` in headless Chromium, with real uploads and an engine of ONNX Runtime."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from stages import config
from stages.engines import loading
from stages.foundation import files
from stages.media.drawing import Painter
from tests.conftest import REPO
from tests.support import bright, browser

pytestmark = pytest.mark.slow
CPU = config.Target(builder=config.Builder.onnxruntime, builder_version="1.32")
DEADLINE_S = 300


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an engine that runs here, one for a GPU, and one that is damaged."""
    folder = tmp_path_factory.mktemp("engines of ours")
    bright.build(folder, CPU)
    for name, change in (
        ("gpu", {"builder": "tensorrt", "device": "cuda", "compute_capabilities": ["9.0"]}),
        ("x", {}),
    ):
        (folder / name).mkdir()
        about = files.read_json(folder / "cpu/engine.json")
        files.write_json(folder / name / "engine.json", about | {"target": name, **change})
    (folder / "x/engine.json").write_text("{")
    return folder


def start(engines: Path, environment: Path, log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start the page on a free port; return its process and the port. A first start installs Gradio."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"DEMO_ENVIRONMENT": str(environment), "TMPDIR": str(log.parent)}
    command = [REPO / "scripts/demo", "--engines", engines, f"--port={port}"]
    with log.open("wb") as out:
        return subprocess.Popen(command, env=variables, stdout=out, stderr=subprocess.STDOUT), port


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "venv"


@pytest.fixture(scope="module")
def page(engines: Path, environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page in a browser. The program must end cleanly on Ctrl-C after all the tests that use it."""
    executable = browser.executable()
    log = tmp_path_factory.mktemp("log") / "demo.log"
    running, port = start(engines, environment, log)
    url = f"http://127.0.0.1:{port}/"
    end = time.monotonic() + DEADLINE_S
    while True:
        assert running.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
            break
        except OSError:
            time.sleep(0.5)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=["--disable-dev-shm-usage"])
        tab = opened.new_page(viewport={"width": 1280, "height": 1400})
        elsewhere: list[str] = []
        tab.on("request", lambda request: elsewhere.append(request.url) if not request.url.startswith(LOCAL) else None)
        tab.goto(url)
        tab.set_default_timeout(60_000)
        yield tab
        opened.close()
    assert elsewhere == []
    said = log.read_text()
    assert f"{url[:-1]} offers cpu; Ctrl-C ends it" in said
    assert "x is not offered" in said
    assert "gpu is not offered" in said
    (folder,) = log.parent.glob("vistas2engine_demo.*")
    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 130, log.read_text()
    assert "Traceback" not in log.read_text()
    assert not folder.exists()


LOCAL = ("http://127.0.0.1:", "data:", "blob:http://127.0.0.1:")


def drop(page: Page, path: Path) -> None:
    """Upload a file in the place of the one that is there."""
    if page.get_by_label("Remove this file").count() or page.get_by_label("Clear").count():
        page.get_by_label("Clear").first.click()
        expect(page.get_by_label("Result")).to_have_value("Drop a picture or a video.", timeout=60_000)
    page.set_input_files("input[type=file]", path)


def result(page: Page) -> str:
    expect(page.get_by_label("Result")).not_to_have_value("Drop a picture or a video.", timeout=60_000)
    return page.get_by_label("Result").input_value()


def test_a_picture_shows_overlay_legend_segments_and_latency(page: Page, engines: Path, tmp_path: Path) -> None:
    rgb = np.full((96, 128, 3), 20, np.uint8)
    rgb[:, :40] = 230
    cv2.imwrite(str(tmp_path / "a street.png"), rgb[..., ::-1])
    drop(page, tmp_path / "a street.png")
    said = result(page)
    assert said.startswith("cpu: ")
    assert said.endswith(" ms a frame, 2 segments")
    image = page.locator("img[src*='/file=']")
    expect(image).to_have_count(1)
    content = page.request.get(str(image.get_attribute("src"))).body()
    shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    predictor = loading.load(engines / "cpu", "cpu", CPU)
    (found,) = predictor.segments([rgb])
    assert np.array_equal(shown, Painter(bright.CATEGORIES).draw(rgb, found, []))
    for text in ("object--car", "nature--sky", "0, 0, 40, 96", "3840", "0.9"):
        assert page.get_by_text(text, exact=True).count(), text


def test_a_bad_upload_is_one_line(page: Page, tmp_path: Path) -> None:
    (tmp_path / "bro<b>ken.jpg").write_bytes(b"no picture, <script>alert(1)</script>")
    drop(page, tmp_path / "bro<b>ken.jpg")
    said = result(page)
    assert "ken.jpg" in said
    assert "read" in said
    assert "vistas2engine_demo" not in said
    assert len(said.splitlines()) == 1
    assert "Traceback" not in page.content()
    expect(page.locator("img[src*='/file=']")).to_have_count(0)


def test_a_video_is_played(page: Page, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "drive.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, bright.SIZE[::-1])
    for number in range(12):
        writer.write(bright.picture(8 + number)[..., ::-1])
    writer.release()
    drop(page, tmp_path / "drive.mp4")
    assert "(median of 12 frames); segments of the first frame: 2" in result(page)
    page.wait_for_function(
        "() => [...document.querySelectorAll('video')].some(v => v.readyState >= 2 && v.duration > 1)"
    )


def test_without_an_engine_that_runs_it_ends_with_one_line(page: Page, environment: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    running, _ = start(tmp_path / "none", environment, tmp_path / "log")
    assert running.wait(DEADLINE_S) == 1
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.endswith("none: no engine that runs here; run `make all`, or `make pull`")
