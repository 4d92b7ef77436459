"""The verify stage with a real engine, whose graph answers the same on every frame."""

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stages import config, engine, verify
from stages.coco import panoptic
from stages.foundation import files
from stages.inference import description
from stages.onnx_graph import artifact
from tests.conftest import REPO

SIZE = 32
CATEGORIES = [{"id": 1, "name": "car", "isthing": 1}, {"id": 2, "name": "road", "isthing": 0}]


def constant_graph() -> onnx.ModelProto:
    """A fused graph that finds a car in the left half of every frame, and road in the right half."""
    query_ids = np.zeros((1, SIZE, SIZE), np.float32)
    query_ids[..., SIZE // 2 :] = 1
    half = SIZE * SIZE // 2
    values = {
        "query_ids": (query_ids, TensorProto.UINT8),
        "areas": (np.array([[half, half]], np.float32), TensorProto.INT32),
        "scores": (np.array([[0.9, 0.8]], np.float32), TensorProto.FLOAT),
        "category_ids": (np.array([[1, 2]], np.float32), TensorProto.INT32),
    }
    frame = helper.make_tensor_value_info(description.FUSED_INPUT, TensorProto.UINT8, [1, SIZE, SIZE, 3])
    outputs = [helper.make_tensor_value_info(k, kind, v.shape) for k, (v, kind) in values.items()]
    nodes = [
        helper.make_node("Cast", [description.FUSED_INPUT], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
    ]
    for name, (_, kind) in values.items():
        nodes.append(helper.make_node("Add", ["nothing", f"{name}_value"], [f"{name}_sum"]))
        nodes.append(helper.make_node("Cast", [f"{name}_sum"], [name], to=kind))
    constants = [numpy_helper.from_array(v, f"{k}_value") for k, (v, _) in values.items()]
    constants.append(helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]))
    graph = helper.make_graph(nodes, "g", [frame], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture
def cfg() -> config.Config:
    loaded = config.load(REPO / "params.yaml")
    loaded.deploy.height_px = loaded.deploy.width_px = SIZE
    loaded.deploy.frame_height_px = loaded.deploy.frame_width_px = SIZE
    return loaded


@pytest.fixture
def built(tmp_path: Path, cfg: config.Config) -> Path:
    """A folder with an engine, two pictures, and their truth: a car in the left half, road in the right."""
    (tmp_path / "graph").mkdir()
    about = description.Description(config.plain(cfg.deploy), "onnx", CATEGORIES)
    artifact.save(constant_graph(), tmp_path / "graph", about)
    engine.build(
        tmp_path / "graph",
        tmp_path / "engine",
        "cpu",
        cfg.targets["cpu"],
        tmp_path / "timing",
        tmp_path / "engine_metrics.json",
    )
    ids = np.ones((SIZE, SIZE), np.int32)
    ids[:, SIZE // 2 :] = 2
    for folder in ("truth", "checkpoint"):
        writer = panoptic.Writer(tmp_path / folder, CATEGORIES)
        for number in (1, 2):
            name = f"picture{number}.jpg"
            cv2.imwrite(str(tmp_path / folder / name), np.full((SIZE, SIZE, 3), 90 * number, np.uint8))
            writer.add(panoptic.Entry(number, Path(name), Path(f"picture{number}.png"), []), ids, {1: 1, 2: 2})
        writer.close()
    name_no_source(tmp_path / "truth", [1, 2])
    return tmp_path


def name_no_source(folder: Path, everywhere: list[int]) -> None:
    """Write what the pictures' source, which has no name, labels."""
    about = {"format": "vistas", "category_ids_everywhere": everywhere, "category_ids_partly": []}
    files.write_json(folder / "sources.json", {"": about})


def run(built: Path, cfg: config.Config) -> dict[str, float]:
    paths = [built / p for p in ("engine", "checkpoint", "truth", "out", "metrics.json")]
    verify.build(*paths, "cpu", cfg)
    result: dict[str, float] = files.read_json(built / "metrics.json")
    return result


def test_an_equal_engine_passes(built: Path, cfg: config.Config) -> None:
    result = run(built, cfg)
    assert result["pixel_agreement_pct"] == 100
    assert result["checkpoint_pq"] == 100
    written = panoptic.read(built / "out")
    assert [s["category_id"] for s in written.entries[0].segments] == [1, 2]


def test_classes_that_the_source_does_not_label_do_not_count(built: Path, cfg: config.Config) -> None:
    """The truth has ground in place of road, which its source does not label: so road is not wrong."""
    path = built / "truth/panoptic.json"
    content = files.read_json(path)
    content["categories"].append({"id": 3, "name": "ground", "isthing": 0})
    for annotation in content["annotations"]:
        annotation["segments_info"][1]["category_id"] = 3
    files.write_json(path, content)
    name_no_source(built / "truth", [1, 2, 3])
    assert run(built, cfg)["pq"] == pytest.approx(100 / 3)
    name_no_source(built / "truth", [1, 3])
    found = run(built, cfg)
    assert found["pq"] == found["checkpoint_pq"] == 50


def test_disagreement_fails_and_names_the_worst_picture(built: Path, cfg: config.Config) -> None:
    entry = panoptic.read(built / "checkpoint").entries[1]
    panoptic.write_ids(entry.png, np.ones((SIZE, SIZE), np.int32))
    with pytest.raises(RuntimeError, match=r"verify\.min_pixel_agreement_pct 99\.5; worst pictures: picture2 "):
        run(built, cfg)
    # The figures are there all the same.
    assert json.loads((built / "metrics.json").read_text())["pixel_agreement_pct"] < 80


def test_a_different_pq_fails(built: Path, cfg: config.Config) -> None:
    entry = panoptic.read(built / "checkpoint").entries[1]
    panoptic.write_ids(entry.png, np.ones((SIZE, SIZE), np.int32))
    cfg.verify.min_pixel_agreement_pct = 0
    with pytest.raises(RuntimeError, match=r"verify\.max_pq_difference 0\.2"):
        run(built, cfg)
