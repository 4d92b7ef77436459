"""A small finished project, quickly: real git and DVC, a real set and COCO files, a real engine, and no training.

What only a training could make, model.pth and the figures, is written. All hashes that the artifacts name of each other
are true.
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages import config, convert, engine, sample
from stages.commands import params
from stages.engines import interface
from stages.foundation import files
from stages.inference import description
from tests.conftest import TABLES, copy_working_tree, must
from tests.support import graphs

OVERRIDES = [
    "profile=smoke",
    "~targets.rtx",
    "~targets.gpu",
    "deploy.variants=[onnx]",
    "targets.cpu.builder=onnxruntime",
]


def build(folder: Path) -> Path:
    """Make the project in `folder`, all committed, every stage up to date; returns the folder."""
    copy_working_tree(folder)
    shutil.rmtree(folder / "data/metrics", ignore_errors=True)
    shutil.rmtree(folder / "releases", ignore_errors=True)
    target = config.Target(builder=config.Builder.onnxruntime)
    installed = interface.backend(target).installed_version(target)
    params.build(folder / "conf", folder / "params.yaml", [*OVERRIDES, f"targets.cpu.builder_version={installed}"])
    cfg = config.load(folder / "params.yaml")
    data = folder / "data"
    sample.build(data / "raw/sample", cfg.sample)
    convert.build(data / "raw/sample", data / "coco", data / "metrics/data.json", TABLES, cfg.data)
    _checkpoint(data)
    _graphs_and_engine(data, cfg)
    for name in ("evaluate", "verify/cpu"):
        shutil.copytree(data / "coco/val/panoptic", data / name / "panoptic")
        shutil.copy2(data / "coco/val/panoptic.json", data / name)
    for name in ("evaluate/per_class.csv", "evaluate/confusion.csv"):
        (data / name).write_text("class,pq\n")
    (data / "report").mkdir()
    (data / "report/index.html").write_text("report")
    write_metrics(data, "")
    must("git", "init", "-q", "-b", "main", cwd=folder)
    for key, value in {"user.name": "t", "user.email": "t@example.org"}.items():
        must("git", "config", key, value, cwd=folder)
    must("git", "add", "-A", cwd=folder)
    must("dvc", "commit", "-q", "-f", cwd=folder)
    commit(folder, "start")
    return folder


def commit(folder: Path, message: str) -> None:
    must("git", "add", "-A", cwd=folder)
    must("git", "commit", "-qm", message, cwd=folder)


def write_metrics(data: Path, engine_sha256: str) -> None:
    """Write the figures of all stages; those of the engine say that they are of the one with this hash, or of ours."""
    own = engine_sha256 or files.read_json(data / "engines/cpu/engine.json")["engine"]["sha256"]
    score: dict[str, Any] = {"all": {"pq": 33.25, "sq": 46.5, "rq": 45.0}, "semantic": {"miou": 51.5}}
    timed = {"p50_ms": 24.5, "p90_ms": 26.0, "p99_ms": 27.25, "hz": 40.5}
    contents = {
        "train": {"epochs": 2, "epoch": 2},
        "evaluate": score | {"instance": {"ap": 8.5}},
        "export_onnx": {"nodes": 6},
        "simplify_onnx": {"nodes": 6},
        "precision_onnx_fp16": {"nodes": 6},
        "verify_cpu": {"pixel_agreement_pct": 99.875, "pq": 33.125, "engine_sha256": own},
        "benchmark_cpu": {"engine": {"end_to_end": timed}, "host": {"cpu": "Test | CPU"}, "engine_sha256": own},
    }
    for stem, content in contents.items():
        files.write_json(data / f"metrics/{stem}.json", content)


def _checkpoint(data: Path) -> None:
    folder = data / "checkpoint"
    folder.mkdir()
    for name in ("model.pth", "spec.yaml", "history.csv"):
        (folder / name).write_text(f"{name} of the test\n")
    named = {"label_map": data / "coco/label_map.json", "checkpoint": folder / "model.pth"}
    files.write_json(folder / "provenance.json", {f"{key}_sha256": files.sha256(path) for key, path in named.items()})


def _graphs_and_engine(data: Path, cfg: config.Config) -> None:
    onnx, target = data / "onnx/onnx", cfg.targets["cpu"]
    onnx.mkdir(parents=True)
    folder = graphs.write(onnx / "fp32", graphs.two_outputs(), target)
    about = description.parse(files.read_json(folder / description.NAME))
    about.provenance.clear()
    about.provenance.update(files.read_json(data / "checkpoint/provenance.json"))
    files.write_json(folder / description.NAME, asdict(about))
    for name in ("exported", "fp16"):
        shutil.copytree(folder, onnx / name)
    (onnx / "exported/reference.npz").write_bytes(b"reference")
    cache, metrics = data.parent / ".timing_cache/cpu", data / "metrics/engine_cpu.json"
    engine.build(folder, data / "engines/cpu", "cpu", target, cache, metrics)
