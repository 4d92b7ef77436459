"""Converts a graph to half precision, except for chosen nodes, with Cast nodes between the two types."""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import onnx

from stages.inference import plugin, segments
from stages.onnx_graph import kernels
from stages.operators import schema

ALWAYS_FLOAT32 = ("GridSample", plugin.NAME, "/corners/")
"""Operators and places that sample pixels. They stay in float32, and so do the coordinates that they read.

Builders have no GridSample in half precision, and TensorRT 8.6's plugin has float32 only. Gathers compute numbers of
pixels, and half precision can't represent all integers above 2048."""

COORDINATES = {"GridSample": [1], plugin.NAME: [3]}
"""Operator -> indices of the inputs that are coordinates. All inputs of other operators are."""

FLOAT32_INPUTS = {"Resize": (1, 2)}
"""Operator -> indices of the inputs that ONNX allows in float32 only: Resize's region and scales."""

MIXED = ("InstanceMerge", "PanopticMerge", "SemanticMerge")
"""Our operators that read either type, compute in float32 and always write the same types."""


def kept_names(model: onnx.ModelProto, keep: list[str]) -> list[str]:
    """Return the names of the nodes that stay in float32.

    An entry of `keep` (deploy.keep_float32) or ALWAYS_FLOAT32 is an operator, or a part of a node's place; see
    `places`. Raises ValueError for an entry of `keep` that matches no node.
    """
    nodes, place = model.graph.node, places(model.graph)

    def match(entry: str) -> list[str]:
        return [node.name for node in nodes if entry == node.op_type or entry in place[node.name]]

    if unknown := [entry for entry in keep if not match(entry)]:
        operators = sorted({node.op_type for node in nodes})
        raise ValueError(
            f"deploy.keep_float32: found {unknown}, which match no node; expected operators of the graph, {operators}, "
            "or parts of its nodes' places; correct or remove them"
        )
    sampling = {name for entry in ALWAYS_FLOAT32 for name in match(entry)}
    return sorted({name for entry in keep for name in match(entry)} | sampling | coordinates(model.graph, sampling))


def coordinates(graph: onnx.GraphProto, sampling: Collection[str]) -> set[str]:
    """Return the names of the nodes that compute the coordinates that the nodes in `sampling` read.

    The search ends at the last matrix product or convolution before them. In half precision these few sums caused two
    fifths of all pixels that changed (docs/benchmarks.md).
    """
    writers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    pending = [
        name
        for node in graph.node
        if node.name in sampling
        for name in (node.input[i] for i in COORDINATES.get(node.op_type, range(len(node.input))))
    ]
    while pending:
        node = writers.get(pending.pop())
        if node is None or node.name in found | {*sampling} or node.op_type in ("Gemm", "MatMul", "Conv"):
            continue
        found.add(node.name)
        pending += node.input
    return found


def places(graph: onnx.GraphProto) -> dict[str, str]:
    """Map the name of each node to its place in the network, such as /network/decoder/Einsum.

    PyTorch's exporter names nodes by their place. onnxsim numbers the nodes that it creates, such as a Gemm for MatMul
    and Add. Their place is in the name of the tensor that they write, or else it is that of the first node that reads
    the tensor.
    """
    found: dict[str, str] = {}
    readers: dict[str, str] = {}
    for node in reversed(graph.node):
        names = [f"/network/{name}" if name in segments.LOGITS else name for name in (node.name, *node.output)]
        named = [name for name in names if name.startswith("/")]
        read = [readers[name] for name in node.output if name in readers]
        found[node.name] = [*named, *read, node.name][0]
        readers |= dict.fromkeys(node.input, found[node.name])
    return found


def convert(model: onnx.ModelProto, kept: Collection[str]) -> onnx.ModelProto:
    """Return a copy of a model in half precision, except for Cast nodes and the nodes named in `kept`.

    A Cast is inserted wherever a node reads a tensor of the other type, so tensors between two kept nodes are not
    rounded. Inputs and outputs of the graph keep their types. onnxconverter-common is not used, because it rounds every
    tensor of a kept node that has several readers.
    """
    single, half = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    result = kernels.infer_shapes(model)
    graph = result.graph
    constants = {i.name: i for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    floats = {
        v.name for v in (*graph.value_info, *graph.input, *graph.output) if v.type.tensor_type.elem_type == single
    }
    floats |= {name for name, tensor in constants.items() if tensor.data_type == single}
    outputs = {output.name for output in graph.output}
    # A graph of our operators has our own Cast too.
    domain = schema.DOMAIN if any(map(kernels.is_kernel, graph.node)) else ""
    types: dict[str, int] = {}
    nodes: list[onnx.NodeProto] = []
    made: set[str] = set()

    def cast(source: str, target: str, to: int) -> str:
        cast_node = onnx.helper.make_node("Cast", [source], [target], name=f"/cast/{target}", domain=domain, to=to)
        nodes.append(cast_node)
        return target

    def read(name: str, wanted: int) -> str:
        if name not in floats or types.get(name, single) == wanted:
            return name
        other = f"{name}/{'half' if wanted == half else 'single'}"
        if other not in made:
            made.add(other)
            if name in constants:
                array = _to_half(onnx.numpy_helper.to_array(constants[name]))
                graph.initializer.append(onnx.numpy_helper.from_array(array, other))
            else:
                cast(name, other, wanted)
        return other

    for node in graph.node:
        if node.op_type in MIXED:
            # All inputs get one type: half, unless all are float32.
            wanted = half if any(types.get(name, single) == half for name in node.input) else single
            node.input[:] = [read(name, wanted) for name in node.input]
            nodes.append(node)
            continue
        wanted = single if node.name in kept or node.op_type in ("Cast", "Constant") else half
        fixed = FLOAT32_INPUTS.get(node.op_type, ())
        node.input[:] = [read(name, single if i in fixed else wanted) for i, name in enumerate(node.input)]
        nodes.append(node)
        if wanted == single:
            continue
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type == single:
                array = _to_half(onnx.numpy_helper.to_array(attribute.t))
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(array, attribute.t.name))
        for index, name in enumerate(node.output):
            if name in outputs & floats:
                made.add(f"{name}/half")
                node.output[index] = f"{name}/half"
                types[f"{name}/half"] = half
                cast(f"{name}/half", name, single)
            elif name in floats:
                types[name] = half
    for value in graph.value_info:
        value.type.tensor_type.elem_type = types.get(value.name, value.type.tensor_type.elem_type)
    read_names = {name for node in nodes for name in node.input}
    del graph.node[:]
    graph.node.extend(n for n in nodes if n.op_type != "Constant" or outputs & {*n.output} or read_names & {*n.output})
    left = [i for i in graph.initializer if i.name in read_names]
    del graph.initializer[:]
    graph.initializer.extend(left)
    return result


def _to_half(array: npt.NDArray[np.generic]) -> npt.NDArray[np.float16]:
    """Round float32 constants to float16. Finite values stay finite, and values other than 0 do not become 0."""
    limits = np.finfo(np.float16)
    finite = np.where(np.isfinite(array), np.clip(array, limits.min, limits.max), array).astype(np.float16)
    tiny = (finite == 0) & (array != 0)
    return np.where(tiny, np.copysign(limits.smallest_subnormal, array), finite).astype(np.float16)
