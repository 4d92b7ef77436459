"""PNGs of annotations, pictures of every format and their headers, and run lengths."""

import io
from collections.abc import Iterator
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from stages.coco import png, rle
from stages.foundation import picture_files, picture_limit
from stages.sets import coco_masks, pngs
from tests.support import fuzz
from tests.support.fuzz import fuzzed


@pytest.fixture(autouse=True)
def _limit() -> Iterator[None]:
    before = picture_limit.limit_mpx()
    picture_limit.set_limit(1)
    yield
    picture_limit.set_limit(before)


rasters = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 70, 65536]))


def raster(made: tuple[int, int, int, int]) -> Any:
    height, width, number, count = made
    return np.random.default_rng(number).integers(0, count, (height, width)).astype(np.uint16)


@fuzzed(40, made=rasters, channels=st.sampled_from([1, 3]))
def test_a_png_decodes_to_what_was_encoded(made: Any, channels: int) -> None:
    values = raster(made)
    table = np.random.default_rng(made[2]).integers(0, 256, (1 << 16, channels)).astype(np.uint8)
    content = png.encode(table, values, rle.runs(values).below)
    assert png.critical(content) == content
    with fuzz.folder() as folder:
        (folder / "a.png").write_bytes(content)
        read = pngs.read(folder / "a.png", 8, pngs.RGB if channels == 3 else pngs.GREY, "fix")
    np.testing.assert_array_equal(read.reshape(*values.shape, channels), table[values])


@fuzzed(40, made=rasters)
def test_run_lengths_decode_to_what_was_encoded(made: Any) -> None:
    values = raster(made)
    runs = rle.runs(values)
    np.testing.assert_array_equal(runs.pixels(), np.bincount(values.ravel(), minlength=1 << 16))
    halves = (np.arange(1 << 16) // 2).astype(np.uint16)
    for found, expected in ((runs, values), (runs.renamed(halves), halves[values])):
        segments = rle.encode(found)
        assert [segment.value for segment in segments] == np.unique(expected).tolist()
        for segment in segments:
            np.testing.assert_array_equal(coco_mask.decode(segment.rle), expected == segment.value)
            assert expected[segment.pixel] == segment.value
            assert segment.area == (expected == segment.value).sum()


MODES = {"L": pngs.GREY, "RGB": pngs.RGB, "P": pngs.PALETTE, "RGBA": pngs.RGBA, "I;16": pngs.GREY}


def annotation(mode: str) -> bytes:
    pixels = np.random.default_rng(7).integers(0, 4, (6, 5, {"RGB": 3, "RGBA": 4}.get(mode, 1))).squeeze()
    dtype = np.uint16 if mode == "I;16" else np.uint8
    file = io.BytesIO()
    if mode == "P":
        picture = Image.frombytes("P", (5, 6), pixels.astype(np.uint8).tobytes())
        picture.putpalette(list(range(12)))
    else:
        picture = Image.fromarray(pixels.astype(dtype))
    picture.save(file, "PNG")
    return file.getvalue()


@fuzzed(120, mode=st.sampled_from(list(MODES)), changes=fuzz.edits, chunks=st.just([]) | fuzz.chunk_edits)
def test_a_spoiled_annotation_is_refused_or_read_as_pillow_reads_it(mode: str, changes: Any, chunks: Any) -> None:
    whole = annotation(mode)
    content = fuzz.rechunked(whole, chunks) if chunks else fuzz.spoiled(whole, changes)
    with fuzz.folder() as folder:
        path = folder / "a.png"
        path.write_bytes(content)
        depth = 16 if mode == "I;16" else 8
        read = fuzz.outcome(lambda: pngs.read(path, depth, MODES[mode], "fix"))
    if read is None:
        return
    with Image.open(io.BytesIO(png.critical(content))) as picture:
        expected = np.asarray(picture)
    np.testing.assert_array_equal(read, expected)


SUFFIXES = (".png", ".jpg", ".bmp", ".webp", ".tiff", ".jp2", ".ppm", ".pgm", ".pbm", ".pam", ".gif", ".avif")


@cache
def pictures() -> dict[str, bytes]:
    pixels = cv2.resize(np.random.default_rng(3).integers(0, 256, (4, 5, 3), np.uint8), (80, 48))
    found = {}
    for suffix in SUFFIXES:
        grey = suffix in (".pgm", ".pbm")
        if cv2.haveImageWriter(f"a{suffix}"):
            found[suffix] = cv2.imencode(suffix, pixels[..., 0] if grey else pixels)[1].tobytes()
    return found


@fuzzed(150, number=st.integers(0, 11), changes=fuzz.edits, start=st.booleans())
def test_a_picture_is_as_large_as_its_header_says(number: int, changes: Any, start: bool) -> None:
    """Else the limit of pixels could be passed."""
    content = list(pictures().values())[number % len(pictures())]
    head = 64 if start else len(content)
    content = fuzz.spoiled(content[:head], changes) + content[head:]
    read = fuzz.outcome(lambda: picture_files.decode(content))
    if read is not None:
        stated = picture_limit.size(content)
        assert stated is not None
        assert stated[0] * stated[1] >= read.shape[0] * read.shape[1], (stated, read.shape)


SIZE = [7, 9]
whole_mask = coco_mask.encode(np.asfortranarray(np.random.default_rng(5).integers(0, 2, SIZE).astype(np.uint8)))
COUNTS = whole_mask["counts"].decode()
shapes = (
    st.fixed_dictionaries(
        {"size": st.just(SIZE), "counts": st.text(st.characters(min_codepoint=48, max_codepoint=111))}
    )
    | st.fixed_dictionaries({"size": st.just(SIZE), "counts": st.lists(st.integers(0, 40) | fuzz.numbers, max_size=9)})
    | st.tuples(st.just(COUNTS), fuzz.edits).map(
        lambda p: {"size": SIZE, "counts": fuzz.spoiled(p[0].encode(), p[1]).decode("latin-1")}
    )
    | st.lists(st.lists(st.floats(-20, 30) | st.floats() | fuzz.numbers, min_size=4, max_size=10), max_size=3)
    | fuzz.values
)


@fuzzed(120, shape=shapes)
def test_the_shape_of_an_object_is_drawn_or_refused(shape: Any) -> None:
    with fuzz.folder() as folder:
        found = fuzz.outcome(lambda: coco_masks.decode(folder / "a.json", {"id": 1, "segmentation": shape}, *SIZE))
    if found is not None:
        pixels, box = found
        assert pixels.shape == tuple(SIZE)
        assert pixels.sum() == pixels[box].sum()
        assert pixels.view(np.uint8).max() <= 1
