"""The ROS 2 node in ROS 2 Jazzy from PyPI: real publishers, real messages and an engine of OpenVINO."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from stages import config
from stages.inference.segments import Segments
from stages.media.drawing import Painter
from tests.conftest import REPO
from tests.support import bright

pytestmark = pytest.mark.slow
PACKAGE = REPO / "integrations/ros2"
CLIENT = REPO / "tests/support/ros2_client.py"
COLCON = ["colcon-core==0.21.3", "colcon-ros==0.5.0", "colcon-bash==0.5.0"]
CPU = config.Target(builder=config.Builder.openvino, builder_version="2026.4.1")


def do(*command: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that `make ros` makes, with colcon beside."""
    folder = tmp_path_factory.mktemp("ros2") / "venv"
    do(REPO / "scripts/ros2", "--install", folder)
    uv = shutil.which("uv") or str(REPO / ".tools/bin/uv")
    do(uv, "pip", "install", "--quiet", "--python", folder / "bin/python", *COLCON)
    return folder / "bin/python"


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Variables of a domain of our own, so that other nodes on this network are not heard."""
    domain = str(1 + os.getpid() % 100)
    paths = f"{REPO}{os.pathsep}{PACKAGE}"
    more = {"ROS_DOMAIN_ID": domain, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "PYTHONPATH": paths}
    return {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "PYTHONDONTWRITEBYTECODE": "1", **more}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright.build(tmp_path_factory.mktemp("engine of a car's"), CPU)


@pytest.fixture(scope="module")
def start(python: Path, engine: Path, environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a node, by default with that engine and the topic /camera."""
    started = []

    def node(*arguments: str, program: tuple[str | Path, ...] = ()) -> subprocess.Popen[str]:
        quoted = str(engine).replace("'", "''")
        command = [*(program or (python, "-m", "vistas2engine_ros")), "--ros-args", "-p", f"engine:='{quoted}'"]
        command += ["-p", "topic:=/camera", "-p", "diagnostics_period_s:=0.2", *arguments]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, env=environment, cwd=REPO.parent, **pipes))
        return started[-1]

    yield node
    for each in started:
        each.kill()
        each.communicate()


@pytest.fixture(scope="module")
def node(start: Callable[..., subprocess.Popen[str]]) -> Iterator[subprocess.Popen[str]]:
    """A running node, which must end cleanly on Ctrl-C after all the tests that use it."""
    running = start()
    yield running
    end(running, signal.SIGINT)


def end(running: subprocess.Popen[str], number: int) -> None:
    assert running.poll() is None, running.communicate()[0]
    running.send_signal(number)
    said = running.communicate(timeout=60)[0]
    assert running.returncode == 0, said
    assert "Traceback" not in said


@pytest.fixture
def play(python: Path, environment: dict[str, str], tmp_path: Path) -> Callable[..., Any]:
    def client(scenario: str, *options: str) -> Any:
        do(python, CLIENT, scenario, tmp_path, *options, env=environment)
        found = tmp_path / "result.json"
        return json.loads(found.read_text()) if found.exists() else None

    return client


def red(columns: int, size: tuple[int, int] = bright.SIZE) -> np.ndarray:
    """A red car on the left in front of a blue sky, uint8 [H, W, 3], RGB: BGR taken for RGB turns it around."""
    rgb = np.full((*size, 3), (20, 20, 230), np.uint8)
    rgb[:, :columns] = (230, 20, 20)
    return rgb


def test_each_frame_is_answered_by_its_map_with_its_stamp(
    node: subprocess.Popen[str], play: Callable[..., Any], tmp_path: Path
) -> None:
    large = red(40, (96, 128))
    sent = [red(16), red(24)[..., ::-1], large, cv2.cvtColor(red(48), cv2.COLOR_RGB2BGRA)]
    encodings = ["rgb8", "bgr8", "rgb8", "bgra8"]
    np.savez(tmp_path / "frames.npz", **{f"{i}_{e}": p for i, (e, p) in enumerate(zip(encodings, sent, strict=True))})
    found = play("one_by_one")
    assert found["categories"] == bright.CATEGORIES
    assert found["frame_ids"] == ["front_camera"]
    assert found["encodings"] == {"segment_ids": ["mono16"], "classes": ["mono8"], "overlay": ["rgb8"]}
    assert found["stamps"]["segments"][0] == found["begin"]
    maps = np.load(tmp_path / "maps.npz")
    painter = Painter(bright.CATEGORIES)
    for number, (rgb, columns) in enumerate(((red(16), 16), (red(24), 24), (large, 40), (red(48), 48))):
        at = {name: found["stamps"][name].index(found["begin"] + number) for name in found["stamps"]}
        height, width = rgb.shape[:2]
        truth = np.where(np.arange(width) < columns, 1, 2) * np.ones((height, 1), np.int32)
        np.testing.assert_array_equal(maps[f"segment_ids_{at['segment_ids']}"], truth)
        np.testing.assert_array_equal(maps[f"classes_{at['classes']}"], truth)
        overlay = painter.overlay(rgb, Segments(truth.astype(np.int32), {1: 1, 2: 2}))
        np.testing.assert_array_equal(maps[f"overlay_{at['overlay']}"], overlay)
        line = found["segments"][at["segments"]]
        assert line["header"]["frame_id"] == "front_camera"
        assert (line["height_px"], line["width_px"]) == (height, width)
        assert line["latency_ms"] > 0
        assert [s["bbox"] for s in line["segments"]] == [
            [0, 0, columns, height],
            [columns, 0, width - columns, height],
        ]
        assert [(s["category"], s["score"]) for s in line["segments"]] == [("object--car", 0.9), ("nature--sky", 0.8)]

    launch = yaml.safe_load((PACKAGE / "launch/segmentation.launch.yaml").read_text())["launch"][-1]["node"]
    assert {parameter["name"] for parameter in launch["param"]} <= set(found["parameters"])
    layout = (PACKAGE / "foxglove/segmentation.json").read_text()
    shown = {text for text in json.dumps(json.loads(layout)).split('"') if text.startswith("/")}
    assert len(shown) == 4
    assert shown <= set(found["topics"])


def test_the_newest_frame_wins_and_the_others_are_counted(
    node: subprocess.Popen[str], play: Callable[..., Any]
) -> None:
    found = play("flood")
    begin, count = found["begin"], found["count"]
    for name, stamps in found["stamps"].items():
        assert stamps == sorted(stamps), name
        assert stamps[-1] == begin + count - 1, "the newest frame was answered"
        assert len(set(stamps)) < count, "no queue: frames were left out"
    told = {name: int(found["told"][name]) for name in ("received", "published", "dropped", "late", "refused")}
    assert told["received"] == told["published"] + told["dropped"] + told["late"] + told["refused"]
    assert float(found["told"]["latency_p50_ms"]) > 0


def test_late_frames_are_left_out_and_told(node: subprocess.Popen[str], play: Callable[..., Any]) -> None:
    found = play("late")
    now, anew, fresh, dark = found["sent"]
    assert list(dict.fromkeys(found["stamps"]["segments"])) == [now, anew, fresh, dark]
    assert found["set"] == [False, True, True]
    after_newer, too_old, refused, silent = found["all_told"]
    assert int(too_old["late"]) > int(after_newer["late"]) > 0
    assert too_old["level"] == "1"
    assert "all frames are late: compare the clocks, or raise max_age_s" in too_old["message"]
    assert refused["level"] == "2"
    assert "encoding '8UC3' is not read, expected one of rgb8, bgr8" in refused["message"]
    assert silent["message"] == "no frame on /camera"
    assert found["overlays"][0] == found["overlays"][1], "overlay:=false draws none"


def test_a_bag_is_played_to_the_node_and_its_answers_are_recorded(
    node: subprocess.Popen[str], play: Callable[..., Any], python: Path, engine: Path, environment: dict[str, str],
    tmp_path: Path,
) -> None:  # fmt: skip
    np.savez(tmp_path / "frames.npz", **{f"{i}_rgb8": red(8 * i + 8) for i in range(4)})
    play("make_bag")
    play("replay")
    bag = [python, "-m", "vistas2engine_ros.bag", "--engine", engine, "--topic", "/front/image_raw"]
    told = do(*bag, "--bag", tmp_path / "drive", "--out", tmp_path / "maps", "--overlay", env=environment)
    assert "4 frames, 0 skipped" in told.stderr
    answers, maps = (read_bag(python, tmp_path / name, tmp_path) for name in ("answers", "maps"))
    truth = [np.where(np.arange(64) < 8 * i + 8, 1, 2) * np.ones((48, 1), np.uint8) for i in range(4)]
    for found in (answers, maps):
        np.testing.assert_array_equal([found[f"/segmentation/classes {i}"] for i in range(4)], truth)
    assert sum(name.startswith("/segmentation/overlay ") for name in maps) == 4
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [".written", "maps.db3", "metadata.yaml"]


def read_bag(python: Path, bag: Path, folder: Path) -> dict[str, np.ndarray]:
    """The pictures of a bag, by topic and number, read by the package rosbags."""
    code = (
        "import sys, numpy as np\nfrom pathlib import Path\nfrom rosbags.highlevel import AnyReader\n"
        "found = {}\nwith AnyReader([Path(sys.argv[1])]) as reader:\n"
        "    for connection, _, content in reader.messages():\n"
        "        if connection.msgtype == 'sensor_msgs/msg/Image':\n"
        "            m = reader.deserialize(content, connection.msgtype)\n"
        "            n = sum(k.startswith(connection.topic + ' ') for k in found)\n"
        "            found[f'{connection.topic} {n}'] = m.data.reshape(m.height, -1)\n"
        "np.savez(sys.argv[2], **{k.replace('/', '|'): v for k, v in found.items()})\n"
    )
    do(python, "-c", code, bag, folder / "read.npz")
    read = np.load(folder / "read.npz")
    return {name.replace("|", "/"): read[name] for name in read.files}


def test_a_bag_with_faults(
    play: Callable[..., Any], python: Path, engine: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    np.savez(tmp_path / "frames.npz", **{f"{i}_rgb8": red(8) for i in range(3)})
    play("make_bag", "--bad")
    bag = [python, "-m", "vistas2engine_ros.bag", "--engine", engine, "--out", tmp_path / "maps"]
    told = do(*bag, "--bag", tmp_path / "drive", "--topic", "/front/image_raw", env=environment)
    assert "/front/image_raw, frame 1: encoding '8UC3' is not read" in told.stderr
    assert "2 frames, 1 skipped" in told.stderr
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "maps").iterdir())
    for arguments, message in (
        (["--bag", tmp_path / "drive", "--topic", "/other"], "--topic /other: not a topic of pictures"),
        (["--bag", tmp_path / "none", "--topic", "/other"], "none not found; give --bag"),
        (["--bag", tmp_path / "frames.npz", "--topic", "/other"], "frames.npz can't be read as a bag"),
    ):
        done = subprocess.run([*bag, *arguments], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "maps").iterdir()) == before


def test_colcon_builds_the_package_and_its_node_reads_compressed_frames(
    python: Path, start: Callable[..., subprocess.Popen[str]], play: Callable[..., Any], environment: dict[str, str],
    tmp_path: Path,
) -> None:  # fmt: skip
    shutil.copytree(PACKAGE, tmp_path / "src")
    do(python, "-m", "colcon", "build", "--base-paths", "src", cwd=tmp_path, env=environment)
    share = tmp_path / "install/vistas2engine_ros/share/vistas2engine_ros"
    assert (share / "launch/segmentation.launch.yaml").is_file()
    assert (share / "foxglove/segmentation.json").is_file()
    # As a shell that sources the workspace runs it. The first line of the script is the interpreter that built it.
    run_node = 'source "$1/install/local_setup.bash"; shift; exec "$@"'
    program = tmp_path / "install/vistas2engine_ros/lib/vistas2engine_ros/segmentation"
    shell = ("bash", "-c", run_node, "bash", tmp_path, python, program)
    running = start("-p", "compressed:=true", program=shell)
    # Orientation 6 of EXIF asks viewers to turn a picture; a camera's map must stay as the camera's pixels are.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    jpeg = cv2.imencode(".jpg", red(16)[..., ::-1])[1].tobytes()
    head = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big")
    (tmp_path / "frame.jpg").write_bytes(jpeg[:2] + head + exif + jpeg[2:])
    found = play("compressed")
    classes = np.load(tmp_path / "maps.npz")["classes_0"]
    assert classes.shape == bright.SIZE
    assert (classes[:, :16] == 1).all()
    assert (classes[:, 17:] == 2).all()
    assert found["stamps"]["classes"][0] == found["begin"]
    end(running, signal.SIGTERM)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["engine:=''"], "parameter engine: name the folder of an engine"),
        (["engine:=/nowhere"], "/nowhere/engine.json not found"),
        (["max_age_s:=-1"], "parameter max_age_s: expected seconds, 0 or more, found -1"),
        (["diagnostics_period_s:=0"], "parameter diagnostics_period_s: expected more than 0 seconds"),
        (["overlay:=maybe"], "overlay"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    start: Callable[..., subprocess.Popen[str]], arguments: list[str], message: str
) -> None:
    running = start(*[word for argument in arguments for word in ("-p", argument)])
    said = running.communicate(timeout=60)[0]
    assert running.returncode == 1, said
    assert message in said
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1, said


@pytest.mark.parametrize("program", ["vistas2engine_ros", "vistas2engine_ros.bag"])
def test_an_engine_of_no_signer_is_refused(
    python: Path, engine: Path, environment: dict[str, str], tmp_path: Path, program: str
) -> None:
    (tmp_path / "signers").write_text("")
    command = [python, "-m", program]
    if program.endswith("bag"):
        command += ["--engine", engine, "--bag", tmp_path, "--topic", "/camera", "--out", tmp_path / "out"]
    else:
        command += ["--ros-args", "-p", f"engine:='{str(engine).replace(chr(39), chr(39) * 2)}'"]
    alone = {**environment, "ALLOWED_SIGNERS": str(tmp_path / "signers")}
    done = subprocess.run(command, env=alone, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "signature" in done.stderr, done.stderr


def test_a_node_without_the_runtime_says_where_it_is(python: Path, environment: dict[str, str], tmp_path: Path) -> None:
    alone = {**environment, "PYTHONPATH": str(PACKAGE)}
    command = [python, "-m", "vistas2engine_ros"]
    done = subprocess.run(command, env=alone, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "put the folder of vistas2engine on PYTHONPATH" in done.stderr.splitlines()[-1]


def test_the_node_waits_for_frames_without_work(node: subprocess.Popen[str]) -> None:
    """A node without frames sleeps."""

    def used_s() -> float:
        fields = Path(f"/proc/{node.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = used_s()
    time.sleep(2)
    assert used_s() - before < 1, "it uses more than half of a core"
