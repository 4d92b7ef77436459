"""Pictures from anywhere for `predict`: a picture, a folder of them, a video, a camera, a stream.

A recorded source gives every frame in order. A live one gives the newest, drops what came in between, and is opened
again with growing pauses when it is lost.
"""

import logging
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stages.inference import frames

log = logging.getLogger(__name__)

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
"""Suffixes of files that are read as pictures."""
FAILURES = 50
"""Frames in a row that can't be read, after which a video is taken to be at its end."""
LIVE_FAILURES = 5
"""The same, after which a camera or a stream is taken to be lost."""
LIMIT_MS = 5000
"""For a stream to be opened, and for its next frame."""
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Before each attempt to open a lost stream again; the last is repeated."""


@dataclass(frozen=True)
class Picture:
    """One frame of a source."""

    name: str
    """Of the file, or of the source with the frame's number."""
    rgb: frames.Frame
    """uint8 [H, W, 3]; of a video or a live source it may lie in Source.buffer, where the next one comes."""
    taken: float
    """When it was there, by time.perf_counter."""


class Source(ABC):
    """What `predict` reads. Iterate over it once; `stop` ends that from another thread or a signal."""

    live = False
    """Whether frames are lost to whoever is late."""
    still = False
    """Whether each frame is a picture of its own."""
    fps = 25.0
    """Frames a second, where the source tells."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.skipped = 0
        """Files, or frames of a video, that can't be read."""
        self.dropped = 0
        """Frames of a live source that came while others were worked on."""
        self.buffer: frames.Frame | None = None
        """Where frames of its size are written, such as an engine's own memory; others, and files, have their own."""
        self._stopped = threading.Event()

    @abstractmethod
    def __iter__(self) -> Iterator[Picture]:
        """The pictures, to the end or until `stop`."""

    def stop(self) -> None:
        """End the iteration after the picture at hand."""
        self._stopped.set()

    def _rgb(self, bgr: Any) -> frames.Frame:
        into = self.buffer if self.buffer is not None and self.buffer.shape == bgr.shape else None
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=into), np.uint8)


def open_source(text: str) -> Source:
    """The source that a path, a camera's number or a URL names.

    Raises FileNotFoundError or ValueError, saying what can be given, where nothing is there or it can't be read.
    """
    if text.isdigit() or "://" in text:
        return Live(text)
    path = Path(text)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES)
        if not found:
            raise ValueError(f"{path} holds no pictures ({', '.join(sorted(PICTURES))}); give SOURCE another folder")
        return Pictures(text, found)
    if not path.is_file():
        raise FileNotFoundError(
            f"{text} not found; give SOURCE a picture, a folder of pictures, a video, a camera's number or a URL"
        )
    return Pictures(text, [path]) if path.suffix.lower() in PICTURES else Video(text)


class Pictures(Source):
    """Files in order."""

    still = True

    def __init__(self, text: str, paths: list[Path]) -> None:
        super().__init__(text)
        self._paths = paths

    def __iter__(self) -> Iterator[Picture]:
        for path in self._paths:
            if self._stopped.is_set():
                return
            try:
                rgb = frames.read_rgb(path, turn=True)
            except ValueError as error:
                self.skipped += 1
                log.warning("%s", error)
                continue
            yield Picture(path.name, rgb, time.perf_counter())


class Video(Source):
    """A file, every frame of it that can be read."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._capture = cv2.VideoCapture(text)
        if not self._capture.isOpened():
            raise ValueError(f"{text} can't be read as a video by this OpenCV; convert it, for example to H.264 in MP4")
        self.fps = _fps(self._capture)

    def __iter__(self) -> Iterator[Picture]:
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        number, failures = 0, 0
        while not self._stopped.is_set() and failures < FAILURES:
            bgr = _read(self._capture)
            if bgr is None:
                failures += 1
                continue
            failures = 0
            yield Picture(f"{Path(self.text).name}:{number}", self._rgb(bgr), time.perf_counter())
            number += 1
        if not self._stopped.is_set():
            # OpenCV steps over damaged frames itself; the file tells how many there should have been.
            self.skipped = max(0, count - number)
        self._capture.release()


class Live(Source):
    """A camera or a stream: a thread reads it all the time and keeps the newest frame."""

    live = True

    def __init__(self, text: str) -> None:
        super().__init__(text)
        # A camera's password is nobody else's.
        self._label = re.sub(r"//[^/@]*@", "//", text)
        self._arrived = threading.Condition()
        self._newest: tuple[int, Any, float] | None = None
        self._capture = self._open()
        if not self._capture.isOpened():
            raise ValueError(f"{self._label} can't be opened; is the camera there, is the URL right, does it answer?")
        self.fps = _fps(self._capture)

    def _open(self) -> Any:
        if self.text.isdigit():
            return cv2.VideoCapture(int(self.text))
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, LIMIT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, LIMIT_MS]
        return cv2.VideoCapture(self.text, cv2.CAP_FFMPEG, limits)

    def _read_on(self) -> None:
        number, lost, failures = 0, 0, 0
        while not self._stopped.is_set():
            bgr = _read(self._capture)
            if bgr is not None:
                lost = failures = 0
                with self._arrived:
                    self.dropped += self._newest is not None
                    self._newest = (number, bgr, time.perf_counter())
                    self._arrived.notify()
                number += 1
                continue
            if failures < LIVE_FAILURES and self._capture.isOpened():
                failures += 1
                continue
            pause = PAUSES_S[min(lost, len(PAUSES_S) - 1)]
            lost += 1
            log.warning("%s is lost; it is opened again in %g s (attempt %d)", self._label, pause, lost)
            self._capture.release()
            if not self._stopped.wait(pause):
                failures = 0
                self._capture = self._open()

    def __iter__(self) -> Iterator[Picture]:
        reader = threading.Thread(target=self._read_on, daemon=True)
        reader.start()
        try:
            while not self._stopped.is_set():
                with self._arrived:
                    self._arrived.wait_for(lambda: self._newest is not None or self._stopped.is_set(), timeout=0.5)
                    newest, self._newest = self._newest, None
                if newest is not None:
                    number, bgr, taken = newest
                    yield Picture(f"{self._label}:{number}", self._rgb(bgr), taken)
        finally:
            self.stop()
            reader.join(timeout=1)
            # A reader that waits for a stalled stream still needs it.
            if not reader.is_alive():
                self._capture.release()


def _read(capture: Any) -> Any:
    """The next frame, or None where it can't be read."""
    try:
        good, bgr = capture.read()
    except cv2.error:
        return None
    return bgr if good else None


def _fps(capture: Any) -> float:
    """What a capture tells, where that can be true: streams tell a clock's rate, or nothing."""
    told = float(capture.get(cv2.CAP_PROP_FPS))
    return told if 1 <= told <= 240 else Source.fps
