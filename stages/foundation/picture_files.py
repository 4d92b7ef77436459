"""Reads picture files with OpenCV."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from stages.foundation import files

Rgb = npt.NDArray[np.uint8]
"""A picture: uint8 [H, W, 3], RGB."""


def read_rgb(path: Path, *, turn: bool = False) -> Rgb:
    """Read a picture as its pixels are stored, or with `turn` upright by its EXIF orientation.

    Pictures of a data set must not be turned, since their masks are not. Raises ValueError if the file can't be read.
    """
    try:
        rgb = decode(path.read_bytes(), turn=turn)
    except OSError as error:
        raise ValueError(f"{files.printable(path)}: can't be read ({error.strerror}); restore the file") from error
    if rgb is None:
        raise ValueError(f"{files.printable(path)}: can't be read as a picture; restore the file")
    return rgb


def decode(content: bytes, *, turn: bool = False) -> Rgb | None:
    """Decode the bytes of a picture file. Returns None if they are not a picture.

    Grey values are repeated in all three channels, 16-bit values are reduced to their upper 8 bits, and alpha is
    dropped.
    """
    # Decoded from memory: OpenCV 5.0 aborts the process where imread gets a name that is not UTF-8.
    flags = cv2.IMREAD_COLOR if turn else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        bgr = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        # The content is empty, or the picture has more pixels than OpenCV accepts.
        return None
    return None if bgr is None else np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
