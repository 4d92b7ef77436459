"""Reads the labels of a set in Vistas layout from its config file, and packages those of Mapillary Vistas v2.0."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stages.foundation import names, text

log = logging.getLogger(__name__)

CONFIG: Final = Path(__file__).with_name("config_v2.0.json")
"""Copy of Mapillary's own config of v2.0. The id of a label is its index in the list `labels`."""

MAX_LABELS: Final = 256
"""Labels that the upper 8 bits of a mask's values can hold."""
SHOWN_PROBLEMS: Final = 20
"""Problems of a config that its message lists at most."""


@dataclass(frozen=True)
class Label:
    """One label of the dataset."""

    id: int
    """Index in the config's list, from 0; the value of a pixel in `labels/*.png`."""
    name: str
    """Full name, such as `object--vehicle--car`; unique."""
    readable: str
    """Name for people, such as `Car`."""
    instances: bool
    """True where objects are separate (things); False for stuff and for groups."""
    evaluate: bool
    """True where the label is a class of Vistas' benchmark."""
    color: tuple[int, int, int]
    """Display colour, RGB, 0 to 255."""


def load(path: Path = CONFIG) -> tuple[Label, ...]:
    """Read the labels of a Vistas config file, in id order.

    Keys that Vistas' format does not have are ignored. Raises ValueError with a line for each problem, which names the
    file, the label's index and its name. Logs a warning for names that are similar but different.
    """
    content = text.read_json(path)
    entries = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        if not isinstance(content, dict):
            found = f"found {_shown(content)}, expected an object with the list `labels`"
        elif "labels" in content:
            found = f"labels is {_shown(entries)}, expected a list with an entry for each label"
        else:
            found = f"no `labels` among its keys {list(content)[:8]}, expected Vistas' list of labels"
        raise ValueError(f"{path}: {found}; use the set's config JSON (docs/data.md)")
    problems = []
    if len(entries) > MAX_LABELS:
        problems.append(f"{path}: {len(entries)} labels, expected at most {MAX_LABELS}, as 8 bits hold; remove some")
    first: dict[str, int] = {}
    for i, entry in enumerate(entries):
        name = entry.get("name") if isinstance(entry, dict) else None
        where = f"{path}: labels[{i}]" + (f" {name!r}" if isinstance(name, str) else "")
        problems += [f"{where}: {problem}" for problem in _problems(entry, i)]
        if isinstance(name, str) and name.strip() and first.setdefault(name, i) != i:
            problems.append(f"{where}: labels[{first[name]}] has the same name; make the names unique")
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        shown = problems[:SHOWN_PROBLEMS] + ([f"{path}: and {more} more"] if more > 0 else [])
        raise ValueError("\n".join(shown) + "; correct the set's config")
    for name, other in names.similar_pairs(first):
        log.warning(
            "%s: labels %a and %a differ only by blanks, case or punctuation: they are two labels", path, name, other
        )
    return tuple(
        Label(i, x["name"], x["readable"], x["instances"], x["evaluate"], tuple(x["color"]))
        for i, x in enumerate(entries)
    )


def _problems(entry: object, index: int) -> Iterator[str]:
    """Yield the problems of one entry of the list of labels."""
    if not isinstance(entry, dict):
        yield f"found {_shown(entry)}, expected an object with name, readable, instances, evaluate and color"
        return
    for key, kind, rule in (
        ("name", str, "text"),
        ("readable", str, "text"),
        ("instances", bool, "true or false"),
        ("evaluate", bool, "true or false"),
    ):
        if key not in entry:
            yield f"no {key}, expected {rule}"
        elif not isinstance(entry[key], kind):
            yield f"{key} is {_shown(entry[key])}, expected {rule}"
    name = entry.get("name")
    if isinstance(name, str) and not names.is_visible(name):
        yield f"name is {_shown(name)}, expected text that is not blank"
    elif isinstance(name, str) and not names.is_plain(name):
        yield f"name is {_shown(name)}, with a line end or another control character; remove it"
    color = entry.get("color")
    if "color" not in entry:
        yield "no color, expected three whole numbers from 0 to 255, red, green, blue"
    elif not (isinstance(color, list) and len(color) == 3 and all(type(c) is int and 0 <= c <= 255 for c in color)):
        yield f"color is {_shown(color)}, expected three whole numbers from 0 to 255, red, green, blue"
    # Vistas' own configs have no ids. Where another config has them, they must agree with the order of the list.
    number = entry.get("id")
    if isinstance(number, str) and number.strip().isdecimal():
        number = int(number)
    if isinstance(number, int | float) and (isinstance(number, bool) or number != index):
        rule = "a label's id is its place in the list, from 0"
        yield f"id is {_shown(entry['id'])}, but {rule}; sort the list and fill its gaps"


def _shown(value: object) -> str:
    """Return a JSON value as text, cut to 60 characters."""
    written = json.dumps(value)
    return written if len(written) <= 60 else f"{written[:57]}..."


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
"""Id of a group label -> id of the label whose objects the group holds."""

UNLABELED: Final = BY_NAME["void--unlabeled"].id
"""Id of pixels that have no annotation."""
