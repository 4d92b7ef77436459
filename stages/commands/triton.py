"""triton: write an engine, or a graph, as a model of a repository of NVIDIA Triton. Not a DVC stage.

Run by `make triton MODEL_REPOSITORY=folder ENGINE=folder`. The model is a folder of the repository with config.pbtxt
and the version 1. By BACKEND it is

- python: any engine, run by our runtime: integrations/triton/model.py with the engine and the code of the device side.
  It takes pictures of any size and answers with the engine's outputs and the map at the picture's size.
- onnxruntime: a graph of standard operators, such as data/onnx/onnx/fp32, as `onnxruntime_onnx`.
- tensorrt: an engine of standard TensorRT, as `tensorrt_plan`.

The latter two have the input and the outputs of the graph, of fixed shapes, so Triton can't batch their requests.
Names, types and shapes are read from the engine or the graph. Other folders of the repository stay as they are, and a
model is replaced only if all of it was written by this command.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path

import numpy as np

from stages import config
from stages.commands import kit, results
from stages.config import rules
from stages.engines import build_record, loading, manifest
from stages.foundation import command_line, files, ownership
from stages.inference import description, frames
from stages.inference.description import Description
from stages.inference.steps import KernelCall, TensorSpec
from stages.releases import received

Tensors = dict[str, TensorSpec]
"""Tensors of a graph by name, in its order; shapes with the batch."""

MODEL = build_record.ROOT / "integrations/triton/model.py"
DTYPES = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "int8": "TYPE_INT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
}
"""NumPy's name of a type -> DataType of Triton's model_config.proto."""


class Backend(Enum):
    """Ways to run a model in Triton."""

    python = "python"
    onnxruntime = "onnxruntime"
    tensorrt = "tensorrt"


def build(repository: Path, engine: Path, backend: Backend, name: str) -> str:
    """Write the engine, or the graph, of the folder `engine` as a model of a repository; return the model's name.

    `name` may be empty. Raises RuntimeError where the engine is damaged or can't be described here, and ValueError for
    a name that is no folder's, an engine or a graph that the backend can't run, and a folder of the repository with
    files of others.
    """
    if backend is Backend.onnxruntime:
        about = described_graph(engine)
        name = name or f"vistas2engine_{about.variant}_{about.precision}"
        inputs, outputs = onnx_tensors(engine / description.ONNX)
        # A graph is for both kinds of processors: Triton takes a GPU where there is one.
        config_text = native_config(name, "onnxruntime_onnx", inputs, outputs, "KIND_AUTO")
        content = {"model.onnx": engine / description.ONNX}
    else:
        received.check_engine(engine)
        target_name, target = manifest.target_of(engine)
        about = described_engine(engine)
        name = name or f"vistas2engine_{target_name}"
        file = engine / str(manifest.facts(engine)["file"])
        if backend is Backend.tensorrt:
            if target.builder is not config.Builder.tensorrt:
                raise ValueError(
                    f"{files.printable(engine)}: an engine of {target.builder.value}, expected one of tensorrt for "
                    "BACKEND=tensorrt; use BACKEND=python, which runs every engine"
                )
            config_text = native_config(name, "tensorrt_plan", *graph_tensors(about, target), "KIND_GPU")
            content = {"model.plan": file}
        else:
            kind = "KIND_CPU" if target.device is config.Device.cpu else "KIND_GPU"
            outputs = engine_outputs(engine, target_name, target, about)
            config_text = python_config(name, about.config.batch_size, outputs, kind)
            content = {"model.py": MODEL, **python_files(engine)}
    if not rules.is_name(name):
        raise ValueError(f"NAME={name}: expected {rules.name_rule()}, as it is the model's folder and part of its URL")
    model = repository / name
    forget_bytecode(model)
    with files.atomic_write(model, recorded=True) as draft:
        draft.mkdir()
        (draft / "config.pbtxt").write_text(config_text, encoding="utf-8")
        for place, source in content.items():
            out = draft / "1" / place
            out.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, out)  # DVC's files may be links, and can't be written.
    return name


def python_files(engine: Path) -> dict[str, Path]:
    """Return the files of the version of a model of the Python backend but for model.py, by their places in it."""
    code = kit.below(build_record.ROOT / name for name in kit.CODE)
    found = {f"code/{path.relative_to(build_record.ROOT).as_posix()}": path for path in code}
    return found | {f"engine/{path.relative_to(engine).as_posix()}": path for path in kit.below([engine])}


def forget_bytecode(model: Path) -> None:
    """Delete the bytecode that Triton's Python left beside a model.py of ours: it would count as a file of others."""
    if (model / "1/model.py").exists() and ownership.Record(model).owns("1/model.py"):
        for path in (model / "1/__pycache__").glob("model.*.pyc"):
            path.unlink()


def described_graph(folder: Path) -> Description:
    """Read a graph's description. Raises RuntimeError where it is damaged, ValueError for one of other operators."""
    if not (folder / description.NAME).exists():
        raise ValueError(
            f"{files.printable(folder)} has no {description.NAME}, expected the folder of a graph for "
            "BACKEND=onnxruntime, such as ENGINE=data/onnx/onnx/fp32"
        )
    about = description.read(folder)
    known = [config.Variant.onnx.value, config.Variant.onnx_gather.value]
    if about.variant not in known:
        raise ValueError(
            f"{files.printable(folder)}: a graph of the variant {about.variant}, expected {' or '.join(known)}: ONNX "
            "Runtime has standard operators alone"
        )
    return about


def described_engine(folder: Path) -> Description:
    """Return the description of an engine's graph, after the engine was compared with its manifest.

    Unlike manifest.verified_engine it works where the engine can't run. Raises RuntimeError for a damaged engine.
    """
    facts = manifest.facts(folder)
    file = folder / facts["file"]
    if Path(facts["file"]).name != facts["file"] or not file.is_file() or files.sha256(file) != facts["engine_sha256"]:
        raise RuntimeError(
            f"{files.printable(file)} is not the engine that {manifest.NAME} beside it describes; run `make engines`, "
            "or get it again"
        )
    return manifest.graph_of(folder)


def engine_outputs(folder: Path, name: str, target: config.Target, about: Description) -> Tensors:
    """Return the outputs of an engine.

    Those of a CPU's engine are known from a run, since it leaves a part of the graph out. Raises as loading.load does.
    """
    if target.builder is config.Builder.cuda:
        return kernel_outputs(about)
    if target.device is config.Device.cuda:
        return graph_tensors(about, target)[1]
    predictor = loading.load(folder, name, target)
    found = predictor.run(np.zeros((about.config.batch_size, *frames.frame_size(about.config), 3), np.uint8))
    return {output: TensorSpec(array.shape, array.dtype.name) for output, array in found.items()}


def kernel_outputs(about: Description) -> Tensors:
    """Return what the kernels of a graph write and none of them reads."""
    calls = [step for step in about.steps if isinstance(step, KernelCall)]
    read = {name for call in calls for name in call.inputs}
    return {name: call.tensors[name] for call in calls for name in call.outputs if name not in read}


def graph_tensors(about: Description, target: config.Target) -> tuple[Tensors, Tensors]:
    """Return inputs and outputs of the graph that a TensorRT engine was built from.

    Raises RuntimeError where that graph is not in the workspace.
    """
    folder = results.graph_folder(target)
    file = folder / description.ONNX
    if not file.is_file() or files.sha256(file) != about.sha256:
        raise RuntimeError(
            f"{file} is not the graph that the engine was built from, which tells the shapes; run `make pull` or "
            "`make all`"
        )
    return onnx_tensors(file)


def onnx_tensors(file: Path) -> tuple[Tensors, Tensors]:
    """Return inputs and outputs of an ONNX file. Raises ValueError where a shape is not fixed."""
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    constants = {initializer.name for initializer in graph.initializer}

    def tensors(values: Sequence[onnx.ValueInfoProto]) -> Tensors:
        found = {}
        for value in values:
            kind = value.type.tensor_type
            shape = tuple(dim.dim_value for dim in kind.shape.dim)
            if not all(size > 0 for size in shape):
                raise ValueError(
                    f"{files.printable(file)}: {value.name} has no fixed shape, expected one that export wrote"
                )
            found[value.name] = TensorSpec(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name)
        return found

    return tensors([value for value in graph.input if value.name not in constants]), tensors(graph.output)


def native_config(name: str, platform: str, inputs: Tensors, outputs: Tensors, kind: str) -> str:
    """Return the config.pbtxt of a graph or an engine that Triton itself runs.

    Its batch has a fixed size, and Triton wants one of any size where it is to batch. So max_batch_size is 0, and the
    shapes have the batch.
    """
    lines = [f"platform: {json.dumps(platform)}", "max_batch_size: 0"]
    for key, tensors in (("input", inputs), ("output", outputs)):
        lines += tensor_lines(key, {each: (spec.dtype, spec.shape) for each, spec in tensors.items()})
    return pbtxt(name, [*lines, f"instance_group [ {{ kind: {kind} count: 1 }} ]"])


def python_config(name: str, batch_size: int, outputs: Tensors, kind: str) -> str:
    """Return the config.pbtxt of an engine that our runtime runs; `outputs` are the engine's."""
    lines = ['backend: "python"', f"max_batch_size: {batch_size}"]
    lines += tensor_lines("input", {description.FUSED_INPUT: ("uint8", (-1, -1, 3))})
    own: dict[str, tuple[str, tuple[int, ...]]] = {each: (spec.dtype, spec.shape[1:]) for each, spec in outputs.items()}
    lines += tensor_lines("output", {**own, "segment_ids": ("int32", (-1, -1)), "segments": ("string", (1,))})
    # An engine runs on the first GPU of its process.
    gpus = " gpus: [ 0 ]" if kind == "KIND_GPU" else ""
    lines.append(f"instance_group [ {{ kind: {kind} count: 1{gpus} }} ]")
    if batch_size > 1:
        lines.append(f"dynamic_batching {{ preferred_batch_size: [ {batch_size} ] }}")
    return pbtxt(name, lines)


def tensor_lines(key: str, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> list[str]:
    """Return the lines of inputs or outputs, each (type, dims)."""
    types = {**DTYPES, "string": "TYPE_STRING"}
    return [
        f"{key} [ {{ name: {json.dumps(name)} data_type: {types[dtype]} dims: [ {', '.join(map(str, dims))} ] }} ]"
        for name, (dtype, dims) in tensors.items()
    ]


def pbtxt(name: str, lines: Sequence[str]) -> str:
    """Return the text of a config.pbtxt."""
    return "".join(f"{line}\n" for line in ["# Written by `make triton`.", f"name: {json.dumps(name)}", *lines])


def main() -> None:
    """Command line of `make triton`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--repository", type=Path, required=True, help="folder of the model repository")
    parser.add_argument("--engine", type=Path, required=True, help="folder of an engine, or of a graph for onnxruntime")
    parser.add_argument("--backend", choices=[each.value for each in Backend], default="python", help="default: python")
    parser.add_argument("--name", default="", help="name of the model; default: by the engine or the graph")
    args = parser.parse_args()
    name = build(args.repository, args.engine, Backend(args.backend), args.name)
    print(f"{files.printable(args.repository / name)}: the model {name}; what is next: docs/triton.md")


if __name__ == "__main__":
    command_line.run(main)
