"""Encodes ids of panoptic segments as RGB colours, as COCO and Mapillary Vistas store them in PNG files.

id = R + 256 G + 65536 B (cocodataset.org/#format-data, "Panoptic Segmentation").
"""

import numpy as np
import numpy.typing as npt

VOID_ID = 0
"""Id of pixels that belong to no segment."""


def encode(ids: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Return the colours of ids of any shape, 0 to 2^24 - 1: uint8 [..., 3], RGB."""
    stored = np.ascontiguousarray(ids, dtype="<u4")
    return stored.view(np.uint8).reshape(*stored.shape, 4)[..., :3]


def decode(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Return the ids of RGB colours, uint8 [..., 3]: int32 [...]."""
    red, green, blue = (rgb[..., channel].astype(np.int32) for channel in range(3))
    return red + 256 * green + 65536 * blue
