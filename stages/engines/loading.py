"""Checks and loads the engine of a target, for one batch at a time or for several in flight."""

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from stages import config
from stages.engines import interface, manifest
from stages.inference import frames
from stages.inference.description import Description
from stages.inference.predictor import Fit, Predictor
from stages.inference.segments import Segments


class EnginePredictor(Predictor):
    """A loaded engine with the steps before and after it; with `submit` and `result` several batches are in flight."""

    def __init__(self, runtime: interface.Runtime, description: Description, engine_sha256: str) -> None:
        """`description` is that of the graph from which the engine of `runtime` was built."""
        super().__init__(runtime.infer, description)
        self.engine_sha256 = engine_sha256
        self._runtime = runtime
        self._fits: deque[list[Fit]] = deque()

    def frame_buffer(self) -> frames.Frame | None:
        """Return the engine's own memory for the next frame, uint8 [H, W, 3]: a frame written there is not copied.

        None for batches of more than one frame, and for the graph `tao`, whose input is float32. After `submit` ask
        again: each batch in flight has memory of its own. Raises as Runtime.input_buffer.
        """
        if self.cfg.graph is config.GraphKind.tao or self.cfg.batch_size > 1:
            return None
        found: frames.Frame = self._runtime.input_buffer()[0]
        return found

    def submit(self, pictures: Sequence[frames.Frame]) -> None:
        """Start 1 to batch_size pictures, each uint8 [H, W, 3] RGB of any size. Raises as Runtime.submit."""
        batch, fits = self.fit(pictures)
        self._runtime.submit(self.graph_input(batch))
        self._fits.append(fits)

    def result(self) -> list[Segments]:
        """Return the segments of the oldest pictures in flight. Raises as Runtime.result."""
        outputs = self._runtime.result()
        return self.decode(outputs, self._fits.popleft())


def load(folder: Path, name: str, target: config.Target, in_flight: int = 1) -> EnginePredictor:
    """Load the engine that the stage `engine` wrote to `folder`, for `in_flight` batches at once.

    `name` is the target's id. Raises as manifest.verified_engine and Backend.load do.
    """
    engine = manifest.verified_engine(folder, name, target)
    if target.builder is config.Builder.cuda:
        # Engines for CPUs need no code for GPUs.
        from stages.engines.cuda import bundle

        bundle.require_described(engine.path, engine.description.steps)
    runtime = interface.backend(target).load(engine.path, target, in_flight)
    return EnginePredictor(runtime, engine.description, engine.sha256)
