"""The section `verify`: limits of the difference between an engine and the checkpoint."""

from dataclasses import dataclass
from typing import Annotated

from stages.config.rules import Range, check_ranges


@dataclass
class Verify:
    """Limits of the difference between an engine and the checkpoint. Beyond them the stage fails."""

    min_pixel_agreement_pct: Annotated[float, Range(at_least=0, at_most=100)] = 99.5
    """Share of pixels, over all pictures, with the same segment in the engine's panoptic map and the checkpoint's."""
    max_pq_difference: Annotated[float, Range(at_least=0)] = 0.2
    """Largest difference of PQ, up or down, in points of 100."""

    def __post_init__(self) -> None:
        check_ranges(self, "verify")
