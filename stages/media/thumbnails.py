"""Small pictures of a panoptic set with its maps drawn over them, for the report and for releases."""

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from stages.coco import panoptic
from stages.foundation.coco_types import SegmentInfo
from stages.inference import frames
from stages.inference.segments import Segments
from stages.media import drawing

MAX_WIDTH_PX = 480
"""Width of a picture: sharp in a quarter of a page on a dense display, and small."""
JPEG_QUALITY = 88


def spread(count: int, wanted: int) -> list[int]:
    """Return the indices of at most `wanted` of `count` items: the centres of as many equal parts."""
    wanted = min(count, wanted)
    return [(2 * k + 1) * count // (2 * wanted) for k in range(wanted)]


def shrink(picture: frames.Frame) -> frames.Frame:
    """Return a picture, uint8 [H, W, 3], that is at most MAX_WIDTH_PX wide."""
    height, width = picture.shape[:2]
    if width <= MAX_WIDTH_PX:
        return picture
    size = (MAX_WIDTH_PX, max(1, round(height * MAX_WIDTH_PX / width)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def draw_map(picture: frames.Frame, entry: panoptic.Entry, painter: drawing.Painter) -> frames.Frame:
    """Draw the map of an entry over its picture, shrunk or not. Raises ValueError for a map that can't be read."""
    height, width = picture.shape[:2]
    ids = cv2.resize(panoptic.read_ids(entry.png), (width, height), interpolation=cv2.INTER_NEAREST)
    return overlay(picture, np.asarray(ids, np.int32), entry.segments, painter)


def overlay(
    picture: frames.Frame, ids: npt.NDArray[np.int32], segments: Sequence[SegmentInfo], painter: drawing.Painter
) -> frames.Frame:
    """Draw segments, ids int32 [H, W], over a picture, uint8 [H, W, 3]. Things take their shades from left to right."""
    category_ids = {segment["id"]: segment["category_id"] for segment in segments}
    return painter.overlay(picture, Segments(ids, drawing.from_left_to_right(ids, category_ids)))


def jpeg(picture: frames.Frame) -> bytes:
    """Encode a picture, uint8 [H, W, 3], RGB, as JPEG. Raises ValueError if it can't be encoded."""
    # Colour in full resolution: at half of it thin lines would smear.
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    ok, content = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), options)
    if not ok:
        raise ValueError(f"a picture of shape {picture.shape} can't be encoded as JPEG")
    return content.tobytes()
