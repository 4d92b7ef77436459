"""An engine of a target, checked, loaded and ready for pictures."""

from pathlib import Path

from stages import config
from stages.engines import interface, manifest
from stages.inference.predictor import Predictor


def load(folder: Path, name: str, target: config.Target) -> Predictor:
    """Load the engine that the engine stage wrote to `folder`; raises as manifest.verified_engine and Backend.load."""
    engine = manifest.verified_engine(folder, name, target)
    runtime = interface.backend(target).load(engine.path, target)
    return Predictor(runtime.infer, engine.description, runtime.input_buffer)
