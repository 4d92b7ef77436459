"""The interface of the readers of data sets: what a set has, and what a decoded picture means.

A reader finds its set in a folder, lists the pictures of each split, and decodes the annotation of one picture to a
raster. A raster numbers the segments of the picture in any way; two tables say which label each number has, and whether
it is a crowd: pixels of a thing class whose objects are not separate. So each format keeps its own ids.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from stages import config
from stages.vistas.labels import Label
from stages.vistas.reader import Problem as Problem

VOID = -1
"""Label of the pixels that belong to no label of the set."""


@dataclass(frozen=True)
class Scene:
    """The files of one annotated picture of a set."""

    key: str
    """Name of the picture, unique in its split; without suffix."""
    image: Path
    annotation: Path
    """The file that says most about the picture's segments; messages name it."""
    others: tuple[Path, ...] = ()
    """Further files that the raster depends on."""
    panoptic: Path | None = None
    """The set's own panoptic PNG, if it has one with the same segments."""
    detail: str = ""
    """What else the reader needs, in its own coding."""
    upright: bool = False
    """Whether the annotation is of the picture as its EXIF orientation turns it, as in tools that run in a browser."""

    def files(self) -> Iterator[Path]:
        """Yield every file that the result depends on."""
        yield from (self.image, self.annotation, *self.others)
        if self.panoptic is not None:
            yield self.panoptic


@dataclass(frozen=True)
class Raster:
    """A decoded annotation."""

    values: npt.NDArray[np.uint16]
    """Number of each pixel's segment, uint16 [H, W]."""
    labels: npt.NDArray[np.int32]
    """Number of a segment -> label, or VOID; int32 [N], N more than every value."""
    crowds: npt.NDArray[np.bool_]
    """Number of a segment -> whether it is a crowd if its class is a thing; bool [N]."""
    max_objects: int = 0
    """Objects of a label that the file's coding can number. 0: no limit that matters."""
    counts: dict[str, int] = field(default_factory=dict)
    """Losses for the statistics, such as objects that others hide."""
    order: tuple[int, ...] = ()
    """Numbers of the segments in the order of the set's file; empty where the file has none."""


class RawSet(Protocol):
    """A data set on the disk. Worker processes get a copy, so it holds no large data."""

    @property
    def root(self) -> Path:
        """The set's folder."""

    @property
    def format(self) -> config.Format:
        """The layout in which the set is read."""

    @property
    def version(self) -> str:
        """Version of the layout, or the format's name."""

    @property
    def labels(self) -> tuple[Label, ...]:
        """The labels by id, from 0. A label with `instances` is a thing; one without `evaluate` is void by default."""

    @property
    def source(self) -> str:
        """The file that names the labels, or the format, for messages."""

    def scenes(self, split: str = "") -> Iterator[Scene | Problem]:
        """Yield the pictures of a split, train or val, or of the whole set, by ascending key.

        A picture that can't be used is a Problem. Raises FileNotFoundError if there is no picture.
        """

    def raster(self, scene: Scene) -> Raster:
        """Decode the annotation of a picture. Raises ValueError, naming the file, found, expected and the fix."""
