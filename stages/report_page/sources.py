"""Reads the files of the other stages for the page."""

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from stages import config
from stages.coco import panoptic
from stages.foundation import json_shapes
from stages.foundation.coco_types import Category, read_label_map
from stages.inference import description
from stages.inference.description import Description
from stages.metrics import metric_files
from stages.report_page import confusion, inspection, palette, pipeline, targets

_Class = TypedDict("_Class", {"class": str, "segments": int, "pixels": int})


class _Split(TypedDict):
    images: int
    segments: int
    instances: int
    crowds: int
    void_pct: float | None
    instances_by_side_px: dict[str, int]
    by_class: list[_Class]


class _Source(TypedDict):
    version: str
    root: str


class _Statistics(TypedDict):
    """What the page reads of statistics.json."""

    sources: dict[str, _Source]
    train: _Split
    val: _Split


@dataclass(frozen=True)
class Sources:
    """Content of the artifacts. A file that no stage has written is None or empty."""

    cfg: config.Config
    classes: dict[int, Category]
    """By category_id. Colours that look alike are moved apart, those of classes that the set has."""
    statistics: dict[str, Any]
    """Content of statistics.json, which convert writes."""
    truth: panoptic.PanopticSet
    checkpoint: panoptic.PanopticSet | None
    """Maps that evaluate wrote."""
    runnable: dict[str, panoptic.PanopticSet]
    """Target -> maps that verify wrote of the target's engine."""
    history: list[dict[str, float]]
    """A row per epoch of TAO's training. A row lacks the figures that TAO did not measure in its epoch."""
    per_class: list[dict[str, str | float]]
    """Rows of per_class.csv: the class, and its figures, 0 to 100, and counts. A row lacks what its class lacks."""
    confusion: confusion.Shares
    """Rows of confusion.csv."""
    graphs: dict[str, inspection.Inspection]
    """Folder of a deployable graph, such as data/onnx/onnx_gather/fp16 -> its inputs and outputs."""
    descriptions: dict[str, Description]
    """Variant and precision of a deployable graph, such as onnx/fp16 -> its graph.json."""
    states: dict[str, targets.TargetState]
    """Target -> its engine, and the figures of that engine."""
    metrics: dict[str, Any]
    """Stem of each file in metrics/ -> its content."""
    pipeline: pipeline.Pipeline

    @property
    def raw_sets(self) -> dict[str, str]:
        """Name of each raw set -> its version."""
        return {name: source["version"] for name, source in self.statistics["sources"].items()}

    def metric(self, stem: str) -> Any:
        """Return the content of metrics/<stem>.json, or None where it is absent."""
        return self.metrics.get(stem)


def read(data: Path, dvc_yaml: Path, cfg: config.Config) -> Sources:
    """Read the artifacts in `data` and the stages of `dvc_yaml`.

    Raises FileNotFoundError where files of convert or the stages are absent, ValueError for a file that can't be
    parsed, and RuntimeError where DVC can't resolve `dvc_yaml`.
    """
    history = [
        {key: float(value) for key, value in row.items() if value} for row in _rows(data / "checkpoint" / "history.csv")
    ]
    per_class: list[dict[str, str | float]] = [
        {key: value if key == "class" else float(value) for key, value in row.items() if value}
        for row in _rows(data / "evaluate" / "per_class.csv")
    ]
    statistics = json_shapes.read(data / "coco" / "statistics.json", _Statistics, "run `dvc repro convert`")
    categories = read_label_map(data / "coco" / "label_map.json")
    deployable = [f"{variant.value}/{p}" for variant in cfg.deploy.variants for p in precisions(cfg.deploy)]
    onnx_files = {name: data / "onnx" / name / description.ONNX for name in deployable}
    descriptions = targets.read_graphs(data, deployable)
    metrics = metric_files.read_all(data / "metrics")
    states = targets.read(metrics, descriptions, cfg)
    maps = {name: _maps(data / "verify" / name) for name, state in states.items() if state.verified}
    return Sources(
        cfg=cfg,
        classes=_classes(categories, statistics),
        statistics=statistics,
        truth=panoptic.read(data / "coco" / "val"),
        checkpoint=_maps(data / "evaluate"),
        runnable={name: found for name, found in maps.items() if found},
        history=history,
        per_class=per_class,
        confusion={
            (row["actual"], row["predicted"]): float(row["share_pct"])
            for row in _rows(data / "evaluate" / "confusion.csv")
        },
        graphs={f"data/onnx/{name}": inspection.read(path) for name, path in onnx_files.items() if path.exists()},
        descriptions=descriptions,
        states=states,
        metrics=metrics,
        pipeline=pipeline.read(dvc_yaml),
    )


def _classes(categories: list[Category], statistics: dict[str, Any]) -> dict[int, Category]:
    """Return the categories by id. Of those that the set has, the ones with most pixels keep the data set's colours."""
    pixels: Counter[str] = Counter()
    for split in ("train", "val"):
        pixels.update({row["class"]: row["pixels"] for row in statistics[split]["by_class"]})
    shown = sorted((c for c in categories if pixels[c["name"]]), key=lambda c: (-pixels[c["name"]], c["id"]))
    moved = palette.apart([c["color"] for c in shown])
    colors = {c["id"]: color for c, color in zip(shown, moved, strict=True)}
    return {c["id"]: {**c, "color": colors.get(c["id"], c["color"])} for c in categories}


def precisions(deploy: config.Deploy) -> list[str]:
    """Return the precisions of each variant of the graph, fp32 first."""
    return [config.Precision.fp32.value, *(p.value for p in deploy.lower_precisions)]


def _maps(folder: Path) -> panoptic.PanopticSet | None:
    return panoptic.read(folder) if (folder / "panoptic.json").exists() else None


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
