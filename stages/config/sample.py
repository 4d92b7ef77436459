"""The section `sample`: generated street scenes."""

from dataclasses import dataclass
from typing import Annotated

from stages.config.rules import Range, check_ranges


@dataclass
class Sample:
    """Generated street scenes. They stand in for a real dataset, so that the pipeline runs on any machine."""

    seed: int = 2020
    """Seed of the scenes. The same seed gives the same files, byte for byte."""
    train_images: Annotated[int, Range(at_least=1)] = 64
    """Scenes in the training split."""
    val_images: Annotated[int, Range(at_least=1)] = 16
    """Scenes in the validation split."""
    height_px: Annotated[int, Range(at_least=128, at_most=2160)] = 256
    """Height of a scene."""
    width_px: Annotated[int, Range(at_least=128, at_most=3840)] = 384
    """Width of a scene."""

    def __post_init__(self) -> None:
        check_ranges(self, "sample")
