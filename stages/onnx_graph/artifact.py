"""The folder of a deployable graph: graph.onnx, graph.json, and for a graph with kernels of ours its parts."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from stages.engines.cuda import catalog
from stages.foundation import files
from stages.inference import description
from stages.onnx_graph import partition


def save(model: Any, folder: Path, about: description.Description, *, cut: bool = True) -> None:
    """Check an onnx.ModelProto and write folder/graph.onnx, with its provenance inside, and folder/graph.json.

    A graph with kernels of ours is written in parts too if `cut`; its shapes must be known then.
    """
    onnx.helper.set_model_props(model, {description.PROVENANCE: json.dumps(about.provenance)})
    onnx.checker.check_model(model)
    onnx.save(model, folder / description.ONNX)
    steps = _save_steps(model, folder) if cut else []
    files.write_json(
        folder / description.NAME, asdict(replace(about, sha256=files.sha256(folder / description.ONNX), steps=steps))
    )


def _save_steps(model: Any, folder: Path) -> list[dict[str, Any]]:
    if not any(map(partition.is_kernel, model.graph.node)):
        return []
    steps: list[dict[str, Any]] = []
    cut = partition.split(model)
    constants = partition.constants(model, cut)
    known = {name: catalog.Tensor.of(array) for name, array in constants.items()}
    if constants:
        np.savez(folder / description.CONSTANTS, **constants)
        steps.append({"constants": description.CONSTANTS, "sha256": files.sha256(folder / description.CONSTANTS)})
    for step in cut:
        if isinstance(step, onnx.ModelProto):
            file = folder / f"part_{len(steps)}.onnx"
            onnx.checker.check_model(step)
            onnx.save(step, file)
            known |= partition.tensors(step.graph)
            steps.append({"onnx": file.name, "sha256": files.sha256(file)})
        else:
            plan = partition.plan(step, known)
            # Its kernel reads weights before the kernel in front of it has ended.
            if step.op_type == "Linear" and len(known[step.input[1]].shape) == 2 and step.input[1] not in constants:
                what = f"{step.name or step.output[0]}: the weight {step.input[1]} must be a constant"
                raise ValueError(f"{what}, found a computed tensor; give it as an initializer, or as [B, N, K]")
            known |= dict(zip(step.output, plan.outputs, strict=True))
            steps.append(
                {
                    "kernel": step.op_type,
                    "attributes": partition.attributes(step),
                    "inputs": list(step.input),
                    "outputs": list(step.output),
                    "tensors": [asdict(known[name]) for name in step.input],
                }
            )
    return steps
