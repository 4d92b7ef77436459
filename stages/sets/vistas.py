"""Mapillary Vistas: label * 256 + instance in 16 bits; or only label ids in 8 bits (stages/vistas has the details).

In 8 bits 255 is void, unless the config has 256 labels. No objects are known there, so what a label with instances
marks is a crowd.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages import config
from stages.sets import pairs, pngs
from stages.sets.raw_set import VOID, Problem, Raster, Scene
from stages.vistas import labels, reader

_VALUE = np.arange(1 << 16)
_PLACES = ("", "training", "validation")
_LABELS = {"": "labels", "v1.2": "v1.2/labels", "v2.0": "v2.0/labels", "instances": "instances"}
"""Version -> folder of 8-bit masks beside images. A merged set may have them in place of the 16-bit ones."""


@dataclass(frozen=True)
class Instances:
    """A set with 16-bit instance masks."""

    found: reader.VistasSet
    format = config.Format.vistas

    @property
    def root(self) -> Path:
        """The set's folder."""
        return self.found.root

    @property
    def version(self) -> str:
        """v1.2, v2.0 or flat."""
        return self.found.version

    @property
    def labels(self) -> tuple[labels.Label, ...]:
        """The labels of the set's config."""
        return self.found.labels

    @property
    def source(self) -> str:
        """The set's config."""
        return str(self.found.config)

    def scenes(self, split: str = "") -> Iterator[Scene | Problem]:
        """Yield the pictures of a split, or of the whole set."""
        for scene in reader.scenes(self.found, split):
            if isinstance(scene, Problem):
                yield scene
            else:
                yield Scene(scene.key, scene.image, scene.instances, panoptic=scene.panoptic)

    def raster(self, scene: Scene) -> Raster:
        """Decode a mask. Raises as reader.instances."""
        count = len(self.labels)
        values = reader.instances(scene.annotation, count)
        table = np.where(count > _VALUE >> 8, _VALUE >> 8, VOID).astype(np.int32)
        return Raster(values, table, np.zeros(1 << 16, np.bool_), max_objects=reader.INSTANCES_PER_LABEL)


@dataclass(frozen=True)
class LabelsAlone:
    """A set in Vistas layout with 8-bit masks of label ids."""

    root: Path
    masks: str
    """Folder of the masks, beside images."""
    source: str
    labels: tuple[labels.Label, ...]
    format = config.Format.vistas_labels
    version = config.Format.vistas_labels.value

    def scenes(self, split: str = "") -> Iterator[Scene | Problem]:
        """Yield the pictures of a split, or of the whole set."""
        places = [self.root / place for place in ([reader.SPLITS[split]] if split else _PLACES)]
        images = pairs.by_key((p for at in places for p in (at / "images").glob("*")), pairs.ending(*reader.PICTURES))
        masks = pairs.by_key((path for at in places for path in (at / self.masks).glob("*")), pairs.ending(".png"))
        pairs.require(images, self.root, split)
        yield from pairs.scenes(self.root, images, {"mask": masks})

    def raster(self, scene: Scene) -> Raster:
        """Decode a mask of label ids: grey, or a palette PNG's indices."""
        fix = "expected label ids; set data.sources.NAME.format to vistas for 16-bit instance masks"
        kind = pngs.PALETTE if pngs.kind(scene.annotation) == pngs.PALETTE else pngs.GREY
        values = pngs.read(scene.annotation, 8, kind, fix)
        table = np.arange(256, dtype=np.int32)
        count = len(self.labels)
        known = table < count
        if count < 256:
            known[255] = True
            table[255] = VOID
        pngs.require_known(
            scene.annotation,
            values,
            known,
            f"expected 0 to {count - 1}, the {count} labels of {self.source}, and 255 for void; use the config of "
            "these masks",
        )
        things = np.array([label.instances for label in self.labels] + [False] * (256 - count), np.bool_)
        table[count:] = VOID
        return Raster(values.astype(np.uint16), table, things)


def open_instances(folder: Path, source: config.Source, key: str) -> Instances:
    """Open a set with instance masks. Raises as reader.find."""
    return Instances(reader.find(source, folder, key))


def open_labels(folder: Path, source: config.Source, key: str) -> LabelsAlone:
    """Open a set with masks of label ids.

    Raises FileNotFoundError if masks or config are missing, and ValueError where one of several versions is not chosen.
    """
    there = [v for v, at in _LABELS.items() if any((folder / place / at).is_dir() for place in _PLACES)]
    versions = [v for v in there if v != "instances"] or there
    if not versions:
        raise FileNotFoundError(f"{folder}: no folder labels beside images; put the masks of label ids there")
    wanted = source.version.replace("flat", "")
    chosen = wanted if source.version else versions[0]
    if chosen not in versions or (len(versions) > 1 and not source.version):
        found = ", ".join(v or "flat" for v in versions)
        step = f"set {key}.version in conf/data"
        raise ValueError(f"{folder}: found {found}, expected {source.version or 'one version'}; {step}")
    names = [f"config_{chosen}.json", "config.json"] if chosen.startswith("v") else ["config.json"]
    names = [source.config] if source.config else names
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        step = f"put the config of the masks there, or name it in {key}.config"
        raise FileNotFoundError(f"{folder}/{names[0]} not found; {step}")
    return LabelsAlone(folder, _LABELS[chosen], str(path), labels.load(path))
