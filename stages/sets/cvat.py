"""CVAT's export "COCO 1.0": annotations/instances_SUBSET.json, and pictures in images/SUBSET or images.

The files have COCO's form and another meaning. CVAT writes iscrowd 1 for each mask that was painted, since its masks
are run lengths; a polygon has 0. So each annotation is one object here, never a crowd. Labels have no isthing:
label_map.json says which classes are stuff. SUBSET is `default` unless the task has one; case does not matter.
"""

from dataclasses import dataclass
from pathlib import Path

from stages import config
from stages.foundation import files
from stages.sets import coco, label_maps
from stages.vistas.labels import Label


@dataclass(frozen=True)
class Cvat(coco.CocoJson):
    """A set that was labelled in CVAT."""

    crowds = False
    upright = True

    def jsons(self, split: str = "") -> list[Path]:
        """Return the files of a split."""
        found = sorted((self.root / "annotations").glob("instances_*.json"))
        return [path for path in found if path.stem.partition("_")[2].lower().startswith(split)]

    def picture_folders(self, suffix: str) -> list[Path]:
        """Return where the pictures of a subset may be. An export without pictures has none for them."""
        return [self.root / "images" / suffix, self.root / "images"]

    def labels_of(self, path: Path, categories: list[files.Json]) -> tuple[tuple[Label, ...], dict[int, int]]:
        """Return the labels of label_map.json, and category id -> label. Raises ValueError for an unknown name."""
        found, label_of = super().labels_of(path, categories)
        try:
            known = {i: label_maps.find(self.labels, found[label].name, self.source) for i, label in label_of.items()}
        except ValueError as error:
            raise ValueError(f"{files.printable(path)}: {error}") from error
        return self.labels, known


def open_set(folder: Path, source: config.Source, key: str) -> Cvat:
    """Open the export in a folder."""
    path, labels = label_maps.read(folder)
    empty = Cvat(folder, config.Format.cvat, labels, {}, str(path))
    first = empty.jsons()
    if not first:
        expected = folder / "annotations/instances_SUBSET.json"
        raise FileNotFoundError(f"{files.printable(expected)} not found; unpack CVAT's export as a whole")
    smallest = min(first, key=lambda p: p.stat().st_size)
    label_of = empty.labels_of(smallest, coco.read_json(smallest, config.Format.cvat).categories)[1]
    return Cvat(folder, config.Format.cvat, labels, label_of, str(path))
