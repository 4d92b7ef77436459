"""The 124 labels of Mapillary Vistas v2.0, read from the packaged copy of Mapillary's config file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CONFIG: Final = Path(__file__).with_name("config_v2.0.json")
"""Mapillary's own config of v2.0; a label's id is its place in the list `labels`."""


@dataclass(frozen=True)
class Label:
    """One label of the dataset."""

    id: int
    """Place in the config's list, 0 to 123; the value of a pixel in `labels/*.png`."""
    name: str
    """Full name, such as `object--vehicle--car`; unique."""
    readable: str
    """Name for people, such as `Car`."""
    instances: bool
    """True where single objects are told apart (things); False for stuff and for groups."""
    evaluate: bool
    """True where the label is a class of the benchmark."""
    color: tuple[int, int, int]
    """Display colour, RGB, 0 to 255."""


def load(path: Path = CONFIG) -> tuple[Label, ...]:
    """Read the labels of a Vistas config file, in id order; raise ValueError if a field is missing."""
    labels = []
    for i, entry in enumerate(json.loads(path.read_text(encoding="utf-8"))["labels"]):
        try:
            r, g, b = entry["color"]
            labels.append(
                Label(
                    id=i,
                    name=entry["name"],
                    readable=entry["readable"],
                    instances=entry["instances"],
                    evaluate=entry["evaluate"],
                    color=(r, g, b),
                )
            )
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path}: label {i} lacks a usable {error}") from error
    return tuple(labels)


LABELS: Final = load()
"""The packaged labels in id order."""

BY_NAME: Final = {label.name: label for label in LABELS}
"""The packaged labels by full name."""

CROWD_OF: Final = {
    BY_NAME[group].id: BY_NAME[base].id
    for group, base in (
        ("human--person--person-group", "human--person--individual"),
        ("object--support--pole-group", "object--support--pole"),
        ("object--vehicle--vehicle-group", "object--vehicle--car"),
    )
}
"""Group label id -> id of the class that the group is a crowd of."""

UNLABELED: Final = BY_NAME["void--unlabeled"].id
"""Id of the pixels that nobody labelled."""
