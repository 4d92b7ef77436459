"""Rewrites of ONNX graphs, each on a small graph that holds what it matches, by ONNX Runtime."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from benchmarks import tao_passes
from stages.onnx_graph import passes

FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
info = helper.make_tensor_value_info


def model_of(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: Any = (), opset: int = 17) -> Any:
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def run(model: Any, **feed: Any) -> list[Any]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, feed))


def test_float64_becomes_float32() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["d"], to=DOUBLE),
        helper.make_node("Constant", [], ["one"], value=helper.make_tensor("v", DOUBLE, [1], [1.0])),
        helper.make_node("Mul", ["d", "half"], ["m"]),
        helper.make_node("Add", ["m", "one"], ["y"]),
    ]
    half = helper.make_tensor("half", DOUBLE, [1], [0.5])
    model = model_of(nodes, [info("x", INT64, [2])], [info("y", DOUBLE, [2])], [half])
    passes.float64_to_float32(model.graph)
    (result,) = run(model, x=np.array([2, 4]))
    assert result.dtype == np.float32
    assert result.tolist() == [2.0, 3.0]


@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize("shape", [(2, 3, 40), (2, 3, 5, 8)])
def test_instance_normalization_is_expanded(opset: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    constants = [
        onnx.numpy_helper.from_array(rng.normal(size=3).astype(np.float32), name) for name in ("scale", "bias")
    ]
    node = helper.make_node("InstanceNormalization", ["x", "scale", "bias"], ["y"], name="/norm", epsilon=1e-3)
    model = model_of([node], [info("x", FLOAT, shape)], [info("y", FLOAT, shape)], constants, opset)
    x = rng.normal(3, 5, shape).astype(np.float32)
    (expected,) = run(model, x=x)
    passes.expand_instance_normalization(model)
    assert "InstanceNormalization" not in {n.op_type for n in model.graph.node}
    # deploy.keep_float32=[InstanceNormalization] must still find the nodes.
    assert all("InstanceNormalization" in n.name for n in model.graph.node)
    (found,) = run(model, x=x)
    assert np.abs(found - expected).max() < 1e-5


def test_instance_normalization_of_unknown_rank_is_refused() -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["inner"]),
        helper.make_node("InstanceNormalization", ["inner", "s", "s"], ["y"], name="/norm"),
    ]
    one = helper.make_tensor("s", FLOAT, [1], [1.0])
    model = model_of(nodes, [info("x", FLOAT, [1, 1, 4])], [info("y", FLOAT, [1, 1, 4])], [one])
    with pytest.raises(ValueError, match=r"/norm: the rank of inner is unknown"):
        passes.expand_instance_normalization(model)


class Unblock(torch.nn.Module):
    """The assignment in each decoder layer of TAO."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = x < 0
        mask[torch.where(mask.sum(-1) == mask.shape[-1])] = False
        return mask.float()


@pytest.mark.filterwarnings("ignore")
def test_boolean_assignment_becomes_and(tmp_path: Any) -> None:
    x = torch.tensor([[[-1.0, -1, -1], [-1, 1, -1], [1, 1, 1]], [[-2, -2, -2], [2, -2, 2], [-2, -2, -2]]])
    torch.onnx.export(Unblock(), (x,), str(tmp_path / "x.onnx"), input_names=["x"], opset_version=17, dynamo=False)
    model = onnx.load(tmp_path / "x.onnx")
    (expected,) = run(model, x=x.numpy())
    assert tao_passes.boolean_assignment_to_and(model.graph) == 1
    import onnxsim

    simplified, equal = onnxsim.simplify(model)
    assert equal
    assert not {"NonZero", "ScatterND"} & {n.op_type for n in simplified.graph.node}
    (found,) = run(simplified, x=x.numpy())
    assert np.array_equal(found, expected)
    assert found.tolist() == [[[0, 0, 0], [1, 0, 1], [0, 0, 0]], [[0, 0, 0], [0, 1, 0], [0, 0, 0]]]


def test_other_assignments_stay() -> None:
    indices = helper.make_tensor("indices", INT64, [1, 1], [0])
    updates = helper.make_tensor("updates", FLOAT, [1], [7.0])
    node = helper.make_node("ScatterND", ["x", "indices", "updates"], ["y"], name="/scatter")
    model = model_of([node], [info("x", FLOAT, [2])], [info("y", FLOAT, [2])], [indices, updates])
    assert tao_passes.boolean_assignment_to_and(model.graph) == 0
    assert [n.op_type for n in model.graph.node] == ["ScatterND"]


def test_outputs_are_removed_and_their_tensors_stay() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["y"], ["z"])]
    model = model_of(nodes, [info("x", FLOAT, [2])], [info("y", FLOAT, [2]), info("z", FLOAT, [2])])
    passes.remove_outputs(model.graph, ("y",))
    assert [o.name for o in model.graph.output] == ["z"]
    assert len(model.graph.node) == 2
