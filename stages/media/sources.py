"""Pictures from anywhere for `predict`: a picture, a folder of them, a video, a camera, a stream.

A recorded source gives every frame in order. A live one gives the newest, drops what came in between, and is opened
again with growing pauses when it is lost.
"""

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stages.runtime import frames

log = logging.getLogger(__name__)

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
"""Suffixes of files that are read as pictures."""
FAILURES = 50
"""Frames in a row that can't be read, after which a video is taken to be at its end."""
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Before each attempt to open a lost stream again; the last is repeated."""


@dataclass(frozen=True)
class Picture:
    """One frame of a source."""

    name: str
    """Of the file, or of the source with the frame's number."""
    rgb: frames.Frame
    """uint8 [H, W, 3]."""
    taken: float
    """When it was there, by time.perf_counter."""


class Source:
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
        """Frames or files that can't be read."""
        self.dropped = 0
        """Frames of a live source that came while others were worked on."""
        self._stopped = threading.Event()

    def __iter__(self) -> Iterator[Picture]:
        """The pictures, to the end or until `stop`."""
        raise NotImplementedError

    def stop(self) -> None:
        """End the iteration after the picture at hand."""
        self._stopped.set()


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
                rgb = frames.read_rgb(path)
            except ValueError as error:
                self.skipped += 1
                log.warning("%s", error)
                continue
            yield Picture(path.name, rgb, time.perf_counter())


class Video(Source):
    """A file, every frame of it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._capture = cv2.VideoCapture(text)
        if not self._capture.isOpened():
            raise ValueError(f"{text} can't be read as a video by this OpenCV; convert it, for example to H.264 in MP4")
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or self.fps

    def __iter__(self) -> Iterator[Picture]:
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        number, failures = 0, 0
        while not self._stopped.is_set() and failures < FAILURES:
            good, bgr = self._capture.read()
            if not good:
                if number >= count:
                    break
                failures += 1
                self.skipped += 1
                number += 1
                continue
            failures = 0
            yield Picture(f"{Path(self.text).name}:{number}", _rgb(bgr), time.perf_counter())
            number += 1
        self._capture.release()


class Live(Source):
    """A camera or a stream: a thread reads it all the time and keeps the newest frame."""

    live = True

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._arrived = threading.Condition()
        self._newest: tuple[int, Any, float] | None = None
        self._capture = self._open()
        if not self._capture.isOpened():
            raise ValueError(f"{text} can't be opened; is the camera there, is the URL right, does it answer?")
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or self.fps

    def _open(self) -> Any:
        return cv2.VideoCapture(int(self.text) if self.text.isdigit() else self.text)

    def _read(self) -> None:
        number, lost = 0, 0
        while not self._stopped.is_set():
            good, bgr = self._capture.read()
            if good:
                lost = 0
                with self._arrived:
                    self.dropped += self._newest is not None
                    self._newest = (number, bgr, time.perf_counter())
                    self._arrived.notify()
                number += 1
                continue
            pause = PAUSES_S[min(lost, len(PAUSES_S) - 1)]
            lost += 1
            log.warning("%s is lost; it is opened again in %g s (attempt %d)", self.text, pause, lost)
            self._capture.release()
            if not self._stopped.wait(pause):
                self._capture = self._open()

    def __iter__(self) -> Iterator[Picture]:
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        while not self._stopped.is_set():
            with self._arrived:
                self._arrived.wait_for(lambda: self._newest is not None or self._stopped.is_set(), timeout=0.5)
                newest, self._newest = self._newest, None
            if newest is not None:
                number, bgr, taken = newest
                yield Picture(f"{self.text}:{number}", _rgb(bgr), taken)
        reader.join(timeout=5)
        self._capture.release()


def _rgb(bgr: Any) -> frames.Frame:
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
