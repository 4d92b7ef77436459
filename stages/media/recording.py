"""What `predict` writes: overlay.mp4 or a PNG for each picture, and segments.jsonl."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from stages.media.sources import Picture
from stages.runtime import frames
from stages.runtime.segments import Segments

VIDEO, SEGMENTS = "overlay.mp4", "segments.jsonl"


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

    def __init__(self, folder: Path, fps: float, still: bool) -> None:
        """Make the folder. `still`: a PNG for each picture instead of a video."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._fps, self._still = folder, fps, still
        # Beside their places, so that a former run's files stay until this one's are whole.
        self._drafts = {
            name: folder / f".{name.partition('.')[0]}.part.{name.rpartition('.')[2]}" for name in (VIDEO, SEGMENTS)
        }
        self._lines = self._drafts[SEGMENTS].open("w", encoding="utf-8")
        self._video: Any = None
        self._size = (0, 0)

    def __enter__(self) -> "Recording":
        return self

    def write(self, picture: Picture, painted: frames.Frame, line: str) -> None:
        """Add a picture with its overlay, uint8 [H, W, 3], RGB, and its line of segments.jsonl.

        Raises RuntimeError where this OpenCV can't write MP4.
        """
        self._lines.write(line + "\n")
        bgr = cv2.cvtColor(painted, cv2.COLOR_RGB2BGR)
        if self._still:
            cv2.imwrite(str(self._folder / f"{Path(picture.name).stem}.png"), bgr)
            return
        if self._video is None:
            self._size = (bgr.shape[1], bgr.shape[0])
            draft = str(self._drafts[VIDEO])
            self._video = cv2.VideoWriter(draft, cv2.VideoWriter.fourcc(*"mp4v"), self._fps, self._size)
            if not self._video.isOpened():
                raise RuntimeError(f"this OpenCV can't write {draft} (MPEG-4); leave OUT away, or use another OpenCV")
        # A stream may come back in another size, which a video file can't follow.
        self._video.write(bgr if (bgr.shape[1], bgr.shape[0]) == self._size else cv2.resize(bgr, self._size))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the files and move them into place."""
        self._lines.close()
        if self._video is not None:
            self._video.release()
        for name, draft in self._drafts.items():
            if draft.exists():
                draft.replace(self._folder / name)
