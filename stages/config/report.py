"""The section `report`: the HTML page."""

from dataclasses import dataclass
from typing import Annotated

from stages.config.rules import Range, check_ranges


@dataclass
class Report:
    """The HTML page."""

    pictures: Annotated[int, Range(at_least=1)] = 4
    """Validation pictures that are shown with their maps."""

    def __post_init__(self) -> None:
        check_ranges(self, "report")
