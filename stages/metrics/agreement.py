"""Agreement of two panoptic maps of one picture, pixel by pixel."""

from collections.abc import Mapping

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

    Each map is int32 [H, W], with segment id -> category_id. Void agrees with void.
    """
    overlap = intersections(first, second)
    paired = pairs(overlap, first_categories, second_categories)
    return overlap[VOID_ID, VOID_ID] + sum(overlap[pair] for pair in paired)


def pairs(
    overlap: Mapping[tuple[int, int], int], first_categories: Mapping[int, int], second_categories: Mapping[int, int]
) -> list[tuple[int, int]]:
    """Return the pairs of ids that stand for the same segment, for two maps that number their segments differently.

    `overlap` holds the common pixels of each pair of ids. Segments of one class are paired one to one, the largest
    overlap first.
    """
    found: list[tuple[int, int]] = []
    taken: tuple[set[int], set[int]] = set(), set()
    for a, b in sorted(overlap, key=lambda pair: (-overlap[pair], pair)):
        if VOID_ID in (a, b) or first_categories[a] != second_categories[b] or a in taken[0] or b in taken[1]:
            continue
        taken[0].add(a)
        taken[1].add(b)
        found.append((a, b))
    return found
