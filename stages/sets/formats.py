"""The readers of data sets by format, and how the format of a folder is found: by its files, never by its name."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from stages import config
from stages.config import Format
from stages.raw_sets import layouts
from stages.sets import (
    ade20k,
    ade20k_full,
    bdd100k,
    brush_rle,
    cityscapes,
    classes,
    coco,
    coco_masks,
    cvat,
    idd,
    json_index,
    label_maps,
    label_studio,
    painting,
    pairs,
    pngs,
    vistas,
    voc,
)
from stages.sets.raw_set import RawSet
from stages.vistas import reader

Open = Callable[[Path, config.Source, str], RawSet]
"""Function that opens the set in a folder. Arguments: folder, source, and the source's parameter, for messages."""

_OPEN: Final[dict[Format, Open]] = {
    Format.vistas: vistas.open_instances,
    Format.vistas_labels: vistas.open_labels,
    Format.ade20k: ade20k.open_set,
    Format.cityscapes: cityscapes.open_cityscapes,
    Format.kitti: cityscapes.open_kitti,
    Format.coco_panoptic: coco.open_panoptic,
    Format.coco_instances: coco.open_instances,
    Format.coco_stuff: coco.open_stuff,
    Format.voc: voc.open_set,
    Format.bdd100k: bdd100k.open_set,
    Format.idd: idd.open_set,
    Format.ade20k_full: ade20k_full.open_set,
    Format.cvat: cvat.open_set,
    Format.label_studio: label_studio.open_set,
}
MODULES: Final = (
    ade20k, ade20k_full, bdd100k, brush_rle, cityscapes, classes, coco, coco_masks, cvat, idd, json_index, label_maps,
    label_studio, painting, pairs, pngs, vistas, voc,
)  # fmt: skip
"""Modules whose code decides what a picture becomes."""


def found_in(folder: layouts.Folder) -> list[Format]:
    """Return the formats of which a folder, on the disk or in an archive, has every part."""
    own = [Format.vistas] if reader.lies_at(folder) else [Format.vistas_labels] if _labels_alone(folder) else []
    return own + [Format[layout.format] for layout in layouts.complete(folder)]


def lies_at(folder: layouts.Folder) -> bool:
    """Return whether a folder is a set that can be read."""
    return reader.lies_at(folder) or bool(found_in(folder))


def _labels_alone(folder: layouts.Folder) -> bool:
    """Return whether a folder has images, a config of its own and 8-bit grey masks in labels, and no instances.

    Vistas' own labels are palette PNGs with instances beside them. Where these are missing, they were forgotten.
    """
    if not (folder / "config.json").is_file():
        return False
    for place in ("", "training/", "validation/"):
        masks = folder / f"{place}labels"
        if (folder / f"{place}images").is_dir() and masks.is_dir():
            first = next((p for p in masks.iterdir() if p.name.endswith(".png") and not p.name.startswith(".")), None)
            if first is not None:
                with first.open("rb") as file:
                    content = file.read(26)
                return pngs.is_of(content, 8, pngs.GREY)
    return False


def find(source: config.Source, root: Path, key: str) -> RawSet:
    """Open the set of a source in the folder `root`. `key` is the source's parameter, for messages.

    Raises FileNotFoundError or ValueError, saying what was found and which parameter to set.
    """
    folder = root / source.root
    chosen = source.format
    if chosen is Format.auto:
        found = found_in(folder) if folder.is_dir() else []
        if len(found) > 1:
            shown = ", ".join(one.value for one in found)
            raise ValueError(f"{folder}: found {shown}, expected one format; set {key}.format in conf/data")
        if not found and folder.is_dir():
            choose = f"set data.root or {key}.root in conf/data so that the set's folder is {{}}"
            raise ValueError(f"{folder} is no set in Vistas' layout: {layouts.explain(folder, lies_at, choose)}")
        chosen = found[0] if found else Format.vistas
    if chosen is Format.vistas:
        return vistas.open_instances(root, source, key)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} not found; put the set there, or set data.root and {key}.root in conf/data")
    layout = next((one for one in layouts.LAYOUTS if one.format == chosen.value), None)
    if layout is not None and layout not in layouts.complete(folder):
        raise ValueError(f"{folder} is no set in the layout of {layout.name}: {layouts.missing(folder, layout)}")
    return _OPEN[chosen](folder, source, key)
