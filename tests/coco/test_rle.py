"""Against pycocotools on full-size masks."""

import numpy as np
import pytest
from pycocotools import mask

from stages.coco import rle

CASES = {
    "one value": np.full((3, 4), 7),
    "one pixel": np.array([[5]]),
    "one row": np.array([[1, 1, 2, 1]]),
    "one column": np.array([[1], [2], [2], [1]]),
    "runs over column ends": np.array([[1, 1, 1], [2, 1, 2], [1, 1, 2]]),
    "checkerboard": np.indices((5, 6)).sum(0) % 2,
    "first and last pixel": np.array([[9, 0, 0], [0, 0, 0], [0, 0, 9]]),
    "largest value": np.array([[65535, 0], [0, 65535]]),
}
CASES |= {f"noise {seed}": np.random.default_rng(seed).integers(0, 2 + 40 * seed, (17 + seed, 23)) for seed in range(4)}
blocks = np.random.default_rng(9).integers(0, 500, (12, 16)).repeat(9, 0).repeat(7, 1)
CASES["blocks"] = blocks


@pytest.mark.parametrize("name", CASES)
def test_equals_pycocotools_byte_for_byte(name: str) -> None:
    raster = CASES[name].astype(np.uint16)
    segments = rle.encode(rle.runs(raster))
    assert [s.value for s in segments] == np.unique(raster).tolist()
    for segment in segments:
        expected = mask.encode(np.asfortranarray(raster == segment.value))
        assert segment.rle == {"size": expected["size"], "counts": expected["counts"].decode()}
        assert segment.area == mask.area(expected)
        assert segment.bbox == mask.toBbox(expected).tolist()


@pytest.mark.parametrize("name", CASES)
def test_runs_know_their_pixels_and_each_segment_one_of_its_own(name: str) -> None:
    raster = CASES[name].astype(np.uint16)
    found = rle.runs(raster)
    np.testing.assert_array_equal(found.pixels(), np.bincount(raster.ravel(), minlength=1 << 16))
    np.testing.assert_array_equal(found.below, np.flatnonzero(raster[1:] != raster[:-1]))
    for segment in rle.encode(found):
        row, column = segment.pixel
        assert raster[row, column] == segment.value


@pytest.mark.parametrize("name", CASES)
def test_renamed_runs_are_those_of_the_renamed_raster(name: str) -> None:
    raster = CASES[name].astype(np.uint16)
    table = (np.arange(1 << 16) // 3).astype(np.uint16)
    renamed, made = rle.runs(raster).renamed(table), rle.runs(table[raster])
    np.testing.assert_array_equal(renamed.starts, made.starts)
    np.testing.assert_array_equal(renamed.values, made.values)
    assert rle.encode(renamed) == rle.encode(made)


@pytest.mark.parametrize("name", CASES)
def test_counts_of_a_compressed_mask_are_its_runs(name: str) -> None:
    raster = CASES[name].astype(np.uint16)
    for segment in rle.encode(rle.runs(raster)):
        flat = (raster == segment.value).ravel(order="F")
        edges = np.flatnonzero(np.diff(flat, prepend=False))
        expected = np.diff(np.concatenate([[0], edges, [flat.size]]))
        # An empty run after the last pixel is left out.
        np.testing.assert_array_equal(rle.counts(segment.rle["counts"]), expected[: len(edges) + (expected[-1] > 0)])


@pytest.mark.parametrize(
    ("number", "text"), [(15, "?"), (16, "`0"), (31, "o0"), (511, "o?"), (512, "P`0"), (10**9, "")]
)
def test_counts_at_the_edges_of_five_bits(number: int, text: str) -> None:
    made = mask.frPyObjects({"size": [1, number], "counts": [number]}, 1, number)["counts"].decode()
    assert rle.counts(made).tolist() == [number]
    assert made == text or not text


@pytest.mark.parametrize("text", ["", "P", "0p", "~", "\n", "é", "PPPPPPP0", "PPPPPPPPPPPPPPPPPPP0"])
def test_a_text_that_no_encoder_writes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="counts"):
        rle.counts(text)
