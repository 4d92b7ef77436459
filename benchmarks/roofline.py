"""Estimates the least time of a graph with our kernels on a GPU from its steps' arithmetic and memory traffic.

Run: python -m benchmarks.roofline --graph data/onnx/cuda/fp16 --measured-ms 4.86

The time of a step is that of its arithmetic on the tensor cores in half precision, or that of moving its tensors
through device memory, whichever is longer. Caches, launches and other arithmetic are left out; steps do not overlap.
Prints a line for each kind of step: number, GFLOP and MB. Then a line for each GPU: TFLOP/s, GB/s, least time in ms,
that time scaled by the measured over the least time of an H100, and the rate in Hz for the scaled time.
"""

import math
from pathlib import Path

from stages.foundation import command_line
from stages.inference import description
from stages.inference.steps import KernelCall

GPUS = {
    "H100 SXM": (989, 3350),
    "RTX 6000 Ada": (364, 960),
    "A100 80GB": (312, 2039),
    "Jetson AGX Orin 64GB": (42.5, 204.8),
    "Jetson AGX Thor": (259, 273),
}
"""(dense TFLOP/s in float16 with float32 sums, GB/s) by NVIDIA's data sheets. Ada's is a quarter of its sparse FP8
rate, Thor's an eighth of its sparse FP4 rate."""


def kernel_flop(call: KernelCall) -> float:
    """Return the number of multiplications and additions of a kernel that tensor cores can do."""
    inputs, outputs, attributes = call.input_specs, call.output_specs, call.attributes
    if call.operator == "Linear":
        return 2.0 * math.prod(outputs[0].shape) * inputs[1].shape[-1]
    if call.operator == "PatchEmbedding":
        return 2.0 * math.prod(outputs[0].shape) * inputs[1].shape[0]
    if call.operator == "WindowAttention":
        window, channels = attributes.integer("window"), outputs[0].shape[-1]
        tokens = window**2
        windows = math.prod(-(-attributes.integer(side) // window) for side in ("height", "width"))
        return 4.0 * outputs[0].shape[0] * windows * float(tokens**2) * channels
    if call.operator == "MaskedAttention":
        return 4.0 * math.prod(outputs[0].shape) * inputs[1].shape[1]
    return 0


def steps(folder: Path) -> list[tuple[str, float, float]]:
    """Return for each step of a graph's folder: name, floating-point operations, bytes read and written."""
    found = []
    for step in description.read(folder).steps:
        if isinstance(step, KernelCall):
            bytes_moved = sum(spec.size_bytes for spec in (*step.input_specs, *step.output_specs))
            found.append((step.operator, kernel_flop(step), float(bytes_moved)))
    return found


def main() -> None:
    """Command line of the module."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--graph", type=Path, required=True, help="folder of a graph with our kernels, in fp16")
    parser.add_argument("--measured-ms", type=float, required=True, help="measured milliseconds on an H100")
    args = parser.parse_args()
    found = steps(args.graph)
    print(f"{sum(s[1] for s in found) / 1e9:.0f} GFLOP, {sum(s[2] for s in found) / 1e6:.0f} MB in {len(found)} steps")
    for name in sorted({s[0] for s in found}):
        same = [s for s in found if s[0] == name]
        print(f"| {name} | {len(same)} | {sum(s[1] for s in same) / 1e9:.1f} | {sum(s[2] for s in same) / 1e6:.0f} |")
    floors = {
        gpu: sum(max(flop / (tflops * 1e9), bytes_moved / (rate * 1e6)) for _, flop, bytes_moved in found)
        for gpu, (tflops, rate) in GPUS.items()
    }
    factor = args.measured_ms / floors["H100 SXM"]
    for gpu, floor in floors.items():
        tflops, rate = GPUS[gpu]
        print(f"| {gpu} | {tflops} | {rate} | {floor:.2f} | {floor * factor:.1f} | {1000 / (floor * factor):.0f} |")


if __name__ == "__main__":
    command_line.run(main)
