"""Pictures that would take all memory are refused by their header, in every format that OpenCV reads."""

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from stages.coco import png
from stages.conversion import picture_decoding
from stages.foundation import parallel, picture_files, picture_limit
from stages.vistas import reader

KINDS = {
    "png": {}, "jpeg": {}, "jpeg progressive": {"progressive": True}, "bmp": {}, "webp": {}, "gif": {}, "ppm": {},
    "webp lossless": {"lossless": True}, "tiff": {}, "tiff big": {"big_tiff": True}, "jpeg2000": {}, "avif": {},
    "jpeg2000 no_jp2": {"no_jp2": True}, "webp exif": {"exif": b"Exif\0\0"},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_is_read_from_the_header(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (83, 57)).save(file, kind.partition(" ")[0], **KINDS[kind])
    content = file.getvalue()
    assert picture_limit.size(content) == (83, 57)
    # Cut anywhere it is no error here: the decoder tells what is wrong.
    for end in range(0, min(len(content), 200), 7):
        picture_limit.size(content[:end])
    encoded = {"bmp": ".bmp", "tiff": ".tif", "png": ".png", "jpeg": ".jpg", "webp": ".webp", "ppm": ".ppm"}
    if kind in encoded:
        own = cv2.imencode(encoded[kind], np.zeros((57, 83, 3), np.uint8))[1].tobytes()
        assert picture_limit.size(own) == (83, 57)


def bomb(path: Path, width: int, height: int, depth: int = 8, kind: int = 0) -> Path:
    """Write a small PNG that states any size."""
    compressor = zlib.compressobj(9)
    row = bytes(1 + width * depth // 8)
    data = b"".join([*(compressor.compress(row) for _ in range(min(height, 500))), compressor.flush()])
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    path.write_bytes(png.SIGNATURE + png._chunk(b"IHDR", header) + png._chunk(b"IDAT", data) + png._chunk(b"IEND", b""))
    return path


@pytest.fixture
def limit() -> Iterator[None]:
    yield
    picture_limit.set_limit(picture_limit.DEFAULT_MPX)


FOUND = r"60000 x 60000 pixels, expected at most 200 million \(data\.max_picture_mpx\); scale it down, or raise"


def test_every_reader_names_the_file_and_the_limit(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.png", 60_000, 60_000)
    with pytest.raises(ValueError, match=rf"bomb\.png.*{FOUND}"):
        picture_files.read_rgb(path)
    with pytest.raises(ValueError, match=rf"bomb\.png.*{FOUND}"):
        picture_decoding.read(path)
    with pytest.raises(ValueError, match=rf"bomb\.png.*{FOUND}"):
        reader.instances(bomb(path, 60_000, 60_000, 16), 4)


def test_a_file_larger_than_any_picture_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "disk.png").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=r"disk\.png.*1099511627776 bytes, more than a picture of 200 million pixels"):
        picture_files.read_rgb(tmp_path / "disk.png")


def limit_of(_: int) -> int:
    return picture_limit.limit_mpx()


def test_the_limit_is_a_parameter_and_workers_have_it(tmp_path: Path, limit: None) -> None:
    picture_limit.set_limit(1)
    ok = np.zeros((1000, 1000, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "ok.png"), ok)
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((1001, 1000, 3), np.uint8))
    assert picture_files.read_rgb(tmp_path / "ok.png").shape == ok.shape
    with pytest.raises(ValueError, match="1000 x 1001 pixels, expected at most 1 million"):
        picture_files.read_rgb(tmp_path / "large.png")
    assert set(parallel.ordered(limit_of, range(16), 2, "test")) == {1}


def test_a_jpeg_of_any_rest_is_searched_for_its_frame() -> None:
    frame = b"\xff\xc0\0\x11\x08" + struct.pack(">HH", 57, 83)
    for rest in (b"", b"\0" * 1000, b"\xff" * 9, b"\xff\0\xff\x01", b"\xff\xd0", b"\xff\xe0\0\x04\xff\xc0"):
        assert picture_limit.size(b"\xff\xd8\xff" + rest + frame) in ((83, 57), None)
        assert picture_limit.size(b"\xff\xd8\xff\xe0\0\x02" + rest + frame) == (83, 57)
    for end in (b"\xff", b"\xff\xc0", b"\xff\xe0", b"\0" * (50 << 20)):
        assert picture_limit.size(b"\xff\xd8\xff\xe0\0\x02" + end) is None


def test_control_characters_are_blanks_in_netpbm_as_opencv_takes_them() -> None:
    content = b"P6\n8\x00 4\n255\n" + bytes(96)
    assert picture_limit.size(content) == (8, 4)
    assert picture_files.decode(content).shape == (4, 8, 3)
