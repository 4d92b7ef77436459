"""Paints objects that may overlap to a raster, in which a pixel has one segment."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.sets.raw_set import VOID, Raster

MAX_OBJECTS = (1 << 16) - 1
"""Objects of a picture that a raster can hold."""


@dataclass(frozen=True)
class Object:
    """An object, or a region of stuff."""

    label: int
    mask: npt.NDArray[np.bool_]
    """bool [H, W]."""
    box: tuple[slice, slice]
    """Rows and columns that hold all of its pixels."""
    crowd: bool = False


def paint(objects: Sequence[Object], height: int, width: int) -> Raster:
    """Paint crowds first, then the larger objects before the smaller; equal ones in their order."""
    areas = [int(np.count_nonzero(one.mask[one.box])) for one in objects]
    places = sorted(range(len(objects)), key=lambda place: (not objects[place].crowd, -areas[place]))
    order = [objects[place] for place in places]
    # Columns lie together in memory, as in pycocotools' masks.
    columns = np.zeros((height, width), np.uint16, order="F")
    for number, one in enumerate(order, 1):
        np.copyto(columns[one.box], number, where=one.mask[one.box])
    values = np.ascontiguousarray(columns)
    left = np.bincount(values.ravel(), minlength=len(order) + 1)[1:]
    whole = np.array([areas[place] for place in places], np.int64)
    counts = {
        "objects_hidden_by_others": int((left == 0).sum()),
        "object_pixels_under_others": int((whole - left).sum()),
    }
    labels = np.array([VOID, *(one.label for one in order)], np.int32)
    crowds = np.array([False, *(one.crowd for one in order)], np.bool_)
    return Raster(values, labels, crowds, counts=counts)
