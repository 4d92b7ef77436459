"""deepstream: write a graph and the configuration of DeepStream's element nvinfer for it. Not a DVC stage.

Run by `make deepstream ENGINE=folder OUT=folder` with the folder of a graph of standard operators. It writes
graph.onnx, nvinfer.txt and labels.txt. nvinfer gives a network planes of RGB in float32 and has one scale for all three
channels, so graph.onnx begins with what nvinfer can't do: normalisation by channel (deploy.graph tao), or the order of
a camera's bytes (fused). Integers among its outputs become int32, which nvinfer reads. All else is as in the graph.

In the mode semantic the graph `tao` has scores by class, which nvinfer turns into a map of classes. Outputs of the
other graphs and modes are handed on as NvDsInferTensorMeta (docs/outputs.md says how to decode them).
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages import config
from stages.foundation import command_line, files
from stages.inference import description, frames
from stages.inference.description import Description
from stages.inference.normalization import PIXEL_MEAN, PIXEL_STD

if TYPE_CHECKING:
    import onnx

CONFIGURATION, LABELS = "nvinfer.txt", "labels.txt"
NETWORK_MODES = {"fp32": 0, "fp16": 2}
"""Precision of a graph -> network-mode, the precisions that nvinfer allows its builder."""
SEGMENTATION, OTHER = 2, 100
"""Values of network-type: nvinfer decodes a map of classes, or nothing."""


def build(graph: Path, out: Path) -> None:
    """Write the folder `out` for the graph of a folder.

    Raises RuntimeError where the graph is damaged, and ValueError for one that TensorRT or nvinfer can't take, and
    where `out` has files of others.
    """
    if not (graph / description.NAME).exists():
        raise ValueError(
            f"{files.printable(graph)} has no {description.NAME}, expected the folder of a graph, such as "
            "ENGINE=data/onnx/onnx/fp32"
        )
    about = description.read(graph)
    if about.variant == config.Variant.cuda.value:
        raise ValueError(
            f"{files.printable(graph)}: a graph of our CUDA operators, expected one of another variant, such as "
            "ENGINE=data/onnx/onnx/fp32: TensorRT, which nvinfer runs, has not those operators"
        )
    if about.precision not in NETWORK_MODES:
        raise ValueError(
            f"{files.printable(graph)}: precision {about.precision}, expected one of {', '.join(NETWORK_MODES)}"
        )
    import onnx

    model = onnx.load(graph / description.ONNX)
    adapt(model, about.config)
    with files.atomic_write(out, recorded=True) as draft:
        draft.mkdir()
        onnx.checker.check_model(model)
        onnx.save(model, draft / description.ONNX)
        (draft / CONFIGURATION).write_text(configuration(about, [o.name for o in model.graph.output]), encoding="utf-8")
        names = "".join(f"{category['name']}\n" for category in about.categories)
        (draft / LABELS).write_text(names, encoding="utf-8")
        shutil.copyfile(graph / description.NAME, draft / description.NAME)


def adapt(model: "onnx.ModelProto", cfg: config.Deploy) -> None:
    """Make a graph's input float32 [B, 3, H, W], RGB from 0 to 255, and its integer outputs int32, in place."""
    import onnx
    from onnx import helper, numpy_helper

    graph, single = model.graph, onnx.TensorProto.FLOAT
    (entry,) = graph.input
    inner = f"{entry.name}/inner"
    readers = [node for node in graph.node if entry.name in node.input]
    if cfg.graph is config.GraphKind.tao:
        values = {f"{entry.name}/{key}": value for key, value in (("mean", PIXEL_MEAN), ("std", PIXEL_STD))}
        for name, value in values.items():
            # Computed as in frames.network_input.
            array = (255 * np.array(value, np.float32)).reshape(1, 3, 1, 1)
            graph.initializer.append(numpy_helper.from_array(array, name))
        mean, std = values
        first = [
            helper.make_node("Sub", [entry.name, mean], [f"{entry.name}/centred"], name=f"/{entry.name}/Sub"),
            helper.make_node("Div", [f"{entry.name}/centred", std], [inner], name=f"/{entry.name}/Div"),
        ]
    else:
        # TensorRT has uint8 at a network's border alone. Each reader is a Cast of the camera's bytes.
        require_casts([node.op_type for node in readers], entry.name)
        first = [
            helper.make_node("Transpose", [entry.name], [inner], name=f"/{entry.name}/Transpose", perm=[0, 2, 3, 1])
        ]
        height, width = frames.frame_size(cfg)
        shape = [cfg.batch_size, 3, height, width]
        entry.CopyFrom(helper.make_tensor_value_info(entry.name, single, shape))
    for node in readers:
        names = [inner if name == entry.name else name for name in node.input]
        del node.input[:]
        node.input.extend(names)
    for node in reversed(first):
        graph.node.insert(0, node)
    for output in graph.output:
        kind = output.type.tensor_type
        if kind.elem_type in (single, onnx.TensorProto.INT32):
            continue
        writers = [node for node in graph.node if output.name in node.output]
        require_casts(
            [node.op_type for node in writers] if kind.elem_type == onnx.TensorProto.UINT8 else [], output.name
        )
        if kind.elem_type == onnx.TensorProto.UINT8:
            writers[0].attribute[0].i = onnx.TensorProto.INT32
        else:
            for node in writers:
                names = [f"{output.name}/wide" if name == output.name else name for name in node.output]
                del node.output[:]
                node.output.extend(names)
            cast = helper.make_node("Cast", [f"{output.name}/wide"], [output.name], to=onnx.TensorProto.INT32)
            cast.name = f"/{output.name}/Cast"
            graph.node.append(cast)
        kind.elem_type = onnx.TensorProto.INT32


def require_casts(operators: list[str], tensor: str) -> None:
    """Raise ValueError where an operator that reads or writes bytes is no Cast."""
    if others := sorted({*operators} - {"Cast"}):
        raise ValueError(f"{tensor}: bytes of {', '.join(others)}, expected of Cast alone; export the graph again")


def configuration(about: Description, outputs: list[str]) -> str:
    """Return the text of nvinfer.txt for a graph that `adapt` changed. Keys are those of DeepStream's Gst-nvinfer."""
    cfg = about.config
    tao = cfg.graph is config.GraphKind.tao
    height, width = frames.input_size(cfg) if tao else frames.frame_size(cfg)
    # Pictures are scaled to fit and padded at the bottom and the right, as frames.fit does; TAO's may be stretched.
    padded = not tao or cfg.resize is config.Resize.pad
    segmentation = tao and cfg.mode is config.Mode.semantic
    values: dict[str, object] = {
        "gpu-id": 0,
        "gie-unique-id": 1,
        "process-mode": 1,
        "onnx-file": description.ONNX,
        "model-engine-file": f"{description.ONNX}_b{cfg.batch_size}_gpu0_{about.precision}.engine",
        "batch-size": cfg.batch_size,
        "network-mode": NETWORK_MODES[about.precision],
        "infer-dims": f"3;{height};{width}",
        "model-color-format": 0,
        "net-scale-factor": 1.0,
        "maintain-aspect-ratio": int(padded),
        "symmetric-padding": 0,
        "scaling-filter": 1,
        "network-type": SEGMENTATION if segmentation else OTHER,
        "output-blob-names": ";".join(outputs),
        "labelfile-path": LABELS,
    }
    if segmentation:
        values |= {"num-detected-classes": len(about.categories), "segmentation-threshold": 0.0}
    else:
        values |= {"output-tensor-meta": 1}
    return "".join(
        f"{line}\n"
        for line in ["# Written by `make deepstream`.", "[property]", *(f"{k}={v}" for k, v in values.items())]
    )


def main() -> None:
    """Command line of `make deepstream`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--graph", type=Path, required=True, help="folder of a graph, such as data/onnx/onnx/fp32")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    build(args.graph, args.out)
    print(f"{files.printable(args.out / CONFIGURATION)}: for nvinfer's property config-file-path (docs/deepstream.md)")


if __name__ == "__main__":
    command_line.run(main)
