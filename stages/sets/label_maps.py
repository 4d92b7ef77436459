"""The classes of sets that were labelled in a tool whose exports do not say which classes are stuff.

They are those of label_map.json in the set's folder, as `make prelabels` and `convert` write it.
"""

from pathlib import Path
from typing import Final

from stages.foundation import files, names
from stages.foundation.coco_types import read_label_map
from stages.vistas.labels import Label

NAME: Final = "label_map.json"


def read(folder: Path) -> tuple[Path, tuple[Label, ...]]:
    """Return the label map of a set and its labels.

    Raises FileNotFoundError if it is missing, and ValueError if it is wrong or a name occurs twice.
    """
    path = folder / NAME
    categories = read_label_map(path)
    if len({category["name"] for category in categories}) < len(categories):
        raise ValueError(f"{files.printable(path)}: a name occurs twice; correct it")
    labels = []
    for place, category in enumerate(categories):
        red, green, blue = category["color"]
        name, isthing = category["name"], bool(category["isthing"])
        labels.append(Label(place, name, name, isthing, evaluate=True, color=(red, green, blue)))
    return path, tuple(labels)


def find(labels: tuple[Label, ...], name: object, source: str) -> int:
    """Return the id of the label of a name. Raises ValueError, which names `source`, if there is none."""
    for label in labels:
        if label.name == name:
            return label.id
    hint = names.hint(name, [label.name for label in labels]) if isinstance(name, str) else ""
    raise ValueError(f"label {name!r} is not in {files.printable(source)}{hint}; add it there")
