"""A graph with nodes of our own kernels, cut at them into parts that a builder can take.

The parts and the kernels between them, in the order in which they run, are its steps.
"""

from collections.abc import Callable, Mapping
from typing import Any

import onnx
from onnx import helper, shape_inference

from stages.graph import passes
from stages.kernels import catalog


def is_kernel(node: onnx.NodeProto) -> bool:
    """Whether one of our kernels computes a node."""
    return node.domain == catalog.DOMAIN


def infer_shapes(model: Any) -> Any:
    """A copy of an onnx.ModelProto with shapes and types of all tensors, those of our kernels' outputs too."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    passes.constants_to_initializers(result.graph)
    result = shape_inference.infer_shapes(result)
    for node in filter(is_kernel, result.graph.node):
        known = tensors(result.graph)
        outputs = zip(node.output, plan(node, known).outputs, strict=True)
        if unknown := [value_info(name, tensor) for name, tensor in outputs if name not in known]:
            result.graph.value_info.extend(unknown)
            # What reads them can be known now.
            result = shape_inference.infer_shapes(result)
    return result


def plan(node: onnx.NodeProto, known: Mapping[str, catalog.Tensor]) -> catalog.Plan:
    """The kernel of a node for the tensors that it reads, which are among `known`."""
    return catalog.KERNELS[node.op_type](attributes(node), [known[name] for name in node.input])


def tensors(graph: onnx.GraphProto) -> dict[str, catalog.Tensor]:
    """Shapes and types of the tensors whose shapes are known and fixed."""
    found = {}
    for constant in graph.initializer:
        dtype = str(helper.tensor_dtype_to_np_dtype(constant.data_type))
        found[constant.name] = catalog.Tensor(tuple(constant.dims), dtype)
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        if kind.elem_type and kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            dtype = str(helper.tensor_dtype_to_np_dtype(kind.elem_type))
            found[value.name] = catalog.Tensor(tuple(d.dim_value for d in kind.shape.dim), dtype)
    return found


def value_info(name: str, tensor: catalog.Tensor) -> onnx.ValueInfoProto:
    """A tensor as ONNX describes it."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(tensor.numpy_dtype), tensor.shape)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes of a node as numbers and lists of them."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def split(model: Any) -> list[Any]:
    """Steps of an onnx.ModelProto: onnx.ModelProto of a part, or onnx.NodeProto of a kernel.

    Each node is in the last part that serves all its readers, so that little has to cross: what one part computes and
    a later step reads is an output of the one and an input of the other. The graph's inputs and outputs keep their
    names.
    """
    inferred = infer_shapes(model)
    graph, known = inferred.graph, tensors(inferred.graph)
    kernels = [node for node in graph.node if is_kernel(node)]
    place = _places(graph, len(kernels))
    constants = {i.name for i in graph.initializer}
    steps: list[Any] = []
    for number in range(len(kernels) + 1):
        nodes = [node for node in graph.node if not is_kernel(node) and place(node) == number]
        made = {name for node in nodes for name in node.output}
        read = list(dict.fromkeys(name for node in nodes for name in node.input if name))
        inputs = [name for name in read if name not in made | constants]
        later = {name for node in graph.node if is_kernel(node) or place(node) > number for name in node.input}
        later |= {output.name for output in graph.output}
        outputs = [name for node in nodes for name in node.output if name in later]
        if nodes:
            part = helper.make_graph(
                nodes,
                f"part_{number}",
                [value_info(name, known[name]) for name in inputs],
                [value_info(name, known[name]) for name in outputs],
                [i for i in graph.initializer if i.name in read],
                value_info=[value_info(name, known[name]) for name in made - {*outputs} if name in known],
            )
            opsets = [o for o in model.opset_import if o.domain != catalog.DOMAIN]
            steps.append(helper.make_model(part, opset_imports=opsets, ir_version=model.ir_version))
        steps += kernels[number : number + 1]
    return steps


def constants(model: Any, steps: list[Any]) -> dict[str, Any]:
    """The constants that kernels among the `steps` of a model read, as NumPy arrays by name."""
    values = {i.name: i for i in model.graph.initializer}
    values |= {n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"}
    read = {name for step in steps if isinstance(step, onnx.NodeProto) for name in step.input}
    return {name: onnx.numpy_helper.to_array(values[name]) for name in sorted(read & values.keys())}


def _places(graph: onnx.GraphProto, count: int) -> Callable[[onnx.NodeProto], int]:
    """The part that each node is in: the last that comes before all that read it, `count` for the last of all."""
    latest: dict[str, int] = {}
    number, found = count, {}
    for node in reversed(graph.node):
        if is_kernel(node):
            number -= 1
            last = number
        else:
            last = min((latest.get(name, count) for name in node.output), default=count)
        found[node.output[0]] = last
        for name in node.input:
            latest[name] = min(latest.get(name, count), last)
    return lambda node: found[node.output[0]]
