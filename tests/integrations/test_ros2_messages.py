"""Pictures of ROS messages and fields of messages, without ROS."""

import json
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from vistas2engine_ros import messages
from vistas2engine_ros.newest import Newest, is_late

from stages.inference.segments import Segments

COLOR = (200, 100, 50)
SIZE = (8, 12)


def image(pixels: np.ndarray, encoding: str, padding: int = 0) -> Any:
    rows = np.pad(pixels.reshape(len(pixels), -1), ((0, 0), (0, padding)), constant_values=99)
    return SimpleNamespace(
        height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, step=rows.shape[1], data=rows.tobytes()
    )


def mosaic(pattern: str) -> np.ndarray:
    """A plane of COLOR under a pattern such as rggb: the colours of the first two rows and columns."""
    plane = np.zeros(SIZE, np.uint8)
    for place, color in enumerate(pattern):
        plane[place // 2 :: 2, place % 2 :: 2] = COLOR["rgb".index(color)]
    return plane


def encoded(encoding: str) -> np.ndarray:
    rgb = np.full((*SIZE, 3), COLOR, np.uint8)
    if encoding.startswith("bayer_"):
        return mosaic(encoding[len("bayer_") : -1])
    # ITU-R BT.601 with limited range, as cameras send it.
    y, u, v = 123, 91, 175
    packed = {"yuv422": (u, y, v, y), "uyvy": (u, y, v, y), "yuv422_yuy2": (y, u, y, v), "yuyv": (y, u, y, v)}
    if encoding in packed:
        return np.tile(np.array(packed[encoding], np.uint8), (SIZE[0], SIZE[1] // 2)).reshape(*SIZE, 2)
    if encoding == "mono8":
        return np.full(SIZE, 100, np.uint8)
    order = {"rgb8": [0, 1, 2], "bgr8": [2, 1, 0], "rgba8": [0, 1, 2, 0], "bgra8": [2, 1, 0, 0]}[encoding]
    return np.ascontiguousarray(rgb[..., order])


@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("encoding", messages.ENCODINGS)
def test_every_encoding_has_its_colours_in_order(encoding: str, padding: int) -> None:
    message = image(encoded(encoding), encoding, padding)
    found = messages.picture(message)
    wanted = (100, 100, 100) if encoding == "mono8" else COLOR
    assert found.shape == (*SIZE, 3)
    # OpenCV copies the edges of a mosaic from their neighbours, and YUV rounds.
    assert np.abs(found.astype(int) - wanted).max() <= 3
    room = np.zeros((*SIZE, 3), np.uint8)
    assert np.shares_memory(messages.picture(message, room), room)
    np.testing.assert_array_equal(room, found)
    other = np.zeros((4, 4, 3), np.uint8)
    np.testing.assert_array_equal(messages.picture(message, other), found)
    assert not other.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoding": "8UC3"}, "encoding '8UC3' is not read, expected one of rgb8"),
        ({"encoding": "mono16"}, "encoding 'mono16' is not read"),
        ({"encoding": "rgba8"}, "found 288 bytes and rows of 36 bytes for 12 x 8 pixels in rgba8"),
        ({"data": b"short"}, "found 5 bytes"),
        ({"height": 0}, "found 288 bytes and rows of 36 bytes for 12 x 0 pixels"),
        ({"height": 7}, "expected 7 rows of at least 36 bytes"),
        ({"encoding": "uyvy", "width": 11}, "found 11 columns in uyvy, expected an even number"),
    ],
)
def test_a_message_that_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        messages.picture(SimpleNamespace(**{**vars(image(encoded("rgb8"), "rgb8")), **change}))


def test_compressed_pictures_of_colour_are_read_and_those_of_depth_are_not() -> None:
    rgb = np.full((*SIZE, 3), COLOR, np.uint8)
    png = cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()
    found = messages.compressed_picture(SimpleNamespace(format="rgb8; png compressed bgr8", data=png))
    np.testing.assert_array_equal(found, rgb)
    deep = cv2.imencode(".png", np.full(SIZE, 40_000, np.uint16))[1].tobytes()
    for data, name in ((deep, "16UC1; png compressed"), (b"\0" * 12 + deep, "16UC1; compressedDepth png")):
        with pytest.raises(ValueError, match="with 16 bits, as of depth"):
            messages.compressed_picture(SimpleNamespace(format=name, data=data))
    with pytest.raises(ValueError, match="not a complete picture"):
        messages.compressed_picture(SimpleNamespace(format="png", data=png[: len(png) // 2]))


def test_maps_have_ids_and_classes_and_zero_for_void() -> None:
    found = Segments(np.array([[0, 1], [300, 2]], np.int32), {1: 7, 2: 255, 300: 3, 999: 4}, {1: 0.5})
    assert messages.segment_ids(found).tolist() == [[0, 1], [300, 2]]
    assert messages.classes(found).tolist() == [[0, 7], [3, 255]]
    header = SimpleNamespace(stamp=SimpleNamespace(sec=5, nanosec=6), frame_id="c")
    fields = messages.image_fields(header, messages.segment_ids(found), "mono16")
    assert (fields["height"], fields["width"], fields["step"], fields["is_bigendian"]) == (2, 2, 4, 0)
    categories = {c: {"name": f"n{c}", "isthing": 1} for c in (7, 255, 3, 4)}
    line = json.loads(messages.segments_json(header, found, categories, 1.234))
    assert line["header"] == {"stamp": {"sec": 5, "nanosec": 6}, "frame_id": "c"}
    assert line["latency_ms"] == 1.23
    assert [(s["id"], s["category_id"], s["score"]) for s in line["segments"]] == [
        (1, 7, 0.5),
        (2, 255, None),
        (300, 3, None),
    ]
    with pytest.raises(ValueError, match="segment id 70000 does not fit mono16"):
        messages.segment_ids(Segments(np.array([[70_000]], np.int32), {70_000: 1}))
    with pytest.raises(ValueError, match="category_id 256 does not fit mono8"):
        messages.classes(Segments(np.array([[1]], np.int32), {1: 256}))


def test_only_the_newest_item_is_kept() -> None:
    room: Newest[int] = Newest()
    assert [room.put(number) for number in range(3)] == [False, True, True]
    assert room.take() == 2
    assert room.put(3) is False
    room.close()
    assert room.take() is None


def test_a_late_frame_is_told_from_a_source_that_begins_anew() -> None:
    second = 1_000_000_000
    assert not is_late(5 * second, None, 99 * second, 0)
    assert not is_late(5 * second, 5 * second, 5 * second, 0)
    assert is_late(5 * second - 1, 5 * second, 5 * second, 0)
    assert is_late(4 * second, 5 * second, 5 * second, 0)
    assert not is_late(4 * second - 1, 5 * second, 5 * second, 0)
    assert is_late(5 * second, None, 6 * second, 0.5)
    assert not is_late(5 * second, None, 6 * second, 1)
