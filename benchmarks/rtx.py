"""Builds TensorRT-RTX engines of Mask2Former Swin-Tiny at 720p, of our graphs and of TAO's, without a GPU.

Run: make bench-rtx. The weights are random, because a build does not depend on them. Prints the results and writes
data/bench/rtx.json. Each build runs in a process of its own, whose peak memory is measured.
"""

import json
import logging
import math
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from stages import config, engine
from stages.commands import params
from stages.foundation import command_line, files
from stages.inference import description

CAPABILITIES = ["7.5", "8.0", "8.6", "8.9", "12.0"]
LIMIT_SECONDS, LIMIT_MIB = 120, 4096


def graphs(folder: Path, cfg: config.Config) -> dict[str, Path]:
    """Write our graphs and those of TAO's exporter, each with its graph.json; return label -> folder in `folder`."""
    import onnxsim
    import torch
    from omegaconf import OmegaConf

    from benchmarks import tao_graph, tao_passes
    from stages import export, simplify
    from stages.onnx_graph import artifact, fp16
    from stages.tao import spec, wheel

    OmegaConf.save(spec.train_spec(folder, 116, cfg), folder / "spec.yaml")
    torch.manual_seed(0)
    net = wheel.build_network(folder / "spec.yaml").eval()
    found = {}

    def save(label: str, model: Any, variant: str, precision: str) -> None:
        found[label] = folder / str(len(found))
        found[label].mkdir()
        about = description.Description(config.plain(cfg.deploy), variant, [], precision=precision)
        artifact.save(model, found[label], about)

    for variant in ("cuda", "onnx"):
        traced = export.trace(net, config.Variant(variant), 70, cfg.deploy)
        simplified = simplify.simplify(traced, cfg.deploy)
        half = fp16.convert(simplified, fp16.kept_names(simplified, cfg.deploy.keep_float32))
        save(f"ours, {variant}, fp16", half, variant, "fp16")
    save("ours, onnx, fp32", simplified, "onnx", "fp32")

    # With the same weights.
    tao = tao_graph.export(net, folder / "spec.yaml", cfg.deploy, folder)
    save("TAO's exporter, fp32", tao, "onnx", "fp32")
    # TensorRT-RTX has no NonZero. One of our passes is enough to build this graph.
    tao_passes.boolean_assignment_to_and(tao.graph)
    rewritten, _ = onnxsim.simplify(tao, check_n=0)
    save("TAO's exporter, without NonZero, fp32", rewritten, "onnx", "fp32")
    return found


def facts(path: Path) -> dict[str, Any]:
    """Return the number of nodes, the size of the file in bytes, and the bytes of the outputs of a batch."""
    import onnx

    model = onnx.load(path / description.ONNX)
    out = 0
    for value in model.graph.output:
        tensor = value.type.tensor_type
        item = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
        out += item * math.prod(d.dim_value for d in tensor.shape.dim)
    return {"nodes": len(model.graph.node), "onnx_bytes": (path / description.ONNX).stat().st_size, "out_bytes": out}


def build(graph: Path, capabilities: list[str]) -> dict[str, Any]:
    """Build in a process of its own; return seconds, peak memory and engine size, or the builder's message."""
    command = [sys.executable, "-m", "benchmarks.rtx", "--build", str(graph), "--capabilities", *capabilities]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"refused": done.stderr.strip()[-400:]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def build_here(graph: Path, capabilities: list[str]) -> None:
    """Build the graph of a folder and print the figures as JSON."""
    about = description.read(graph)
    target = config.Target(
        builder=config.Builder.tensorrt_rtx, builder_version="1",
        device=config.Device.cuda, compute_capabilities=capabilities,
        precision=config.Precision(about.precision), variant=config.Variant(about.variant),
    )  # fmt: skip
    start = time.perf_counter()
    engine.build(graph, graph / "engine", "rtx", target, graph / "timing.cache", graph / "engine_metrics.json")
    seconds = time.perf_counter() - start
    (out,) = (graph / "engine").glob("*.engine")
    # Not ru_maxrss: a process inherits it from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(json.dumps({"build_seconds": seconds, "peak_mib": peak, "engine_bytes": out.stat().st_size}))


def main() -> int:
    """Command line of `make bench-rtx`. Returns 1 if our graph builds more slowly or in more memory than allowed."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--build", type=Path, help="build only the graph of this folder, and print JSON")
    parser.add_argument("--capabilities", nargs="*", default=CAPABILITIES, help="compute capabilities")
    args = parser.parse_args()
    if args.build:
        build_here(args.build, args.capabilities)
        return 0
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    result = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params.build(
            Path("conf"), folder / "params.yaml", ["profile=mapillary", "model.backbone.pretrained_weights=''"]
        )
        cfg = config.load(folder / "params.yaml")
        for label, path in graphs(folder, cfg).items():
            # TensorRT-RTX refuses float32 matrix products for compute capability 7.5.
            capabilities = CAPABILITIES if "fp16" in label else CAPABILITIES[1:]
            result[label] = {**facts(path), "compute_capabilities": capabilities, **build(path, capabilities)}
            print(label, result[label], flush=True)
    files.write_json(args.out, result)
    ours = result["ours, cuda, fp16"]
    kept = ours.get("build_seconds", math.inf) <= LIMIT_SECONDS and ours.get("peak_mib", math.inf) <= LIMIT_MIB
    return 0 if kept else 1


if __name__ == "__main__":
    command_line.run(main)
