"""Area and box of segments, against each segment's own mask."""

import numpy as np
import pytest

from stages.inference.segments import Segments
from stages.media import segment_list

CATEGORIES = {c: {"id": c, "name": f"class {c}", "isthing": c % 2, "color": [c, c, c]} for c in range(1, 40)}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (37, 53)])
def test_areas_and_boxes_are_those_of_the_masks(size: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 30, size, dtype=np.int32)
    if seed % 2:
        ids = np.sort(ids, axis=1)
    # Ids that have no pixel, and pixels whose id is no segment.
    found = Segments(ids, {i: i + 1 for i in range(1, 36, 2)}, {3: 0.123456})
    rows = segment_list.rows(found, CATEGORIES)
    expected = []
    for i, category_id in found.category_ids.items():
        rows_of, columns = np.nonzero(ids == i)
        if len(rows_of):
            left, top = int(columns.min()), int(rows_of.min())
            box = [left, top, int(columns.max()) + 1 - left, int(rows_of.max()) + 1 - top]
            name, isthing = CATEGORIES[category_id]["name"], CATEGORIES[category_id]["isthing"]
            about = {"id": i, "category_id": category_id, "category": name, "isthing": isthing}
            score = 0.1235 if i == 3 else None
            expected.append({**about, "score": score, "area_px": len(rows_of), "bbox": box})
    assert rows == expected


def test_a_map_without_segments_has_no_rows() -> None:
    assert segment_list.rows(Segments(np.zeros((4, 4), np.int32), {}), {}) == []
