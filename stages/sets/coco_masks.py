"""Decodes the masks of COCO's objects: polygons, and run lengths (cocodataset.org/#format-data).

pycocotools draws them and trusts what it gets: it writes wherever run lengths say, and takes memory for each pixel of
an outline. So both are checked first.
"""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from stages.coco import rle as rle_codec
from stages.foundation import files

_MAX_PLACE_PX: Final = 1 << 20
"""Of a polygon's corner, which may lie outside of the picture."""
_MAX_OUTLINE_PX: Final = 1 << 22


def _require_polygons(polygons: list[files.Json]) -> None:
    """Raise ValueError, TypeError or OverflowError for polygons that pycocotools can't draw in bounded memory."""
    # pycocotools would take four numbers for a box.
    if not polygons or any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise ValueError("a polygon has fewer than three points, or half a point")
    for polygon in polygons:
        corners = np.array(polygon, np.float64).reshape(-1, 2)
        # pycocotools takes memory for each pixel of the outline, and its coordinates have 32 bits.
        outline_px = float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())
        if not (np.abs(corners) < _MAX_PLACE_PX).all() or outline_px > _MAX_OUTLINE_PX:
            raise ValueError(f"a polygon's outline of {outline_px:.0f} pixels, expected one near the picture")


def _require_runs(counts: npt.NDArray[np.int64] | list[files.Json], pixels: int) -> None:
    """Raise ValueError unless run lengths cover a picture exactly: pycocotools writes wherever they say."""
    if isinstance(counts, list):
        if not all(type(count) is int and 0 <= count <= pixels for count in counts):
            raise ValueError("counts that are no run lengths")
        counts = np.array(counts, np.int64)
    if counts.size == 0 or int(counts.min()) < 0 or int(counts.sum()) != pixels or int(counts.max()) > pixels:
        raise ValueError(f"run lengths of {int(counts.sum())} pixels, expected {pixels}")


def decode(path: Path, entry: files.Json, height: int, width: int) -> tuple[npt.NDArray[np.bool_], tuple[slice, slice]]:
    """Return the pixels of an object, bool [height, width], and the rows and columns of its box.

    An object has polygons, or run lengths as a list or compressed. Raises ValueError, naming `path` and the annotation.
    """
    from pycocotools import mask as coco_mask

    try:
        shape = entry["segmentation"]
        if isinstance(shape, list):
            _require_polygons(shape)
            rle = coco_mask.merge(coco_mask.frPyObjects(shape, height, width))
        elif shape["size"] != [height, width]:
            raise ValueError(f"size {shape['size']}, expected {[height, width]}")
        else:
            counts = shape["counts"]
            _require_runs(counts if isinstance(counts, list) else rle_codec.counts(counts), height * width)
            rle = coco_mask.frPyObjects(shape, height, width) if isinstance(counts, list) else shape
        mask: npt.NDArray[np.bool_] = coco_mask.decode(rle).view(np.bool_)
        x, y, w, h = (int(edge) for edge in coco_mask.toBbox(rle))
        return mask, (slice(y, y + h), slice(x, x + w))
    except MemoryError:
        raise
    except Exception as error:  # pycocotools raises plain exceptions too.
        found = f"annotation {entry.get('id')!r} can't be drawn ({type(error).__name__}: {error})"
        raise ValueError(f"{files.printable(path)}: {found}; restore the file") from error
