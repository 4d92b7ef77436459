"""Measures which parts of the network change most in half precision, as candidates for deploy.keep_float32.

Run: make bench-precision. Prints a Markdown table and writes data/bench/precision.json. First one group of layers is in
half precision and all others in float32; then all but one group or operator are in half precision. On a CPU ONNX
Runtime computes chains of half-precision operators in float32 and so hides most rounding. Each graph is therefore
measured a second time with every tensor rounded, as on a GPU that computes in float32 and stores in half precision.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from stages import config, export, precision
from stages.foundation import command_line, files
from stages.inference import description
from stages.onnx_graph import fp16
from stages.reference import comparison

GROUPS = {
    "fit": ("/",),
    "backbone, patch embedding and norms": ("/network/backbone/",),
    "backbone, stage 0": ("/network/backbone/layers.0/",),
    "backbone, stage 1": ("/network/backbone/layers.1/",),
    "backbone, stage 2": ("/network/backbone/layers.2/",),
    "backbone, stage 3": ("/network/backbone/layers.3/",),
    "pixel decoder, input projections": ("/network/pixel_decoder/input_proj",),
    "pixel decoder, encoder": ("/network/pixel_decoder/transformer/",),
    "pixel decoder, FPN": ("/network/pixel_decoder/",),
    "decoder, cross-attention": ("/network/decoder/transformer_cross_attention",),
    "decoder, self-attention": ("/network/decoder/transformer_self_attention",),
    "decoder, feed-forward": ("/network/decoder/transformer_ffn",),
    "decoder, heads": ("/network/decoder/mask_embed", "/network/decoder/decoder_norm", "/network/class_logits"),
    "decoder, mask products": ("/network/decoder/",),
    "merge": ("/merge/",),
}
"""Group of layers -> prefixes of node names. The longest matching prefix decides."""
OPERATORS = ("LayerNormalization", "Softmax", "Resize", "InstanceNormalization", "Gemm", "MatMul", "Conv")


def group_of(place: str) -> str:
    """Return the group of GROUPS for a node's place, which is its name with the modules that it is in."""
    fitting = {prefix: name for name, prefixes in GROUPS.items() for prefix in prefixes if place.startswith(prefix)}
    return fitting[max(fitting, key=len)]


def larger_reference(path: Path, checkpoint: Path, coco: Path, count: int, cfg: config.Deploy) -> None:
    """Write a reference.npz of the first `count` validation pictures to `path`, as the stage export does."""
    from stages.coco import panoptic
    from stages.reference.tao_model import Checkpoint

    truth = panoptic.read(coco)
    tao = Checkpoint(checkpoint, truth.num_things, cfg)
    export.save_reference(tao, [entry.image for entry in truth.entries[:count]], path)


def rounded(half: Any) -> Any:
    """Return a graph in half precision as one in float32 that rounds each tensor that was in half precision."""
    import onnx
    from onnx import TensorProto, numpy_helper

    model = onnx.shape_inference.infer_shapes(half)
    graph = model.graph
    values = {v.name for v in graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT16}
    del graph.value_info[:]
    attributes = [a for n in graph.node for a in n.attribute if a.name == "value"]
    for tensor in (*graph.initializer, *(a.t for a in attributes)):
        if tensor.data_type == TensorProto.FLOAT16:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT16:
            node.attribute[0].i = TensorProto.FLOAT
        for index, name in enumerate(node.output):
            if name in values and node.op_type != "Constant":
                node.output[index] = f"{name}/exact"
                for source, result, kind in (
                    (f"{name}/exact", f"{name}/rounded", TensorProto.FLOAT16),
                    (f"{name}/rounded", name, TensorProto.FLOAT),
                ):
                    nodes.append(onnx.helper.make_node("Cast", [source], [result], name=f"/round/{result}", to=kind))
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def variants(model: Any, keep: list[str]) -> dict[str, set[str]]:
    """Return label -> names of the nodes that stay in float32. `keep` is deploy.keep_float32."""
    groups = {name: group_of(place) for name, place in fp16.places(model.graph).items()}
    operators = {node.name: node.op_type for node in model.graph.node}
    always, kept = (set(fp16.kept_names(model, entries)) for entries in ([], keep))
    found = {"float32": set(groups)}
    for group in sorted(set(groups.values()), key=list(GROUPS).index):
        found[f"only {group}"] = always | {name for name, other in groups.items() if other != group}
    found["all"] = always
    found[f"all but {', '.join(keep) or 'nothing'}"] = kept
    for group in sorted(set(groups.values()), key=list(GROUPS).index):
        found[f"all but {', '.join(keep)} and {group}"] = kept | {n for n, other in groups.items() if other == group}
    for operator in OPERATORS:
        if same := {name for name, other in operators.items() if other == operator}:
            found[f"all but {', '.join(keep)} and {operator}"] = kept | same
    return found


def measure(model: Any, kept: set[str], reference_file: Path, about: description.Description) -> dict[str, Any]:
    """Return the figures of precision.differences, as the stage measures them and with every tensor rounded."""
    half = fp16.convert(model, kept)
    return {
        "nodes_in_float32": len(kept),
        "nodes_added": len(half.graph.node) - len(model.graph.node),
        "onnxruntime": comparison.check(half, reference_file, about, precision.differences),
        "rounded": comparison.check(rounded(half), reference_file, about, precision.differences),
    }


def row(label: str, found: dict[str, Any]) -> str:
    """Return a line of the table."""
    cells = [label]
    for kind in ("onnxruntime", "rounded"):
        figures = found[kind]
        cells.append(f"{figures['pixel_agreement_pct']:.4f}")
        for what in ("class", "mask"):
            cells += [f"{figures[f'{what}_probability_difference_{part}']:.5f}" for part in ("p999", "max")]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Command line of `make bench-precision`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--graph", type=Path, required=True, help="folder that simplify wrote")
    parser.add_argument("--reference", type=Path, required=True, help="reference.npz that export wrote")
    parser.add_argument("--frames", type=int, default=0, help="make a reference of this many pictures instead")
    parser.add_argument("--checkpoint", type=Path, default=Path("data/checkpoint"), help="used with --frames")
    parser.add_argument("--coco", type=Path, default=Path("data/coco/val"), help="used with --frames")
    parser.add_argument("--keep", nargs="*", help="instead of deploy.keep_float32")
    parser.add_argument("--match", default="", help="measure only the rows whose name contains this text")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()

    import onnx

    cfg = config.load().deploy
    about = description.read(args.graph)
    model = onnx.load(args.graph / description.ONNX)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        reference_file = args.reference
        if args.frames:
            reference_file = Path(folder) / "reference.npz"
            larger_reference(reference_file, args.checkpoint, args.coco, args.frames, about.config)
        frames = len(np.load(reference_file)["frames"])
        print(f"{frames} pictures; agreement in %, differences of probabilities; first by ONNX Runtime, then rounded\n")
        titles = ["in half precision", *["agreement", "class p99.9", "max", "mask p99.9", "max"] * 2]
        print(f"| {' | '.join(titles)} |\n|---|{'---:|' * 10}")
        keep = cfg.keep_float32 if args.keep is None else args.keep
        for label, kept in variants(model, keep).items():
            if args.match in label:
                start = time.perf_counter()
                result[label] = measure(model, kept, reference_file, about)
                result[label]["seconds"] = round(time.perf_counter() - start, 1)
                print(row(label, result[label]), flush=True)
    files.write_json(args.out, {"frames": frames, "graph_sha256": about.sha256, "rows": result})


if __name__ == "__main__":
    command_line.run(main)
