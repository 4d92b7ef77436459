"""Reads frames for `predict` and `infer` from a picture, a folder of pictures, a video, a camera or a stream.

The kind of a file is decided by its content, not by its name. A recorded source yields every frame in order. A live
source yields the newest frame and drops older ones. When a live source is lost, it is opened again after a pause.
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
from urllib.parse import unquote_to_bytes

import cv2
import numpy as np

from stages.foundation import files, picture_files
from stages.inference import frames
from stages.media import file_names, video_files

log = logging.getLogger(__name__)

# FFmpeg prints a message for each damaged frame; they would hide ours. A level that the user set is kept.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
# The same for OpenCV's warnings. It read its variable at import, and some builds have no function to set the level.
if "OPENCV_LOG_LEVEL" not in os.environ and hasattr(cv2.utils, "logging"):
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
"""Suffixes of pictures. A file of a folder with such a suffix that is not a picture gets a warning."""
PICTURE_SIGNATURES = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|II\*\0|MM\0\*|BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0{3}"
    rb"|....ftyp(heic|heix|heim|heis|mif1)",
    re.DOTALL,
)
"""First bytes of JPEG, PNG, WebP, TIFF, BMP and HEIF. HEIF is listed because OpenCV's video reader shows one tile."""
SIGNATURE_BYTES = 18
CAMERA, URL = re.compile("[0-9]{1,9}"), re.compile("[A-Za-z][A-Za-z0-9+.-]*://")
MAX_FPS = 65535
"""Highest frame rate that MPEG-4 Part 2 can store (16 bits, ISO/IEC 14496-2). Higher rates are those of clocks."""
MAX_VIDEO_FAILURES = 50
"""Number of consecutive unreadable frames after which a video counts as ended."""
MAX_LIVE_FAILURES = 5
"""Number of consecutive unreadable frames after which a camera or a stream counts as lost."""
TIMEOUT_MS = 5000
"""Timeout for opening a stream and for reading its next frame."""
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Pauses before the attempts to open a lost stream again. The last one repeats."""


@dataclass(frozen=True)
class SourceFrame:
    """One frame of a source."""

    name: str
    """Name of the picture file, or name of the source and number of the frame."""
    rgb: frames.Frame
    """uint8 [H, W, 3], RGB. It may be FrameSource.buffer."""
    arrived_s: float
    """When the frame was read, in seconds of time.perf_counter."""
    video_time_s: float | None = None
    """Presentation time in seconds from the start of a video; None for pictures and live sources."""


class FrameSource(ABC):
    """A source of frames. Iterate over it once. `stop` ends the iteration from another thread or a signal handler."""

    live = False
    """True if frames that are not read in time are dropped."""
    still = False
    """True if each frame is a separate picture file."""
    fps = 25.0
    """Frames per second. The default is used if the source states no rate; a live source's rate is 1 to 240."""

    def __init__(self, text: str) -> None:
        """`text` is a path, a camera number or a URL, as the user gave it."""
        self.text = text
        self.label = files.printable(text)
        """`text` for messages."""
        self.skipped = 0
        """Picture files, or frames of a video, that could not be read."""
        self.dropped = 0
        """Frames of a live source that were replaced by newer ones before they were read."""
        self.buffer: frames.Frame | None = None
        """Memory for the next frame, such as the engine's input, uint8 [H, W, 3].

        Frames of videos and live sources that have its shape are written there. All others get memory of their own.
        """
        self._stopped = threading.Event()

    @property
    def names(self) -> list[str]:
        """Names of the picture files; empty for other sources."""
        return []

    def no_frames(self) -> str:
        """Return the error message for a source that yielded no frame."""
        if self._stopped.is_set():
            return f"{self.label}: stopped before the first frame"
        why = "none came before the end" if self.live else f"{self.skipped} could not be read"
        return f"{self.label}: no picture to work on ({why}); give SOURCE another one"

    @abstractmethod
    def __iter__(self) -> Iterator[SourceFrame]:
        """Yield the frames until the end or until `stop`."""

    def stop(self) -> None:
        """End the iteration after the current frame."""
        self._stopped.set()

    def _to_rgb(self, bgr: "cv2.typing.MatLike") -> frames.Frame:
        out = self.buffer if self.buffer is not None and self.buffer.shape == bgr.shape else None
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=out), np.uint8)


def open_source(text: str) -> FrameSource:
    """Open a path, a camera number or a URL. `0` is a camera; `./0` is a file or a folder.

    Raises FileNotFoundError for a missing path, OSError for a file that can't be opened, and ValueError for a source
    that can't be read.
    """
    if text.startswith("file://"):
        text = os.fsdecode(unquote_to_bytes(os.fsencode(text.removeprefix("file://"))))
    elif CAMERA.fullmatch(text) or URL.match(text):
        return LiveStream(text)
    path, label = Path(text), files.printable(text)
    # Path.exists raises for a name that is too long.
    if not os.access(path, os.F_OK):
        raise FileNotFoundError(
            f"{label} not found; give SOURCE a picture, a folder of pictures, a video, a camera's number or a URL"
        )
    if path.is_dir():
        return PictureFiles(text, _pictures_in(path))
    if not path.is_file():
        raise ValueError(
            f"{label} is neither a file nor a folder; for the camera /dev/video0 give SOURCE its number, 0"
        )
    return PictureFiles(text, [path]) if _is_picture(path) else VideoFile(text)


def _is_picture(path: Path) -> bool:
    """Return whether a file starts like a picture. Raises OSError if it can't be read."""
    with path.open("rb") as file:
        return PICTURE_SIGNATURES.match(file.read(SIGNATURE_BYTES)) is not None


def _pictures_in(folder: Path) -> list[Path]:
    """Return the files of a folder that are pictures by content or by suffix, sorted by name.

    Hidden files, such as `._a.jpg` of macOS, are left out. Raises ValueError if there is no picture.
    """
    pictures, folders, others = [], [], 0
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            folders.append(path.name)
        elif path.suffix.lower() in PICTURE_SUFFIXES or (
            path.is_file() and os.access(path, os.R_OK) and _is_picture(path)
        ):
            pictures.append(path)
        else:
            others += 1
    left_out = f"{len(folders)} subfolders and {others} files that are no pictures"
    if not pictures:
        other = f"one of its subfolders, such as {folder / folders[0]}" if folders else "another folder"
        raise ValueError(files.printable(f"{folder} has no pictures, only {left_out}; give SOURCE {other}"))
    if folders or others:
        log.info(files.printable(f"{folder}: {left_out} are not read"))
    return pictures


class PictureFiles(FrameSource):
    """Picture files, in the given order."""

    still = True

    def __init__(self, text: str, paths: list[Path]) -> None:
        """`text` is the file or the folder as the user gave it, and `paths` are its pictures."""
        super().__init__(text)
        self.paths = paths

    @property
    def names(self) -> list[str]:
        """Names of the files."""
        return [path.name for path in self.paths]

    def __iter__(self) -> Iterator[SourceFrame]:
        for path in self.paths:
            if self._stopped.is_set():
                return
            try:
                if path.exists() and not path.is_file():
                    raise ValueError(f"{path}: found no regular file; remove it or replace it by a picture")
                rgb = picture_files.read_rgb(path, turn=True)
            except (OSError, ValueError) as error:
                self.skipped += 1
                log.warning(files.printable(str(error).strip()))
                continue
            yield SourceFrame(path.name, rgb, time.perf_counter())


class VideoFile(FrameSource):
    """A video file: every frame that can be read, rotated as its metadata says."""

    def __init__(self, text: str) -> None:
        """Open the file. Raises OSError if it can't be opened and ValueError if it is no video."""
        super().__init__(text)
        self._capture = _open_video(Path(text))
        stated_fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        if math.isfinite(stated_fps) and 0 < stated_fps <= MAX_FPS:
            self.fps = stated_fps
        else:
            log.warning(
                f"{self.label}: found a rate of {stated_fps:g} frames a second, expected more than 0, at most "
                f"{MAX_FPS}; overlay.mp4 gets {self.fps:g} a second, so its duration may differ from the source's"
            )

    def __iter__(self) -> Iterator[SourceFrame]:
        stated_count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        number, failures = 0, 0
        while not self._stopped.is_set() and failures < MAX_VIDEO_FAILURES:
            bgr = _read(self._capture)
            if bgr is None:
                failures += 1
                continue
            failures = 0
            video_time_s = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
            name = f"{Path(self.text).name}:{number}"
            yield SourceFrame(name, self._to_rgb(bgr), time.perf_counter(), video_time_s)
            number += 1
        if not self._stopped.is_set():
            # OpenCV skips damaged frames without reporting them, so they are counted by the file's stated length.
            self.skipped = max(0, stated_count - number)
        self._capture.release()


def _open_video(path: Path) -> cv2.VideoCapture:
    """Return a cv2.VideoCapture. Raises OSError if the file can't be opened and ValueError if it is no video."""
    label = files.printable(path)
    with path.open("rb") as file:
        # A playlist names files relative to its own path.
        is_playlist = file.read(7) == b"#EXTM3U"
    with file_names.descriptor_path(path) as descriptor:
        absolute = str(path.absolute())
        name = absolute if is_playlist and files.is_utf8(absolute) else descriptor
        for backend in cv2.videoio_registry.getStreamBackends():
            # CAP_IMAGES reads digits in a name as a sequence of pictures.
            if backend != cv2.CAP_IMAGES and (capture := cv2.VideoCapture(name, backend)).isOpened():
                capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
                return capture
    if path.suffix.lower() in PICTURE_SUFFIXES:
        raise ValueError(f"{label}: can't be read as a picture; restore the file")
    if damage := video_files.damage(path):
        raise ValueError(f"{label} is damaged or cut short ({damage}); copy it again from where it was recorded")
    raise ValueError(f"{label} can't be read as a video by this OpenCV; convert it, for example to H.264 in MP4")


class LiveStream(FrameSource):
    """A camera or a network stream. A thread reads it continuously and keeps only the newest frame."""

    live = True

    def __init__(self, text: str) -> None:
        """Open a camera number or a URL. Raises ValueError if that fails."""
        super().__init__(text)
        # Messages and segments.jsonl must not reveal the user and password of a URL.
        self.label = re.sub(r"//[^/@]*@", "//", self.label)
        if not files.is_utf8(text):
            raise ValueError(f"{self.label} is not UTF-8; write other bytes of a URL as %NN")
        hint = f"; for the file or folder of this name give SOURCE ./{self.label}" if os.path.lexists(text) else ""
        self._arrived = threading.Condition()
        self._newest: tuple[int, cv2.typing.MatLike, float] | None = None
        """Number, BGR array and time of the newest frame that was not yet yielded. Guarded by `_arrived`."""
        self._capture = self._open()
        if not self._capture.isOpened():
            raise ValueError(
                f"{self.label} can't be opened; check that the camera is there, or that URL and server are right{hint}"
            )
        if hint:
            log.info("%s is read as a camera's number or a URL%s", self.label, hint)
        stated_fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        # Some streams state the rate of a clock, or none. The recording writes frames by their arrival time, so the
        # duration is right at any rate.
        self.fps = stated_fps if 1 <= stated_fps <= 240 else FrameSource.fps

    def _open(self) -> cv2.VideoCapture:
        if self.text.isdigit():
            return cv2.VideoCapture(int(self.text))
        timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS]
        return cv2.VideoCapture(self.text, cv2.CAP_FFMPEG, timeouts)

    def _keep_reading(self) -> None:
        """Read frames until `stop`, and open the source again when it is lost. Runs in a thread."""
        number, attempts, failures = 0, 0, 0
        while not self._stopped.is_set():
            bgr = _read(self._capture)
            if bgr is not None:
                attempts = failures = 0
                with self._arrived:
                    self.dropped += self._newest is not None
                    self._newest = (number, bgr, time.perf_counter())
                    self._arrived.notify()
                number += 1
                continue
            if failures < MAX_LIVE_FAILURES and self._capture.isOpened():
                failures += 1
                continue
            pause_s = PAUSES_S[min(attempts, len(PAUSES_S) - 1)]
            attempts += 1
            log.warning("%s is lost; it is opened again in %g s (attempt %d)", self.label, pause_s, attempts)
            self._capture.release()
            if not self._stopped.wait(pause_s):
                failures = 0
                self._capture = self._open()

    def __iter__(self) -> Iterator[SourceFrame]:
        reader = threading.Thread(target=self._keep_reading, daemon=True)
        reader.start()
        try:
            while not self._stopped.is_set():
                with self._arrived:
                    self._arrived.wait_for(lambda: self._newest is not None or self._stopped.is_set(), timeout=0.5)
                    newest, self._newest = self._newest, None
                if newest is not None:
                    number, bgr, arrived_s = newest
                    yield SourceFrame(f"{self.label}:{number}", self._to_rgb(bgr), arrived_s)
        finally:
            self.stop()
            reader.join(timeout=1)
            # A thread that waits for a stalled stream still uses the capture.
            if not reader.is_alive():
                self._capture.release()


def _read(capture: cv2.VideoCapture) -> "cv2.typing.MatLike | None":
    """Return the next frame, uint8 [H, W, 3] in BGR, or None if it can't be read."""
    try:
        good, bgr = capture.read()
    except cv2.error:
        return None
    return bgr if good else None
