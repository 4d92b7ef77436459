"""Estimate the least time that a graph of the variant `cuda` can take on a GPU, from what its steps compute and move.

Run: python -m benchmarks.roofline --graph data/onnx/cuda/fp16 --measured-ms 4.86

A step takes as long as its arithmetic on the tensor cores in half precision, or as its tensors through device memory,
whichever is longer; caches, launches and what is not arithmetic on tensor cores are left out. Steps are not overlapped.
`scaled` is that time for each GPU, times what a measured H100 takes over its own.
"""

import argparse
import math
from pathlib import Path

import onnx

from stages.inference import description
from stages.inference.steps import KernelCall, Part
from stages.onnx_graph import partition

GPUS = {
    "H100 SXM": (989, 3350),
    "RTX 6000 Ada": (364, 960),
    "A100 80GB": (312, 2039),
    "Jetson AGX Orin 64GB": (42.5, 204.8),
    "Jetson AGX Thor": (259, 273),
}
"""Dense TFLOP/s in float16 with float32 sums and GB/s, by NVIDIA's data sheets: for Ada a quarter of sparse FP8, for
Thor an eighth of sparse FP4."""


def kernel_flop(call: KernelCall) -> float:
    """Multiplications and additions of a kernel that tensor cores can do."""
    inputs, outputs, attributes = call.input_specs, call.output_specs, call.attributes
    if call.operator == "Linear":
        return 2.0 * math.prod(outputs[0].shape) * inputs[1].shape[-1]
    if call.operator == "WindowAttention":
        window, channels = attributes.integer("window"), outputs[0].shape[-1]
        tokens = window**2
        windows = math.prod(-(-attributes.integer(side) // window) for side in ("height", "width"))
        return 4.0 * outputs[0].shape[0] * windows * float(tokens**2) * channels
    if call.operator == "MaskedAttention":
        return 4.0 * math.prod(outputs[0].shape) * inputs[1].shape[1]
    return 0


def steps(folder: Path) -> list[tuple[str, float, float]]:
    """Name, operations, and bytes read and written of each step."""
    found = []
    for step in description.read(folder).steps:
        if isinstance(step, KernelCall):
            moved = sum(spec.size_bytes for spec in (*step.input_specs, *step.output_specs))
            found.append((step.operator, kernel_flop(step), float(moved)))
        elif isinstance(step, Part):
            graph = onnx.load(folder / step.file).graph
            known = partition.tensors(graph)
            moved = sum(known[v.name].size_bytes for v in (*graph.input, *graph.output, *graph.initializer))
            flop = 0.0
            for node in graph.node:
                if node.op_type == "Conv":
                    flop += 2 * math.prod(known[node.output[0]].shape) * math.prod(known[node.input[1]].shape[1:])
            found.append(("convolutions", flop, float(moved)))
    return found


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--graph", type=Path, required=True, help="folder of a graph of the variant cuda, in fp16")
    parser.add_argument("--measured-ms", type=float, required=True, help="milliseconds on an H100's GPU")
    args = parser.parse_args()
    found = steps(args.graph)
    print(f"{sum(s[1] for s in found) / 1e9:.0f} GFLOP, {sum(s[2] for s in found) / 1e6:.0f} MB in {len(found)} steps")
    for name in sorted({s[0] for s in found}):
        of = [s for s in found if s[0] == name]
        print(f"| {name} | {len(of)} | {sum(s[1] for s in of) / 1e9:.1f} | {sum(s[2] for s in of) / 1e6:.0f} |")
    floors = {
        gpu: sum(max(flop / (tflops * 1e9), moved / (rate * 1e6)) for _, flop, moved in found)
        for gpu, (tflops, rate) in GPUS.items()
    }
    factor = args.measured_ms / floors["H100 SXM"]
    for gpu, floor in floors.items():
        tflops, rate = GPUS[gpu]
        print(f"| {gpu} | {tflops} | {rate} | {floor:.2f} | {floor * factor:.1f} | {1000 / (floor * factor):.0f} |")


if __name__ == "__main__":
    main()
