"""Small graphs in the form that the engine stage takes."""

from dataclasses import asdict
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from stages import config
from stages.foundation import files
from stages.inference import description

SHAPE = (1, 32, 32, 3)


def two_outputs(scale: float = 0.01) -> onnx.ModelProto:
    """uint8 frames -> `mean`, their mean times `scale`, and `count`, the integer 7, an output of another type."""
    frames = helper.make_tensor_value_info("frames", TensorProto.UINT8, SHAPE)
    outputs = [
        helper.make_tensor_value_info("mean", TensorProto.FLOAT, [1, 1, 1, 1]),
        helper.make_tensor_value_info("count", TensorProto.INT32, [1, 1, 1, 1]),
    ]
    nodes = [
        helper.make_node("Cast", ["frames"], ["pixels"], name="/to_float", to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["average"], name="/average", keepdims=1),
        helper.make_node("Mul", ["average", "scale"], ["mean"], name="/scale"),
        helper.make_node("Mul", ["average", "zero"], ["nothing"], name="/nothing"),
        helper.make_node("Cast", ["nothing"], ["none"], name="/to_int", to=TensorProto.INT32),
        helper.make_node("Add", ["none", "seven"], ["count"], name="/add"),
    ]
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [1], [scale]),
        helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
        helper.make_tensor("seven", TensorProto.INT32, [1], [7]),
    ]
    graph = helper.make_graph(nodes, "g", [frames], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def write(folder: Path, model: onnx.ModelProto, target: config.Target) -> Path:
    """Write graph.onnx and a graph.json that fits the target; returns the folder. The model may be a wrong one."""
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / description.ONNX)
    about = description.Description(
        deploy={},
        variant=target.variant.value,
        categories=[{"id": 1, "name": "car", "isthing": 1}],
        provenance={"checkpoint_sha256": "0" * 64},
        precision=target.precision.value,
        sha256=files.sha256(folder / description.ONNX),
    )
    files.write_json(folder / description.NAME, asdict(about))
    return folder
