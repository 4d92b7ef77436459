"""Reads graphs of our own operators: nodes, attributes, constants, and shapes, which ONNX's inference does not know."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper, shape_inference

from stages.inference.steps import Attributes, AttributeValue, TensorSpec
from stages.onnx_graph import passes
from stages.operators import registry, schema

LARGE_BYTES = 1024
"""Larger constants are weights. Smaller ones may be shapes, which shape inference reads."""


def is_kernel(node: onnx.NodeProto) -> bool:
    """Return whether a node is of one of our operators."""
    return node.domain == schema.DOMAIN


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model with the shapes and types of all tensors, outputs of our operators included."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    passes.constants_to_initializers(result.graph)
    # ONNX's inference copies the whole model, so it gets one in which weights are inputs without values.
    weights = [i for i in result.graph.initializer if len(i.raw_data) > LARGE_BYTES]
    light = onnx.ModelProto()
    light.CopyFrom(result)
    del light.graph.initializer[:]
    light.graph.initializer.extend(i for i in result.graph.initializer if len(i.raw_data) <= LARGE_BYTES)
    light.graph.input.extend(helper.make_tensor_value_info(i.name, i.data_type, i.dims) for i in weights)
    light = shape_inference.infer_shapes(light)
    known = tensors(light.graph)
    for node in [node for node in light.graph.node if is_kernel(node)]:
        if any(name not in known for name in node.input):
            # ONNX's inference stopped at our operators. It can continue, since their outputs are known now.
            light = shape_inference.infer_shapes(light)
            known = tensors(light.graph)
        outputs = output_specs(node, known)
        light.graph.value_info.extend(value_info(name, spec) for name, spec in outputs.items() if name not in known)
        known |= outputs
    light = shape_inference.infer_shapes(light)
    del result.graph.value_info[:]
    result.graph.value_info.extend(light.graph.value_info)
    for old, new in zip(result.graph.output, light.graph.output, strict=True):
        old.CopyFrom(new)
    return result


def output_specs(node: onnx.NodeProto, known: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """Return the specs of the outputs of a node of our operators, by name. `known` has those of its inputs.

    Raises ValueError if attributes or inputs are not what the operator accepts.
    """
    specs = registry.output_specs(node.op_type, attributes(node), [known[name] for name in node.input])
    return dict(zip(node.output, specs, strict=True))


def tensors(graph: onnx.GraphProto) -> dict[str, TensorSpec]:
    """Return the specs of all tensors with known, fixed shapes, by name."""
    found = {}
    for constant in graph.initializer:
        dtype = str(helper.tensor_dtype_to_np_dtype(constant.data_type))
        found[constant.name] = TensorSpec(tuple(constant.dims), dtype)
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        if kind.elem_type and kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            dtype = str(helper.tensor_dtype_to_np_dtype(kind.elem_type))
            found[value.name] = TensorSpec(tuple(d.dim_value for d in kind.shape.dim), dtype)
    return found


def value_info(name: str, spec: TensorSpec) -> onnx.ValueInfoProto:
    """Return ONNX's description of a tensor."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(spec.numpy_dtype), spec.shape)


def attributes(node: onnx.NodeProto) -> Attributes:
    """Return the attributes of a node of our operators: numbers, strings and lists of integers."""
    found: dict[str, AttributeValue] = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        found[attribute.name] = (
            value.decode() if isinstance(value, bytes) else value if isinstance(value, int | float) else list(value)
        )
    return Attributes(found)


def calls(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes of a graph of our operators, in the order in which they run; none of a graph without them.

    Raises ValueError where there are other nodes between them, which no kernel computes.
    """
    nodes = [node for node in model.graph.node if not (node.op_type == "Constant" and not node.domain)]
    if not any(map(is_kernel, nodes)):
        return []
    if others := [node for node in nodes if not is_kernel(node)]:
        first = f"{others[0].op_type} {others[0].name or others[0].output[0]}"
        raise ValueError(
            f"variant `cuda` has kernels alone, found {len(others)} other nodes, the first of them {first}; set "
            "another variant in conf/target, and report it"
        )
    return nodes


def constants(model: onnx.ModelProto) -> dict[str, npt.NDArray[np.generic]]:
    """Return the constants that the nodes of our operators read, by name."""
    values = {i.name: i for i in model.graph.initializer}
    values |= {n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"}
    read = {name for node in model.graph.node if is_kernel(node) for name in node.input}
    # Copied, because ONNX's arrays are read-only, and PyTorch warns about those.
    return {name: numpy_helper.to_array(values[name]).copy() for name in sorted(read & values.keys())}
