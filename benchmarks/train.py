"""TAO's training on this machine's GPUs: images/s, memory and accuracy by settings, and what a step consists of.

Run: make bench-train ARGS="--run '1 GPU' --run '2 GPUs' 'train.gpus=[0,1]'"
For a machine with NVIDIA GPUs, TAO's wheel and what it imports. Scenes are generated and converted there. Each --run is
the stage `train` as dvc.yaml starts it, with the profile's parameters and its own; each --step some steps of that
training in one process, on the first visible GPU.
"""

import argparse
import hashlib
import json
import logging
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
from stages.foundation import files, picture_files
from stages.tao import spec

WARM_UP_EPOCHS = 2
WARM_UP_STEPS, STEPS = 5, 10
ROOT = Path(__file__).parents[1]


class Gpus:
    """Memory and utilisation of GPUs, read ten times a second while the context lasts."""

    def __init__(self, numbers: list[int]) -> None:
        self._nvml: Any = import_module("pynvml")
        self._nvml.nvmlInit()
        self._handles = [self._nvml.nvmlDeviceGetHandleByIndex(number) for number in numbers]
        self.name = self._nvml.nvmlDeviceGetName(self._handles[0])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.memory_mib = 0.0
        """The most that one of them had in use, everything on it included."""
        self.readings: list[tuple[float, float]] = []
        """Time, and % of the last moments in which a kernel ran: the mean of the GPUs."""

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
    """Run a stage in a folder that has its params.yaml; its messages go to a file there."""
    command = [sys.executable, "-m", f"stages.{name}", *arguments]
    with (folder / f"{name}.log").open("w") as log:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        done = subprocess.run(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        messages = (folder / f"{name}.log").read_text()[-3000:]
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{messages}")


def trained(folder: Path, coco: Path, cfg: config.Config) -> dict[str, Any]:
    """Train in `folder`, whose params.yaml is `cfg`: what it took, and the pace of the epochs that are timed."""
    start = time.perf_counter()
    with Gpus(cfg.train.gpus) as gpus:
        arguments = ["--out", "checkpoint", "--work", "work", "--metrics", "train.json"]
        stage("train", folder, "--coco", str(coco), *arguments)
    seconds = time.perf_counter() - start
    # The last epoch validates.
    ends = _ends(folder / "work" / "train" / "lightning_logs" / "version_1")[WARM_UP_EPOCHS - 1 : -1]
    epochs = [b - a for a, b in pairwise(ends)]
    pictures = len(files.read_json(coco / "train" / "panoptic.json")["images"])
    # The processes' shares are filled up to the same size, and of each the last pictures are dropped.
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
    """When each epoch ended, by TensorBoard's file: seconds since 1970."""
    module: Any = import_module("tensorboard.backend.event_processing.event_accumulator")
    accumulator = module.EventAccumulator(str(events))
    accumulator.Reload()
    return [event.wall_time for event in accumulator.Scalars("train_loss_epoch")]


def evaluated(folder: Path, coco: Path) -> dict[str, Any]:
    """The figures of the checkpoint that `trained` left in `folder`, and how long they took."""
    start = time.perf_counter()
    arguments = ["--out", "maps", "--metrics", "evaluate.json"]
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
    """TAO's module of its training, on the GPU, with random weights, and its training loader, by a written spec."""
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
    """TAO's training loader alone, in a second epoch, for which its workers are started again as in training."""
    for _ in loader:
        pass
    start = time.perf_counter()
    pictures = sum(len(batch["images"]) for batch in loader)
    return pictures / (time.perf_counter() - start)


def step(module: Any, loader: Any) -> dict[str, Any]:
    """Milliseconds of the parts of a training step, the GPU waited for after each; the kernels and memory of one.

    `match` is of the losses and not part of `losses`. `deterministic` is whether TAO asks PyTorch for algorithms that
    are, which is its default.
    """
    torch: Any = import_module("torch")
    from lightning_fabric.utilities import move_data_to_device

    from stages.training import callbacks

    cfg = module.experiment_spec.train
    # As TAO's initialize_train_experiment.
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
        # As Lightning's, which is without the cache.
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
    """Time the loader alone and the parts of a training step; must run in a process of its own."""
    from omegaconf import OmegaConf

    # As TAO does before CUDA starts.
    if cfg.train.tao_spec.get("train", {}).get("cudnn", {}).get("deterministic", True):
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    # As from a command line, which this process was not started by: the loader's workers are forked.
    set_start_method("fork", force=True)
    classes = files.read_json(coco / "label_map.json")
    OmegaConf.save(spec.train_spec(coco, len(classes), cfg), folder / "spec.yaml")
    module, loader = tao(folder / "spec.yaml")
    return {"loader_images_per_s": loader_images_per_s(loader), **step(module, loader)}


def cpu_against_cuda(checkpoint: Path, coco: Path, deploy: config.Deploy) -> dict[str, Any]:
    """Largest differences of the outputs of TAO's network with its compiled op on the GPU and without it on the CPU."""
    import torch

    from stages.coco import panoptic
    from stages.inference import frames
    from stages.reference.tao_model import Checkpoint

    truth = panoptic.read(coco)
    picture = frames.fit(picture_files.read_rgb(truth.entries[0].image), deploy)[0]
    # TF32 would be a difference of its own.
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
    """Kind, name, folder and parameters of each --run and --step. Raises ValueError for one that can't be measured."""
    runs = []
    for kind, (name, *overrides) in [*(("run", run) for run in args.run), *(("step", run) for run in args.step)]:
        folder = work / re.sub(r"\W+", "_", f"{kind} {name}")
        folder.mkdir(exist_ok=True)
        cfg = parameters(args.profile, [*args.set, *overrides], folder / "params.yaml")
        if (cfg.sample, cfg.data) != (common.sample, common.data):
            raise ValueError(f"{kind} {name}: sample.* and data.* are the same for all runs; give them to --set")
        least = WARM_UP_EPOCHS + 2
        if kind == "run" and cfg.train.epochs < least:
            raise ValueError(f"{kind} {name}: train.epochs is {cfg.train.epochs}, expected {least} or more to time one")
        runs.append((kind, name, folder, cfg))
    return runs


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="scenes_720p", help="a file of conf/profile")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of all runs")
    for option, about in (
        ("run", "a training with overrides of its own"),
        ("step", "the same for the parts of a step"),
    ):
        parser.add_argument(
            f"--{option}", nargs="+", action="append", default=[], metavar=("NAME", "KEY=VALUE"), help=about
        )
    parser.add_argument("--work", type=Path, required=True, help="folder for scenes and runs; its scenes are reused")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--evaluate", action="store_true", help="evaluate each run's checkpoint, too")
    parser.add_argument("--compare", action="store_true", help="compare the compiled op with the CPU, too")
    args = parser.parse_args()
    if not args.run and not args.step:
        args.run, args.step = [["1 GPU"]], [["1 GPU"]]
    if args.run and "CUDA_VISIBLE_DEVICES" in os.environ:
        parser.error("CUDA_VISIBLE_DEVICES is set: unset it and choose GPUs by train.gpus")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        Gpus([0])
    except import_module("pynvml").NVMLError as error:
        parser.exit(1, f"no NVIDIA GPU here ({error}): run it on a machine with one\n")
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    common = parameters(args.profile, args.set, work / "params.yaml")
    try:
        runs = composed(args, common, work)
    except ValueError as error:
        parser.error(str(error))
    # A folder for each set of scenes, so that none is taken for another.
    made = work / hashlib.sha256(repr((common.sample, common.data)).encode()).hexdigest()[:12]
    coco = made / "coco"
    if not coco.exists():
        sample.build(made / "set", common.sample, workers=0)
        convert.build(made / "set", coco, made / "data.json", ROOT / "conf" / "tables", common.data)
    result: dict[str, Any] = {"torch": version("torch")}
    for kind, name, folder, cfg in runs:
        # In processes of their own, whose memory on the GPU ends with them.
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
    main()
