"""Reads picture files with OpenCV."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from stages.foundation import files

Rgb = npt.NDArray[np.uint8]
"""uint8 [H, W, 3], RGB."""


def read_rgb(path: Path, *, turn: bool = False) -> Rgb:
    """Read a picture as it is stored, or with `turn` as its EXIF orientation says.

    Pictures of a data set are not turned, since their masks are not. Raises ValueError if the file can't be read.
    """
    try:
        rgb = decode(path.read_bytes(), turn=turn)
    except OSError as error:
        raise ValueError(f"{files.printable(path)}: can't be read ({error.strerror}); restore the file") from error
    if rgb is None:
        raise ValueError(f"{files.printable(path)}: can't be read as a picture; restore the file")
    return rgb


def decode(content: bytes, *, turn: bool = False) -> Rgb | None:
    """Decode the bytes of a picture file, or return None if they are no picture.

    Grey is repeated in each channel, the upper 8 of 16 bits are kept, and alpha is dropped.
    """
    # OpenCV 5.0 kills the process where imread gets a name that is not UTF-8.
    flags = cv2.IMREAD_COLOR if turn else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        bgr = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        # The content is empty, or has more pixels than OpenCV accepts.
        return None
    return None if bgr is None else np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
