"""Small rewrites of ONNX graphs, each named after what it changes."""

import numpy as np
import onnx
from onnx import numpy_helper


def float64_to_float32(graph: onnx.GraphProto) -> None:
    """Turn every float64 constant, cast and value of a graph into float32, in place.

    PyTorch's exporter divides integer shapes in float64, which ONNX Runtime does not accept in GridSample and which is
    slow on GPUs.
    """
    double, single = onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT

    def narrow(tensor: onnx.TensorProto) -> None:
        if tensor.data_type == double:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    for initializer in graph.initializer:
        narrow(initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.type == onnx.AttributeProto.TENSOR:
                narrow(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == double:
                attribute.i = single
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == double:
            value.type.tensor_type.elem_type = single


def constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Turn every Constant node with a tensor into an initializer, in place."""
    nodes = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def expand_instance_normalization(model: onnx.ModelProto) -> None:
    """Replace each InstanceNormalization by means and elementwise operators, in place.

    TensorRT 8 computes the operator with a plugin that needs cuDNN. x: [N, C, *], scale and bias: [C], as ONNX's
    InstanceNormalization-6; ranks come from the graph's value_info. Raises ValueError for an input of unknown rank.
    """
    graph = model.graph
    opset = next(o.version for o in model.opset_import if not o.domain)
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*graph.input, *graph.value_info)}
    nodes = []
    for node in graph.node:
        if node.op_type == "InstanceNormalization":
            if not ranks.get(node.input[0]):
                raise ValueError(
                    f"{node.name}: the rank of {node.input[0]} is unknown, expected in value_info; infer shapes first"
                )
            nodes += _instance_normalization(graph, node, ranks[node.input[0]], opset)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _instance_normalization(
    graph: onnx.GraphProto, node: onnx.NodeProto, rank: int, opset: int
) -> list[onnx.NodeProto]:
    """Return the nodes that replace an InstanceNormalization; add their constants to the graph."""
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    prefix = f"{node.name}/InstanceNormalization"
    by_channel = [1, -1, *[1] * (rank - 2)]
    for name, value in (
        ("epsilon", np.float32(epsilon)),
        ("by_channel", np.array(by_channel, np.int64)),
        ("axes", np.arange(2, rank, dtype=np.int64)),
    ):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"{prefix}/{name}"))
    x, scale, bias = node.input
    made: list[onnx.NodeProto] = []

    def add(operator: str, inputs: list[str], output: str, axes: list[int] | None = None) -> str:
        out = output if output in node.output else f"{prefix}/{output}"
        made.append(onnx.helper.make_node(operator, inputs, [out], name=f"{prefix}/{len(made)}", axes=axes))
        return out

    def mean(name: str, output: str) -> str:
        # ReduceMean's axes are an attribute before opset 18, and an input since.
        if opset >= 18:
            return add("ReduceMean", [name, f"{prefix}/axes"], output)
        return add("ReduceMean", [name], output, axes=list(range(2, rank)))

    centred = add("Sub", [x, mean(x, "mean")], "centred")
    variance = mean(add("Mul", [centred, centred], "square"), "variance")
    deviation = add("Sqrt", [add("Add", [variance, f"{prefix}/epsilon"], "shifted")], "deviation")
    normalised = add("Div", [centred, deviation], "normalised")
    weights = [add("Reshape", [name, f"{prefix}/by_channel"], f"{name}/column") for name in (scale, bias)]
    add("Add", [add("Mul", [normalised, weights[0]], "scaled"), weights[1]], node.output[0])
    return made


def remove_outputs(graph: onnx.GraphProto, names: tuple[str, ...]) -> None:
    """Remove outputs from a graph, in place. The tensors stay in the graph under their names."""
    kept = [output for output in graph.output if output.name not in names]
    del graph.output[:]
    graph.output.extend(kept)
