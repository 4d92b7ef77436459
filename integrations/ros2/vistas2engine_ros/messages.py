"""Converts ROS messages to pictures and maps of segments to the fields of messages. Needs NumPy and OpenCV, but no ROS.

A message is any object with the fields of sensor_msgs, such as one of rclpy or of the package rosbags.
"""

import json
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from stages.foundation import picture_files
from stages.foundation.picture_files import Rgb
from stages.inference.segments import Segments
from stages.media import segment_list

ENCODINGS: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    # OpenCV names a pattern by the second row, from its second column on.
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2RGB),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUYV),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUYV),
}
"""Encoding of sensor_msgs/image_encodings.hpp -> bytes of a pixel, and OpenCV's conversion to RGB."""
MAX_MONO8, MAX_MONO16 = 255, 65535
PNG, PNG_DEPTH_AT = b"\x89PNG\r\n\x1a\n", 24
"""First bytes of a PNG, and the place of its bits per channel (ISO/IEC 15948, IHDR)."""


def picture(message: Any, out: Rgb | None = None) -> Rgb:
    """Return the picture of a sensor_msgs/Image, uint8 [H, W, 3], RGB; in `out` if that has its shape.

    Raises ValueError for an encoding that is not in ENCODINGS, and for a message whose sizes disagree.
    """
    if message.encoding not in ENCODINGS:
        raise ValueError(
            f"encoding {message.encoding!r} is not read, expected one of {', '.join(ENCODINGS)}; set one in the "
            "camera's driver, or convert the topic"
        )
    channels, conversion = ENCODINGS[message.encoding]
    height, width, step = message.height, message.width, message.step
    data = np.frombuffer(message.data, np.uint8)
    if not height or not width or step < width * channels or len(data) != height * step:
        raise ValueError(
            f"found {len(data)} bytes and rows of {step} bytes for {width} x {height} pixels in {message.encoding}, "
            f"expected {height} rows of at least {width * channels} bytes; the publisher of the topic is at fault"
        )
    if channels == 2 and width % 2:
        raise ValueError(f"found {width} columns in {message.encoding}, expected an even number")
    rows = data.reshape(height, step)[:, : width * channels]
    pixels = np.ascontiguousarray(rows).reshape(height, width, *([channels] if channels > 1 else []))
    target = out if out is not None and out.shape == (height, width, 3) else np.empty((height, width, 3), np.uint8)
    if conversion is None:
        np.copyto(target, pixels)
        return target
    return np.asarray(cv2.cvtColor(pixels, conversion, dst=target), np.uint8)


def compressed_picture(message: Any) -> Rgb:
    """Return the picture of a sensor_msgs/CompressedImage, uint8 [H, W, 3], RGB, as its pixels are stored.

    It is not turned by EXIF, so its map has the pixels of the camera's calibration. Raises ValueError for bytes that
    are no whole picture, and for those of a depth camera.
    """
    content = bytes(message.data)
    deep = content.startswith(PNG) and len(content) > PNG_DEPTH_AT and content[PNG_DEPTH_AT] == 16
    if deep or "compressedDepth" in message.format:
        raise ValueError(f"format {message.format!r} with 16 bits, as of depth, expected a picture of 8 bits in colour")
    return picture_files.decode(content)


def segment_ids(found: Segments) -> npt.NDArray[np.uint16]:
    """Return the map of segment ids, uint16 [H, W], 0 for void. Raises ValueError if an id needs more bits."""
    if (largest := int(found.ids.max(initial=0))) > MAX_MONO16:
        raise ValueError(f"segment id {largest} does not fit mono16, expected at most {MAX_MONO16}")
    return found.ids.astype("<u2")


def classes(found: Segments) -> npt.NDArray[np.uint8]:
    """Return the map of category_ids, uint8 [H, W], 0 for void. Raises ValueError if one needs more bits."""
    table = np.zeros(int(found.ids.max(initial=0)) + 1, np.uint8)
    for segment, category_id in found.category_ids.items():
        if category_id > MAX_MONO8:
            raise ValueError(f"category_id {category_id} does not fit mono8, expected at most {MAX_MONO8}")
        if segment < len(table):
            table[segment] = category_id
    return table[found.ids]


def image_fields(header: Any, pixels: npt.NDArray[np.generic], encoding: str) -> dict[str, Any]:
    """Return the fields of a sensor_msgs/Image without `data`, which are the bytes of `pixels`, [H, W] or [H, W, 3]."""
    height, width = pixels.shape[:2]
    step = pixels[0].nbytes
    about = {"height": height, "width": width, "encoding": encoding, "is_bigendian": 0, "step": step}
    return {"header": header, **about}


def segments_json(header: Any, found: Segments, categories: dict[int, Any], latency_ms: float | None = None) -> str:
    """Return the segments of a frame as JSON, with the frame's stamp (docs/ros2.md)."""
    height, width = found.ids.shape
    stamp = {"sec": int(header.stamp.sec), "nanosec": int(header.stamp.nanosec)}
    content: dict[str, Any] = {"header": {"stamp": stamp, "frame_id": header.frame_id}}
    content |= {"height_px": height, "width_px": width}
    if latency_ms is not None:
        content["latency_ms"] = round(latency_ms, 2)
    return json.dumps({**content, "segments": segment_list.rows(found, categories)})
