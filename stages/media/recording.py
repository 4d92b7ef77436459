"""Writes the output of `predict`: overlay.mp4 or one PNG for each picture, and segments.jsonl (docs/outputs.md)."""

import contextlib
import json
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import cv2

from stages.foundation import files, locks, ownership
from stages.inference import frames
from stages.inference.segments import Segments
from stages.media import file_names, segment_list, video_files
from stages.media.frame_sources import FrameSource, SourceFrame

log = logging.getLogger(__name__)

VIDEO_NAME, SEGMENTS_NAME = "overlay.mp4", "segments.jsonl"
PICTURE_DRAFT = "picture.png"
"""Name of a PNG's draft. The PNG's own name may be too long to add a prefix to it."""
MAX_REPEAT_S = 2.0
"""Longest time in the overlay for which one frame of a live source is repeated."""
RATE_TOLERANCE = 2e-3
"""Relative difference allowed between the wanted and the written frame rate: OpenCV writes 1/3 as 0.333."""
TIME_TOLERANCE_S = 0.1
"""A frame of overlay.mp4 may be this far off its time without a warning."""


def describe(
    frame: SourceFrame, found: Segments, rows: Sequence[segment_list.Row], latency_ms: float | None = None
) -> str:
    """Return the line of segments.jsonl for a frame: a JSON object without a line end (docs/outputs.md).

    `rows` are those of `found`.
    """
    height, width = found.ids.shape
    name = file_names.unicode_name(frame.name)
    content: dict[str, object] = {"picture": name, "height_px": height, "width_px": width}
    if latency_ms is not None:
        content["latency_ms"] = round(latency_ms, 2)
    return json.dumps({**content, "segments": rows})


def writable_rate(fps: float) -> tuple[float, int]:
    """Return the rate at which OpenCV can write a video of `fps` frames per second, and how often to write each frame.

    OpenCV rounds a rate to 0.001 frames per second, which is too coarse for some rates below 1. For these each frame
    is written several times, at a multiple of the rate.
    """
    if fps >= 1 or (fps > 0.001 and abs(round(fps, 3) - fps) <= RATE_TOLERANCE * fps):
        return fps, 1
    repeats = math.ceil(1 / fps)
    return repeats * fps, repeats


def write_png(path: Path, overlay: frames.Frame) -> None:
    """Write an overlay, uint8 [H, W, 3] in RGB, as a PNG. Raises OSError if it can't be written."""
    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR))[1].tobytes())


class _VideoWriter:
    """Writes an MPEG-4 file of one frame size and one rate."""

    def __init__(self, draft: Path, size: tuple[int, int], fps: float) -> None:
        """Open the file. `size` is (width, height) in pixels. Raises RuntimeError if this OpenCV can't write it."""
        self.rate, self.repeats = writable_rate(fps)
        self.written = 0
        self._draft, self._size = draft, size
        with file_names.descriptor_path(draft.parent, os.O_DIRECTORY) as folder:
            name = f"{folder}/{draft.name}"
            self._writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*"mp4v"), self.rate, size)
        if not self._writer.isOpened():
            raise RuntimeError(
                f"this OpenCV can't write {files.printable(draft)}: found {size[0]} x {size[1]} pixels, "
                f"{self.rate:g} frames a second, expected MPEG-4 of at most 8191 x 8191 pixels; leave OUT away, or use "
                "another OpenCV"
            )

    def write(self, bgr: "cv2.typing.MatLike", times: int) -> None:
        """Write a frame, uint8 [H, W, 3] in BGR, `times` times."""
        # A stream may come back with another frame size, but a video file has one size.
        frame = bgr if (bgr.shape[1], bgr.shape[0]) == self._size else cv2.resize(bgr, self._size)
        for _ in range(times):
            self._writer.write(frame)
            self.written += 1

    def close(self) -> None:
        """Finish the file. Raises RuntimeError if it is incomplete.

        OpenCV's writer reports no errors, such as a full disk, so the file is read back: its length and its rate, that
        all parts of it are there, and its first and its last frame.
        """
        self._writer.release()
        count, rate, missing = 0.0, 0.0, video_files.damage(self._draft)
        if not missing:
            with file_names.descriptor_path(self._draft) as name:
                reader = cv2.VideoCapture(name)
                count, rate = reader.get(cv2.CAP_PROP_FRAME_COUNT), reader.get(cv2.CAP_PROP_FPS)
                for position in sorted({0, int(count) - 1}):
                    reader.set(cv2.CAP_PROP_POS_FRAMES, position)
                    if not reader.read()[0]:
                        missing = f"frame {position} can't be read"
                reader.release()
        # OpenCV's readers other than FFmpeg compute the count from the duration and may be off by 1.
        if missing or abs(count - self.written) > 1 or abs(rate - self.rate) > RATE_TOLERANCE * self.rate:
            raise RuntimeError(
                f"{files.printable(self._draft)} could not be written whole: expected {self.written} frames, "
                f"{self.rate:g} a second, found {missing or f'{count:g}, {rate:g} a second'}; is the disk full?"
            )


class Recording:
    """The output folder of a run, as a context manager.

    Leaving the `with` block finishes the files and moves them into place, also after an exception. A run that wrote no
    frame leaves the folder as it was.
    """

    def __init__(self, folder: Path, source: FrameSource) -> None:
        """Create the folder. Picture files get one PNG each; other sources get a video.

        Raises ValueError if the source's own files are in the folder, if a file there that we did not write has the
        name of one that this run writes, and if the folder is a file or its name is too long. Raises LockedError if
        another process writes there.
        """
        file_names.check_folder(folder)
        given = Path(source.text)
        homes = [given] if given.is_dir() else [given.parent, given.resolve().parent]
        if not source.live and folder.resolve() in [home.resolve() for home in homes]:
            raise ValueError(f"{files.printable(folder)} contains the files of SOURCE; give OUT another folder")
        self._created = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._source = folder, source
        # Drafts lie beside their destinations, so an earlier run's files stay until this run's are complete.
        self._drafts = {name: folder / f".part.{name}" for name in (VIDEO_NAME, SEGMENTS_NAME, PICTURE_DRAFT)}
        self._first: SourceFrame | None = None
        with contextlib.ExitStack() as stack:
            stack.callback(self._remove_folder)
            stack.enter_context(locks.held(folder / SEGMENTS_NAME))
            self._record = ownership.Record(folder)
            for name in (
                SEGMENTS_NAME,
                *([] if source.still else [VIDEO_NAME]),
                *map(file_names.png_name, source.names),
            ):
                self._require_ours(name)
            for draft in self._drafts.values():
                draft.unlink(missing_ok=True)
            self._lines = self._drafts[SEGMENTS_NAME].open("w", encoding="utf-8")
            self._opened = stack.pop_all()
        self._video: _VideoWriter | None = None
        self._latest_s, self._offset_s, self._max_offset_s = -math.inf, 0.0, 0.0
        """Seconds, for a recorded video: the latest presentation time, the offset of that frame in the overlay, and the
        largest offset."""

    def __enter__(self) -> "Recording":
        return self

    def write(self, frame: SourceFrame, overlay: frames.Frame, line: str) -> None:
        """Add a frame: its overlay, uint8 [H, W, 3] in RGB, and its line of segments.jsonl.

        Raises OSError if a PNG can't be written, and RuntimeError if this OpenCV can't write MPEG-4.
        """
        first = self._first or frame
        if self._source.still:
            write_png(self._drafts[PICTURE_DRAFT], overlay)
            self._move(PICTURE_DRAFT, file_names.png_name(frame.name))
        else:
            bgr = cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR)
            if self._video is None:
                self._video = _VideoWriter(self._drafts[VIDEO_NAME], (bgr.shape[1], bgr.shape[0]), self._source.fps)
            if (
                frame.video_time_s is not None
                and first.video_time_s is not None
                and frame.video_time_s > self._latest_s
            ):
                self._latest_s = frame.video_time_s
                elapsed_s = frame.video_time_s - first.video_time_s
                self._offset_s = abs(self._video.written / self._video.rate - elapsed_s)
                self._max_offset_s = max(self._max_offset_s, self._offset_s)
            self._video.write(bgr, self._repeats(frame, first, self._video))
        self._lines.write(line + "\n")
        self._first = first

    def _repeats(self, frame: SourceFrame, first: SourceFrame, video: _VideoWriter) -> int:
        """Return how often a frame is written.

        A live source's frame fills the time since the frame before it, up to MAX_REPEAT_S, so that the overlay lasts
        as long as the source did.
        """
        if not self._source.live:
            return video.repeats
        due = round((frame.arrived_s - first.arrived_s) * video.rate) + 1
        return max(1, min(due - video.written, round(MAX_REPEAT_S * video.rate)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the files and move them into place. Raises OSError or RuntimeError if they could not be written."""
        with self._opened:
            try:
                self._lines.close()
                if self._video is not None:
                    self._video.close()
                if self._first is None:
                    return
                if self._video is not None:
                    self._move(VIDEO_NAME, VIDEO_NAME)
                    self._warn_of_offsets()
                self._move(SEGMENTS_NAME, SEGMENTS_NAME)
            finally:
                for draft in self._drafts.values():
                    draft.unlink(missing_ok=True)

    def _move(self, draft_name: str, name: str) -> None:
        """Move a draft into place. Raises ValueError if a file that we did not write has come there."""
        self._require_ours(name)
        draft = self._drafts[draft_name]
        self._record.add(name, draft.stat().st_size)
        draft.replace(self._folder / name)

    def _require_ours(self, name: str) -> None:
        if not self._record.owns(name):
            raise ValueError(
                f"{files.printable(self._folder / name)} is there, and this command did not write it; give OUT another "
                "folder, or move that file away"
            )

    def _remove_folder(self) -> None:
        """Remove the folder if this run created it and wrote no frame."""
        if self._first is None and self._created:
            with contextlib.suppress(OSError):
                self._folder.rmdir()

    def _warn_of_offsets(self) -> None:
        """Log a warning if frames of a recorded video are not at their own times in the overlay."""
        if self._max_offset_s > max(TIME_TOLERANCE_S, 1.5 / self._source.fps):
            log.warning(
                f"{self._source.label}: the times between frames vary, or some are missing; {VIDEO_NAME} shows each "
                f"for 1/{self._source.fps:g} s: up to {self._max_offset_s:.2f} s off its time, the last one "
                f"{self._offset_s:.2f} s"
            )
