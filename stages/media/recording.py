"""What `predict` writes: overlay.mp4 or a PNG for each picture, and segments.jsonl."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from stages.foundation import files
from stages.inference import frames
from stages.inference.segments import Segments
from stages.media.sources import Picture, Source

VIDEO, SEGMENTS = "overlay.mp4", "segments.jsonl"
OUTAGE_S = 2.0
"""Of a live source's time that one picture fills at most."""


def describe(picture: Picture, found: Segments, categories: dict[int, dict[str, Any]], latency_ms: float) -> str:
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
    content = {"picture": picture.name, "height_px": height, "width_px": width, "latency_ms": round(latency_ms, 2)}
    return json.dumps({**content, "segments": segments})


class Recording:
    """Files of a run in one folder. Leave its `with` block and what was written is whole, also after an error."""

    def __init__(self, folder: Path, source: Source) -> None:
        """Make the folder. A source of pictures gets a PNG for each, another a video.

        Raises ValueError where the folder holds the source itself.
        """
        given = Path(source.text)
        if (given if given.is_dir() else given.parent).resolve() == folder.resolve() and not source.live:
            raise ValueError(f"{folder} holds the source's own files; give OUT another folder")
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._source = folder, source
        # Beside their places, so that a former run's files stay until this one's are whole.
        self._drafts = {name: folder / f".part.{name}" for name in (VIDEO, SEGMENTS)}
        for draft in self._drafts.values():
            draft.unlink(missing_ok=True)
        self._lines = self._drafts[SEGMENTS].open("w", encoding="utf-8")
        self._video: Any = None
        self._size = (0, 0)
        self._begun, self._written = 0.0, 0

    def __enter__(self) -> "Recording":
        return self

    def write(self, picture: Picture, painted: frames.Frame, line: str) -> None:
        """Add a picture with its overlay, uint8 [H, W, 3], RGB, and its line of segments.jsonl.

        Raises OSError where a PNG can't be written, and RuntimeError where this OpenCV can't write MP4.
        """
        self._lines.write(line + "\n")
        bgr = cv2.cvtColor(painted, cv2.COLOR_RGB2BGR)
        if self._source.still:
            with files.aside(self._folder / f"{picture.name}.png") as draft:
                draft.write_bytes(cv2.imencode(".png", bgr)[1].tobytes())
            return
        if self._video is None:
            self._size, self._begun = (bgr.shape[1], bgr.shape[0]), picture.taken
            draft = self._drafts[VIDEO]
            self._video = cv2.VideoWriter(str(draft), cv2.VideoWriter.fourcc(*"mp4v"), self._source.fps, self._size)
            if not self._video.isOpened():
                raise RuntimeError(f"this OpenCV can't write {draft} (MPEG-4); leave OUT away, or use another OpenCV")
        # A stream may come back in another size, which a video file can't follow.
        shown = bgr if (bgr.shape[1], bgr.shape[0]) == self._size else cv2.resize(bgr, self._size)
        for _ in range(self._times(picture)):
            self._video.write(shown)
            self._written += 1

    def _times(self, picture: Picture) -> int:
        """How often a picture is written: of a live source as often as its time has frames, but for long outages."""
        if not self._source.live:
            return 1
        due = round((picture.taken - self._begun) * self._source.fps) + 1
        return max(1, min(due - self._written, round(OUTAGE_S * self._source.fps)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the files and move them into place."""
        self._lines.close()
        self._drafts[SEGMENTS].replace(self._folder / SEGMENTS)
        if self._video is not None:
            self._video.release()
            if self._drafts[VIDEO].exists():
                self._drafts[VIDEO].replace(self._folder / VIDEO)
