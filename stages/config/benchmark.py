"""The section `benchmark`: how an engine is timed."""

from dataclasses import dataclass
from typing import Annotated

from stages.config.rules import Range, check_ranges


@dataclass
class Benchmark:
    """Timing of an engine on this machine and, in the same run, of PyTorch in eager mode."""

    frames: Annotated[int, Range(at_least=10)] = 50
    """Frames that are timed. Raise it for steadier percentiles."""
    warmup_frames: Annotated[int, Range(at_least=1)] = 5
    """Frames that are run before and not timed."""
    pictures: Annotated[int, Range(at_least=1)] = 16
    """Validation pictures that the frames are taken from, in turn."""

    def __post_init__(self) -> None:
        check_ranges(self, "benchmark")
