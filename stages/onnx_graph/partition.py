"""A graph with nodes of our own kernels, cut at them into parts that a builder can take.

The parts and the kernels between them, in the order in which they run, are its steps.
"""

from collections.abc import Callable, Mapping
from typing import Any

import onnx
from onnx import helper, shape_inference

from stages.engines.cuda import catalog
from stages.onnx_graph import passes


def is_kernel(node: onnx.NodeProto) -> bool:
    """Whether one of our kernels computes a node."""
    return node.domain == catalog.DOMAIN


LARGE_BYTES = 1024
"""Constants beyond this are weights, and not shapes that inference looks into."""


def infer_shapes(model: Any) -> Any:
    """A copy of an onnx.ModelProto with shapes and types of all tensors, those of our kernels' outputs too."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    passes.constants_to_initializers(result.graph)
    # Inference copies what it is given: weights become inputs for as long as it takes.
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
            # What kernels gave by now lets inference go on.
            light = shape_inference.infer_shapes(light)
            known = tensors(light.graph)
        outputs = dict(zip(node.output, plan(node, known).outputs, strict=True))
        light.graph.value_info.extend(value_info(name, t) for name, t in outputs.items() if name not in known)
        known |= outputs
    light = shape_inference.infer_shapes(light)
    del result.graph.value_info[:]
    result.graph.value_info.extend(light.graph.value_info)
    for before, after in zip(result.graph.output, light.graph.output, strict=True):
        before.CopyFrom(after)
    return result


def plan(node: onnx.NodeProto, known: Mapping[str, catalog.Tensor]) -> catalog.Plan:
    """The kernel of a node for the tensors that it reads, which are among `known`."""
    return catalog.plan(node.op_type, attributes(node), [known[name] for name in node.input])


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
    """Attributes of a node as numbers, lists of them and texts."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def split(model: Any) -> list[Any]:
    """Steps of an onnx.ModelProto: onnx.ModelProto of a part, or onnx.NodeProto of a kernel.

    Each node is in the last part that serves all its readers, so that little has to cross, unless another part can do
    all of a part's work: what one part computes and a later step reads is an output of the one and an input of the
    other. The graph's inputs and outputs keep their names.
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
    # Copies, for ONNX gives arrays that PyTorch would have to promise not to write to.
    return {name: onnx.numpy_helper.to_array(values[name]).copy() for name in sorted(read & values.keys())}


def _places(graph: onnx.GraphProto, count: int) -> Callable[[onnx.NodeProto], int]:
    """The part that each node is in, of which `count` is the last; see `split`."""
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

    # What is there for a part: a part's outputs for itself and later ones, a kernel's for the part after it.
    ready: dict[str, int] = {}
    settled: list[int] = []
    kernels = [node for node in graph.node if is_kernel(node)]
    for part in range(count + 1):
        nodes = [node for node in graph.node if not is_kernel(node) and found[node.output[0]] == part]
        made = {name for node in nodes for name in node.output}
        earliest = max((ready.get(name, 0) for node in nodes for name in node.input if name not in made), default=0)
        target = max((other for other in settled if other >= earliest), default=part)
        for node in nodes:
            found[node.output[0]] = target
            ready |= dict.fromkeys(node.output, target)
        if nodes and target == part:
            settled.append(part)
        if part < count:
            ready |= dict.fromkeys(kernels[part].output, part + 1)
    return lambda node: found[node.output[0]]
