"""Partitions a graph at the nodes of our own operators, into parts that a builder compiles.

The steps of a graph are its parts and the nodes between them, in the order in which they run.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper, shape_inference

from stages.inference.steps import Attributes, AttributeValue, TensorSpec
from stages.onnx_graph import passes
from stages.operators import registry, schema

Step = onnx.ModelProto | onnx.NodeProto
"""A part, or a node that one of our kernels computes."""

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


def split(model: onnx.ModelProto) -> list[Step]:
    """Partition a model into its steps.

    Each node goes to the last part from which all its readers can still get its outputs, so that few tensors pass
    between parts. A part whose nodes can all run in an earlier part is merged into it. A tensor that one part computes
    and a later step reads is an output of that part and an input of the step. The graph's inputs and outputs keep
    their names.
    """
    inferred = infer_shapes(model)
    graph, known = inferred.graph, tensors(inferred.graph)
    kernels = [node for node in graph.node if is_kernel(node)]
    part_of = _parts(graph, len(kernels))
    initializers = {i.name for i in graph.initializer}
    steps: list[Step] = []
    for number in range(len(kernels) + 1):
        nodes = [node for node in graph.node if not is_kernel(node) and part_of(node) == number]
        # In the graph's order: a set's order differs from one process to the next, and so would the file's bytes.
        made = dict.fromkeys(name for node in nodes for name in node.output)
        read = list(dict.fromkeys(name for node in nodes for name in node.input if name))
        inputs = [name for name in read if name not in made.keys() | initializers]
        later = {name for node in graph.node if is_kernel(node) or part_of(node) > number for name in node.input}
        later |= {output.name for output in graph.output}
        outputs = [name for node in nodes for name in node.output if name in later]
        if nodes:
            part = helper.make_graph(
                nodes,
                f"part_{number}",
                [value_info(name, known[name]) for name in inputs],
                [value_info(name, known[name]) for name in outputs],
                [i for i in graph.initializer if i.name in read],
                value_info=[value_info(name, known[name]) for name in made if name in known and name not in outputs],
            )
            opsets = [o for o in model.opset_import if o.domain != schema.DOMAIN]
            steps.append(helper.make_model(part, opset_imports=opsets, ir_version=model.ir_version))
        steps += kernels[number : number + 1]
    return steps


def constants(model: onnx.ModelProto, steps: Sequence[Step]) -> dict[str, npt.NDArray[np.generic]]:
    """Return the constants that the kernels among the steps of a model read, by name."""
    values = {i.name: i for i in model.graph.initializer}
    values |= {n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"}
    read = {name for step in steps if isinstance(step, onnx.NodeProto) for name in step.input}
    # Copied, because ONNX's arrays are read-only, and PyTorch warns about those.
    return {name: numpy_helper.to_array(values[name]).copy() for name in sorted(read & values.keys())}


def _parts(graph: onnx.GraphProto, count: int) -> Callable[[onnx.NodeProto], int]:
    """Return a function that gives the number of a node's part, 0 to `count`; see `split`."""
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

    # Tensor -> the first part that can read it: the part that computes it, or the part after the kernel that does.
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
