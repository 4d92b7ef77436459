"""Runs a graph on pictures of any size and returns maps of segments at the pictures' own sizes."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from stages import config
from stages.inference import frames
from stages.inference.description import Description
from stages.inference.frames import Size
from stages.inference.segments import Outputs, Segments, decode

Fit = tuple[Size, Size]
"""(size of a picture, size that it takes of its frame)."""


class Predictor:
    """A graph with the steps before and after it: fit the picture into a frame, run, decode, undo the fit."""

    def __init__(self, infer: Callable[..., Outputs], description: Description) -> None:
        """`infer` runs the graph on its input, a whole batch. `description` is that of the graph."""
        self.infer, self.description = infer, description
        self.cfg, self.num_things = description.config, description.num_things

    def segments(self, pictures: Sequence[frames.Frame]) -> list[Segments]:
        """Predict 1 to batch_size pictures, each uint8 [H, W, 3] RGB of any size."""
        batch, fits = self.fit(pictures)
        return self.decode(self.run(batch), fits)

    def run(self, batch: frames.Frame) -> Outputs:
        """Return the graph's outputs for frames, uint8 [B, H, W, 3]."""
        return self.infer(self.graph_input(batch))

    def fit(self, pictures: Sequence[frames.Frame]) -> tuple[frames.Frame, list[Fit]]:
        """Fit 1 to batch_size pictures into a batch of frames, uint8 [B, H, W, 3].

        The last frame is repeated until the batch is full. A single picture of the frame's size is not copied.
        """
        fitted = [frames.fit(picture, self.cfg) for picture in pictures]
        batch = fitted[0][0][None] if len(fitted) == 1 else np.stack([frame for frame, _ in fitted])
        if len(batch) < self.cfg.batch_size:
            batch = np.concatenate([batch, np.repeat(batch[-1:], self.cfg.batch_size - len(batch), axis=0)])
        sizes = [(picture.shape[0], picture.shape[1]) for picture in pictures]
        return batch, [(size, used) for size, (_, used) in zip(sizes, fitted, strict=True)]

    def graph_input(self, batch: frames.Frame) -> npt.NDArray[np.generic]:
        """Return the graph's input for frames, uint8 [B, H, W, 3]: the frames, or float32 for the graph `tao`."""
        return frames.network_input(batch, self.cfg) if self.cfg.graph is config.GraphKind.tao else batch

    def decode(self, outputs: Outputs, fits: Sequence[Fit]) -> list[Segments]:
        """Decode the graph's outputs for a batch into a map of segments for each picture of `fits`, at its size."""
        result = []
        for index, (size, used) in enumerate(fits):
            found = decode(outputs, index, self.cfg, self.num_things)
            ids = frames.to_picture(found.ids, used, size, self.cfg)
            result.append(Segments(ids, found.category_ids, found.scores))
        return result
