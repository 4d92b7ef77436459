"""Agreement of two panoptic maps of one picture, pixel by pixel."""

import numpy as np
import numpy.typing as npt

from stages.foundation.panoptic_ids import VOID_ID
from stages.metrics.panoptic_quality import intersections


def agreeing_pixels(
    first: npt.NDArray[np.int32],
    first_categories: dict[int, int],
    second: npt.NDArray[np.int32],
    second_categories: dict[int, int],
) -> int:
    """Return the number of pixels that are in the same segment in both maps.

    Each map is int32 [H, W], with segment id -> category_id. The maps may number their segments differently: segments
    of one class are paired one to one, the largest overlap first. Void agrees with void.
    """
    overlap = intersections(first, second)
    agreeing = overlap[VOID_ID, VOID_ID]
    paired: tuple[set[int], set[int]] = set(), set()
    for (a, b), pixels in sorted(overlap.items(), key=lambda item: (-item[1], item[0])):
        if VOID_ID in (a, b) or first_categories[a] != second_categories[b] or a in paired[0] or b in paired[1]:
            continue
        paired[0].add(a)
        paired[1].add(b)
        agreeing += pixels
    return agreeing
