"""The figures of data sets' own evaluations, by which published networks are compared.

The truth is the set's own annotation at its own size, in its own classes, whatever `data` scales or merges. A predicted
class stands for the set's class whose label the taxonomy makes it, also by a union: Vistas' road and markings stand for
Cityscapes' road. Predictions are scaled to the annotation by the nearest pixel.

Figures equal those of cityscapesscripts (semantic, panoptic), of panopticapi, and of VOC's development kit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from stages import config
from stages.coco import panoptic
from stages.config import Format
from stages.conversion import taxonomy
from stages.foundation.coco_types import Category, SegmentInfo
from stages.inference.segments import Segments
from stages.metrics.panoptic_quality import PanopticQuality
from stages.metrics.semantic import MeanIoU
from stages.sets import formats
from stages.sets.raw_set import Problem, Raster, RawSet, Scene
from stages.vistas.labels import Label

SPLIT: Final = "val"


@dataclass(frozen=True)
class Rules:
    """What a set's own evaluation measures."""

    name: str
    semantic: bool = False
    panoptic: bool = False
    rest: str = ""
    """Label of the pixels that have none of the classes: they are evaluated as a class too."""
    crowds: bool = True
    """Whether pixels of a thing class outside of all objects are crowds; else they are void."""


RULES: Final[Mapping[Format, Rules]] = {
    Format.cityscapes: Rules("Cityscapes: 19 classes, cityscapesscripts", semantic=True, panoptic=True),
    Format.kitti: Rules("KITTI: Cityscapes' 19 classes", semantic=True),
    # The sets of panoptic ADE20K that networks are compared by have no crowds.
    Format.ade20k: Rules("ADE20K: 150 classes", semantic=True, panoptic=True, crowds=False),
    Format.coco_panoptic: Rules("COCO panoptic, panopticapi", panoptic=True),
    Format.voc: Rules("Pascal VOC: 20 classes and background", semantic=True, rest="background"),
}
"""Format -> its evaluation."""


@dataclass(frozen=True)
class Answers:
    """The set's own classes, numbered from 1, and what predictions stand for."""

    classes: tuple[Category, ...]
    of_label: npt.NDArray[np.int32]
    """Label -> own class, 0 where it is not evaluated; int32 [labels + 1], the last for VOID."""
    of_category: npt.NDArray[np.int32]
    """category_id -> own class, 0 where there is none; int32 [1 + C]."""
    rest: int = 0
    """Own class of the pixels that are predicted as none of the others; 0: they are no prediction."""


@dataclass
class Protocol:
    """Collects the figures of a set's own evaluation, or says why there are none."""

    rules: Rules
    raw: RawSet
    scenes: Mapping[str, Scene]
    """By key."""
    answers: Answers
    quality: PanopticQuality = field(default_factory=lambda: PanopticQuality(last_crowd_only=True))
    has_objects: bool = False

    def __post_init__(self) -> None:
        self.iou = MeanIoU(len(self.answers.classes))

    def add(self, key: str, found: Mapping[config.Mode, Segments]) -> None:
        """Count the picture `key` with the predicted maps by mode.

        Raises ValueError where the set has no such picture, or its annotation can't be read.
        """
        if key not in self.scenes:
            raise ValueError(f"{self.raw.root}: no picture {key!r}, which convert read; run `dvc repro convert`")
        raster = self.raw.raster(self.scenes[key])
        if self.rules.semantic and (segments := found.get(self._semantic_mode(found))):
            self.iou.add(self.answers.of_label[raster.labels][raster.values], self._classes(segments, raster))
        if self.rules.panoptic and (segments := found.get(config.Mode.panoptic)):
            ids, infos = self._truth(raster)
            self.quality.add(ids, infos, *self._segments(segments, raster))
            self.has_objects |= separate_objects(infos, self.answers.classes)

    def summary(self) -> dict[str, str | dict[str, float]]:
        """Return the name of the evaluation and its figures, 0 to 100.

        The mean IoU is over the classes that truth or prediction holds. PQ is left out where the annotations separate
        no objects.
        """
        result: dict[str, str | dict[str, float]] = {"name": self.rules.name}
        if self.rules.panoptic and self.has_objects:
            result |= self.quality.summary(self.answers.classes)
        if self.rules.semantic and self.iou.confusion.any():
            result["semantic"] = self.iou.summary(predicted_too=True)
        return result

    def _semantic_mode(self, found: Mapping[config.Mode, Segments]) -> config.Mode:
        """Return the mode whose map is compared. Semantic maps give each pixel a class, so none of them is the rest."""
        by_rest = self.answers.rest > 0 and config.Mode.panoptic in found
        return config.Mode.panoptic if by_rest else config.Mode.semantic

    def _classes(self, found: Segments, raster: Raster) -> npt.NDArray[np.int32]:
        """Return the own class of each predicted pixel, int32 of the annotation's size."""
        table = np.zeros(max(found.category_ids, default=0) + 1, np.int32)
        for segment_id, category_id in found.category_ids.items():
            table[segment_id] = self.answers.of_category[category_id]
        classes = table[_scaled(found.ids, raster)]
        return np.where(classes > 0, classes, self.answers.rest).astype(np.int32)

    def _segments(self, found: Segments, raster: Raster) -> tuple[panoptic.Ids, dict[int, int]]:
        """Return the predicted map at the annotation's size and the own class of each id; stuff has one segment."""
        table = np.zeros(max(found.category_ids, default=0) + 1, np.int32)
        own: dict[int, int] = {}
        for segment_id, category_id in found.category_ids.items():
            if number := int(self.answers.of_category[category_id]):
                isthing = self.answers.classes[number - 1]["isthing"]
                new = len(self.answers.classes) + segment_id if isthing else number
                table[segment_id], own[new] = new, number
        return table[_scaled(found.ids, raster)], own

    def _truth(self, raster: Raster) -> tuple[panoptic.Ids, list[SegmentInfo]]:
        """Return the annotated map and its segments in the order of the set's file."""
        numbers = self.answers.of_label[raster.labels]
        table = np.zeros(len(numbers), np.int32)
        infos: dict[int, SegmentInfo] = {}
        present = np.flatnonzero(np.bincount(raster.values.ravel(), minlength=len(numbers))).tolist()
        for value in raster.order or present:
            if not (number := int(numbers[value])):
                continue
            isthing = self.answers.classes[number - 1]["isthing"]
            iscrowd = bool(isthing and raster.crowds[value])
            if iscrowd and not self.rules.crowds:
                continue
            table[value] = len(self.answers.classes) + 1 + value if isthing else number
            infos[int(table[value])] = {"id": int(table[value]), "category_id": number, "iscrowd": int(iscrowd)}
        return table[raster.values], list(infos.values())


def separate_objects(segments: Sequence[SegmentInfo], classes: Sequence[Category]) -> bool:
    """Return whether any of the segments is a thing of its own. `classes` have the ids from 1, in order."""
    return any(classes[s["category_id"] - 1]["isthing"] and not s["iscrowd"] for s in segments)


def _scaled(ids: panoptic.Ids, raster: Raster) -> panoptic.Ids:
    size = raster.values.shape
    if ids.shape == size:
        return ids
    scaled = cv2.resize(ids.astype(np.int32), (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(scaled, np.int32)


def find(
    labelled: Mapping[str, panoptic.Labelled],
    categories: Sequence[Category],
    root: Path,
    tables: Path,
    cfg: config.Data,
    mode: config.Mode,
) -> tuple[dict[str, Protocol], dict[str, dict[str, str]]]:
    """Return the evaluations of the sources that have one of their own, and `name` and `not_computed` of the others.

    `root` is the folder of the sources and `tables` that of the taxonomies. Sources whose set has no evaluation of its
    own are in neither. Raises FileNotFoundError or ValueError, naming the file, for a set that can't be read.
    """
    found: dict[str, Protocol] = {}
    without: dict[str, dict[str, str]] = {}
    for name, one in labelled.items():
        rules = RULES.get(Format(one.format))
        if rules is None:
            continue
        source = cfg.sources.get(name, config.Source())
        raw = formats.find(source, root, f"data.sources.{name}")
        rows = taxonomy.of_set(tables, source.taxonomy, raw)
        answers = own_classes(raw.labels, rows, categories, rules, mode)
        if isinstance(answers, str):
            without[name] = {"name": rules.name, "not_computed": answers}
            continue
        split = SPLIT if cfg.splits is config.Splits.folders else ""
        scenes = {scene.key: scene for scene in raw.scenes(split) if not isinstance(scene, Problem)}
        found[name] = Protocol(rules, raw, scenes, answers)
    return found, without


def own_classes(
    labels: Sequence[Label],
    rows: Sequence[taxonomy.Row],
    categories: Sequence[Category],
    rules: Rules,
    mode: config.Mode,
) -> Answers | str:
    """Return the own classes of a set and what predictions of a network in `mode` stand for, or why that is not known.

    `rows` says what each of `labels` becomes.
    """
    if not (mode is config.Mode.panoptic or (rules.semantic and mode is config.Mode.semantic)):
        return f"a network of the mode {mode.value} has no such figures"
    ids = {c["name"]: c["id"] for c in categories}
    of_label = np.zeros(len(labels) + 1, np.int32)
    of_category = np.zeros(len(categories) + 1, np.int32)
    classes: list[Category] = []
    rest = 0
    for place, (label, row) in enumerate(zip(labels, rows, strict=True)):
        if not (label.evaluate or label.name == rules.rest):
            continue
        number = of_label[place] = len(classes) + 1
        classes.append(
            {"id": number, "name": label.name, "supercategory": "", "isthing": int(label.instances), "color": []}
        )
        targets = [ids[name] for name in (*row.union, row.target) if name in ids]
        if label.name == rules.rest:
            rest = number
        elif not targets:
            return f"{label.name!r} is no class of the taxonomy"
        for target in targets:
            if other := of_category[target]:
                both = f"{classes[other - 1]['name']!r} and {label.name!r}"
                return f"the class {categories[target - 1]['name']!r} of the taxonomy stands for {both}"
            of_category[target] = number
    if rest and mode is config.Mode.semantic and (of_category[1:] > 0).all() and rest not in of_category:
        return f"a network of the mode semantic without a class for {rules.rest!r} finds a class in each pixel"
    return Answers(tuple(classes), of_label, of_category, rest)
