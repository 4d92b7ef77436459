"""TAO's training of a profile on this machine's GPU: images/s, memory, accuracy, and what the loader alone gives.

Run: python -m tests.bench.train --params params.json --out training.json
For a machine with an NVIDIA GPU, TAO's wheel and what it imports. Scenes are generated and converted there.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from stages import config, convert, files, sample, train
from stages.coco import panoptic
from stages.metrics.panoptic_quality import PanopticQuality
from stages.metrics.semantic import MeanIoU
from stages.runtime import frames
from stages.tao import wheel

WARM_UP_EPOCHS = 5
LOADER_EPOCHS = 5


def trained(coco: Path, out: Path, cfg: config.Config) -> dict[str, Any]:
    """Train in a process of its own; seconds and images/s of the epochs after the first, and the GPU's memory."""
    import torch

    # As from a command line, which this process was not started by.
    multiprocessing.set_start_method("fork", force=True)
    work = out.with_suffix(".work")
    train.build(coco, out, work, out.with_suffix(".json"), cfg)
    ends = []
    for line in (work / "train" / "status.json").read_text().splitlines():
        event = json.loads(line)
        if event.get("message", "").startswith("Train metrics"):
            ends.append(datetime.strptime(f"{event['date']} {event['time']}", "%m/%d/%Y %H:%M:%S"))
    epochs = [(b - a).total_seconds() for a, b in pairwise(ends)][WARM_UP_EPOCHS - 1 :]
    pictures = cfg.sample.train_images // cfg.train.batch_size * cfg.train.batch_size
    return {
        "images_per_s": len(epochs) * pictures / sum(epochs),
        "epochs_timed": len(epochs),
        "allocated_mib": torch.cuda.max_memory_allocated() / 2**20,
        "reserved_mib": torch.cuda.max_memory_reserved() / 2**20,
        **files.read_json(out.with_suffix(".json")),
    }


def loader_images_per_s(checkpoint: Path) -> float:
    """TAO's training loader alone, its workers started anew each epoch as in training."""
    from importlib import import_module

    from omegaconf import OmegaConf

    wheel.prepare()
    schema = import_module("nvidia_tao_pytorch.config.mask2former.default_config")
    module = import_module("nvidia_tao_pytorch.cv.mask2former.dataloader.pl_data_module")
    spec = OmegaConf.merge(OmegaConf.structured(schema.ExperimentConfig), OmegaConf.load(checkpoint / "spec.yaml"))
    loader = module.SemSegmDataModule(spec.dataset).train_dataloader()
    pictures, start = 0, time.perf_counter()
    for epoch in range(LOADER_EPOCHS + 1):
        if epoch == 1:
            pictures, start = 0, time.perf_counter()
        for batch in loader:
            pictures += len(batch["images"])
    return pictures / (time.perf_counter() - start)


def accuracy(checkpoint: Path, coco: Path, deploy: config.Deploy, device: str) -> dict[str, float]:
    """PQ and mIoU as `evaluate` computes them, on a device."""
    from stages.tao.predict import Checkpoint

    truth = panoptic.read(coco)
    model = Checkpoint(checkpoint, truth.num_things, deploy, device)
    quality, iou = PanopticQuality(), MeanIoU(len(truth.categories))
    for entry in truth.entries:
        found = model.predict(frames.read_rgb(entry.image), config.Mode.panoptic, config.Mode.semantic).segments
        ids, merged = panoptic.read_ids(entry.png), found[config.Mode.panoptic]
        quality.add(ids, entry.segments, merged.ids, merged.category_ids)
        iou.add(panoptic.class_map(ids, entry.segments), found[config.Mode.semantic].ids.astype(np.uint8))
    return {"pq": quality.summary(truth.categories)["all"]["pq"], "miou": iou.summary()["miou"]}


def cpu_against_cuda(checkpoint: Path, coco: Path, deploy: config.Deploy) -> dict[str, Any]:
    """Largest differences of the outputs of TAO's network with its compiled op on the GPU and without it on the CPU."""
    import torch

    from stages.tao.predict import Checkpoint

    truth = panoptic.read(coco)
    picture = frames.fit(frames.read_rgb(truth.entries[0].image), deploy)[0]
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


def main() -> None:
    """Command line."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, required=True, help="composed parameters, YAML or JSON")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    cfg = config.load(args.params)
    result: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        sample.build(root / "set", cfg.sample)
        convert.build(root / "set", root / "coco", root / "data.json", Path("conf/tables"), cfg.data)
        for precision in (config.Precision.fp32, config.Precision.fp16):
            cfg.train.precision = precision
            out = root / precision.value
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                result[precision.value] = pool.submit(trained, root / "coco", out, cfg).result()
            result[precision.value] |= accuracy(out, root / "coco" / "val", cfg.deploy, "cuda")
            print(precision.value, result[precision.value], flush=True)
        result["loader_images_per_s"] = loader_images_per_s(root / "fp32")
        result["cpu_against_cuda"] = cpu_against_cuda(root / "fp32", root / "coco" / "val", cfg.deploy)
    files.write_json(args.out, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
