"""The classes of the formats whose files do not name them, from CSV files beside this module.

classes/NAME.csv has the columns id, name, isthing, evaluate and color (#RRGGBB). `id` is the value in the set's files.
Without a color the class gets one of Pascal VOC's palette, whose bits are those of the number in reverse.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from stages.foundation import text
from stages.vistas.labels import Label

FOLDER: Final = Path(__file__).parent / "classes"


@dataclass(frozen=True)
class Classes:
    """The classes of a format."""

    labels: tuple[Label, ...]
    """In the file's order; a label's id is its place."""
    ids: tuple[int, ...]
    """Each label's value in the set's files."""

    def table(self, size: int, void: tuple[int, ...] = ()) -> npt.NDArray[np.int32]:
        """Return value -> label, int32 [size]: -1 for the values in `void`, and -2 for those that no class has."""
        result = np.full(size, -2, np.int32)
        result[list(void)] = -1
        for label, value in enumerate(self.ids):
            if 0 <= value < size:
                result[value] = label
        return result

    @cached_property
    def things(self) -> npt.NDArray[np.bool_]:
        """Return whether each label is a thing, bool [labels]."""
        return np.array([label.instances for label in self.labels], np.bool_)


def load(name: str) -> Classes:
    """Return the classes of classes/NAME.csv."""
    header, *lines = text.read_csv(FOLDER / f"{name}.csv")
    rows = [dict(zip(header.cells, line.cells, strict=True)) for line in lines]
    labels = tuple(
        label(place, row["name"], row["isthing"] == "1", row["evaluate"] == "1", row["color"], int(row["id"]))
        for place, row in enumerate(rows)
    )
    return Classes(labels, tuple(int(row["id"]) for row in rows))


def label(place: int, name: str, isthing: bool, evaluate: bool = True, color: str = "", number: int = 0) -> Label:
    """Return a label; `color` is #RRGGBB, or empty for that of `number` in VOC's palette."""
    red, green, blue = bytes.fromhex(color.removeprefix("#")) if color else palette(number)
    return Label(place, name, name, isthing, evaluate, (red, green, blue))


def palette(number: int) -> tuple[int, int, int]:
    """Return a color of Pascal VOC's palette (VOCdevkit, VOClabelcolormap), which differs for 0 to 255."""
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
    return channels[0], channels[1], channels[2]
