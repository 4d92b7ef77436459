"""Labels of sets in Vistas layout, from their config files; those of v2.0 from the packaged copy of Mapillary's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stages.foundation import files

CONFIG: Final = Path(__file__).with_name("config_v2.0.json")
"""Mapillary's own config of v2.0; a label's id is its place in the list `labels`."""

MAX_LABELS: Final = 256


@dataclass(frozen=True)
class Label:
    """One label of the dataset."""

    id: int
    """Place in the config's list, from 0; the value of a pixel in `labels/*.png`."""
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
    """Read the labels of a Vistas config file, in id order. Raises ValueError, naming file and label, if it can't."""
    labels: list[Label] = []
    entries = files.read_json(path)
    if not isinstance(entries, dict) or not isinstance(entries.get("labels"), list):
        raise ValueError(f"{path}: no list of labels; restore the set's config")
    if len(entries["labels"]) > MAX_LABELS:
        raise ValueError(f"{path}: {len(entries['labels'])} labels, expected at most {MAX_LABELS}, as 8 bits hold")
    for i, entry in enumerate(entries["labels"]):
        try:
            r, g, b = entry["color"]
            label = Label(i, entry["name"], entry["readable"], entry["instances"], entry["evaluate"], (r, g, b))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: label {i} lacks a usable {error}; restore the set's config") from error
        if not (isinstance(label.instances, bool) and isinstance(label.evaluate, bool)):
            raise ValueError(f"{path}: label {i}: instances and evaluate must be true or false; mend the set's config")
        labels.append(label)
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
