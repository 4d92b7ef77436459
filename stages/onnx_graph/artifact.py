"""Writes the folder of a deployable graph: graph.onnx, graph.json and, for a graph of our kernels, their constants."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx

from stages.foundation import files
from stages.inference import description
from stages.inference.steps import Constants, KernelCall, Step, TensorSpec
from stages.onnx_graph import kernels


def save(model: onnx.ModelProto, folder: Path, about: description.Description, *, cut: bool = True) -> None:
    """Check a model and write folder/graph.onnx, with its provenance inside, and folder/graph.json.

    With `cut`, graph.json lists the kernel calls of a graph of our kernels, for which the shapes of all its tensors
    must be known. Raises ValueError if a kernel can't compute its node, or if there are other nodes between them.
    """
    onnx.helper.set_model_props(model, {description.PROVENANCE: json.dumps(about.provenance)})
    onnx.checker.check_model(model)
    onnx.save(model, folder / description.ONNX)
    steps = _save_steps(model, folder) if cut else []
    written = replace(about, sha256=files.sha256(folder / description.ONNX), steps=steps)
    files.write_json(folder / description.NAME, asdict(written))


def _save_steps(model: onnx.ModelProto, folder: Path) -> list[Step]:
    """Write the constants of a graph of our kernels to `folder`; return its steps."""
    nodes = kernels.calls(model)
    if not nodes:
        return []
    steps: list[Step] = []
    constants = kernels.constants(model)
    known = kernels.tensors(model.graph)
    known |= {name: TensorSpec(array.shape, array.dtype.name) for name, array in constants.items()}
    if constants:
        np.savez(folder / description.CONSTANTS, **constants)  # type: ignore[arg-type]  # no name is allow_pickle
        steps.append(Constants(description.CONSTANTS, files.sha256(folder / description.CONSTANTS)))
    for node in nodes:
        known |= kernels.output_specs(node, known)
        # The kernel of Linear starts to read its weights before the previous kernel has ended.
        if node.op_type == "Linear" and len(known[node.input[1]].shape) == 2 and node.input[1] not in constants:
            raise ValueError(
                f"{node.name or node.output[0]}: the weight {node.input[1]} is computed, expected a constant; give it "
                "as an initializer, or as [B, N, K]"
            )
        inputs, outputs = tuple(node.input), tuple(node.output)
        specs = {name: known[name] for name in (*inputs, *outputs)}
        steps.append(KernelCall(node.op_type, kernels.attributes(node), inputs, outputs, specs))
    return steps
