"""The report: one self-contained page, the same each time, that says what is absent and escapes what it shows."""

import copy
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import yaml
from dvc.repo import Repo

from stages import config, report
from stages.coco import panoptic
from stages.commands import summary
from stages.foundation import files
from stages.foundation.coco_types import Category, SegmentInfo
from stages.inference import description
from stages.media import drawing
from stages.report_page import figures, inspection, pictures, pipeline, sources, tables
from tests.conftest import REPO as REPOSITORY
from tests.conftest import run
from tests.support import graphs

HEIGHT, WIDTH = 64, 96
CLASSES = [
    {"id": 1, "name": "object--<b>car</b>", "color": [0, 0, 142], "isthing": 1},
    {"id": 2, "name": "nature--sky", "color": [70, 130, 180], "isthing": 0},
]
SECTIONS = ["Pictures", "Pipeline", "Data", "Training", "Accuracy", "Graph", "Engines", "Speed", "Parameters"]


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


def engine_metrics(name: str, capabilities: list[str]) -> dict[str, object]:
    return {
        "engine_sha256": name * 8,
        "file": f"{name}.bin",
        "bytes": 1_000_000,
        "builder": "openvino",
        "builder_version": "1.0",
        "architecture": "x86_64",
        "compute_capabilities": capabilities,
        "variant": "onnx",
        "precision": "fp32",
        "graph_sha256": "cd" * 32,
        "provenance": {"checkpoint_sha256": "c0ffee"},
    }


@pytest.fixture
def cfg() -> config.Config:
    targets = {
        "cpu": config.Target("any CPU", builder_version="1.0"),
        "rtx": config.Target(
            "GPUs", config.Builder.tensorrt_rtx, "1.0", device=config.Device.cuda, compute_capabilities=["8.9"]
        ),
    }
    deploy = config.Deploy(variants=[config.Variant.onnx, config.Variant.onnx_plugin_v1])
    return config.Config(targets=targets, runnable=["cpu"], deploy=deploy, report=config.Report(pictures=2))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    data = tmp_path / "data"
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

    split = {"images": 2, "segments": 6, "crowds": 0, "instances": 4, "classes_present": 2, "empty": 0, "skipped": 0}
    counted = [{"class": c["name"], "segments": 3, "pixels": 1000 * c["id"]} for c in CLASSES]
    sizes = {"small": 1, "medium": 2, "large": 1}
    statistics = {**split, "by_class": counted, "instances_by_size": sizes, "void_pct": 1.25}
    found = {"vistas": {"version": "v2.0", "root": "a <set>"}}
    write(data / "coco" / "statistics.json", {"sources": found, "train": statistics, "val": statistics})
    quality = {"pq": 33.333, "sq": 80.0, "rq": 41.0, "classes": 2}
    semantic = {"miou": 44.444, "classes_present": 2, "pixel_accuracy": 90.0}
    instance = {"instance": {"ap": 21.5}}
    latency = {"p50_ms": 10.0, "p90_ms": 12.0, "p99_ms": 15.0, "hz": 100.0}
    times = {"network": latency, "end_to_end": latency}
    machine = {"name": "bench-1", "cpu": "a <CPU>", "gpu": None, "system": "Linux", "python": "3.12"}
    host = {**machine, "threads": 2, "builder": "openvino 1.0", "torch": "2.0"}
    both = {f"{kind}_probability_difference_{what}": 1e-3 for kind in ("class", "mask") for what in ("p999", "max")}
    equal = {"logit_difference_p99": 1.1e-5, "logit_difference_max": 1.5e-5, "pixel_agreement_pct": 100.0}
    not_compared = {"compared": "not on this host: no <plugin>"}
    metrics = {
        "data": {"classes": 2, "things": 1, "train": split, "val": split},
        "evaluate": {"all": quality, "things": quality, "stuff": quality, "semantic": semantic, **instance, "tao": {}},
        "export_onnx": {"nodes": 20, "bytes": 5000, **equal},
        "simplify_onnx": {"nodes_before": 20, "nodes": 10, "bytes": 4000, **equal},
        "precision_onnx_fp16": {"nodes": 11, "bytes": 2000, "pixel_agreement_pct": 99.25, **both},
        "export_onnx_plugin_v1": {"nodes": 19, "bytes": 5000, **not_compared},
        "simplify_onnx_plugin_v1": {"nodes_before": 19, "nodes": 9, "bytes": 4000, **not_compared},
        "precision_onnx_plugin_v1_fp16": {"nodes": 10, "bytes": 2000, **not_compared},
        "engine_cpu": engine_metrics("cpu", []),
        "engine_rtx": engine_metrics("rtx", ["8.9"]),
        "verify_cpu": {"engine_sha256": "cpu" * 8, "pixel_agreement_pct": 99.98765, "pq_difference": -0.0123},
        "benchmark_cpu": {
            "engine_sha256": "cpu" * 8,
            "date": "2026-11-28T01:12:36+00:00",
            "engine": times,
            "eager": times,
            "speedup_end_to_end": 1.77,
            "frames": 50,
            "host": host,
        },
    }
    for stem, content in metrics.items():
        write(data / "metrics" / f"{stem}.json", content)
    shutil.copyfile(REPOSITORY / "dvc.yaml", tmp_path / "dvc.yaml")
    Repo.init(str(tmp_path), no_scm=True)
    return tmp_path


def write_params(workspace: Path, cfg: config.Config) -> None:
    write(workspace / "params.yaml", yaml.safe_dump(config.plain(cfg)))


def build(workspace: Path, cfg: config.Config) -> str:
    write_params(workspace, cfg)
    report.build(workspace / "data", workspace / "dvc.yaml", workspace / "data" / "report", cfg)
    return (workspace / "data" / "report" / "index.html").read_text(encoding="utf-8")


def test_page_is_self_contained_and_complete(workspace: Path, cfg: config.Config) -> None:
    page = build(workspace, cfg)
    assert [p.name for p in (workspace / "data" / "report").iterdir()] == ["index.html"]
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert links
    assert all(link.startswith(("#", "data:image/")) for link in links)
    assert not re.search(r"url\((?!#)|@import|<script", page)
    assert re.findall(r"<section id=\"\w+\">\n<h2>(\w+)</h2>", page) == SECTIONS
    assert page.count('src="data:image/jpeg;base64,') == 2 * 4
    for value in ("33.3", "44.4", "99.988", "100.0", "1.77"):
        assert f'<div class="value">{value}<small>' in page
    assert "verified: 99.988 % pixels agree, PQ difference \N{MINUS SIGN}0.012" in page
    assert page.count("built, not run on this host") == 1
    assert "Absent:" not in page


def test_page_is_the_same_each_time(workspace: Path, cfg: config.Config) -> None:
    assert build(workspace, cfg) == build(workspace, cfg)


def test_names_are_escaped(workspace: Path, cfg: config.Config) -> None:
    page = build(workspace, cfg)
    assert "<b>car</b>" not in page
    assert "&lt;b&gt;car&lt;/b&gt;" in page
    assert "a <CPU>" not in page


def test_stages_of_the_pipeline_are_drawn(workspace: Path, cfg: config.Config) -> None:
    page = build(workspace, cfg)
    names = set(re.findall(r"<g><title>([^:]+): ", page))
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    assert {name.split("@")[0] for name in names} == set(stages)
    assert {"export@onnx_plugin_v1", "precision@onnx_plugin_v1-fp16"} <= names
    assert {"engine@cpu", "engine@rtx", "verify@cpu", "benchmark@cpu"} <= names
    assert "verify@rtx" not in names


def test_no_runnable_target(workspace: Path, cfg: config.Config) -> None:
    cfg = copy.deepcopy(cfg)
    cfg.runnable = []
    page = build(workspace, cfg)
    assert page.count("built, not run on this host") == 2
    assert "Absent: timings, since this profile measures no target" in page
    assert "verify@" not in page


def test_absent_files_are_named(workspace: Path, cfg: config.Config) -> None:
    data = workspace / "data"
    built = data / "metrics" / "engine_cpu.json"
    for path in [
        *({*(data / "metrics").iterdir()} - {built}),
        data / "checkpoint" / "history.csv",
        data / "evaluate" / "panoptic.json",
    ]:
        path.unlink()
    shutil.rmtree(data / "onnx")
    page = build(workspace, cfg)
    for name in ("metrics/evaluate.json", "checkpoint/history.csv", "metrics/benchmark_cpu.json"):
        assert f"Absent: data/{name}" in page
    assert "Absent: data/onnx/*/*/graph.onnx" in page
    assert "absent: precision@onnx_plugin_v1-fp16 has not run" in page
    assert "never built" in page
    assert "built, verify has not run" in page


def test_figures_of_another_engine_are_not_shown(workspace: Path, cfg: config.Config) -> None:
    assert "99.988 % pixels agree" in build(workspace, cfg)
    for stage in ("verify", "benchmark"):
        path = workspace / "data" / "metrics" / f"{stage}_cpu.json"
        write(path, {**files.read_json(path), "engine_sha256": "another"})
    page = build(workspace, cfg)
    assert "built, verify has not run" in page
    assert "99.988" not in page
    assert "bench-1" not in page
    found = summary.text(workspace / "data", cfg)
    assert "cpu.bin, onnx, fp32, 1.0 MB, its figures are of another engine" in found


def test_figures_of_a_machine_without_pytorch(workspace: Path, cfg: config.Config) -> None:
    path = workspace / "data" / "metrics" / "benchmark_cpu.json"
    content = files.read_json(path)
    del content["eager"], content["speedup_end_to_end"], content["host"]["torch"]
    write(path, content)
    page = build(workspace, cfg)
    assert "bench-1" in page
    assert "over PyTorch eager, end to end" not in page
    assert "100.0 Hz" in summary.text(workspace / "data", cfg)


def test_edges_are_reduced_and_no_box_is_crossed(workspace: Path, cfg: config.Config) -> None:
    write_params(workspace, cfg)
    found = pipeline.read(workspace / "dvc.yaml")
    before: dict[str, set[str]] = {stage.name: set() for stage in found.stages}
    for earlier, later in found.edges:
        before[later].add(earlier)
    assert before["verify@cpu"] == {"engine@cpu", "evaluate"}
    assert "train" not in before["report"]
    layout = pipeline.arrange(found)
    assert set(layout.boxes) == set(before)
    assert set(layout.routes) == set(found.edges)
    assert_apart(layout)
    for (earlier, later), route in layout.routes.items():
        assert (route[0], route[-1]) == (layout.boxes[earlier], layout.boxes[later])
        columns = sorted({x for x, _ in layout.boxes.values()})
        assert [x for x, _ in route] == columns[columns.index(route[0][0]) : columns.index(route[-1][0]) + 1]


def assert_apart(layout: pipeline.Layout) -> None:
    """Boxes in one column, and the places where edges pass it, don't touch."""
    places = [(x, y, pipeline.BOX_HEIGHT_PX) for x, y in layout.boxes.values()]
    places += [(x, y, pipeline.LANE_HEIGHT_PX) for route in layout.routes.values() for x, y in route[1:-1]]
    for x, y, height in places:
        assert layout.box_width / 2 <= x <= layout.width - layout.box_width / 2
        assert height / 2 <= y <= layout.height - height / 2
    for (x, y, height), (other_x, other_y, other_height) in itertools.combinations(places, 2):
        assert x != other_x or abs(y - other_y) >= (height + other_height) / 2


def test_a_wide_pipeline_without_the_sample_is_laid_out(workspace: Path, cfg: config.Config) -> None:
    """Data that DVC tracks instead of generated scenes, many targets, and stages that nothing needs."""
    cfg.deploy.lower_precisions = [config.LowerPrecision.fp16, config.LowerPrecision.int8]
    cfg.deploy.variants = list(config.Variant)
    cfg.targets |= {f"gpu{number}": cfg.targets["rtx"] for number in range(6)}
    cfg.runnable = ["cpu", "rtx", "gpu1", "gpu4"]
    cfg.data.root = "data/raw/mapillary"
    write_params(workspace, cfg)
    tracked = workspace / "data/raw/mapillary"
    write(tracked / "picture.jpg", "picture")
    with Repo(str(workspace)) as repo:
        repo.add(str(tracked))
    found = pipeline.read(workspace / "dvc.yaml")
    assert "engine@gpu5" in {stage.name for stage in found.stages}
    assert not [stage for stage in found.stages if "mapillary" in stage.name]
    assert "sample" not in {name for edge in found.edges for name in edge}
    assert_apart(pipeline.arrange(found))


def test_dvc_answers_inside_a_stage_that_it_runs(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from stages.report_page import pipeline; "
        "print([s.name for s in pipeline.read(Path('dvc.yaml')).stages], file=open('names.txt', 'w'))"
    )
    stage = {"foreach": ["page"], "do": {"cmd": f'python -c "{code}"', "outs": ["names.txt"]}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"report": stage}}))
    Repo.init(str(tmp_path), no_scm=True)
    done = run("dvc", "repro", cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "names.txt").read_text() == "['report@page']\n"


def test_a_broken_dvc_yaml_is_named(workspace: Path, cfg: config.Config) -> None:
    write(workspace / "dvc.yaml", "stages: {convert: {deps: [a]}}")
    with pytest.raises(RuntimeError, match=r"dvc\.yaml: DVC can't resolve its stages"):
        build(workspace, cfg)
    (workspace / "dvc.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"dvc\.yaml has no stages"):
        build(workspace, cfg)
    with pytest.raises(FileNotFoundError, match="not in a DVC project"):
        pipeline.read(Path("/dvc.yaml"))


def test_overlay_colours_segments_and_darkens_void() -> None:
    picture = np.full((4, 6, 3), 200, np.uint8)
    ids = np.zeros((4, 6), np.int32)
    ids[:, :2], ids[:, 2:4] = 5, 9
    segments: list[SegmentInfo] = [{"id": i, "category_id": 1, "iscrowd": 0} for i in (9, 5)]
    car: Category = {"id": 1, "name": "car", "supercategory": "", "isthing": 1, "color": [250, 0, 0]}
    painter = drawing.Painter([car], drawing.REPORT_STYLE)
    drawn = pictures.overlay(picture, ids, segments, painter).astype(int)
    swapped = pictures.overlay(picture, np.where(ids == 5, 9, np.where(ids == 9, 5, 0)), segments, painter)
    np.testing.assert_array_equal(swapped, drawn, "shades go by place, not by id")
    assert (drawn[:, 5] < 60).all()
    assert drawn[0, 0, 0] > drawn[0, 0, 1]
    assert (drawn[0, 0] != drawn[0, 3]).any(), "two things of a class have two shades"
    assert (drawn[0, 1] > drawn[0, 0]).all(), "a light line parts them"


@pytest.mark.parametrize(("count", "wanted", "expected"), [(16, 4, [2, 6, 10, 14]), (2, 4, [0, 1]), (3, 1, [1])])
def test_rows_are_spread_evenly(count: int, wanted: int, expected: list[int]) -> None:
    assert pictures.spread(count, wanted) == expected


def test_numbers() -> None:
    assert tables.number(1234.56) == "1,234.6"
    assert tables.signed(-0.00001, 3) == "0.000"
    assert tables.signed(0.25, 1) == "+0.2"
    assert tables.short("object--vehicle--car") == "vehicle / car"
    assert tables.short("road") == "road"


def test_figure_is_a_bare_svg_without_ids_of_its_own() -> None:
    found = figures.by_class("x", [("a $1 & <b>", True, 3.0)], "segments", 0)
    assert found.startswith("<svg")
    assert "<b>" not in found
    assert 'id="figure' not in found


def test_engines_say_what_they_came_from(workspace: Path, cfg: config.Config) -> None:
    page = build(workspace, cfg)
    assert "c0ffee" in page
    assert "<td>cpu, rtx</td>" in page


def cells(page: str, label: str) -> list[str]:
    """Text of the cells of the first row whose first cell begins with `label`."""
    row = page[page.index(f"<tr><td>{label}") :].partition("</tr>")[0]
    return [re.sub(r"<[^>]+>", " ", cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]


def test_graphs_have_a_row_per_form_and_file(workspace: Path, cfg: config.Config) -> None:
    page = build(workspace, cfg)
    assert cells(page, "onnx, exported")[1:] == ["20", "0.01", "1.1e-05", "100.000", "", "", "", ""]
    assert cells(page, "onnx, fp16")[1:] == ["11", "0.00", "", "99.250", *["1.0e-03"] * 4]
    for name, nodes in (("exported", "19"), ("fp32", "9"), ("fp16", "10")):
        row = cells(page, f"onnx_plugin_v1, {name}")
        assert row[1] == nodes
        assert row[3] == "not compared no &lt;plugin&gt;"


def test_graphs_are_inspected(workspace: Path, cfg: config.Config) -> None:
    page = build(workspace, cfg)
    assert page.count("---- 1 Graph Input(s) ----") == 4
    assert "ONNX Opset: 17" in page
    assert "{frames [dtype=uint8, shape=(1, 32, 32, 3)]}" in page
    row = cells(page, "data/onnx/onnx_plugin_v1/fp16")
    assert row[1] == "frames  uint8 [1, 32, 32, 3]"
    assert (row[2], row[4]) == ("0.003", "0.000")


def test_a_broken_graph_is_named(workspace: Path, cfg: config.Config) -> None:
    file = workspace / "data" / "onnx" / "onnx_plugin_v1" / "fp16" / description.ONNX
    file.write_text("not ONNX")
    with pytest.raises(ValueError, match=r"onnx_plugin_v1/fp16/graph\.onnx: not ONNX"):
        build(workspace, cfg)


def test_bytes_are_of_one_frame(workspace: Path, cfg: config.Config) -> None:
    found = inspection.read(workspace / "data" / "onnx" / "onnx" / "fp32" / description.ONNX)
    assert [(t.name, t.dtype, t.shape, t.bytes) for t in found.inputs] == [("frames", "uint8", (1, 32, 32, 3), 3072)]
    assert [(t.name, t.dtype, t.bytes) for t in found.outputs] == [("mean", "float32", 4), ("count", "int32", 4)]
    cfg.deploy.batch_size = 4
    write_params(workspace, cfg)
    (row, *_) = tables.transfers(sources.read(workspace / "data", workspace / "dvc.yaml", cfg))
    assert (row["in_mb"], row["out_mb"]) == (3072 / 4 / 1e6, 8 / 4 / 1e6)


def test_times_are_of_one_frame(workspace: Path, cfg: config.Config) -> None:
    assert "single frames" not in build(workspace, cfg)
    cfg.deploy.batch_size = 4
    page = build(workspace, cfg)
    assert "the engine's batch of 4 is divided by its size, PyTorch takes single frames" in page
    assert "whole graph, merge included" in page


def test_summary(workspace: Path, cfg: config.Config) -> None:
    found = dict(re.split("  +", line, maxsplit=1) for line in summary.text(workspace / "data", cfg).splitlines())
    assert found["graph"] == "fused, panoptic, frames 1280 x 720, batch 1: onnx, onnx_plugin_v1"
    assert found["engine cpu"].startswith("cpu.bin, onnx, fp32, 1.0 MB, 99.988 % of pixels agree, 100.0 Hz")
    assert found["engine rtx"].endswith("built, not run on this host")
    (workspace / "data" / "metrics" / "engine_rtx.json").unlink()
    assert "engine rtx  not built" in summary.text(workspace / "data", cfg)
