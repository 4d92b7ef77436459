"""Rewrites the graph of TAO's own exporter so that TensorRT-RTX accepts it."""

import numpy as np
import onnx
from onnx import numpy_helper


def boolean_assignment_to_and(graph: onnx.GraphProto) -> int:
    """Rewrite each `x[where(rows)] = False` as `x and not rows`, in place; return the number of rewrites.

    PyTorch exports the assignment as a ScatterND at the indices of a NonZero, whose shape depends on data. TAO's own
    exporter leaves one in each decoder layer, and TensorRT-RTX does not accept them. The pass matches a ScatterND that
    writes the constant False into x, bool [..., N], at the indices of one NonZero of rows, bool [...].
    """
    producers = {name: node for node in graph.node for name in node.output}
    constants = {i.name: i for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t

    def first(name: str, operators: tuple[str, ...]) -> onnx.NodeProto | None:
        """Return the node that computes `name`, before operators that only reshape, if it is one of `operators`."""
        node = producers.get(name)
        while node is not None and node.op_type not in operators:
            if node.op_type not in ("Concat", "Unsqueeze", "Squeeze", "Expand", "Split", "Transpose", "Reshape"):
                return None
            node = producers.get(node.input[0])
        return node

    def is_false(name: str) -> bool:
        filled = first(name, ("Expand",))
        value = constants.get(filled.input[0]) if filled else None
        return value is not None and value.data_type == onnx.TensorProto.BOOL and not numpy_helper.to_array(value).any()

    nodes, found = [], 0
    for node in graph.node:
        rows = first(node.input[1], ("NonZero",)) if node.op_type == "ScatterND" else None
        if rows is None or not is_false(node.input[2]):
            nodes.append(node)
            continue
        found += 1
        axis = f"{node.name}/last_axis"
        graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), axis))
        names = [f"{node.name}/not_rows", f"{node.name}/not_rows_column"]
        nodes.append(onnx.helper.make_node("Not", [rows.input[0]], [names[0]], name=names[0]))
        nodes.append(onnx.helper.make_node("Unsqueeze", [names[0], axis], [names[1]], name=names[1]))
        nodes.append(onnx.helper.make_node("And", [node.input[0], names[1]], [node.output[0]], name=f"{node.name}/And"))
    del graph.node[:]
    graph.node.extend(nodes)
    return found
