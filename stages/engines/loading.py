"""Check and load the engine of a target."""

from pathlib import Path

from stages import config
from stages.engines import interface, manifest
from stages.inference.predictor import Predictor


def load(folder: Path, name: str, target: config.Target) -> Predictor:
    """Load the engine that the stage `engine` wrote to `folder`.

    Raises as manifest.verified_engine and Backend.load do.
    """
    engine = manifest.verified_engine(folder, name, target)
    runtime = interface.backend(target).load(engine.path, target)
    return Predictor(runtime.infer, engine.description, runtime.input_buffer)
