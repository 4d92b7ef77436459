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
