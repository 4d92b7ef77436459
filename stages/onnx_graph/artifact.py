"""Writes the folder of a deployable graph: graph.onnx, graph.json and, for a graph with our kernels, its parts."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx

from stages.foundation import files
from stages.inference import description
from stages.inference.steps import Constants, KernelCall, Part, Step, TensorSpec
from stages.onnx_graph import partition


def save(model: onnx.ModelProto, folder: Path, about: description.Description, *, cut: bool = True) -> None:
    """Check a model and write folder/graph.onnx, with its provenance inside, and folder/graph.json.

    With `cut`, a graph with our kernels is also written in parts, for which the shapes of all its tensors must be
    known. Raises ValueError if a kernel can't compute its node.
    """
    onnx.helper.set_model_props(model, {description.PROVENANCE: json.dumps(about.provenance)})
    onnx.checker.check_model(model)
    onnx.save(model, folder / description.ONNX)
    steps = _save_steps(model, folder) if cut else []
    written = replace(about, sha256=files.sha256(folder / description.ONNX), steps=steps)
    files.write_json(folder / description.NAME, asdict(written))


def _save_steps(model: onnx.ModelProto, folder: Path) -> list[Step]:
    """Write the parts and constants of a graph with our kernels to `folder`; return its steps."""
    if not any(map(partition.is_kernel, model.graph.node)):
        return []
    steps: list[Step] = []
    cut = partition.split(model)
    constants = partition.constants(model, cut)
    known = partition.tensors(model.graph)
    known |= {name: TensorSpec(array.shape, array.dtype.name) for name, array in constants.items()}
    if constants:
        np.savez(folder / description.CONSTANTS, **constants)  # type: ignore[arg-type]  # no name is allow_pickle
        steps.append(Constants(description.CONSTANTS, files.sha256(folder / description.CONSTANTS)))
    for step in cut:
        if isinstance(step, onnx.ModelProto):
            file = folder / f"part_{len(steps)}.onnx"
            onnx.checker.check_model(step)
            onnx.save(step, file)
            known |= partition.tensors(step.graph)
            steps.append(Part(file.name, files.sha256(file)))
            continue
        known |= partition.output_specs(step, known)
        # The kernel of Linear starts to read its weights before the previous kernel has ended.
        if step.op_type == "Linear" and len(known[step.input[1]].shape) == 2 and step.input[1] not in constants:
            raise ValueError(
                f"{step.name or step.output[0]}: the weight {step.input[1]} is computed, expected a constant; give it "
                "as an initializer, or as [B, N, K]"
            )
        inputs, outputs = tuple(step.input), tuple(step.output)
        specs = {name: known[name] for name in (*inputs, *outputs)}
        steps.append(KernelCall(step.op_type, partition.attributes(step), inputs, outputs, specs))
    return steps
