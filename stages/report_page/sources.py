"""Reads the files of the other stages for the page."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages import config
from stages.coco import panoptic
from stages.foundation import files
from stages.foundation.coco_types import Category
from stages.inference import description
from stages.report_page import inspection, pipeline


@dataclass(frozen=True)
class Sources:
    """Content of the artifacts. A file that no stage has written is None or empty."""

    cfg: config.Config
    classes: dict[int, Category]
    """By category_id."""
    statistics: dict[str, Any]
    """Content of statistics.json, which convert writes."""
    truth: panoptic.PanopticSet
    checkpoint: panoptic.PanopticSet | None
    """Maps that evaluate wrote."""
    runnable: dict[str, panoptic.PanopticSet]
    """Target -> maps that verify wrote."""
    history: list[dict[str, float]]
    """A row per epoch of TAO's training. A row lacks the figures that TAO did not measure in its epoch."""
    per_class: list[dict[str, str | float]]
    """Rows of per_class.csv: the class, and its figures, 0 to 100, and counts. A row lacks what its class lacks."""
    graphs: dict[str, inspection.Inspection]
    """Folder of a deployable graph, such as data/onnx/onnx_gather/fp16 -> its inputs and outputs."""
    engines: dict[str, dict[str, Any]]
    """Target -> metrics of its stage `engine`."""
    metrics: dict[str, Any]
    """Stem of each file in metrics/ -> its content."""
    pipeline: pipeline.Pipeline

    def metric(self, stem: str) -> Any:
        """Return the content of metrics/<stem>.json, or None where it is absent."""
        return self.metrics.get(stem)

    def measured(self, stage: str, target: str) -> Any:
        """Return the metrics of `verify` or `benchmark` of a target.

        None where they are absent or of another engine than the one that the target has now.
        """
        found, engine = self.metric(f"{stage}_{target}"), self.engines.get(target)
        return found if found and engine and found["engine_sha256"] == engine["engine_sha256"] else None


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
    runnable = {name: _maps(data / "verify" / name) for name in cfg.runnable}
    deployable = [(variant.value, p) for variant in cfg.deploy.variants for p in precisions(cfg.deploy)]
    onnx_files = {
        f"data/onnx/{variant}/{p}": data / "onnx" / variant / p / description.ONNX for variant, p in deployable
    }
    metrics = {path.stem: files.read_json(path) for path in sorted((data / "metrics").glob("*.json"))}
    return Sources(
        cfg=cfg,
        classes={c["id"]: c for c in files.read_json(data / "coco" / "label_map.json")},
        statistics=files.read_json(data / "coco" / "statistics.json"),
        truth=panoptic.read(data / "coco" / "val"),
        checkpoint=_maps(data / "evaluate"),
        runnable={name: maps for name, maps in runnable.items() if maps},
        history=history,
        per_class=per_class,
        graphs={folder: inspection.read(path) for folder, path in onnx_files.items() if path.exists()},
        engines={name: metrics[f"engine_{name}"] for name in cfg.targets if f"engine_{name}" in metrics},
        metrics=metrics,
        pipeline=pipeline.read(dvc_yaml),
    )


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
