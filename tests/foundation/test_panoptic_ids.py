"""Segment ids and their encoding as RGB colours."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.coco import panoptic
from stages.foundation import panoptic_ids


@pytest.mark.parametrize(
    ("segment_id", "rgb"),
    [
        (0, (0, 0, 0)),
        (1, (1, 0, 0)),
        (255, (255, 0, 0)),
        (256, (0, 1, 0)),
        (65535, (255, 255, 0)),
        (65536, (0, 0, 1)),
        ((1 << 24) - 1, (255, 255, 255)),
    ],
)
def test_an_id_is_a_colour(segment_id: int, rgb: tuple[int, int, int], tmp_path: Path) -> None:
    for kind in (np.int32, np.uint32, np.int64):
        assert panoptic_ids.encode(np.array([segment_id], kind)).tolist() == [list(rgb)]
    assert panoptic_ids.decode(np.array(rgb, np.uint8)) == segment_id
    ids = np.full((2, 3), segment_id, np.int32)
    panoptic.write_ids(tmp_path / "x.png", ids)
    assert Image.open(tmp_path / "x.png").getpixel((2, 1)) == rgb
    found = panoptic.read_ids(tmp_path / "x.png")
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, ids)


def test_a_map_of_any_order_in_memory() -> None:
    ids = np.arange(12, dtype=np.int32).reshape(3, 4) * 70000
    for view in (ids, ids.T, ids[::-1, ::2]):
        colours = panoptic_ids.encode(view)
        assert colours.shape == (*view.shape, 3)
        np.testing.assert_array_equal(panoptic_ids.decode(colours), view)
