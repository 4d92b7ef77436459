"""A small project with artifacts of all stages before the report."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import yaml
from dvc.repo import Repo

from stages import config, report
from stages.coco import panoptic
from stages.inference import description
from tests.conftest import REPO
from tests.support import graphs

HEIGHT, WIDTH = 64, 96
GRAPH_SHA256 = "cd" * 32
CLASSES = [
    {"id": 1, "name": "object--<b>car</b>", "color": [0, 0, 142], "isthing": 1},
    {"id": 2, "name": "nature--sky", "color": [70, 130, 180], "isthing": 0},
]


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def make_maps(folder: Path, shift: int) -> None:
    """Two cars under the sky in two pictures; below them is void."""
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    ids[:20], ids[30:50, 10 + shift : 30], ids[30:50, 60:80] = 1, 2, 3
    images, annotations = [], []
    for number, name in enumerate(("a", "b"), start=1):
        (folder / "panoptic").mkdir(parents=True, exist_ok=True)
        panoptic.write_ids(folder / "panoptic" / f"{name}.png", ids)
        images.append({"id": number, "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH})
        segments = [
            {"id": i, "category_id": c, "iscrowd": 0, "area": int((ids == i).sum())}
            for i, c in ((1, 2), (2, 1), (3, 1))
        ]
        annotations.append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
    write(folder / "panoptic.json", {"images": images, "annotations": annotations, "categories": CLASSES})


def graph(variant: str, precision: str) -> dict[str, Any]:
    """Content of graph.json."""
    names = ("label_map", "spec", "checkpoint", "train_panoptic", "train_instances", "val_panoptic", "val_instances")
    return {
        "deploy": {},
        "variant": variant,
        "categories": CLASSES,
        "provenance": {f"{name}_sha256": hashlib.sha256(name.encode()).hexdigest() for name in names},
        "precision": precision,
        "sha256": GRAPH_SHA256 if (variant, precision) == ("onnx", "fp32") else "ef" * 32,
    }


def engine(name: str, capabilities: list[str]) -> dict[str, Any]:
    """Content of engine_NAME.json."""
    return {
        "engine_sha256": hashlib.sha256(name.encode()).hexdigest(),
        "file": f"{name}.bin",
        "bytes": 1_000_000,
        "builder": "tensorrt_rtx" if capabilities else "openvino",
        "builder_version": "1.0",
        "architecture": "x86_64",
        "compute_capabilities": capabilities,
        "variant": "onnx",
        "precision": "fp32",
        "graph_sha256": GRAPH_SHA256,
        "provenance": {"checkpoint_sha256": hashlib.sha256(b"checkpoint").hexdigest()},
    }


def make_config() -> config.Config:
    """Two targets, of which `cpu` is measured."""
    targets = {
        "cpu": config.Target("any CPU", builder_version="1.0"),
        "rtx": config.Target(
            "GPUs", config.Builder.tensorrt_rtx, "1.0", device=config.Device.cuda, compute_capabilities=["8.9"]
        ),
    }
    deploy = config.Deploy(variants=[config.Variant.onnx, config.Variant.onnx_plugin_v1])
    return config.Config(targets=targets, runnable=["cpu"], deploy=deploy, report=config.Report(pictures=2))


def make_workspace(root: Path) -> Path:
    """A DVC project with small artifacts of all stages before the report."""
    data = root / "data"
    (data / "coco" / "val").mkdir(parents=True)
    picture = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for name in ("a", "b"):
        cv2.imwrite(str(data / "coco" / "val" / f"{name}.jpg"), picture)
    write(data / "coco" / "label_map.json", CLASSES)
    make_maps(data / "coco" / "val", 0)
    make_maps(data / "evaluate", 2)
    make_maps(data / "verify" / "cpu", 3)
    header = "class,isthing,pq,sq,rq,tp,fp,fn,iou\n"
    write(data / "evaluate" / "per_class.csv", f"{header}{CLASSES[0]['name']},1,50.0,80.0,62.5,2,1,1,70.0\n")
    write(data / "checkpoint" / "history.csv", "epoch,train_loss,val_loss,val_miou\n1,9.5,,\n2,8.5,8.0,0.25\n")
    for variant in ("onnx", "onnx_plugin_v1"):
        for precision in ("fp32", "fp16"):
            (data / "onnx" / variant / precision).mkdir(parents=True)
            onnx.save(graphs.two_outputs(), data / "onnx" / variant / precision / description.ONNX)
            write(data / "onnx" / variant / precision / description.NAME, graph(variant, precision))

    split = {"images": 2, "segments": 6, "crowds": 0, "instances": 4, "classes_present": 2, "empty": 0, "skipped": 0}
    counted = [{"class": c["name"], "segments": 3, "pixels": 1000 * c["id"]} for c in CLASSES]
    sizes = {"small": 1, "medium": 2, "large": 1}
    statistics = {**split, "by_class": counted, "instances_by_size": sizes, "void_pct": 1.25}
    statistics["instances_by_side_px"] = {"8": 1, "32": 2, "128": 1}
    found = {"vistas": {"version": "v2.0", "root": "a <set>"}}
    write(data / "coco" / "statistics.json", {"sources": found, "train": statistics, "val": statistics})
    quality = {"pq": 33.333, "sq": 80.0, "rq": 41.0, "classes": 2}
    semantic = {"miou": 44.444, "classes_present": 2, "pixel_accuracy": 90.0}
    instance = {"instance": {"ap": 21.5}}
    quality3 = {"all": quality, "things": quality, "stuff": quality}
    by_source = {
        "city": {"pictures": 3, **quality3, "semantic": semantic, **instance}
        | {"partly": {**quality3, "semantic": {**semantic, "miou": 55.5}}}
        | {"protocol": {"name": "Cityscapes, 19 classes", **quality3, "semantic": {**semantic, "miou": 66.6}}},
        "voc": {"pictures": 1234, "stuff": quality, "semantic": semantic, "instance": {}}
        | {"protocol": {"name": "Pascal VOC", "not_computed": "'sofa' is no class of the <taxonomy>"}},
    }
    latency = {"p50_ms": 10.0, "p90_ms": 12.0, "p99_ms": 15.0, "hz": 100.0, "quantiles_ms": [9.0, 10.0, 16.0]}
    times = {"network": latency, "end_to_end": latency}
    machine = {"name": "a <host>", "cpu": "a <CPU>", "gpu": None, "system": "Linux", "python": "3.12.1"}
    host = {**machine, "threads": 2, "builder": "openvino 1.0", "torch": "2.0"}
    cpu, rtx = engine("cpu", []), engine("rtx", ["8.9"])
    measured = {"engine_sha256": cpu["engine_sha256"]}
    code = {"commit": "c0de" * 10, "dirty": False}
    built = {**measured, **code, "date": "2026-11-27T10:00:00+00:00", "seconds": 1.5, "host": machine}
    both = {f"{kind}_probability_difference_{what}": 1e-3 for kind in ("class", "mask") for what in ("p999", "max")}
    equal = {"logit_difference_p99": 1.1e-5, "logit_difference_max": 1.5e-5, "pixel_agreement_pct": 100.0}
    not_compared = {"compared": "not on this host: no <plugin>"}
    metrics = {
        "data": {"classes": 2, "things": 1, "train": split, "val": split},
        "evaluate": {**quality3, "semantic": semantic, **instance, "by_source": by_source, "tao": {}},
        "export_onnx": {"nodes": 20, "bytes": 5000, **equal},
        "simplify_onnx": {"nodes_before": 20, "nodes": 10, "bytes": 4000, **equal},
        "precision_onnx_fp16": {"nodes": 11, "bytes": 2000, "pixel_agreement_pct": 99.25, **both},
        "export_onnx_plugin_v1": {"nodes": 19, "bytes": 5000, **not_compared},
        "simplify_onnx_plugin_v1": {"nodes_before": 19, "nodes": 9, "bytes": 4000, **not_compared},
        "precision_onnx_plugin_v1_fp16": {"nodes": 10, "bytes": 2000, **not_compared},
        "engine_cpu": cpu,
        "engine_rtx": rtx,
        "verify_cpu": {
            **measured,
            "pixel_agreement_pct": 99.98765,
            "pq": 33.3207,
            "checkpoint_pq": 33.333,
            "pq_difference": -0.0123,
            "pictures": 16,
        },
        "benchmark_cpu": {
            **measured,
            **code,
            "date": "2026-11-28T10:00:00+00:00",
            "built": built,
            "engine": times,
            "eager": times,
            "speedup_end_to_end": 1.77,
            "frames": 50,
            "host": host,
        },
    }
    confused = f"{CLASSES[0]['name']},{CLASSES[1]['name']},12.5\n{CLASSES[1]['name']},{CLASSES[1]['name']},100.0\n"
    write(data / "evaluate" / "confusion.csv", f"actual,predicted,share_pct\n{confused}")
    for stem, content in metrics.items():
        write(data / "metrics" / f"{stem}.json", content)
    shutil.copyfile(REPO / "dvc.yaml", root / "dvc.yaml")
    Repo.init(str(root), no_scm=True)
    return root


def write_params(workspace: Path, cfg: config.Config) -> None:
    write(workspace / "params.yaml", yaml.safe_dump(config.plain(cfg)))


def build(workspace: Path, cfg: config.Config) -> str:
    write_params(workspace, cfg)
    report.build(workspace / "data", workspace / "dvc.yaml", workspace / "data" / "report", cfg)
    return (workspace / "data" / "report" / "index.html").read_text(encoding="utf-8")
