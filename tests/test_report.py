"""The report: one self-contained page, the same each time, that says what is absent and escapes what it shows."""

import copy
import hashlib
import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from dvc.repo import Repo

from stages import config
from stages.coco import panoptic
from stages.commands import summary
from stages.foundation import files
from stages.foundation.coco_types import Category, SegmentInfo
from stages.inference import description
from stages.media import drawing, thumbnails
from stages.report_page import (
    diagram,
    differences,
    figures,
    inspection,
    palette,
    pictures,
    pipeline,
    sources,
    tables,
    targets,
)
from tests.conftest import REPO as REPOSITORY
from tests.conftest import run
from tests.support import artifacts
from tests.support.artifacts import build, write, write_params

SECTIONS = [
    "Pictures", "Accuracy", "Differences", "Targets", "Speed", "Data", "Training", "Graph", "Provenance", "Pipeline",
    "Parameters",
]  # fmt: skip


@pytest.fixture
def cfg() -> config.Config:
    return artifacts.make_config()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return artifacts.make_workspace(tmp_path)


def test_page_is_self_contained_and_complete(workspace: Path, cfg: config.Config) -> None:
    page = build(workspace, cfg)
    assert [p.name for p in (workspace / "data" / "report").iterdir()] == ["index.html"]
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert links
    assert all(link.startswith(("#", "data:image/")) for link in links)
    assert not re.search(r"url\((?!#)|@import|<script", page)
    assert re.findall(r"<section id=\"\w+\">\n<h2>(\w+)</h2>", page) == SECTIONS
    assert page.count('src="data:image/jpeg;base64,') == 2 * 4 + 2 * (2 * 4)
    for value in ("33.3", "44.4", "99.988", "100.0", "1.77"):
        assert f'<dd class="value">{value}<small>' in page
    assert "99.988 % of pixels agree, PQ difference \N{MINUS SIGN}0.012" in page
    assert page.count("not timed: this profile measures cpu") == 1
    assert "Absent:" not in page


def test_figures_by_source(workspace: Path, cfg: config.Config) -> None:
    page = build(workspace, cfg)
    table = page[page.index("<h3>By source</h3>") : page.index("<h3>By class</h3>")]
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in table.split("<tr>")[2:]]
    dash = "\N{EN DASH}"
    assert rows == [
        ["city", "classes that it labels", "3", "33.3", "80.0", "41.0", "33.3", "33.3", "44.4", "21.5"],
        ["city", "classes labelled in part", "3", "33.3", "80.0", "41.0", "33.3", "33.3", "55.5", dash],
        ["city", "own evaluation: Cityscapes, 19 classes", "3", "33.3", "80.0", "41.0", "33.3", "33.3", "66.6", dash],
        ["voc", "classes that it labels", "1,234", dash, dash, dash, dash, "33.3", "44.4", dash],
        [
            "voc",
            "own evaluation: Pascal VOC",
            "1,234",
            "not computed: &#39;sofa&#39; is no class of the &lt;taxonomy&gt;",
        ],
    ]
    shown = summary.text(workspace / "data", cfg).splitlines()
    assert "source city  PQ 33.3, mIoU 44.4, AP 21.5" in shown
    assert "source city  PQ 33.3, mIoU 66.6 (Cityscapes, 19 classes)" in shown
    assert "source voc   mIoU 44.4" in shown


def test_one_source_has_no_table_of_sources(workspace: Path, cfg: config.Config) -> None:
    path = workspace / "data/metrics/evaluate.json"
    content = files.read_json(path)
    del content["by_source"]
    files.write_json(path, content)
    assert "By source" not in build(workspace, cfg)


def test_page_is_the_same_each_time(workspace: Path, cfg: config.Config) -> None:
    assert build(workspace, cfg) == build(workspace, cfg)


def test_names_are_escaped(workspace: Path, cfg: config.Config) -> None:
    page = build(workspace, cfg)
    assert "<b>car</b>" not in page
    assert "&lt;b&gt;car&lt;/b&gt;" in page
    assert "a <CPU>" not in page


def test_stages_of_the_pipeline_are_drawn(workspace: Path, cfg: config.Config) -> None:
    page = build(workspace, cfg)
    drawing_ = page[page.index('id="pipeline-graph-title"') :]
    names = set(re.findall(r'<g class="box "><title>([^:]+): ', drawing_))
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]
    assert {name.split("@")[0] for name in names} == set(stages)
    assert {"export@onnx_plugin_v1", "precision@onnx_plugin_v1-fp16"} <= names
    assert {"engine@cpu", "engine@rtx", "verify@cpu", "benchmark@cpu"} <= names
    assert "verify@rtx" not in names


def test_no_runnable_target(workspace: Path, cfg: config.Config) -> None:
    cfg = copy.deepcopy(cfg)
    cfg.runnable = []
    page = build(workspace, cfg)
    assert page.count("not timed: this profile measures no target") == 1
    assert "Absent: timings, since this profile measures no target" in page
    assert "verify@" not in page


def test_absent_files_are_named(workspace: Path, cfg: config.Config) -> None:
    data = workspace / "data"
    for path in [
        *(data / "metrics").iterdir(),
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
    assert page.count("never built") >= 2
    assert "Absent: data/evaluate/panoptic.json" in page


def test_edges_are_reduced_and_no_box_is_crossed(workspace: Path, cfg: config.Config) -> None:
    write_params(workspace, cfg)
    found = pipeline.read(workspace / "dvc.yaml")
    before: dict[str, set[str]] = {stage.name: set() for stage in found.stages}
    for earlier, later in found.edges:
        before[later].add(earlier)
    assert before["verify@cpu"] == {"engine@cpu", "evaluate"}
    assert "train" not in before["report"]
    layout = diagram.arrange(pipeline.boxes(found), found.edges)
    assert set(layout.boxes) == set(before)
    assert set(layout.routes) == set(found.edges)
    assert_apart(layout)
    for (earlier, later), route in layout.routes.items():
        assert (route[0], route[-1]) == (layout.boxes[earlier], layout.boxes[later])
        columns = sorted({x for x, _ in layout.boxes.values()})
        assert [x for x, _ in route] == columns[columns.index(route[0][0]) : columns.index(route[-1][0]) + 1]


def assert_apart(layout: diagram.Layout) -> None:
    """Boxes in one column, and the places where edges pass it, don't touch."""
    places = [(x, y, layout.box_height) for x, y in layout.boxes.values()]
    places += [(x, y, diagram.LANE_HEIGHT_PX) for route in layout.routes.values() for x, y in route[1:-1]]
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
    assert_apart(diagram.arrange(pipeline.boxes(found), found.edges))


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
    with pytest.raises(RuntimeError, match=r"DVC can't read the project: .*dvc\.yaml"):
        build(workspace, cfg)
    (workspace / "dvc.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"dvc\.yaml has no stages"):
        build(workspace, cfg)
    with pytest.raises(FileNotFoundError, match=r"no \.dvc in /"):
        pipeline.read(Path("/dvc.yaml"))


def test_overlay_colours_segments_and_darkens_void() -> None:
    picture = np.full((4, 6, 3), 200, np.uint8)
    ids = np.zeros((4, 6), np.int32)
    ids[:, :2], ids[:, 2:4] = 5, 9
    segments: list[SegmentInfo] = [{"id": i, "category_id": 1, "iscrowd": 0} for i in (9, 5)]
    car: Category = {"id": 1, "name": "car", "supercategory": "", "isthing": 1, "color": [250, 0, 0]}
    painter = drawing.Painter([car], drawing.REPORT_STYLE)
    drawn = thumbnails.overlay(picture, ids, segments, painter).astype(int)
    swapped = thumbnails.overlay(picture, np.where(ids == 5, 9, np.where(ids == 9, 5, 0)), segments, painter)
    np.testing.assert_array_equal(swapped, drawn, "shades go by place, not by id")
    assert (drawn[:, 5] < 60).all()
    assert drawn[0, 0, 0] > drawn[0, 0, 1]
    assert (drawn[0, 0] != drawn[0, 3]).any(), "two things of a class have two shades"
    assert (drawn[0, 1] > drawn[0, 0]).all(), "a light line parts them"


@pytest.mark.parametrize(("count", "wanted", "expected"), [(16, 4, [2, 6, 10, 14]), (2, 4, [0, 1]), (3, 1, [1])])
def test_rows_are_spread_evenly(count: int, wanted: int, expected: list[int]) -> None:
    assert thumbnails.spread(count, wanted) == expected


def test_numbers() -> None:
    assert tables.number(1234.56) == "1,234.6"
    assert tables.signed(-0.00001, 3) == "0.000"
    assert tables.signed(0.25, 1) == "+0.2"
    assert tables.short("object--vehicle--car") == "vehicle / car"
    assert tables.short("road") == "road"


def test_figure_is_a_bare_svg_with_a_title_and_no_ids_of_its_own() -> None:
    found = figures.distribution("x y", [("a $1 & <b>", [1.0, 2.0])])
    assert found.startswith('<svg class="plot" role="img" aria-labelledby="x-y-title x-y-desc"')
    assert '<title id="x-y-title">Distribution of latencies</title>' in found
    assert "<b>" not in found
    assert 'id="figure' not in found


def test_engines_say_what_they_came_from(workspace: Path, cfg: config.Config) -> None:
    page = build(workspace, cfg)
    assert hashlib.sha256(b"train_panoptic").hexdigest() in page
    assert hashlib.sha256(b"rtx").hexdigest() in page
    assert "code <b>c0dec0dec0</b>" in page
    assert "Engines of <b>2026-11-27</b>" in page
    for _, version in tables.versions():
        assert f"<td>{version}</td>" in page


def cells(page: str, label: str) -> list[str]:
    """Text of the cells of the first row whose heading begins with `label`."""
    row = page[page.index(f'<tr><th scope="row">{label}') :].partition("</tr>")[0]
    return [re.sub(r"<[^>]+>", " ", cell).strip() for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)]


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
    assert found["engine cpu"].startswith("cpu.bin, onnx, fp32, 1.0 MB, 99.9876 % of pixels agree, 100.0 Hz")
    assert found["engine rtx"].endswith("1.0 MB, not measured: that needs a machine of its target (docs/targets.md)")
    change(workspace, "verify_cpu", engine_sha256="another")
    assert "1.0 MB, 100.0 Hz end to end" in summary.text(workspace / "data", cfg), "figures of another engine"
    change(workspace, "engine_cpu", builder_version="0.9")
    assert "stale (its builder version is 0.9" in summary.text(workspace / "data", cfg)
    (workspace / "data" / "metrics" / "engine_rtx.json").unlink()
    assert "engine rtx   not built" in summary.text(workspace / "data", cfg)


def change(workspace: Path, stem: str, **values: object) -> None:
    path = workspace / "data" / "metrics" / f"{stem}.json"
    write(path, {**json.loads(path.read_text()), **values})


def state(workspace: Path, cfg: config.Config, name: str) -> targets.TargetState:
    write_params(workspace, cfg)
    return sources.read(workspace / "data", workspace / "dvc.yaml", cfg).states[name]


def test_an_engine_is_shown_with_its_machine_and_date(workspace: Path, cfg: config.Config) -> None:
    found = state(workspace, cfg, "cpu")
    assert (found.state, found.date, found.command) == (targets.State.built, "2026-11-27", "")
    assert tables.status(found) == "built at a <host>, a <CPU> on 2026-11-27"
    assert len(tables.machines({"cpu": found})) == 1
    host = json.loads((workspace / "data/metrics/benchmark_cpu.json").read_text())["host"]
    change(workspace, "benchmark_cpu", host={**host, "name": "a board"})
    found = state(workspace, cfg, "cpu")
    assert tables.status(found) == "built at a <host>, a <CPU> on 2026-11-27, measured on a board, a <CPU>"
    assert [row["name"] for row in tables.machines({"cpu": found})] == ["a <host>", "a board"]
    change(workspace, "benchmark_cpu", host=host)
    change(workspace, "benchmark_cpu", built=None)
    assert tables.status(state(workspace, cfg, "cpu")) == "built, timed at a <host>, a <CPU> on 2026-11-28"


@pytest.mark.parametrize("sha256", ["0" * 64, None])
def test_figures_of_another_engine_are_not_shown(workspace: Path, cfg: config.Config, sha256: str | None) -> None:
    """Another engine's, or figures that don't say whose they are."""
    for stem in ("verify_cpu", "benchmark_cpu"):
        change(workspace, stem, engine_sha256=sha256)
    found = state(workspace, cfg, "cpu")
    assert (found.verified, found.timed, found.machine) == (None, None, None)
    page = build(workspace, cfg)
    assert "99.988" not in page
    assert "1.77" not in page
    assert "engine cpu of" not in page, "its pictures"
    assert "Absent: data/metrics/benchmark_cpu.json of this engine" in page


def test_figures_without_the_eager_peer_are_shown(workspace: Path, cfg: config.Config) -> None:
    path = workspace / "data" / "metrics" / "benchmark_cpu.json"
    content = json.loads(path.read_text())
    del content["eager"], content["speedup_end_to_end"], content["host"]["torch"]
    write(path, content)
    page = build(workspace, cfg)
    assert '<dd class="value">100.0<small>' in page
    assert "PyTorch eager, beside" not in page
    assert "100.0 Hz" in summary.text(workspace / "data", cfg)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"graph_sha256": "0" * 64}, "it was built from another graph than data/onnx/onnx/fp32"),
        ({"architecture": "aarch64"}, "its architecture is aarch64, the target's is x86_64"),
        ({"compute_capabilities": ["8.7"]}, "its compute capabilities is 8.7, the target's is none"),
    ],
)
def test_a_stale_engine_says_why(workspace: Path, cfg: config.Config, facts: dict[str, object], reason: str) -> None:
    change(workspace, "engine_cpu", **facts)
    found = state(workspace, cfg, "cpu")
    assert (found.state, found.reason) == (targets.State.stale, reason)
    page = build(workspace, cfg)
    assert f"Stale: {reason.replace(chr(39), '&#39;')}; built at a &lt;host&gt;" in page
    assert "<code>make engine TARGET=cpu</code>" in page


def test_a_target_that_was_never_built_has_its_command(workspace: Path, cfg: config.Config) -> None:
    (workspace / "data/metrics/engine_rtx.json").unlink()
    page = build(workspace, cfg)
    assert '<span class="badge never-built">never built</span>' in page
    assert "<code>make engine TARGET=rtx</code>" in page
    assert "data/metrics/engine_rtx.json is absent" in page


def test_worst_pictures_come_first(workspace: Path, cfg: config.Config) -> None:
    """The engine finds one car a column further right in each picture; in b it also misses the other."""
    folder = workspace / "data/verify/cpu"
    ids = panoptic.read_ids(folder / "panoptic/b.png")
    ids[ids == 3] = 0
    panoptic.write_ids(folder / "panoptic/b.png", ids)
    write_params(workspace, cfg)
    found = pictures.worst(sources.read(workspace / "data", workspace / "dvc.yaml", cfg))
    assert [(w.first, w.second, w.differing, w.pictures) for w in found] == [
        ("annotation", "checkpoint", 2, 2),
        ("checkpoint", "engine cpu", 2, 2),
    ]
    assert [row.name for row in found[1].rows] == ["b.jpg", "a.jpg"]
    pixels, column, car = 64 * 96, 20, 20 * 20
    assert found[1].rows[0].note == f"{100 * (1 - (column + car) / pixels):.1f} % of pixels agree"


def entry(folder: Path, name: str, ids: list[list[int]], classes: dict[int, int], crowd: int = 0) -> panoptic.Entry:
    png = folder / f"{name}.png"
    panoptic.write_ids(png, np.array(ids))
    segments: list[SegmentInfo] = [{"id": i, "category_id": c, "iscrowd": int(i == crowd)} for i, c in classes.items()]
    return panoptic.Entry(1, Path("a.jpg"), png, segments)


def test_differences_say_what_differs(tmp_path: Path) -> None:
    """Segments by number: 1 and 2 are cars, 3 is sky, 4 is a crowd, 0 is void."""
    truth = entry(tmp_path, "truth", [[1, 1, 1, 2, 3, 3, 0, 4]], {1: 1, 2: 1, 3: 2, 4: 1}, crowd=4)
    found = entry(tmp_path, "found", [[7, 7, 8, 8, 8, 0, 7, 7]], {7: 1, 8: 1})
    same, other_class, other_segment = differences.SAME, differences.OTHER_CLASS, differences.OTHER_SEGMENT
    missed, left_out = differences.MISSED, differences.NOT_COMPARED
    expected = [same, same, other_segment, same, other_class, missed, left_out, left_out]
    assert differences.difference(truth, found, frozenset({1, 2})).tolist() == [expected]
    only_cars = [same, same, other_segment, same, left_out, left_out, left_out, left_out]
    assert differences.difference(truth, found, frozenset({1})).tolist() == [only_cars]
    assert differences.difference(truth, found, None)[0, 6:].tolist() == [missed, other_segment]
    smaller = entry(tmp_path, "smaller", [[7]], {7: 1})
    with pytest.raises(ValueError, match=r"smaller\.png: found \(1, 1\), expected \(1, 8\)"):
        differences.difference(truth, smaller, None)


def test_one_pixel_that_differs_is_seen() -> None:
    found = np.zeros((400, 800), np.uint8)
    found[301, 603] = differences.OTHER_CLASS
    drawn = differences.draw(np.full((100, 200, 3), 90, np.uint8), differences.shrink(found, 200, 100))
    color = differences.KINDS[differences.OTHER_CLASS][1]
    assert (drawn == color).all(-1).sum() == differences.ENLARGED_PX**2
    assert (drawn[75, 150] == color).all()


def test_colours_that_look_alike_are_moved_apart() -> None:
    """White three times, and a red and a green that deuteranopes confuse."""
    given = [[255, 255, 255], [128, 64, 128], [255, 255, 255], [250, 250, 250], [200, 60, 40], [105, 120, 40]]
    moved = palette.apart(given)
    assert (moved[:2], len(moved)) == (given[:2], len(given))
    assert len({tuple(color) for color in moved}) == len(given)
    for first, second in itertools.combinations(np.array(moved, np.uint8), 2):
        assert palette._clearance(first[None], second[None]) >= 1
    many = palette.apart([[255, 255, 255]] * 60)
    assert len({tuple(color) for color in many}) == 60


def test_largest_confusions_leave_out_what_is_right(workspace: Path, cfg: config.Config) -> None:
    page = build(workspace, cfg)
    assert page.count("&lt;b&gt;car&lt;/b&gt; as sky: 12.5 %") == 1
    assert cells(page, "&lt;b&gt;car&lt;/b&gt;</th><td>sky")[1:] == ["sky", "12.5"]
