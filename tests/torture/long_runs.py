"""`predict` for as long as an argument says, from a source that misbehaves, and a conversion of very many pictures.

Memory and open files of all processes of a command are sampled each second. They are flat if the last quarter's are
those of the second quarter: the first one loads and warms up.
"""

import http.server
import os
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from stages.media import recording
from tests.torture.ground import Ground, Running, broken, leftovers
from tests.torture.table import Row, Rows

SECTION = "Long runs"
SLACK_MIB = 24.0
"""Growth of the memory between the second and the last quarter that counts as flat."""
SIZES = ((128, 192), (96, 160), (256, 384))
"""Heights and widths in pixels of the frames of the stream, in turns."""


@dataclass(frozen=True)
class Sample:
    """All processes of a command at one time."""

    mib: float
    """Memory without mapped files: the sum of Pss_Anon of smaps_rollup. A process's share of a library in memory (Pss)
    grows when another process that uses it ends."""
    descriptors: int


def rows(ground: Ground, minutes: float, pictures: int) -> Rows:
    """Return a function for each row by its name."""
    return {"long predict": partial(_predict, ground, minutes), "long convert": partial(_convert, ground, pictures)}


def sampled(running: Running, until: Callable[[], bool]) -> list[Sample]:
    """Return a sample for each second until a command has ended or `until` is true."""
    found = []
    while running.process.poll() is None and not until():
        mib, descriptors = 0.0, 0
        for pid in running.marked():
            try:
                about = Path(f"/proc/{pid}/smaps_rollup").read_text()
                descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
            except OSError:
                continue
            mib += next(int(line.split()[1]) for line in about.splitlines() if line.startswith("Pss_Anon:")) / 1024
        found.append(Sample(mib, descriptors))
        time.sleep(1)
    return found


def growth(samples: list[Sample]) -> tuple[str, list[str]]:
    """Return what memory and descriptors did, in words, and what is wrong with it."""
    quarter = len(samples) // 4
    if not quarter:
        return "too short to say", ["fewer than four samples"]
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    mib = [statistics.median(sample.mib for sample in part) for part in (second, last)]
    descriptors = [max(sample.descriptors for sample in part) for part in (second, last)]
    words = f"memory {mib[0]:.0f} then {mib[1]:.0f} MiB, descriptors {descriptors[0]} then {descriptors[1]}"
    grows = mib[1] > mib[0] + SLACK_MIB or descriptors[1] > descriptors[0]
    return words, [f"not flat: {words}"] if grows else []


class _Stream(http.server.BaseHTTPRequestHandler):
    """MJPEG as cameras send it, as fast as it is read; each connection changes size, stalls and ends."""

    protocol_version = "HTTP/1.0"
    connections, away_until = 0, 0.0

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        if time.monotonic() < _Stream.away_until:
            self.send_error(503)
            return
        _Stream.connections += 1
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            for part, (height, width) in enumerate(SIZES):
                self._send(height, width, 8)
                if part == 1:
                    time.sleep(2 if _Stream.connections % 2 else 7)  # Shorter and longer than the timeout of 5 s.
        except OSError:
            return
        finally:
            _Stream.away_until = time.monotonic() + 3

    def _send(self, height: int, width: int, seconds: float) -> None:
        until, number = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            picture = np.full((height, width, 3), number % 200, np.uint8)
            content = cv2.imencode(".jpg", picture)[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
            self.wfile.write(head.encode() + content + b"\r\n")
            number += 1


@contextmanager
def _served() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Stream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/street.mjpg"
    finally:
        server.shutdown()
        server.server_close()


def _predict(ground: Ground, minutes: float) -> Row:
    command = "python -m stages.commands.predict --engine data/engines/cpu --out data/predict/live --source"
    fault = f"{minutes:g} minutes of a stream that stalls, changes size, ends and returns, as fast as it is read"
    row = Row(SECTION, fault, "predict", f"{command} http://HOST/street.mjpg")
    with ground.copied("long predict") as workspace, _served() as url:
        running = Running(f"{command} {url}", workspace)
        until = time.monotonic() + 60 * minutes
        samples = sampled(running, lambda: time.monotonic() > until)
        sent = running.signal(signal.SIGINT)
        ended = running.end()
        words, faults = growth(samples)
        if not sent or ended.status:
            faults.append(f"exit status {ended.status}: {ended.said.strip()[-300:]}")
        out = workspace / "data/predict/live"
        faults += broken_live(out) + [f"left running: {each}" for each in ended.left]
        faults += [f"{each} is left" for each in leftovers(workspace)]
        lost = ended.said.count("is lost; it is opened again")
        if minutes >= 1 and not lost:
            faults.append("the source was never lost, so nothing was tried")
        said = ended.said.strip().splitlines()[-1].partition("; see")[0]
        row.add(f"{said}; {_Stream.connections} connections, lost and opened again {lost} times; {words}", faults)
    return row


def broken_live(out: Path) -> list[str]:
    """Return what is wrong with the recording of a live source, whose frames are repeated while it is away."""
    if not (out / recording.VIDEO_NAME).exists() or not (out / recording.SEGMENTS_NAME).exists():
        return ["no recording"]
    capture = cv2.VideoCapture(str(out / recording.VIDEO_NAME))
    count = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    capture.set(cv2.CAP_PROP_POS_FRAMES, count - 1)
    lines = len((out / recording.SEGMENTS_NAME).read_text().splitlines())
    found = [] if capture.read()[0] else ["the last frame of overlay.mp4 can't be read"]
    if count < lines:
        found.append(f"overlay.mp4 has {count:g} frames, segments.jsonl {lines}")
    return found + [each for each in broken(out) if "overlay.mp4" not in each]


def _convert(ground: Ground, pictures: int) -> Row:
    command = (
        "python -m stages.convert --root data/many --tables conf/tables --out data/many_coco --metrics data/m.json"
    )
    row = Row(SECTION, f"{pictures} pictures, hard links to a few", "convert", command)
    with ground.copied("long convert") as workspace:
        root = workspace / "data/many"
        shutil.copytree(workspace / "data/raw/sample", root)
        for place in ("images", "v2.0/instances"):
            originals = sorted((root / "training" / place).iterdir())
            for number in range(pictures - len(originals)):
                path = originals[number % len(originals)]
                os.link(path, path.with_name(f"{path.stem}_{number}{path.suffix}"))
        for split in ("training", "validation"):
            for name in ("panoptic", "labels", "polygons"):
                shutil.rmtree(root / split / "v2.0" / name)
        running = Running(command, workspace)
        samples = sampled(running, lambda: False)
        ended = running.end()
        words, faults = growth(samples)
        if ended.status:
            faults.append(f"exit status {ended.status}: {ended.said.strip()[-300:]}")
        else:
            found = len(list((workspace / "data/many_coco/train/panoptic").iterdir()))
            faults += [] if found == pictures else [f"{found} masks"]
        row.add(f"{ended.seconds:.0f} s; {words}", faults)
    return row
