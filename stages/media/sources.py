"""Pictures from anywhere for `predict`: a picture, a folder of them, a video, a camera, a stream.

What a file is, its content says, not its name. A recorded source gives every frame in order. A live one gives the
newest, drops what came in between, and is opened again with growing pauses when it is lost.
"""

import logging
import math
import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import cv2
import numpy as np

from stages.foundation import files, picture_files
from stages.inference import frames
from stages.media import names

log = logging.getLogger(__name__)

# FFmpeg's own words on each damaged frame would bury ours. A level that a user gives is kept.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
"""Of a folder's files that ought to be pictures, so that one which isn't is told by name."""
BEGINNINGS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|II\*\0|MM\0\*|BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0{3}"
    rb"|....ftyp(heic|heix|heim|heis|mif1)",
    re.DOTALL,
)
"""Of JPEG, PNG, WebP, TIFF, BMP, and HEIF, of which a video reader would show a tile."""
BEGINNING_BYTES = 18
CAMERA, URL = re.compile("[0-9]{1,9}"), re.compile("[A-Za-z][A-Za-z0-9+.-]*://")
MAX_FPS = 65535
"""Frames a second that MPEG-4 Part 2 can tell (16 bits, ISO/IEC 14496-2); more is a clock's rate, not a video's."""
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
    time_s: float | None = None
    """Of a recorded frame, where its file tells: from the file's begin."""


class Source(ABC):
    """What `predict` reads. Iterate over it once; `stop` ends that from another thread or a signal."""

    live = False
    """Whether frames are lost to whoever is late."""
    still = False
    """Whether each frame is a picture of its own."""
    fps = 25.0
    """Frames a second, where the source tells: of a recorded one any, of a live one 1 to 240."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._label = files.printable(text)
        """For messages."""
        self.skipped = 0
        """Files, or frames of a video, that can't be read."""
        self.dropped = 0
        """Frames of a live source that came while others were worked on."""
        self.buffer: frames.Frame | None = None
        """Where frames of its size are written, such as an engine's own memory; others, and files, have their own."""
        self._stopped = threading.Event()

    def nothing(self) -> str:
        """What to say where the iteration gave no picture."""
        why = "none came before the end" if self.live else f"{self.skipped} could not be read"
        return f"{self._label}: no picture to work on ({why})"

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
    """The source that a path, a camera's number or a URL names. `./0` is a file or a folder, `0` a camera.

    Raises OSError or ValueError, saying what can be given, where nothing is there or it can't be read.
    """
    if text.startswith("file://"):
        text = os.fsdecode(unquote_to_bytes(os.fsencode(text.removeprefix("file://"))))
    elif CAMERA.fullmatch(text) or URL.match(text):
        return Live(text)
    path = Path(text)
    if path.is_dir():
        return Pictures(text, _pictures_in(path))
    if not path.exists():
        raise FileNotFoundError(
            f"{text} not found; give SOURCE a picture, a folder of pictures, a video, a camera's number or a URL"
        )
    if not path.is_file():
        raise ValueError(f"{text} is neither a file nor a folder; a camera is given by its number, /dev/video0 by 0")
    return Pictures(text, [path]) if _is_picture(path) else Video(text)


def _is_picture(path: Path) -> bool:
    """Whether a file begins like a picture. Raises OSError where it can't be read."""
    with path.open("rb") as file:
        return BEGINNINGS.match(file.read(BEGINNING_BYTES)) is not None


def _pictures_in(folder: Path) -> list[Path]:
    """Files that are pictures by their content or should be by their suffix, in order.

    Hidden ones, such as macOS' `._` files, are left out. Raises ValueError where no picture is there.
    """
    pictures, folders, others = [], [], 0
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            folders.append(path.name)
        elif path.suffix.lower() in SUFFIXES or (path.is_file() and os.access(path, os.R_OK) and _is_picture(path)):
            pictures.append(path)
        else:
            others += 1
    left = f"{len(folders)} subfolders and {others} files that are no pictures"
    if not pictures:
        inside = f"one of its subfolders, such as {folder / folders[0]}" if folders else "another folder"
        raise ValueError(f"{folder} holds no pictures, only {left}; give SOURCE {inside}")
    if folders or others:
        log.info(files.printable(f"{folder}: {left} are not read"))
    return pictures


class Pictures(Source):
    """Files in order."""

    still = True

    def __init__(self, text: str, paths: list[Path]) -> None:
        super().__init__(text)
        self.paths = paths

    def __iter__(self) -> Iterator[Picture]:
        for path in self.paths:
            if self._stopped.is_set():
                return
            try:
                if path.exists() and not path.is_file():
                    raise ValueError(f"{path}: not a file")
                rgb = picture_files.read_rgb(path, turn=True)
            except (OSError, ValueError) as error:
                self.skipped += 1
                log.warning(files.printable(str(error).strip()))
                continue
            yield Picture(path.name, rgb, time.perf_counter())


class Video(Source):
    """A file, every frame of it that can be read, upright as the file says."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._capture = _open_video(Path(text))
        told = float(self._capture.get(cv2.CAP_PROP_FPS))
        if math.isfinite(told) and 0 < told <= MAX_FPS:
            self.fps = told
        else:
            log.warning(
                files.printable(
                    f"{text}: tells {told:g} frames a second, expected more than 0, at most {MAX_FPS}; overlay.mp4 "
                    f"gets {self.fps:g} a second, and may last longer or shorter than the source"
                )
            )

    def __iter__(self) -> Iterator[Picture]:
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        number, failures = 0, 0
        while not self._stopped.is_set() and failures < FAILURES:
            bgr = _read(self._capture)
            if bgr is None:
                failures += 1
                continue
            failures = 0
            time_s = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
            name = f"{Path(self.text).name}:{number}"
            yield Picture(name, self._rgb(bgr), time.perf_counter(), time_s)
            number += 1
        if not self._stopped.is_set():
            # OpenCV steps over damaged frames itself; the file tells how many there should have been.
            self.skipped = max(0, count - number)
        self._capture.release()


def _open_video(path: Path) -> Any:
    """A reader of a video file. Raises OSError where it can't be opened and ValueError where it is no video."""
    with path.open("rb") as file:
        # Files of a playlist are found beside it, so it needs its own path.
        playlist = file.read(7) == b"#EXTM3U"
    with names.descriptor_path(path) as nameless:
        name = str(path.absolute())
        if not playlist or not files.is_utf8(name):
            name = nameless
        for backend in cv2.videoio_registry.getStreamBackends():
            # That one takes digits in a name for a sequence of pictures.
            if backend != cv2.CAP_IMAGES and (capture := cv2.VideoCapture(name, backend)).isOpened():
                capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
                return capture
    if path.suffix.lower() in SUFFIXES:
        raise ValueError(f"{path}: can't be read as a picture; restore the file")
    raise ValueError(f"{path} can't be read as a video by this OpenCV; convert it, for example to H.264 in MP4")


class Live(Source):
    """A camera or a stream: a thread reads it all the time and keeps the newest frame."""

    live = True

    def __init__(self, text: str) -> None:
        super().__init__(text)
        # A camera's password is nobody else's.
        self._label = re.sub(r"//[^/@]*@", "//", self._label)
        if not files.is_utf8(text):
            raise ValueError(f"{self._label} is not UTF-8; write other bytes of a URL as %NN")
        other = f"; for the file or folder of this name give SOURCE ./{self._label}" if os.path.lexists(text) else ""
        self._arrived = threading.Condition()
        self._newest: tuple[int, Any, float] | None = None
        self._capture = self._open()
        if not self._capture.isOpened():
            raise ValueError(
                f"{self._label} can't be opened; is the camera there, is the URL right, does it answer?{other}"
            )
        if other:
            log.info("%s is a camera's number or a URL%s", self._label, other)
        told = float(self._capture.get(cv2.CAP_PROP_FPS))
        # Streams tell a clock's rate, or nothing. Pictures are written by the time at which they came, so that any rate
        # keeps the duration.
        self.fps = told if 1 <= told <= 240 else Source.fps

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
