"""predict on real files, a real video and a real HTTP stream, with the engine of a small graph."""

import functools
import http.server
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from stages import config
from stages.commands import predict
from stages.engines import loading
from stages.foundation import ownership
from stages.inference.segments import Segments
from stages.media import frame_sources, recording
from stages.media.drawing import Painter
from tests.conftest import REPO
from tests.support import bright
from tests.support.bright import CATEGORIES, SIZE, picture

CPU = config.Target(builder=config.Builder.onnxruntime, builder_version="1.32")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright.build(tmp_path_factory.mktemp("engine"), CPU)


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
    return [json.loads(line) for line in (folder / recording.SEGMENTS_NAME).read_text().splitlines()]


def shown(folder: Path) -> list[str]:
    """Return the names in an output folder but for the record of its files."""
    return sorted(path.name for path in folder.iterdir() if path.name != ownership.NAME)


def frames_of(path: Path) -> int:
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.read()[0]:
        count += 1
    return count


def test_frames_of_a_video_are_written_to_the_engines_memory(built: Path, video: Path) -> None:
    predictor = loading.load(built, "cpu", CPU)
    source = frame_sources.open_source(str(video))
    source.buffer = predictor.frame_buffer()
    assert source.buffer is not None
    areas = []
    for frame in source:
        assert np.shares_memory(frame.rgb, source.buffer)
        (found,) = predictor.segments([frame.rgb])
        areas.append(int((found.ids == 1).sum()))
    assert areas == sorted(areas)
    assert areas[0] < areas[-1]

    other = frame_sources.open_source(str(video))
    other.buffer = np.zeros((8, 8, 3), np.uint8)
    assert next(iter(other)).rgb.shape == (*SIZE, 3)
    assert not other.buffer.any()


def test_a_folder_of_pictures(built: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, width in (("b.png", 16), ("a.png", 32)):
        cv2.imwrite(str(tmp_path / name), picture(width)[..., ::-1])
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    head = (tmp_path / "a.png").read_bytes()
    (tmp_path / "bomb.png").write_bytes(head[:16] + struct.pack(">II", 60_000, 60_000) + head[24:])
    (tmp_path / "notes.txt").write_text("not read")
    done = predict.build(built, frame_sources.open_source(str(tmp_path)), tmp_path / "out")
    assert (done.frames, done.skipped, done.dropped) == (2, 2, 0)
    assert "bomb.png: can't be read as a picture: 60000 x 60000 pixels, expected at most 200 million" in caplog.text
    assert "broken.jpg: can't be read as a picture" in caplog.text
    first, second = lines(tmp_path / "out")
    assert [first["picture"], second["picture"]] == ["a.png", "b.png"]
    car, sky = first["segments"]
    assert car == {
        "id": 1, "category_id": 1, "category": "object--car", "isthing": 1, "score": 0.9, "area_px": 32 * 48,
        "bbox": [0, 0, 32, 48],
    }  # fmt: skip
    assert (sky["score"], sky["area_px"], sky["bbox"]) == (0.8, 32 * 48, [32, 0, 32, 48])
    assert first["latency_ms"] > 0
    painted = cv2.imread(str(tmp_path / "out/a.png.png"))
    blue, _, red = painted[40, 50]
    assert blue > red + 50


def test_a_video_becomes_a_video(built: Path, video: Path, tmp_path: Path) -> None:
    done = predict.build(built, frame_sources.open_source(str(video)), tmp_path)
    assert done.frames == 40
    assert frames_of(tmp_path / recording.VIDEO_NAME) == 40
    cars = [line["segments"][0]["area_px"] for line in lines(tmp_path)]
    assert cars == sorted(cars)
    assert cars[-1] > 2 * cars[0]
    assert shown(tmp_path) == [recording.VIDEO_NAME, recording.SEGMENTS_NAME]


@pytest.mark.parametrize("limit", [0, 1, 7])
@pytest.mark.parametrize("kind", ["video", "folder"])
def test_frames_in_flight_change_neither_order_nor_results(
    built: Path, video: Path, tmp_path: Path, kind: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = video
    if kind == "folder":
        source = tmp_path / "pictures"
        source.mkdir()
        for number in range(9):
            # One of another size has memory of its own, and one can't be read.
            size = (SIZE[1] // 2, SIZE[0] // 2) if number == 4 else SIZE[::-1]
            cv2.imwrite(str(source / f"{number}.png"), cv2.resize(picture(8 + 4 * number)[..., ::-1], size))
        (source / "5.png").write_bytes(b"no picture")
    drawn: dict[int, list[np.ndarray]] = {}  # type: ignore[type-arg]
    done = {}
    for in_flight in (1, 2, 3):
        overlays = drawn.setdefault(in_flight, [])

        def draw(  # type: ignore[no-untyped-def]
            painter: Painter, rgb: np.ndarray, found: Segments, _: object, tracked, overlays: object = overlays
        ) -> object:
            overlay = painter.overlay(rgb, found, tracked)
            overlays.append(overlay)  # type: ignore[attr-defined]
            return overlay

        # Without the rate in the picture, which is never the same.
        monkeypatch.setattr(Painter, "draw", draw)
        out = tmp_path / f"out {in_flight}"
        opened, track = frame_sources.open_source(str(source)), kind == "video"
        done[in_flight] = predict.build(built, opened, out, limit, in_flight, track)
    counts = [(d.frames, d.skipped, d.dropped) for d in done.values()]
    assert counts[0][0] == (limit or (40 if kind == "video" else 8))
    first = [{**line, "latency_ms": 0} for line in lines(tmp_path / "out 1")]
    assert len(first) == counts[0][0]
    for in_flight in (2, 3):
        assert counts[in_flight - 1] == counts[0]
        assert [{**line, "latency_ms": 0} for line in lines(tmp_path / f"out {in_flight}")] == first
        assert all(line["latency_ms"] > 0 for line in lines(tmp_path / f"out {in_flight}"))
        for one, other in zip(drawn[1], drawn[in_flight], strict=True):
            np.testing.assert_array_equal(one, other)


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
    done = predict.build(built, frame_sources.open_source(str(path)), None)
    assert done.frames + done.skipped == 40
    assert done.frames > 20


def test_a_cut_off_video_tells_what_is_missing(built: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20, SIZE[::-1])
    for number in range(200):
        writer.write(picture(number % 60)[..., ::-1])
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = predict.build(built, frame_sources.open_source(str(path)), None)
    assert 50 < done.frames < 150
    assert done.frames + done.skipped == 200


def test_a_run_that_is_stopped_before_its_first_frame_says_so(built: Path, video: Path, tmp_path: Path) -> None:
    source = frame_sources.open_source(str(video))
    source.stop()
    with pytest.raises(ValueError, match=r"street\.mp4: stopped before the first frame; .*/out is as it was"):
        predict.build(built, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_sources_own_folder_is_left_alone(built: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture(16)[..., ::-1])
    before = (tmp_path / "a.png").read_bytes()
    for source in (tmp_path, tmp_path / "a.png"):
        with pytest.raises(ValueError, match="contains the files of SOURCE; give OUT another folder"):
            predict.build(built, frame_sources.open_source(str(source)), tmp_path)
    assert (tmp_path / "a.png").read_bytes() == before


def test_a_draft_of_a_killed_run_is_not_taken_for_its_video(built: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture(16)[..., ::-1])
    out = tmp_path / "out"
    out.mkdir()
    (out / recording.VIDEO_NAME).write_text("whole")
    ownership.record(out)
    (out / f".part.{recording.VIDEO_NAME}").write_text("half")
    predict.build(built, frame_sources.open_source(str(tmp_path / "a.png")), out)
    assert (out / recording.VIDEO_NAME).read_text() == "whole"
    assert shown(out) == ["a.png.png", recording.VIDEO_NAME, recording.SEGMENTS_NAME]


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
    monkeypatch.setattr(frame_sources, "PAUSES_S", (0.05, 0.1))
    source = frame_sources.open_source(stream)
    assert source.live
    slow = iter(source)
    read = []
    for taken in slow:
        read.append(int(taken.name.rpartition(":")[2]))
        time.sleep(0.05)
        if read[-1] > 45:
            source.stop()
    # Whatever a URL's user and password are, they are not told.
    # pragma: allowlist nextline secret
    assert frame_sources.LiveStream("http://me:secret@" + stream.partition("//")[2]).label.endswith(
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
    part = out / f".part.{recording.SEGMENTS_NAME}"
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
    assert frames_of(out / recording.VIDEO_NAME) == written


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.mp4", "nowhere.mp4 not found; give SOURCE a picture, a folder of pictures, a video"),
        (
            "http://127.0.0.1:9/none.mp4",
            "can't be opened; check that the camera is there, or that URL and server are right",
        ),
    ],
)
def test_what_can_not_be_read_is_said(source: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message.replace("?", ".")):
        frame_sources.open_source(source)


def test_an_empty_folder_and_no_video_are_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no pictures"):
        frame_sources.open_source(str(tmp_path))
    (tmp_path / "x.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match="can't be read as a video by this OpenCV"):
        frame_sources.open_source(str(tmp_path / "x.mp4"))


def test_an_engine_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"engine\.json not found; name the folder of an engine"):
        predict.build(tmp_path, frame_sources.PictureFiles("x", []), None)


def test_objects_of_a_video_are_tracked(built: Path, video: Path, tmp_path: Path) -> None:
    """In every frame the car has one number, and the sky another. The number stands on the car."""
    arguments = ["--engine", str(built), "--source", str(video)]
    predict.main([*arguments, "--out", str(tmp_path / "tracked"), "--track"])
    predict.main([*arguments, "--out", str(tmp_path / "plain")])
    tracked, plain = lines(tmp_path / "tracked"), lines(tmp_path / "plain")
    assert len(tracked) == len(plain) == 40
    for one, other in zip(tracked, plain, strict=True):
        assert [segment.pop("track_id") for segment in one["segments"]] == [1, 2]
        assert one["segments"] == other["segments"]
    pictures = []
    for name in ("tracked", "plain"):
        capture = cv2.VideoCapture(str(tmp_path / name / recording.VIDEO_NAME))
        capture.set(cv2.CAP_PROP_POS_FRAMES, 30)
        pictures.append(capture.read()[1][:, : SIZE[1]].astype(int))
    different = np.abs(pictures[0] - pictures[1]).max(axis=-1) > 60
    rows, columns = np.nonzero(different)
    assert len(rows) > 10
    assert abs(rows.mean() - SIZE[0] / 2) < 6
    assert abs(columns.mean() - (8 + 30) / 2) < 6


def test_pictures_of_a_folder_are_tracked_in_the_order_of_their_names(built: Path, tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(16 + number)[..., ::-1])
    cv2.imwrite(str(tmp_path / "3.png"), np.full((20, 30, 3), 230, np.uint8))
    predict.build(built, frame_sources.open_source(str(tmp_path)), tmp_path / "out", track=True)
    found = [[segment["track_id"] for segment in line["segments"]] for line in lines(tmp_path / "out")]
    assert found == [[1, 2], [1, 2], [1, 2], [3]], "a picture of another size has other objects"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "one.png", "--out", "o"], "one.png is one picture, expected a video, .* folder with the frames"),
        (["--source", ".", "--out", "o", "--shard", "1/2"], "--track needs OUT, .* excludes --shard and --gather"),
        (["--source", ".", "--out", "o", "--gather"], "excludes --shard and --gather"),
        (["--source", "."], "--track needs OUT, where the numbers are written"),
    ],
)
def test_where_nothing_can_be_tracked_is_said(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("one.png", picture(20))
    with pytest.raises(ValueError, match=message):
        predict.main(["--engine", str(built), *arguments, "--track"])
    assert not Path("o").exists()


def test_an_engine_without_objects_tracks_nothing(video: Path, tmp_path: Path) -> None:
    engine = bright.build(tmp_path, CPU, config.Mode.semantic)
    source = frame_sources.open_source(str(video))
    with pytest.raises(ValueError, match=r"--track: the engine's deploy\.mode is semantic, which has no objects"):
        predict.build(engine, source, tmp_path / "out", track=True)
    assert not (tmp_path / "out").exists()


def test_void_is_dark_and_things_of_a_class_differ() -> None:
    ids = np.zeros(SIZE, np.int32)
    ids[20:, :20], ids[20:, 40:] = 1, 2
    painted = Painter(CATEGORIES).draw(np.full((*SIZE, 3), 200, np.uint8), Segments(ids, {1: 1, 2: 1}), [])
    assert painted[30, 30].max() < 100
    assert painted[30, 10][0] > painted[30, 50][0] > painted[30, 30][0]


@pytest.mark.parametrize("size", [(48, 64), (479, 900), (900, 479)])
@pytest.mark.parametrize("lines", [[], ["cpu: 10.0 Hz, 1.0 ms"]])
def test_the_legend_of_a_small_picture_hides_none_of_it(size: tuple[int, int], lines: list[str]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    painter, found = Painter(CATEGORIES), Segments(np.ones(size, np.int32), {1: 1})
    drawn = painter.draw(rgb, found, lines)
    np.testing.assert_array_equal(drawn[:, : size[1]], painter.overlay(rgb, found))
    strip = drawn[:, size[1] :]
    assert strip.shape[1] % 2 == 0
    assert strip.any(), "the legend is there"
    # All frames of a video have one size, whatever is in them.
    other = painter.draw(rgb, Segments(np.ones(size, np.int32), {}), [line + "0" for line in lines])
    assert other.shape == drawn.shape


def test_the_legend_of_a_large_picture_is_on_it() -> None:
    rgb = np.full((480, 640, 3), 200, np.uint8)
    painter, found = Painter(CATEGORIES), Segments(np.ones((480, 640), np.int32), {1: 1})
    drawn = painter.draw(rgb, found, [])
    assert drawn.shape == rgb.shape
    assert (drawn != painter.overlay(rgb, found)).any()


def write_video(path: Path, fps: float, frames: list[np.ndarray], codec: str = "mp4v") -> Path:  # type: ignore[type-arg]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, frames[0].shape[1::-1])
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
    return path


def told(path: Path) -> tuple[float, int, float]:
    """Frames a second, frames, and the last one's time in seconds, as read."""
    capture = cv2.VideoCapture(str(path))
    count, last_s = 0, 0.0
    while capture.read()[0]:
        count, last_s = count + 1, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    return capture.get(cv2.CAP_PROP_FPS), count, last_s


def command(*arguments: str | bytes | Path, cwd: Path, **more: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    if "preexec_fn" in more:  # A file may have few bytes, and `make coverage` would write its own.
        environment.pop("COVERAGE_PROCESS_CONFIG", None)
    return subprocess.run(
        [sys.executable, "-m", "stages.commands.predict", *arguments],
        cwd=cwd, env=environment, capture_output=True, check=False, **more,  # type: ignore[call-overload]
    )  # fmt: skip


def mp4_boxes(content: bytes, change: dict[bytes, object]) -> bytes:
    """An MP4 file with the contents of some boxes replaced by functions of them, and without edit lists."""
    out, at = b"", 0
    while at < len(content):
        size, name = struct.unpack(">I4s", content[at : at + 8])
        body = content[at + 8 : at + size]
        at += size
        if name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
            body = mp4_boxes(body, change)
        elif name in change:
            body = change[name](body)  # type: ignore[operator]
        if name != b"edts":
            out += struct.pack(">I4s", len(body) + 8, name) + body
    return out


def with_times(path: Path, durations_ms: list[int]) -> None:
    """Give each frame of an MP4 file its own duration, as a phone does (ISO/IEC 14496-12: mdhd, stts)."""
    entries = b"".join(struct.pack(">II", 1, duration) for duration in durations_ms)
    change = {
        b"mdhd": lambda body: body[:12] + struct.pack(">II", 1000, sum(durations_ms)) + body[20:],
        b"stts": lambda body: struct.pack(">II", 0, len(durations_ms)) + entries,
    }
    path.write_bytes(mp4_boxes(path.read_bytes(), change))  # type: ignore[arg-type]


@pytest.fixture
def former(tmp_path: Path) -> Path:
    """The outputs of a run before."""
    out = tmp_path / "out"
    out.mkdir()
    for name in (recording.VIDEO_NAME, recording.SEGMENTS_NAME):
        (out / name).write_text(f"former {name}")
    ownership.record(out)
    return out


def assert_former(out: Path) -> None:
    assert shown(out) == [recording.VIDEO_NAME, recording.SEGMENTS_NAME]
    for name in (recording.VIDEO_NAME, recording.SEGMENTS_NAME):
        assert (out / name).read_text() == f"former {name}"


def test_nothing_but_broken_pictures_is_an_error_and_former_outputs_stay(
    built: Path, tmp_path: Path, former: Path
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for name in ("a.jpg", "b.png"):
        (folder / name).write_bytes(b"no picture")
    done = command("--engine", built, "--source", folder, "--out", former, cwd=tmp_path)
    assert done.returncode == 1
    last = done.stderr.decode().splitlines()[-1]
    assert (
        last == f"{folder}: no picture to work on (2 could not be read); give SOURCE another one; {former} is as it was"
    )
    assert_former(former)
    with pytest.raises(ValueError, match="no picture to work on"):
        predict.build(built, frame_sources.open_source(str(folder)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_video_without_a_readable_frame_is_an_error(built: Path, video: Path, tmp_path: Path, former: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.write_bytes(mp4_boxes(video.read_bytes(), {b"mdat": lambda body: bytes(len(body))}))
    with pytest.raises(ValueError, match=r"no picture to work on \(40 could not be read\)"):
        predict.build(built, frame_sources.open_source(str(path)), former)
    assert_former(former)


def test_a_stream_that_gave_nothing_before_it_was_stopped_is_an_error(built: Path, stream: str, former: Path) -> None:
    source = frame_sources.open_source(stream)
    source.stop()
    with pytest.raises(ValueError, match=r"stopped before the first frame; .* is as it was"):
        predict.build(built, source, former)
    assert_former(former)


def test_a_limit_below_zero_is_refused(built: Path, video: Path) -> None:
    with pytest.raises(ValueError, match="--limit -1: expected 0, for all frames, or more"):
        predict.build(built, frame_sources.open_source(str(video)), None, -1)
    assert predict.build(built, frame_sources.open_source(str(video)), None, 3).frames == 3


@pytest.mark.parametrize("fps", [0.1, 0.5, 1 / 3, 24000 / 1001, 30000 / 1001, 240000 / 1001, 480, 1000])
def test_a_recorded_video_keeps_its_rate(
    built: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, fps: float
) -> None:
    path = write_video(tmp_path / "source.mp4", fps, [picture(8 + number) for number in range(10)])
    predict.build(built, frame_sources.open_source(str(path)), tmp_path / "out")
    rate, count, last_s = told(tmp_path / "out" / recording.VIDEO_NAME)
    assert rate == pytest.approx(fps, rel=2e-3)
    assert count == 10
    assert last_s == pytest.approx(9 / fps, rel=2e-3)
    assert "off its time" not in caplog.text


def test_a_rate_that_opencv_would_round_away_keeps_its_duration(built: Path, tmp_path: Path) -> None:
    path = write_video(tmp_path / "source.mp4", 1, [picture(8 + number) for number in range(5)])
    with_times(path, [60_000] * 5)
    predict.build(built, frame_sources.open_source(str(path)), tmp_path / "out")
    rate, count, _ = told(tmp_path / "out" / recording.VIDEO_NAME)
    assert count / rate == pytest.approx(300, rel=1e-3)
    assert len(lines(tmp_path / "out")) == 5


@pytest.mark.parametrize(("scale", "rate"), [(1, 90_000), (0, 25), (1, 0)])
def test_a_rate_that_can_not_be_is_not_replaced_in_silence(
    built: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, scale: int, rate: int
) -> None:
    path = write_video(tmp_path / "source.avi", 25, [picture(8 + number) for number in range(5)], "MJPG")
    content = bytearray(path.read_bytes())
    # AVI's stream header: type, handler, flags, priorities, initial frames, then scale and rate.
    at = content.index(b"strh") + 8 + 20
    content[at : at + 8] = struct.pack("<II", scale, rate)
    path.write_bytes(content)
    source = frame_sources.open_source(str(path))
    predict.build(built, source, tmp_path / "out")
    assert told(tmp_path / "out" / recording.VIDEO_NAME)[:2] == (pytest.approx(source.fps, rel=2e-3), 5)
    found = cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS)
    assert source.fps == found or "expected more than 0, at most 65535; overlay.mp4 gets 25" in caplog.text


def test_a_video_of_varying_times_keeps_its_duration_and_the_loss_is_told(
    built: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_video(tmp_path / "phone.mp4", 30, [picture(8 + number) for number in range(20)])
    with_times(path, [33] * 10 + [500] * 10)
    predict.build(built, frame_sources.open_source(str(path)), tmp_path / "out")
    rate, count, _ = told(tmp_path / "out" / recording.VIDEO_NAME)
    assert count == 20
    assert count / rate == pytest.approx((10 * 33 + 10 * 500) / 1000, rel=2e-3)
    assert "the times between frames vary, or some are missing" in caplog.text


def test_a_turned_video_is_shown_upright(built: Path, tmp_path: Path) -> None:
    path = write_video(tmp_path / "phone.mp4", 20, [picture(16)] * 5)

    def turn(body: bytes) -> bytes:
        """By 90 degrees clockwise: tkhd's matrix, 16.16 and 2.30 (ISO/IEC 14496-12)."""
        matrix = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, SIZE[0] << 16, 0, 1 << 30)
        return body[:40] + matrix + body[76:]

    path.write_bytes(mp4_boxes(path.read_bytes(), {b"tkhd": turn}))
    predict.build(built, frame_sources.open_source(str(path)), tmp_path / "out")
    assert [(line["height_px"], line["width_px"]) for line in lines(tmp_path / "out")] == [(SIZE[1], SIZE[0])] * 5
    good, shown = cv2.VideoCapture(str(tmp_path / "out" / recording.VIDEO_NAME)).read()
    assert good
    assert shown.shape[0] == SIZE[1]
    shown = shown[:, : SIZE[0]]  # without the legend beside it
    # The car, red, was on the left and is at the top.
    top, bottom = np.median(shown[:10], axis=(0, 1)), np.median(shown[-10:], axis=(0, 1))
    assert top[2] > 1.5 * top[0]
    assert bottom[0] > 1.5 * bottom[2]


def test_a_picture_turned_by_exif_is_shown_upright(built: Path, tmp_path: Path) -> None:
    jpeg = cv2.imencode(".jpg", picture(16)[..., ::-1])[1].tobytes()
    # Orientation 6: turn by 90 degrees clockwise.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    path = tmp_path / "turned.jpg"
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])
    predict.build(built, frame_sources.open_source(str(path)), tmp_path / "out")
    (line,) = lines(tmp_path / "out")
    assert (line["height_px"], line["width_px"]) == (SIZE[1], SIZE[0])
    assert {s["category"]: s["area_px"] for s in line["segments"]}["object--car"] == pytest.approx(16 * 48, rel=0.05)
    shown = cv2.imread(str(tmp_path / "out/turned.jpg.png"))
    assert shown.shape[0] == SIZE[1]
    shown = shown[:, : SIZE[0]]  # without the legend beside it
    top, bottom = np.median(shown[:10], axis=(0, 1)), np.median(shown[-10:], axis=(0, 1))
    assert top[2] > 1.5 * top[0]
    assert bottom[0] > 1.5 * bottom[2]


def test_a_full_disk_is_an_error_and_former_outputs_stay(built: Path, tmp_path: Path, former: Path) -> None:
    noise = np.random.default_rng(0)
    source = write_video(
        tmp_path / "noise.mp4", 20, [noise.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for _ in range(80)]
    )
    done = command(
        "--engine", built, "--source", source, "--out", former, cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert b"could not be written whole: expected 80 frames" in done.stderr.splitlines()[-1]
    assert_former(former)


NAMES = [
    b"10:30.mp4",
    b"-v.mp4",
    b"img_%03d.mp4",
    b"frame_0001.mp4",
    b"a#b?c|d!.mp4",
    b"two\nlines.mp4",
    b"caf\xe9.mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_video_of_any_name_is_read_from_its_own_folder(built: Path, video: Path, tmp_path: Path, name: bytes) -> None:
    """By its relative name, which FFmpeg takes for a protocol where it has a colon, into a folder of the same name."""
    source = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    source.write_bytes(video.read_bytes())
    out = b"run-" + name
    done = command("--engine", built, b"--source=" + name, b"--out=" + out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = source.with_name(os.fsdecode(out))
    capture = cv2.VideoCapture(str(folder.joinpath(recording.VIDEO_NAME).rename(tmp_path / "plain.mp4")))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 40
    text = (folder / recording.SEGMENTS_NAME).read_bytes().decode()
    first = json.loads(text.splitlines()[0])["picture"]
    # Valid Unicode, whatever the name's bytes are.
    assert first.encode() == name.replace(b"\xe9", rb"\xe9") + b":0"
    # No part of the message is on a line of its own.
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_number_is_a_camera_and_a_path_is_a_file(
    built: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("97").write_bytes(video.read_bytes())
    with pytest.raises(
        ValueError, match=r"97 can't be opened.*; for the file or folder of this name give SOURCE \./97$"
    ):
        frame_sources.open_source("97")
    assert predict.build(built, frame_sources.open_source("./97"), None).frames == 40
    assert predict.build(built, frame_sources.open_source(f"file://{tmp_path}/%397"), None).frames == 40
    with pytest.raises(FileNotFoundError, match="12345678901 not found"):
        frame_sources.open_source("12345678901")
    with pytest.raises(ValueError, match="not UTF-8; write other bytes of a URL as %NN"):
        frame_sources.open_source("http://127.0.0.1:9/caf\udce9.mp4")


def test_what_a_file_is_its_content_says(built: Path, video: Path, tmp_path: Path) -> None:
    png = cv2.imencode(".png", picture(16)[..., ::-1])[1].tobytes()
    (tmp_path / "picture.mp4").write_bytes(png)
    (tmp_path / "video.jpg").write_bytes(video.read_bytes())
    (tmp_path / "text.txt").write_text("FFmpeg draws this as a video, by the suffix.\n" * 50)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    assert frame_sources.open_source(str(tmp_path / "picture.mp4")).still
    assert predict.build(built, frame_sources.open_source(str(tmp_path / "video.jpg")), None).frames == 40
    with pytest.raises(ValueError, match="can't be read as a video"):
        frame_sources.open_source(str(tmp_path / "text.txt"))
    with pytest.raises(ValueError, match="can't be read as a picture; restore the file"):
        frame_sources.open_source(str(tmp_path / "broken.jpg"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        frame_sources.open_source(str(tmp_path / "pipe"))


def test_a_folder_as_people_have_it(built: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    folder = tmp_path / "camera"
    folder.mkdir()
    png = cv2.imencode(".png", picture(16)[..., ::-1])[1].tobytes()
    heic = b"\0\0\0\x24ftypheic\0\0\0\0mif1heic"
    for name in ("UPPER.JPG", "no_suffix", "wrong.dat", "cafe\u0301.png"):
        (folder / name).write_bytes(png)
    for name, content in (("._UPPER.JPG", b"AppleDouble"), (".hidden.png", png), ("notes.txt", b"x"), ("a.heic", heic)):
        (folder / name).write_bytes(content)
    (folder / "folder.jpg").mkdir()
    (folder / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(folder / "pipe.png")
    done = predict.build(built, frame_sources.open_source(str(folder)), tmp_path / "out")
    assert [line["picture"] for line in lines(tmp_path / "out")] == sorted(
        ["UPPER.JPG", "no_suffix", "wrong.dat", "cafe\u0301.png"]
    )
    assert (tmp_path / "out/cafe\u0301.png.png").exists()
    assert done.skipped == 3
    for name in ("a.heic", "gone.png", "pipe.png"):
        assert name in caplog.text
    assert f"{folder}: 1 subfolders and 1 files that are no pictures are not read" in caplog.text


def test_a_folder_of_folders_says_so(tmp_path: Path) -> None:
    (tmp_path / "day 1").mkdir()
    with pytest.raises(ValueError, match=r"has no pictures, only 1 subfolders.*give SOURCE .*such as .*day 1$"):
        frame_sources.open_source(str(tmp_path))


def test_a_picture_whose_name_is_not_utf_8(built: Path, tmp_path: Path) -> None:
    name = b"caf\xe9\n.png"
    (tmp_path / os.fsdecode(name)).write_bytes(cv2.imencode(".png", picture(16)[..., ::-1])[1].tobytes())
    (tmp_path / os.fsdecode(b"bad\xff.jpg")).write_bytes(b"no picture")
    for source in (b"--source=" + name, b"--source=."):
        done = command("--engine", built, source, b"--out=run-\xe9", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        out = tmp_path / os.fsdecode(b"run-\xe9")
        text = (out / recording.SEGMENTS_NAME).read_text(encoding="utf-8")
        assert json.loads(text)["picture"].encode() == rb"caf\xe9" + b"\n.png"
        assert list(map(os.fsencode, shown(out))) == [name + b".png", recording.SEGMENTS_NAME.encode()]
        shutil.rmtree(out)
    # A line for the one that is skipped, one for the folder's other files, and the last.
    assert rb"bad\xff.jpg" in done.stderr
    assert len(done.stderr.splitlines()) == 2, done.stderr


def test_files_of_the_user_in_out_are_never_replaced(built: Path, video: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture(16)[..., ::-1])
    cases = {recording.VIDEO_NAME: video, recording.SEGMENTS_NAME: video, "a.png.png": tmp_path / "a.png"}
    for name, source in cases.items():
        out = tmp_path / f"of {name}"
        out.mkdir()
        (out / name).write_text("mine")
        (out / "notes.txt").write_text("mine too")
        done = command("--engine", built, "--source", source, "--out", out, cwd=tmp_path)
        assert done.returncode == 1
        (line,) = done.stderr.decode().splitlines()
        assert line.startswith(f"{out / name} is there, and this command did not write it; give OUT another")
        assert {p.name: p.read_text() for p in out.iterdir()} == {name: "mine", "notes.txt": "mine too"}
        # What a run wrote, the next one replaces, but not what the user put there instead.
        (out / name).unlink()
        for _ in range(2):
            predict.build(built, frame_sources.open_source(str(source)), out)
        (out / name).write_text("mine again")
        with pytest.raises(ValueError, match="this command did not write it"):
            predict.build(built, frame_sources.open_source(str(source)), out)
        assert (out / "notes.txt").read_text() == "mine too"


def test_two_runs_into_one_folder(built: Path, video: Path, tmp_path: Path) -> None:
    source = frame_sources.open_source(str(video))
    with recording.Recording(tmp_path / "out", source):
        done = command("--engine", built, "--source", video, "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 1
    assert f"is being written by process {os.getpid()} (".encode() in done.stderr
    predict.build(built, source, tmp_path / "out")


def test_a_video_with_a_hole_is_not_taken_for_whole(video: Path, tmp_path: Path) -> None:
    """As a file system leaves it that reports a failed write late: the file has its length, but not its content."""
    draft = tmp_path / "v.mp4"
    writer = recording._VideoWriter(draft, SIZE[::-1], 20)
    for number in range(40):
        writer.write(np.full((*SIZE, 3), number, np.uint8), 1)
    writer._writer.release()
    whole = draft.read_bytes()
    writer.close()
    for broken in (whole[:-200], mp4_boxes(whole, {b"mdat": lambda body: body[:200] + bytes(len(body) - 200)})):
        draft.write_bytes(broken)
        with pytest.raises(RuntimeError, match="could not be written whole: expected 40 frames"):
            writer.close()


def test_names_as_long_as_a_folder_takes(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "long"
    folder.mkdir()
    # 240 bytes leave room for .png, but for little more; 255 for nothing.
    stems = ["x" * 236, "ü" * 125 + "y", "ü" * 125 + "z"]
    for stem in stems:
        (folder / f"{stem}.png").write_bytes(cv2.imencode(".png", picture(16)[..., ::-1])[1].tobytes())
    predict.build(built, frame_sources.open_source(str(folder)), tmp_path / "out")
    found = sorted(p.name for p in (tmp_path / "out").glob("*.png"))
    assert len(found) == 3
    assert f"{stems[0]}.png.png" in found
    assert all(name.startswith("ü" * 120) for name in found if name[0] == "ü")


def test_a_video_that_a_link_in_the_folder_leads_to_is_not_overwritten(
    built: Path, video: Path, tmp_path: Path
) -> None:
    source = tmp_path / "out" / recording.VIDEO_NAME
    source.parent.mkdir()
    source.write_bytes(video.read_bytes())
    (tmp_path / "link.mp4").symlink_to(source)
    with pytest.raises(ValueError, match="contains the files of SOURCE"):
        predict.build(built, frame_sources.open_source(str(tmp_path / "link.mp4")), source.parent)
    assert source.read_bytes() == video.read_bytes()


def test_a_damaged_picture_is_skipped_by_name(built: Path, tmp_path: Path) -> None:
    whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8))[1].tobytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")
    done = command("--engine", built, "--source", tmp_path / "half.jpg", cwd=tmp_path)
    first, last = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert "half.jpg: can't be read as a picture: damaged (Corrupt JPEG data" in first
    assert "1 could not be read" in last


@pytest.mark.parametrize("kind", ["cut", "empty", "zeros", "without index"])
def test_a_damaged_video_file_is_to_be_copied_again(kind: str, built: Path, video: Path, tmp_path: Path) -> None:
    content = video.read_bytes()
    path = tmp_path / "street.mp4"
    path.write_bytes({
        "cut": content[: len(content) // 2], "empty": b"", "zeros": bytes(5000),
        "without index": content[: content.index(b"moov") - 4],
    }[kind])  # fmt: skip
    done = command("--engine", built, "--source", path, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert "street.mp4 is damaged or cut short (" in line
    assert "copy it again" in line


@pytest.mark.parametrize("out", ["file", "file/below", "n" * 256])
def test_an_out_that_can_be_no_folder(out: str, built: Path, video: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    done = command("--engine", built, "--source", video, "--out", out, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.endswith("; give OUT another name") or line.endswith("; give OUT a shorter one")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_source_of_too_long_a_name() -> None:
    with pytest.raises(FileNotFoundError, match="not found; give SOURCE"):
        frame_sources.open_source("n" * 300)
