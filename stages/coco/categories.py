"""Classes of a Mapillary config as COCO categories: ids from 1, things before stuff.

TAO keeps class 0 for no-object, and its visualizer indexes thing names by class index, hence the order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stages.vistas.labels import Label


@dataclass(frozen=True)
class Target:
    """What a source label becomes."""

    category_id: int
    """1 to N, or 0 for void."""
    iscrowd: bool = False


def from_vistas(labels: Sequence[Label], crowd_of: dict[str, str]) -> tuple[list[dict[str, Any]], list[Target]]:
    """Categories and, by label id, each label's target.

    labels: those of the set's config, in id order.
    crowd_of: name of a group label -> name of the thing that it is a crowd of.
    Labels with evaluate: false that are no group become void. Raises ValueError for a name not in the config,
    and for a group whose base is no evaluated thing.
    """
    names = [label.name for label in labels]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the dataset's config names these labels twice: {twice}; names must be unique")

    evaluated = [i for i, label in enumerate(labels) if label.evaluate]
    things_first = sorted(evaluated, key=lambda i: not labels[i].instances)
    categories: list[dict[str, Any]] = [
        {
            "id": category_id,
            "name": names[i],
            "supercategory": names[i].partition("--")[0],
            "isthing": int(labels[i].instances),
            "color": list(labels[i].color),
        }
        for category_id, i in enumerate(things_first, start=1)
    ]
    by_name = {c["name"]: c for c in categories}

    targets = [Target(by_name[name]["id"]) if name in by_name else Target(0) for name in names]
    for group, base in crowd_of.items():
        for name in (group, base):
            if name not in names:
                raise ValueError(f"data.crowd_of: {name!r} is no label of the dataset's config; edit conf/data")
        if base not in by_name or not by_name[base]["isthing"]:
            raise ValueError(f"data.crowd_of: {base!r} is no evaluated thing, so {group!r} can't be a crowd of it")
        targets[names.index(group)] = Target(by_name[base]["id"], iscrowd=True)
    return categories, targets
