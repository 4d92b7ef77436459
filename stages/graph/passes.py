"""Small rewrites of ONNX graphs, each named after what it matches."""

import numpy as np
import onnx
from onnx import numpy_helper


def float64_to_float32(graph: onnx.GraphProto) -> None:
    """Turn every float64 constant, cast and value of a graph into float32, in place.

    PyTorch's exporter divides integer shapes in float64; ONNX Runtime refuses that in GridSample, and no GPU
    wants it.
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
