"""Measures TAO's training on this machine's GPUs: images/s, memory and accuracy by settings, and the parts of a step.

Run: make bench-train ARGS="--run '1 GPU' --run '2 GPUs' 'train.gpus=[0,1]'"
Needs NVIDIA GPUs and the locked environment. Scenes are generated and converted first. Each --run is the stage `train`
as dvc.yaml starts it, with the parameters of the profile and overrides of its own. Each --step times some steps of that
training in one process, on the first visible GPU.
"""

import argparse
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.metadata import version
from itertools import islice, pairwise
from multiprocessing import get_context, set_start_method
from pathlib import Path
from typing import Any

from stages import config, convert, sample
from stages.commands import params
from stages.foundation import command_line, files, picture_files
from stages.tao import spec

WARM_UP_EPOCHS = 2
WARM_UP_STEPS, STEPS = 5, 10
ROOT = Path(__file__).parents[1]


class Gpus:
    """Reads memory and utilisation of GPUs ten times a second inside its `with` block."""

    def __init__(self, numbers: list[int]) -> None:
        self._nvml: Any = import_module("pynvml")
        self._nvml.nvmlInit()
        self._handles = [self._nvml.nvmlDeviceGetHandleByIndex(number) for number in numbers]
        self.name = self._nvml.nvmlDeviceGetName(self._handles[0])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.memory_mib = 0.0
        """Highest memory in use on one of the GPUs, by all processes."""
        self.readings: list[tuple[float, float]] = []
        """Pairs (time.time, % of the last sample period in which a kernel ran: the mean of the GPUs)."""

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            used = [self._nvml.nvmlDeviceGetMemoryInfo(handle).used / 2**20 for handle in self._handles]
            busy = [self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu for handle in self._handles]
            self.memory_mib = max(self.memory_mib, *used)
            self.readings.append((time.time(), sum(busy) / len(busy)))

    def __enter__(self) -> "Gpus":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def stage(name: str, folder: Path, *arguments: str) -> None:
    """Run a stage in a folder with its params.yaml; its messages go to NAME.log. Raises RuntimeError if it fails."""
    command = [sys.executable, "-m", f"stages.{name}", *arguments]
    with (folder / f"{name}.log").open("w") as log:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        messages = (folder / f"{name}.log").read_text()[-3000:]
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{messages}")


def trained(folder: Path, coco: Path, cfg: config.Config) -> dict[str, Any]:
    """Train in `folder`, whose params.yaml is `cfg`; return the figures of the run and the rate of the timed epochs."""
    start = time.perf_counter()
    with Gpus(cfg.train.gpus) as gpus:
        arguments = ["--out", "checkpoint", "--work", "work", "--metrics", "train.json"]
        stage("train", folder, "--coco", str(coco), *arguments)
    seconds = time.perf_counter() - start
    # The last epoch is left out, because it validates.
    ends = _ends(folder / "work" / "train" / "lightning_logs" / "version_1")[WARM_UP_EPOCHS - 1 : -1]
    epochs = [b - a for a, b in pairwise(ends)]
    pictures = len(files.read_json(coco / "train" / "panoptic.json")["images"])
    # All processes get the same number of pictures, and each drops its last, incomplete batch.
    each = math.ceil(pictures / len(cfg.train.gpus)) // cfg.train.batch_size
    batch = cfg.train.batch_size * len(cfg.train.gpus)
    busy = [value for moment, value in gpus.readings if ends[0] <= moment <= ends[-1]]
    return {
        "images_per_s": len(epochs) * each * batch / sum(epochs),
        "epochs_timed": len(epochs),
        "steps": each * cfg.train.epochs,
        "seconds": seconds,
        "gpu": gpus.name,
        "gpu_memory_gib": gpus.memory_mib / 1024,
        "gpu_busy_pct": sum(busy) / len(busy),
        "train_loss": files.read_json(folder / "train.json")["train_loss"],
    }


def _ends(events: Path) -> list[float]:
    """Return when each epoch ended, in seconds since 1970, from TensorBoard's file."""
    module: Any = import_module("tensorboard.backend.event_processing.event_accumulator")
    accumulator = module.EventAccumulator(str(events))
    accumulator.Reload()
    return [event.wall_time for event in accumulator.Scalars("train_loss_epoch")]


def evaluated(folder: Path, coco: Path) -> dict[str, Any]:
    """Evaluate the checkpoint that `trained` wrote in `folder`; return its figures and the seconds."""
    start = time.perf_counter()
    sets = ["--root", str(coco.parent / "set"), "--tables", str(ROOT / "conf/tables")]
    arguments = [*sets, "--out", "maps", "--metrics", "evaluate.json"]
    stage("evaluate", folder, "--checkpoint", "checkpoint", "--coco", str(coco / "val"), *arguments)
    found = files.read_json(folder / "evaluate.json")
    return {
        "pq": found["all"]["pq"],
        "miou": found["semantic"]["miou"],
        "ap": found["instance"]["ap"],
        "evaluate_device": found["device"],
        "evaluate_seconds": time.perf_counter() - start,
    }


def tao(spec: Path) -> tuple[Any, Any]:
    """Return TAO's training module on the GPU, with random weights, and its training loader, made from a spec.yaml."""
    from omegaconf import OmegaConf

    from stages.tao import wheel

    wheel.prepare()
    schema = import_module("nvidia_tao_pytorch.config.mask2former.default_config")
    data = import_module("nvidia_tao_pytorch.cv.mask2former.dataloader.pl_data_module")
    model = import_module("nvidia_tao_pytorch.cv.mask2former.model.pl_model")
    cfg = OmegaConf.merge(OmegaConf.structured(schema.ExperimentConfig), OmegaConf.load(spec))
    cfg.train.iters_per_epoch = 1
    return model.Mask2formerPlModule(cfg).cuda().train(), data.SemSegmDataModule(cfg.dataset).train_dataloader()


def loader_images_per_s(loader: Any) -> float:
    """Return the images/s of TAO's training loader alone, in a second epoch: as in training its workers start again."""
    for _ in loader:
        pass
    start = time.perf_counter()
    pictures = sum(len(batch["images"]) for batch in loader)
    return pictures / (time.perf_counter() - start)


def step(module: Any, loader: Any) -> dict[str, Any]:
    """Return the milliseconds of a training step and of its parts, and its kernels and memory.

    The parts are timed with a synchronization of the GPU after each. `match`, the matcher of the losses, is not counted
    in `losses`. `deterministic` is whether TAO asks PyTorch for deterministic algorithms, which is its default.
    """
    torch: Any = import_module("torch")
    from lightning_fabric.utilities import move_data_to_device

    from stages.training import callbacks

    cfg = module.experiment_spec.train
    # The same settings as in TAO's initialize_train_experiment.
    torch.use_deterministic_algorithms(cfg.cudnn.deterministic, warn_only=True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cfg.cudnn.deterministic, cfg.cudnn.benchmark
    torch.backends.cuda.enable_flash_sdp(not cfg.cudnn.deterministic)
    torch.backends.cuda.enable_mem_efficient_sdp(not cfg.cudnn.deterministic)
    taos = type(module).configure_optimizers
    optimizer = callbacks.merge_param_groups(taos)(module)["optimizer"]
    half = cfg.precision == "fp16"
    scaler = torch.amp.GradScaler(enabled=half)
    batches = list(islice(loader, 4))
    spent: dict[str, float] = defaultdict(float)

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        torch.cuda.synchronize()
        start = time.perf_counter()
        yield
        torch.cuda.synchronize()
        spent[name] += 1000 * (time.perf_counter() - start)

    match = module.criterion.matcher.forward

    def matched(*args: Any) -> Any:
        with timed("match"):
            return match(*args)

    def one(batch: Any, watch: Any) -> None:
        with watch("to the GPU"):
            batch = move_data_to_device(batch, module.device)
        # Lightning's autocast has no cache.
        with torch.autocast("cuda", enabled=half, cache_enabled=False):
            with watch("network"):
                outputs = module.model(batch["images"])
            with watch("losses"):
                losses = module.criterion(outputs, batch["targets"])
                weights = module.criterion.weight_dict
                total = sum(value * weights[name] for name, value in losses.items() if name in weights)
        with watch("backward"):
            scaler.scale(total).backward()
        with watch("optimizer"):
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(module.parameters(), cfg.clip_grad_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

    def several(count: int, watch: Any) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for number in range(count):
            one(batches[number % len(batches)], watch)
        torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - start) / count

    several(WARM_UP_STEPS, nullcontext)
    whole = several(STEPS, nullcontext)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiled:
        several(STEPS, nullcontext)
    kernels = [event for event in profiled.key_averages() if event.self_device_time_total > 0]
    longest = sorted(kernels, key=lambda event: -event.self_device_time_total)[:12]
    module.criterion.matcher.forward = matched
    several(STEPS, timed)
    spent["losses"] -= spent["match"]
    module.criterion.matcher.forward = match
    allocated = torch.cuda.max_memory_allocated()
    optimizer = taos(module)["optimizer"]
    several(WARM_UP_STEPS, nullcontext)
    return {
        "batch": len(batches[0]["images"]),
        "gpu": torch.cuda.get_device_name(),
        "precision": cfg.precision,
        "allocated_gib": allocated / 2**30,
        "deterministic": cfg.cudnn.deterministic,
        "ms": whole,
        "ms_with_taos_groups": several(STEPS, nullcontext),
        "parts_ms": {name: value / STEPS for name, value in spent.items()},
        "kernels": sum(event.count for event in kernels) / STEPS,
        "kernels_ms": sum(event.self_device_time_total for event in kernels) / 1000 / STEPS,
        "longest_ms": {
            re.sub(r"\s+", " ", event.key)[:90]: event.self_device_time_total / 1000 / STEPS for event in longest
        },
        "masks": sum(len(target["labels"]) for batch in batches for target in batch["targets"]) / len(batches),
    }


def parts(folder: Path, coco: Path, cfg: config.Config) -> dict[str, Any]:
    """Time the loader alone and the parts of a training step. Needs a process of its own: it sets globals."""
    from omegaconf import OmegaConf

    # TAO sets this before CUDA starts.
    if cfg.train.tao_spec.get("train", {}).get("cudnn", {}).get("deterministic", True):
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    # This process was spawned. The loader's workers must be forked, as in a training from the command line.
    set_start_method("fork", force=True)
    classes = files.read_json(coco / "label_map.json")
    OmegaConf.save(spec.train_spec(coco, len(classes), cfg), folder / "spec.yaml")
    module, loader = tao(folder / "spec.yaml")
    return {"loader_images_per_s": loader_images_per_s(loader), **step(module, loader)}


def cpu_against_cuda(checkpoint: Path, coco: Path, deploy: config.Deploy) -> dict[str, Any]:
    """Compare TAO's network with its compiled op on the GPU and without it on the CPU: differences of its outputs."""
    import torch

    from stages.coco import panoptic
    from stages.inference import frames
    from stages.reference.tao_model import Checkpoint

    truth = panoptic.read(coco)
    picture = frames.fit(picture_files.read_rgb(truth.entries[0].image), deploy)[0]
    # TF32 would add differences of its own.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    answers = [Checkpoint(checkpoint, truth.num_things, deploy, device).logits(picture) for device in ("cpu", "cuda")]
    classes, masks = ((a.cpu() - b.cpu()).abs() for a, b in zip(*answers, strict=True))
    return {
        "op_loaded": any("MultiScaleDeformableAttention" in path for path in torch.ops.loaded_libraries),
        "class_logits_max": float(classes.max()),
        "mask_logits_max": float(masks.max()),
        "mask_logits_p99": float(masks.flatten()[:: max(1, masks.numel() // 1_000_000)].quantile(0.99)),
    }


def parameters(profile: str, overrides: list[str], out: Path) -> config.Config:
    """Compose and write params.yaml as `make params` does."""
    params.build(ROOT / "conf", out, [f"profile={profile}", *overrides])
    return config.load(out)


def composed(args: argparse.Namespace, common: config.Config, work: Path) -> list[tuple[str, str, Path, config.Config]]:
    """Return kind, name, folder and parameters of each --run and --step. Raises ValueError if one can't be measured."""
    runs = []
    for kind, (name, *overrides) in [*(("run", run) for run in args.run), *(("step", run) for run in args.step)]:
        folder = work / re.sub(r"\W+", "_", f"{kind} {name}")
        folder.mkdir(exist_ok=True)
        cfg = parameters(args.profile, [*args.set, *overrides], folder / "params.yaml")
        if (cfg.sample, cfg.data) != (common.sample, common.data):
            raise ValueError(
                f"{kind} {name}: found other sample.* or data.* than in --set, expected the same; give them to --set"
            )
        least = WARM_UP_EPOCHS + 2
        if kind == "run" and cfg.train.epochs < least:
            raise ValueError(f"{kind} {name}: train.epochs is {cfg.train.epochs}, expected {least} or more to time one")
        runs.append((kind, name, folder, cfg))
    return runs


def main() -> None:
    """Command line of `make bench-train`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--profile", default="scenes_720p", help="a file of conf/profile")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of all runs")
    for option, about in (
        ("run", "time a training with these overrides"),
        ("step", "time the parts of a step with these overrides"),
    ):
        parser.add_argument(
            f"--{option}", nargs="+", action="append", default=[], metavar=("NAME", "KEY=VALUE"), help=about
        )
    parser.add_argument("--work", type=Path, required=True, help="folder for scenes and runs; scenes in it are reused")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--evaluate", action="store_true", help="also evaluate each run's checkpoint")
    parser.add_argument("--compare", action="store_true", help="also compare the compiled op with the CPU")
    args = parser.parse_args()
    if not args.run and not args.step:
        args.run, args.step = [["1 GPU"]], [["1 GPU"]]
    if args.run and "CUDA_VISIBLE_DEVICES" in os.environ:
        parser.error("CUDA_VISIBLE_DEVICES is set: unset it and choose GPUs by train.gpus")
    try:
        Gpus([0])
    except import_module("pynvml").NVMLError as error:
        raise RuntimeError(f"found no NVIDIA GPU ({error}), expected one; run it on a machine with a GPU") from error
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    common = parameters(args.profile, args.set, work / "params.yaml")
    try:
        runs = composed(args, common, work)
    except ValueError as error:
        parser.error(str(error))
    # The folder's name depends on the parameters of the scenes, so that other scenes are not reused by mistake.
    made = work / hashlib.sha256(repr((common.sample, common.data)).encode()).hexdigest()[:12]
    coco = made / "coco"
    if not coco.exists():
        sample.build(made / "set", common.sample, workers=0)
        convert.build(made / "set", coco, made / "data.json", ROOT / "conf" / "tables", common.data)
    result: dict[str, Any] = {"torch": version("torch")}
    for kind, name, folder, cfg in runs:
        # In a process of its own, whose GPU memory is freed at its end.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            try:
                if kind == "step":
                    found = pool.submit(parts, folder, coco, cfg).result()
                else:
                    found = trained(folder, coco, cfg)
                    if args.evaluate:
                        found |= evaluated(folder, coco)
                    if args.compare:
                        comparison = pool.submit(cpu_against_cuda, folder / "checkpoint", coco / "val", cfg.deploy)
                        found["cpu_against_cuda"] = comparison.result()
            except RuntimeError as error:
                found = {"error": str(error)}
        result[f"{kind}: {name}"] = found
        print(kind, name, json.dumps(found, indent=1), flush=True)
        files.write_json(args.out, result)


if __name__ == "__main__":
    command_line.run(main)
