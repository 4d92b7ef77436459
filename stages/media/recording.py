"""What `predict` writes: overlay.mp4 or a PNG for each picture, and segments.jsonl."""

import contextlib
import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from stages.foundation import files
from stages.foundation.coco_types import Category
from stages.inference import frames
from stages.inference.segments import Segments
from stages.media import names
from stages.media.sources import Picture, Source

log = logging.getLogger(__name__)

VIDEO, SEGMENTS = "overlay.mp4", "segments.jsonl"
PICTURE = "picture.png"
"""Draft of a PNG, whose own name may have no room for more."""
OUTAGE_S = 2.0
"""Of a live source's time that one picture fills at most."""
RATE_TOLERANCE = 2e-3
"""Of a video's rate, relative: as OpenCV writes 1/3."""
TIME_TOLERANCE_S = 0.1
"""By which a frame of overlay.mp4 may be off its time without a word."""


def describe(picture: Picture, found: Segments, categories: Mapping[int, Category], latency_ms: float) -> str:
    """A line of segments.jsonl: the picture's name and size, and of each segment class and area."""
    areas = np.bincount(found.ids.ravel())
    segments = [
        {
            "id": segment,
            "category_id": category_id,
            "category": categories[category_id]["name"],
            "isthing": categories[category_id]["isthing"],
            "area_px": int(areas[segment]),
        }
        for segment, category_id in found.category_ids.items()
        if segment < len(areas) and areas[segment]
    ]
    height, width = found.ids.shape
    name = names.unicode_name(picture.name)
    content = {"picture": name, "height_px": height, "width_px": width, "latency_ms": round(latency_ms, 2)}
    return json.dumps({**content, "segments": segments})


def writable_rate(fps: float) -> tuple[float, int]:
    """The rate of a video file for frames of rate `fps`, and how often each is written.

    OpenCV brings a rate to a fraction, to 0.001 frames a second, which is too coarse for some rates below 1.
    """
    if fps >= 1 or (fps > 0.001 and abs(round(fps, 3) - fps) <= RATE_TOLERANCE * fps):
        return fps, 1
    times = math.ceil(1 / fps)
    return times * fps, times


class _Video:
    """An MPEG-4 file of one size and rate."""

    def __init__(self, draft: Path, size: tuple[int, int], fps: float) -> None:
        """`size`: width, height. Raises RuntimeError where this OpenCV can't write it."""
        self.rate, self.repeats = writable_rate(fps)
        self.written = 0
        self._draft, self._size = draft, size
        with names.descriptor_path(draft.parent, os.O_DIRECTORY) as folder:
            name = f"{folder}/{draft.name}"
            self._writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"mp4v"), self.rate, size)
        if not self._writer.isOpened():
            raise RuntimeError(
                f"this OpenCV can't write {draft} (MPEG-4, at most 8191 x 8191 pixels, here {size[0]} x {size[1]}, "
                f"{self.rate:g} frames a second); leave OUT away, or use another OpenCV"
            )

    def write(self, bgr: Any, times: int) -> None:
        # A stream may come back in another size, which a video file can't follow.
        shown = bgr if (bgr.shape[1], bgr.shape[0]) == self._size else cv2.resize(bgr, self._size)
        for _ in range(times):
            self._writer.write(shown)
            self.written += 1

    def close(self) -> None:
        """Finish the file and read it back, as OpenCV's writer tells no error. Raises RuntimeError if it is cut."""
        self._writer.release()
        with names.descriptor_path(self._draft) as name:
            found = cv2.VideoCapture(name)
            count, rate = found.get(cv2.CAP_PROP_FRAME_COUNT), found.get(cv2.CAP_PROP_FPS)
            found.release()
        # Other readers than FFmpeg count frames by the duration.
        if abs(count - self.written) > 1 or abs(rate - self.rate) > RATE_TOLERANCE * self.rate:
            raise RuntimeError(
                f"{self._draft} could not be written whole: expected {self.written} frames, {self.rate:g} a second, "
                f"found {max(0, count):g}, {max(0, rate):g} a second; is the disk full?"
            )


class Recording:
    """Files of a run in one folder. Leave its `with` block and what was written is whole, also after an error.

    A run without a picture leaves the folder as it was.
    """

    def __init__(self, folder: Path, source: Source) -> None:
        """Make the folder. A source of pictures gets a PNG for each, another a video.

        Raises ValueError where the folder holds the source itself.
        """
        given = Path(source.text)
        homes = [given] if given.is_dir() else [given.parent, given.resolve().parent]
        if not source.live and folder.resolve() in [home.resolve() for home in homes]:
            raise ValueError(f"{folder} holds the source's own files; give OUT another folder")
        self._made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._source = folder, source
        # Beside their places, so that a former run's files stay until this one's are whole.
        self._drafts = {name: folder / f".part.{name}" for name in (VIDEO, SEGMENTS, PICTURE)}
        for draft in self._drafts.values():
            draft.unlink(missing_ok=True)
        self._lines = self._drafts[SEGMENTS].open("w", encoding="utf-8")
        self._first: Picture | None = None
        self._video: _Video | None = None
        self._latest_s, self._off_s, self._most_off_s = -math.inf, 0.0, 0.0

    def __enter__(self) -> "Recording":
        return self

    def write(self, picture: Picture, painted: frames.Frame, line: str) -> None:
        """Add a picture with its overlay, uint8 [H, W, 3], RGB, and its line of segments.jsonl.

        Raises OSError where a PNG can't be written, and RuntimeError where this OpenCV can't write MP4.
        """
        bgr = cv2.cvtColor(painted, cv2.COLOR_RGB2BGR)
        first = self._first or picture
        if self._source.still:
            draft = self._drafts[PICTURE]
            draft.write_bytes(cv2.imencode(".png", bgr)[1].tobytes())
            draft.replace(self._folder / names.png_name(picture.name))
        else:
            if self._video is None:
                self._video = _Video(self._drafts[VIDEO], (bgr.shape[1], bgr.shape[0]), self._source.fps)
            if picture.time_s is not None and first.time_s is not None and picture.time_s > self._latest_s:
                self._latest_s = picture.time_s
                self._off_s = abs(self._video.written / self._video.rate - (picture.time_s - first.time_s))
                self._most_off_s = max(self._most_off_s, self._off_s)
            self._video.write(bgr, self._times(picture, first, self._video))
        self._lines.write(line + "\n")
        self._first = first

    def _times(self, picture: Picture, first: Picture, video: _Video) -> int:
        """How often a picture is written: of a live source as often as its time has frames, but for long outages."""
        if not self._source.live:
            return video.repeats
        due = round((picture.taken - first.taken) * video.rate) + 1
        return max(1, min(due - video.written, round(OUTAGE_S * video.rate)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the files and move them into place. Raises OSError or RuntimeError where the disk didn't take them."""
        try:
            self._lines.close()
            if self._video is not None:
                self._video.close()
            if self._first is None:
                return
            if self._video is not None:
                self._drafts[VIDEO].replace(self._folder / VIDEO)
                self._say_times()
            self._drafts[SEGMENTS].replace(self._folder / SEGMENTS)
        finally:
            for draft in self._drafts.values():
                draft.unlink(missing_ok=True)
            if self._first is None and self._made:
                with contextlib.suppress(OSError):
                    self._folder.rmdir()

    def _say_times(self) -> None:
        """A word where frames of a recorded source do not come at their own times."""
        if self._most_off_s > max(TIME_TOLERANCE_S, 1.5 / self._source.fps):
            log.warning(
                files.printable(
                    f"{self._source.text}: the times between frames vary, or some are missing; {VIDEO} shows each for "
                    f"1/{self._source.fps:g} s: up to {self._most_off_s:.2f} s off its time, the last one "
                    f"{self._off_s:.2f} s"
                )
            )
