"""Runs a loaded engine on pictures of any size and returns maps of segments at the pictures' own sizes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stages import config
from stages.inference import frames
from stages.inference.description import Description
from stages.inference.segments import Outputs, Segments, decode


class Predictor:
    """A loaded engine with the steps before and after it: fit the picture into a frame, run, decode, undo the fit."""

    def __init__(
        self,
        infer: Callable[..., Outputs],
        description: Description,
        input_buffer: Callable[[], npt.NDArray[Any]] | None = None,
    ) -> None:
        """`infer` runs the engine on a whole batch. `input_buffer` returns its input memory; see class Runtime."""
        self.infer, self.description, self._input_buffer = infer, description, input_buffer
        self.cfg, self.num_things = description.config, description.num_things

    def frame_buffer(self) -> frames.Frame | None:
        """Return the engine's own input memory, uint8 [H, W, 3]. A frame that is written there is not copied again.

        None for batches of more than one frame, and for TAO's own graph, whose input is float32.
        """
        if self._input_buffer is None or self.cfg.graph is config.GraphKind.tao or self.cfg.batch_size > 1:
            return None
        found: frames.Frame = self._input_buffer()[0]
        return found

    def segments(self, pictures: Sequence[frames.Frame]) -> list[Segments]:
        """Predict 1 to batch_size pictures, each uint8 [H, W, 3] RGB of any size."""
        cfg = self.cfg
        fitted = [frames.fit(picture, cfg) for picture in pictures]
        batch = fitted[0][0][None] if len(fitted) == 1 else np.stack([frame for frame, _ in fitted])
        if len(batch) < cfg.batch_size:
            batch = np.concatenate([batch, np.repeat(batch[-1:], cfg.batch_size - len(batch), axis=0)])
        outputs = self.run(batch)
        result = []
        for index, (picture, (_, used)) in enumerate(zip(pictures, fitted, strict=True)):
            found = decode(outputs, index, cfg, self.num_things)
            ids = frames.to_picture(found.ids, used, (picture.shape[0], picture.shape[1]), cfg)
            result.append(Segments(ids, found.category_ids))
        return result

    def run(self, batch: frames.Frame) -> Outputs:
        """Return the graph's outputs for frames, uint8 [B, H, W, 3]."""
        if self.cfg.graph is config.GraphKind.tao:
            return self.infer(frames.network_input(batch, self.cfg))
        return self.infer(batch)
