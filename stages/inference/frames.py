"""Fits pictures into frames, and makes the network's input of frames, with NumPy and OpenCV only.

A frame is the input of an engine: uint8 [H, W, 3], RGB, of the size deploy.frame_height_px x deploy.frame_width_px.
The checkpoint gets pictures of other sizes through the same functions as the engines.
"""

from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from stages import config
from stages.foundation.picture_files import Rgb
from stages.inference.normalization import PIXEL_MEAN, PIXEL_STD

Frame = Rgb
"""uint8 [H, W, 3], RGB, of the size that an engine takes."""
Floats = npt.NDArray[np.float32]
Size = tuple[int, int]
"""(height, width)."""
_Label = TypeVar("_Label", bound=np.integer)


def fitted_size(size: Size, into: Size, resize: config.Resize = config.Resize.pad) -> Size:
    """Return the size that a picture of `size` gets in a frame of the size `into`.

    That is `into` if it is stretched. Else it is scaled to fit, and keeps its aspect ratio.
    """
    if resize is config.Resize.stretch:
        return into
    scale = min(into[0] / size[0], into[1] / size[1])
    height, width = (max(1, min(int(a * scale + 0.5), b)) for a, b in zip(size, into, strict=True))
    return height, width


def frame_size(cfg: config.Deploy) -> Size:
    """Size of the frames that an engine takes."""
    return cfg.frame_height_px, cfg.frame_width_px


def input_size(cfg: config.Deploy) -> Size:
    """Size of the network's input."""
    return cfg.height_px, cfg.width_px


def mask_size(cfg: config.Deploy) -> Size:
    """Size of the network's mask logits: a quarter of its input."""
    return cfg.height_px // 4, cfg.width_px // 4


def frame_in_input(cfg: config.Deploy) -> Size:
    """Return the size that a frame gets in the network's input; the rest is padding."""
    return fitted_size(frame_size(cfg), input_size(cfg), cfg.resize)


def fit(picture: Frame, cfg: config.Deploy) -> tuple[Frame, Size]:
    """Scale a picture to fit into a frame and pad it with 0 at the bottom and the right.

    Returns the frame and the (height, width) of the picture in it. A picture of the frame's size is not copied.
    """
    size = frame_size(cfg)
    height, width = fitted_size((picture.shape[0], picture.shape[1]), size)
    if picture.shape[:2] == size:
        return picture, (height, width)
    frame = np.zeros((*size, 3), np.uint8)
    frame[:height, :width] = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    return frame, (height, width)


def to_picture(  # noqa: UP047  # devices have Python 3.10
    labels: npt.NDArray[_Label], used: Size, picture: Size, cfg: config.Deploy
) -> npt.NDArray[_Label]:
    """Undo `fit` for a graph's map of labels [H, W]: cut off the padding and scale to the size `picture`.

    `used` is the size that `fit` returned. Scaling takes the nearest pixel, so labels are not blended.
    """
    if cfg.graph is config.GraphKind.tao:
        # Its maps have the size of the network's input, not the frame's.
        labels = _cut(labels, frame_in_input(cfg), frame_size(cfg))
    return _cut(labels, used, picture)


def _cut(  # noqa: UP047
    labels: npt.NDArray[_Label], used: Size, size: Size
) -> npt.NDArray[_Label]:
    cut = labels[: used[0], : used[1]]
    if used == size:
        return cut
    return np.asarray(cv2.resize(cut, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT), labels.dtype)


def network_input(frames: npt.NDArray[np.uint8], cfg: config.Deploy) -> Floats:
    """Make the input of the graph that TAO exports: uint8 [B, H, W, 3] -> float32 [B, 3, height_px, width_px].

    Normalised by PIXEL_MEAN and PIXEL_STD. The fused graph computes the same values inside.
    """
    height, width = frame_in_input(cfg)
    result = np.zeros((len(frames), *input_size(cfg), 3), np.float32)
    for frame, out in zip(frames, result, strict=True):
        scaled = frame.astype(np.float32)
        if (height, width) != frame.shape[:2]:
            scaled = cv2.resize(scaled, (width, height), interpolation=cv2.INTER_LINEAR)
        out[:height, :width] = scaled
    normalised = (result - 255 * np.array(PIXEL_MEAN, np.float32)) / (255 * np.array(PIXEL_STD, np.float32))
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2), np.float32)
