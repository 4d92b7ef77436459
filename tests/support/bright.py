"""A small graph whose answer is known: bright pixels are a car, the others are sky."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from stages import config, engine
from stages.inference import description
from stages.onnx_graph import artifact

SIZE = (48, 64)
CATEGORIES = [
    {"id": 1, "name": "object--car", "isthing": 1, "color": [255, 0, 0]},
    {"id": 2, "name": "nature--sky", "isthing": 0, "color": [0, 0, 255]},
]


def bright_is_car(batch: int = 1) -> onnx.ModelProto:
    """Pixels above 127 in red are query 0, a car, and the others query 1, sky."""
    nodes = [
        helper.make_node("Cast", ["frame"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Slice", ["pixels", "from", "to", "axis"], ["red"]),
        helper.make_node("Squeeze", ["red", "axis"], ["plane"]),
        helper.make_node("Less", ["plane", "middle"], ["dark"]),
        helper.make_node("Cast", ["dark"], ["query_ids"], to=TensorProto.UINT8),
        helper.make_node("Identity", ["two_areas"], ["areas"]),
        helper.make_node("Identity", ["two_scores"], ["scores"]),
        helper.make_node("Identity", ["two_classes"], ["category_ids"]),
    ]
    constants = {
        "from": np.array([0], np.int64), "to": np.array([1], np.int64), "axis": np.array([3], np.int64),
        "middle": np.array(128, np.float32), "two_areas": np.array([[5, 5]] * batch, np.int32),
        "two_scores": np.array([[0.9, 0.8]] * batch, np.float32), "two_classes": np.array([[1, 2]] * batch, np.int32),
    }  # fmt: skip
    frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, [batch, *SIZE, 3])
    outputs = [
        helper.make_tensor_value_info("query_ids", TensorProto.UINT8, [batch, *SIZE]),
        helper.make_tensor_value_info("areas", TensorProto.INT32, [batch, 2]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 2]),
        helper.make_tensor_value_info("category_ids", TensorProto.INT32, [batch, 2]),
    ]
    initializers = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", [frame], outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def picture(bright_columns: int) -> np.ndarray:
    rgb = np.full((*SIZE, 3), 20, np.uint8)
    rgb[:, :bright_columns] = 230
    return rgb


def build(folder: Path, target: config.Target, mode: config.Mode = config.Mode.panoptic, batch: int = 1) -> Path:
    """Build its engine `cpu` in a new folder below `folder`, and its graph in `graph`.

    Only for the mode panoptic can it run.
    """
    deploy = config.Deploy(
        mode=mode, batch_size=batch, frame_height_px=SIZE[0], frame_width_px=SIZE[1], height_px=64, width_px=64
    )
    (folder / "graph").mkdir()
    about = description.Description(config.plain(deploy), "onnx", CATEGORIES)
    artifact.save(bright_is_car(batch), folder / "graph", about)
    engine.build(folder / "graph", folder / "cpu", "cpu", target, folder / "timing.cache", folder / "metrics.json")
    return folder / "cpu"
