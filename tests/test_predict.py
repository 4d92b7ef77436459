"""predict on real files, a real video and a real HTTP stream, with the engine of a small graph."""

import functools
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from stages import config, engine
from stages.commands import predict
from stages.engines import loading
from stages.inference import description
from stages.inference.segments import Segments
from stages.media import recording, sources
from stages.media.drawing import Painter
from stages.onnx_graph import artifact
from tests.conftest import REPO

SIZE = (48, 64)
CATEGORIES = [
    {"id": 1, "name": "object--car", "isthing": 1, "color": [255, 0, 0]},
    {"id": 2, "name": "nature--sky", "isthing": 0, "color": [0, 0, 255]},
]
CPU = config.Target(builder=config.Builder.onnxruntime, builder_version="1.32")


def bright_is_car() -> onnx.ModelProto:
    """Pixels above 127 in red are query 0, a car, and the others query 1, sky."""
    nodes = [
        helper.make_node("Cast", ["frame"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Slice", ["pixels", "from", "to", "axis"], ["red"]),
        helper.make_node("Squeeze", ["red", "axis"], ["plane"]),
        helper.make_node("Less", ["plane", "middle"], ["dark"]),
        helper.make_node("Cast", ["dark"], ["query_ids"], to=TensorProto.UINT8),
        helper.make_node("Identity", ["two_areas"], ["areas"]),
        helper.make_node("Identity", ["two_scores"], ["scores"]),
        helper.make_node("Identity", ["two_classes"], ["category_ids"]),
    ]
    constants = {
        "from": np.array([0], np.int64), "to": np.array([1], np.int64), "axis": np.array([3], np.int64),
        "middle": np.array(128, np.float32), "two_areas": np.array([[5, 5]], np.int32),
        "two_scores": np.array([[0.9, 0.8]], np.float32), "two_classes": np.array([[1, 2]], np.int32),
    }  # fmt: skip
    frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, *SIZE, 3])
    outputs = [
        helper.make_tensor_value_info("query_ids", TensorProto.UINT8, [1, *SIZE]),
        helper.make_tensor_value_info("areas", TensorProto.INT32, [1, 2]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2]),
        helper.make_tensor_value_info("category_ids", TensorProto.INT32, [1, 2]),
    ]
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", [frame], outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    deploy = config.Deploy(frame_height_px=SIZE[0], frame_width_px=SIZE[1], height_px=64, width_px=64)
    (folder / "graph").mkdir()
    about = description.Description(config.plain(deploy), "grid_sample", CATEGORIES)
    artifact.save(bright_is_car(), folder / "graph", about)
    engine.build(folder / "graph", folder / "cpu", "cpu", CPU, folder / "timing.cache")
    return folder / "cpu"


def picture(bright_columns: int) -> np.ndarray:
    rgb = np.full((*SIZE, 3), 20, np.uint8)
    rgb[:, :bright_columns] = 230
    return rgb


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty frames in which a car grows."""
    path = tmp_path_factory.mktemp("video") / "street.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20, SIZE[::-1])
    assert writer.isOpened()
    for number in range(40):
        writer.write(picture(8 + number)[..., ::-1])
    writer.release()
    return path


def lines(folder: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in (folder / recording.SEGMENTS).read_text().splitlines()]


def frames_of(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.read()[0]:
        count += 1
    return count


def test_frames_of_a_video_are_written_to_the_engines_memory(built: Path, video: Path) -> None:
    predictor = loading.load(built, "cpu", CPU)
    source = sources.open_source(str(video))
    source.buffer = predictor.frame_buffer()
    assert source.buffer is not None
    areas = []
    for frame in source:
        assert np.shares_memory(frame.rgb, source.buffer)
        (found,) = predictor.segments([frame.rgb])
        areas.append(int((found.ids == 1).sum()))
    assert areas == sorted(areas)
    assert areas[0] < areas[-1]

    other = sources.open_source(str(video))
    other.buffer = np.zeros((8, 8, 3), np.uint8)
    assert next(iter(other)).rgb.shape == (*SIZE, 3)
    assert not other.buffer.any()


def test_a_folder_of_pictures(built: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, width in (("b.png", 16), ("a.png", 32)):
        cv2.imwrite(str(tmp_path / name), picture(width)[..., ::-1])
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("not read")
    done = predict.build(built, sources.open_source(str(tmp_path)), tmp_path / "out")
    assert (done.pictures, done.skipped, done.dropped) == (2, 1, 0)
    assert "broken.jpg: can't be read as a picture" in caplog.text
    first, second = lines(tmp_path / "out")
    assert [first["picture"], second["picture"]] == ["a.png", "b.png"]
    car, sky = first["segments"]
    assert car == {"id": 1, "category_id": 1, "category": "object--car", "isthing": 1, "area_px": 32 * 48}
    assert sky["area_px"] == 32 * 48
    assert first["latency_ms"] > 0
    painted = cv2.imread(str(tmp_path / "out/a.png.png"))
    blue, _, red = painted[40, 50]
    assert blue > red + 50


def test_a_video_becomes_a_video(built: Path, video: Path, tmp_path: Path) -> None:
    done = predict.build(built, sources.open_source(str(video)), tmp_path)
    assert done.pictures == 40
    assert frames_of(tmp_path / recording.VIDEO) == 40
    cars = [line["segments"][0]["area_px"] for line in lines(tmp_path)]
    assert cars == sorted(cars)
    assert cars[-1] > 2 * cars[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == [recording.VIDEO, recording.SEGMENTS]


def test_a_damaged_video_is_read_to_its_end(built: Path, tmp_path: Path) -> None:
    path, noise = tmp_path / "damaged.mp4", np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20, SIZE[::-1])
    for _ in range(40):
        writer.write(noise.integers(0, 256, (*SIZE, 3), dtype=np.uint8))
    writer.release()
    content = bytearray(path.read_bytes())
    middle = content.index(b"moov") // 2
    content[middle : middle + 4000] = bytes(4000)
    path.write_bytes(content)
    done = predict.build(built, sources.open_source(str(path)), None)
    assert done.pictures + done.skipped == 40
    assert done.pictures > 20


def test_a_cut_off_video_tells_what_is_missing(built: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20, SIZE[::-1])
    for number in range(200):
        writer.write(picture(number % 60)[..., ::-1])
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = predict.build(built, sources.open_source(str(path)), None)
    assert 50 < done.pictures < 150
    assert done.pictures + done.skipped == 200


def test_the_sources_own_folder_is_left_alone(built: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture(16)[..., ::-1])
    before = (tmp_path / "a.png").read_bytes()
    for source in (tmp_path, tmp_path / "a.png"):
        with pytest.raises(ValueError, match="holds the source's own files; give OUT another folder"):
            predict.build(built, sources.open_source(str(source)), tmp_path)
    assert (tmp_path / "a.png").read_bytes() == before


def test_a_draft_of_a_killed_run_is_not_taken_for_its_video(built: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture(16)[..., ::-1])
    out = tmp_path / "out"
    out.mkdir()
    (out / recording.VIDEO).write_text("whole")
    (out / f".part.{recording.VIDEO}").write_text("half")
    predict.build(built, sources.open_source(str(tmp_path / "a.png")), out)
    assert (out / recording.VIDEO).read_text() == "whole"
    assert sorted(p.name for p in out.iterdir()) == ["a.png.png", recording.VIDEO, recording.SEGMENTS]


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stream(video: Path) -> Iterator[str]:
    """A URL that ends after the video's forty frames, as a lost stream does."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(video.parent)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/{video.name}"
    server.shutdown()
    server.server_close()


def test_a_stream_drops_frames_and_comes_back(
    built: Path, stream: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sources, "PAUSES_S", (0.05, 0.1))
    source = sources.open_source(stream)
    assert source.live
    slow = iter(source)
    read = []
    for taken in slow:
        read.append(int(taken.name.rpartition(":")[2]))
        time.sleep(0.05)
        if read[-1] > 45:
            source.stop()
    # Whatever a URL's user and password are, they are not told.
    assert sources.Live("http://me:secret@" + stream.partition("//")[2])._label.endswith(
        "//" + stream.partition("//")[2]
    )
    # It went on after the forty frames there are, and what came while this test slept was dropped.
    assert "is lost; it is opened again in 0.05 s (attempt 1)" in caplog.text
    assert source.dropped > 0
    assert read == sorted(read)
    assert len(read) < read[-1]


def test_ctrl_c_leaves_whole_files(built: Path, video: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.mp4"
    writer = cv2.VideoWriter(str(long), cv2.VideoWriter.fourcc(*"mp4v"), 20, SIZE[::-1])
    for number in range(20000):
        writer.write(picture(number % 60)[..., ::-1])
    writer.release()
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "stages.commands.predict",
        "--engine",
        str(built),
        "--source",
        str(long),
        "--out",
        str(out),
    ]
    running = subprocess.Popen(command, cwd=REPO, env={**os.environ, "PYTHONPATH": str(REPO)}, stderr=subprocess.PIPE)
    part = out / f".part.{recording.SEGMENTS}"
    for _ in range(300):
        if part.exists() and part.stat().st_size > 0:
            break
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 0, told
    assert b"Hz), latency p50" in told
    written = len(lines(out))
    assert 0 < written < 20000
    assert frames_of(out / recording.VIDEO) == written


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.mp4", "nowhere.mp4 not found; give SOURCE a picture, a folder of pictures, a video"),
        ("http://127.0.0.1:9/none.mp4", "can't be opened; is the camera there, is the URL right"),
    ],
)
def test_what_can_not_be_read_is_said(source: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message.replace("?", ".")):
        sources.open_source(source)


def test_an_empty_folder_and_no_video_are_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no pictures"):
        sources.open_source(str(tmp_path))
    (tmp_path / "x.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match="can't be read as a video by this OpenCV"):
        sources.open_source(str(tmp_path / "x.mp4"))


def test_an_engine_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"engine\.json not found; name the folder of an engine"):
        predict.build(tmp_path, sources.Pictures("x", []), None)


def test_void_is_dark_and_things_of_a_class_differ() -> None:
    ids = np.zeros(SIZE, np.int32)
    ids[20:, :20], ids[20:, 40:] = 1, 2
    painted = Painter(CATEGORIES).draw(np.full((*SIZE, 3), 200, np.uint8), Segments(ids, {1: 1, 2: 1}), [])
    assert painted[30, 30].max() < 100
    assert painted[30, 10][0] > painted[30, 50][0] > painted[30, 30][0]
