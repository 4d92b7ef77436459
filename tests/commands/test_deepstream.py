"""The graph and the configuration for DeepStream's nvinfer: what nvinfer gives a network, run by ONNX Runtime."""

import configparser
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from stages import config, export, simplify
from stages.commands import deepstream
from stages.foundation import files
from stages.inference import description, frames
from stages.onnx_graph import artifact
from tests.conftest import REPO
from tests.support import bright, networks

PANOPTIC, SEMANTIC, INSTANCE = config.Mode
FUSED, TAO = config.GraphKind


def written(folder: Path, cfg: config.Deploy, model: onnx.ModelProto, precision: str = "fp32") -> Path:
    """Write the folder of a graph."""
    folder.mkdir()
    about = description.Description(config.plain(cfg), "onnx", bright.CATEGORIES, precision=precision)
    artifact.save(model, folder, about)
    return folder


def properties(folder: Path) -> dict[str, str]:
    parser = configparser.ConfigParser()
    parser.read(folder / "nvinfer.txt")
    assert parser.sections() == ["property"]
    return dict(parser["property"])


def run(model: Path, array: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    assert list(array.shape) == entry.shape
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, {entry.name: array}), strict=True))


def planes(rgb: np.ndarray) -> np.ndarray:
    """What nvinfer gives a network with net-scale-factor 1 and model-color-format 0: float32 [B, 3, H, W], 0 to 255."""
    return np.ascontiguousarray(rgb.transpose(0, 3, 1, 2), np.float32)


BRIGHT = config.Deploy(
    batch_size=2, frame_height_px=bright.SIZE[0], frame_width_px=bright.SIZE[1], height_px=64, width_px=64
)


def test_the_fused_graph_takes_what_nvinfer_gives(tmp_path: Path) -> None:
    graph = written(tmp_path / "graph", BRIGHT, bright.bright_is_car(2))
    deepstream.build(graph, tmp_path / "out")
    pictures = np.stack([bright.picture(20), bright.picture(40)])
    before, after = run(graph / "graph.onnx", pictures), run(tmp_path / "out/graph.onnx", planes(pictures))
    assert list(before) == list(after) == ["query_ids", "areas", "scores", "category_ids"]
    for name, array in before.items():
        assert np.array_equal(after[name], array)
        assert after[name].dtype == (np.float32 if name == "scores" else np.int32)
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.name != ".written") == [
        "graph.json", "graph.onnx", "labels.txt", "nvinfer.txt",
    ]  # fmt: skip
    assert properties(tmp_path / "out") == {
        "gpu-id": "0", "gie-unique-id": "1", "process-mode": "1", "onnx-file": "graph.onnx",
        "model-engine-file": "graph.onnx_b2_gpu0_fp32.engine", "batch-size": "2", "network-mode": "0",
        "infer-dims": "3;48;64", "model-color-format": "0", "net-scale-factor": "1.0", "maintain-aspect-ratio": "1",
        "symmetric-padding": "0", "scaling-filter": "1", "network-type": "100",
        "output-blob-names": "query_ids;areas;scores;category_ids", "labelfile-path": "labels.txt",
        "output-tensor-meta": "1",
    }  # fmt: skip
    assert (tmp_path / "out/labels.txt").read_text().splitlines() == ["object--car", "nature--sky"]


def test_bytes_are_nowhere_inside(tmp_path: Path) -> None:
    """TensorRT has uint8 at a network's border alone."""
    model = bright.bright_is_car(2)
    deepstream.adapt(model, BRIGHT)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    kinds = {v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    assert onnx.TensorProto.UINT8 not in kinds


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "cuda"}, "a graph of our CUDA operators"),
        ({"precision": "int8"}, "precision int8, expected one of fp32, fp16"),
        (None, "has no graph.json, expected the folder of a graph"),
    ],
)
def test_what_nvinfer_can_not_take_is_refused(tmp_path: Path, change: dict[str, str] | None, message: str) -> None:
    graph = written(tmp_path / "graph", BRIGHT, bright.bright_is_car(2))
    if change is None:
        (graph / "graph.json").unlink()
    else:
        files.write_json(graph / "graph.json", files.read_json(graph / "graph.json") | change)
    with pytest.raises(ValueError, match=message):
        deepstream.build(graph, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_others_stays_as_it_is(tmp_path: Path) -> None:
    graph = written(tmp_path / "graph", BRIGHT, bright.bright_is_car(2))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"has notes\.txt, which this command did not write"):
        deepstream.build(graph, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory, tao_wheel: None) -> Any:
    return networks.random_tao(tmp_path_factory.mktemp("tao"), config.load(REPO / "params.yaml"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize("mode", [PANOPTIC, SEMANTIC, INSTANCE])
@pytest.mark.parametrize("kind", [FUSED, TAO])
def test_the_graphs_of_taos_network(net: Any, tmp_path: Path, kind: config.GraphKind, mode: config.Mode) -> None:
    """Outputs for nvinfer's planes are those of the graph for its own input, value by value."""
    cfg = config.Deploy(
        graph=kind, mode=mode, frame_height_px=192, frame_width_px=288, height_px=192, width_px=288,
        resize=config.Resize.stretch,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = simplify.simplify(export.trace(net, config.Variant.onnx, 70, cfg), cfg)
    graph = written(tmp_path / "graph", cfg, model)
    deepstream.build(graph, tmp_path / "out")
    picture = np.random.default_rng(0).integers(0, 256, (1, 192, 288, 3), dtype=np.uint8)
    own = frames.network_input(picture, cfg) if kind is TAO else picture
    before, after = run(graph / "graph.onnx", own), run(tmp_path / "out/graph.onnx", planes(picture))
    assert list(before) == list(after)
    for name, array in before.items():
        assert np.array_equal(after[name], array), name
    found = properties(tmp_path / "out")
    assert found["infer-dims"] == "3;192;288"
    assert found["maintain-aspect-ratio"] == str(int(kind is FUSED))
    if (kind, mode) == (TAO, SEMANTIC):
        assert (found["network-type"], found["output-blob-names"]) == ("2", "pred_masks")
        assert (found["num-detected-classes"], found["segmentation-threshold"]) == ("2", "0.0")
        # A pixel is of the class with the highest score above the threshold: there must be one.
        assert after["pred_masks"].max(1).min() > 0
    else:
        assert (found["network-type"], found["output-tensor-meta"]) == ("100", "1")
