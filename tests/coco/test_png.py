"""Against Pillow, on rasters that change everywhere, nowhere and at the edges."""

import io

import numpy as np
import pytest
from PIL import Image

from stages.coco import png, rle
from tests.support import zoo

NOISE = np.random.default_rng(3)
RASTERS = {
    "one pixel": np.array([[5]]),
    "one value": np.full((3, 4), 7),
    "one row": np.array([[1, 1, 2, 1]]),
    "one column": np.array([[1], [2], [2], [1]]),
    "last pixel": np.array([[9, 9, 9], [9, 9, 0]]),
    "noise": NOISE.integers(0, 1 << 16, (37, 23)),
    "blocks": NOISE.integers(0, 500, (12, 16)).repeat(9, 0).repeat(7, 1),
}


@pytest.mark.parametrize("name", RASTERS)
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_pillow_reads_what_was_meant(name: str, channels: int, mode: str) -> None:
    raster = RASTERS[name].astype(np.uint16)
    table = NOISE.integers(0, 256, (1 << 16, channels), np.uint8)
    with Image.open(io.BytesIO(png.encode(table, raster, rle.runs(raster).below))) as picture:
        # Raises SyntaxError where a checksum is wrong.
        picture.verify()
    with Image.open(io.BytesIO(png.encode(table, raster, rle.runs(raster).below))) as picture:
        assert picture.mode == mode
        assert np.array_equal(np.asarray(picture).reshape(*raster.shape, channels), table[raster])


def test_only_what_pixels_are_made_of_is_kept() -> None:
    plain = zoo.write_png(zoo.GREY16, 0, 16)
    more = zoo.chunk(b"tRNS", 7, code="H") + zoo.chunk(b"gAMA", 30000, code="I") + zoo.chunk(b"tEXt", *b"a\0b")
    assert png.critical(zoo.write_png(zoo.GREY16, 0, 16, more) + b"more") == plain
    with pytest.raises(ValueError, match="wrong checksum of its chunk 'tEXt'"):
        png.critical(zoo.write_png(zoo.GREY16, 0, 16, more[:-1] + b"x"))


@pytest.mark.parametrize("size", [1, 4, 8, 12, 13, 16, 20, 300])
def test_a_cut_png_is_told(size: int) -> None:
    with pytest.raises(ValueError, match="cut short after"):
        png.critical(zoo.write_png(zoo.GREY16, 0, 16)[:-size])
