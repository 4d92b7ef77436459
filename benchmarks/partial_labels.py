"""Trains on two generated sources that label different classes, with and without train.partial_labels.

Source a labels road, sidewalk and cars in 64 scenes, source b buildings, sky and vegetation in 4 other scenes, as a
small set of new classes beside a large set; what a source does not label is void. Both are trained together, from
random weights. The 16 validation scenes have all labels. Scenes and parameters are the same in all runs but for
train.seed and train.partial_labels. Takes half an hour on one core.

Run: python -m benchmarks.partial_labels --work data/bench/partial_labels --out data/bench/partial_labels.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from stages import config, convert, sample
from stages.coco import panoptic
from stages.commands import params
from stages.foundation import command_line, files
from stages.metrics.semantic import MeanIoU
from stages.vistas.labels import LABELS

ROOT = Path(__file__).resolve().parents[1]
CLASSES = {
    "a": {
        "road": ("construction--flat--road", "marking--"),
        "sidewalk": ("construction--flat--sidewalk", "construction--barrier--curb"),
        "car": ("object--vehicle--car",),
    },
    "b": {
        "building": ("construction--structure--building",),
        "sky": ("nature--sky",),
        "vegetation": ("nature--vegetation", "nature--terrain"),
    },
}
"""Source -> class -> starts of the names of its labels."""
PICTURES = {"a": 64, "b": 4, "all": 0}
VAL_PICTURES = 16
HEIGHT_PX, WIDTH_PX = 128, 192
EPOCHS, BATCH = 20, 2


def make_sets(work: Path) -> config.Data:
    """Generate the scenes of the sources a, b and all, and convert them into work/coco; returns what was converted."""
    tables = work / "tables"
    tables.mkdir()
    lines = []
    sources = {}
    for number, (name, count) in enumerate(PICTURES.items(), start=1):
        cfg = config.Sample(
            train_images=max(count, 1), val_images=VAL_PICTURES, height_px=HEIGHT_PX, width_px=WIDTH_PX, seed=number
        )
        sample.build(work / "raw" / name, cfg, workers=1)
        for folder, split in (("training", "train" if count else ""), ("validation", "" if count else "val")):
            keys = sorted(path.stem for path in (work / "raw" / name / folder / "images").iterdir())
            lines += [f"{name}_{key},{split}" for key in keys]
        classes = CLASSES.get(name) or {**CLASSES["a"], **CLASSES["b"]}
        rows = [(label.name, _target(label.name, classes)) for label in LABELS]
        isthing = {"void": "", "car": "1"}
        table = [f"{label},{target},{isthing.get(target, '0')}" for label, target in rows]
        (tables / f"{name}.csv").write_text("\n".join(["source,target,isthing", *table]) + "\n")
        sources[name] = config.Source(root=name, taxonomy=name)
    (tables / "split.csv").write_text("\n".join(lines) + "\n")
    data = config.Data(
        root=str(work / "raw"), sources=sources, splits=config.Splits.file, split_file="split", workers=1
    )
    convert.build(work / "raw", work / "coco", work / "data.json", tables, data)
    return data


def _target(label: str, classes: dict[str, tuple[str, ...]]) -> str:
    return next((name for name, starts in classes.items() if label.startswith(starts)), "void")


def run(work: Path, data: config.Data, partial_labels: bool, seed: int) -> dict[str, Any]:
    """Train and evaluate in a folder of its own; return figures of the validation scenes, 0 to 100.

    `miou` and `iou`, by class, are those of the panoptic maps, which an engine returns: a pixel without a segment is a
    miss. `semantic_miou` is that of semantic maps, where each pixel gets its best class, however improbable.
    """
    folder = work / f"{'with' if partial_labels else 'without'}_{seed}"
    folder.mkdir(exist_ok=True)
    overrides = [
        f"train.epochs={EPOCHS}", f"train.batch_size={BATCH}", f"train.milestones=[{EPOCHS * 5 // 6}]",
        f"train.validation_interval={EPOCHS}", f"train.checkpoint_interval={EPOCHS}", "train.min_sizes_px=[128,144]",
        "train.max_size_px=256", f"train.crop_height_px={HEIGHT_PX}", f"train.crop_width_px={WIDTH_PX}",
        f"deploy.frame_height_px={HEIGHT_PX}", f"deploy.frame_width_px={WIDTH_PX}", f"deploy.height_px={HEIGHT_PX}",
        f"deploy.width_px={WIDTH_PX}", "model.num_object_queries=40", f"train.seed={seed}",
        f"train.partial_labels={str(partial_labels).lower()}",
    ]  # fmt: skip
    params.build(ROOT / "conf", folder / "params.yaml", ["profile=sample", *overrides])
    cfg = config.load(folder / "params.yaml")
    cfg.data = data
    (folder / "params.yaml").write_text(yaml.safe_dump(config.plain(cfg)))
    start = time.perf_counter()
    outputs = ["--out", "checkpoint", "--work", "work", "--metrics", "train.json"]
    stage("train", folder, "--coco", str(work / "coco"), *outputs)
    seconds = time.perf_counter() - start
    inputs = ["--coco", str(work / "coco/val"), "--root", str(work / "raw"), "--tables", str(work / "tables")]
    stage("evaluate", folder, "--checkpoint", "checkpoint", *inputs, "--out", "maps", "--metrics", "evaluate.json")
    found = files.read_json(folder / "evaluate.json")
    truth, predicted = panoptic.read(work / "coco/val"), panoptic.read(folder / "maps")
    counted = MeanIoU(len(truth.categories))
    for entries in zip(truth.entries, predicted.entries, strict=True):
        counted.add(*(_classes(entry) for entry in entries))
    names = [category["name"] for category in truth.categories]
    return {
        "miou": counted.summary()["miou"],
        "pq": found["all"]["pq"],
        "semantic_miou": found["semantic"]["miou"],
        "iou": dict(zip(names, counted.iou_by_class().tolist(), strict=True)),
        "train_seconds": seconds,
    }


def _classes(entry: panoptic.Entry) -> npt.NDArray[np.uint8]:
    """Return the category_id of each pixel of a panoptic map, uint8 [H, W]; 0 for no segment."""
    ids = panoptic.read_ids(entry.png)
    found = np.zeros(ids.shape, np.uint8)
    for segment in entry.segments:
        found[ids == segment["id"]] = segment["category_id"]
    return found


def stage(name: str, folder: Path, *arguments: str) -> None:
    """Run a stage in `folder` on one thread; raises RuntimeError with its last messages if it fails."""
    command = [sys.executable, "-W", "ignore", "-m", f"stages.{name}", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")


def main() -> None:
    """Command line of the module."""
    parser = command_line.parser(__doc__)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for scenes and trainings, which must not exist"
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds of the trainings")
    args: argparse.Namespace = parser.parse_args()
    work = args.work.resolve()
    work.mkdir(parents=True)
    data = make_sets(work)
    runs: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for seed in args.seeds:
        for partial_labels, found in runs.items():
            found.append(run(work, data, partial_labels, seed))
            print(f"seed {seed}, partial_labels {partial_labels}:", json.dumps(found[-1]), flush=True)
    result: dict[str, Any] = {}
    for partial_labels, found in runs.items():
        about: dict[str, Any] = {"runs": found}
        for figure in ("miou", "pq", "semantic_miou"):
            values = [one[figure] for one in found]
            about[figure] = {"mean": statistics.fmean(values), "min": min(values), "max": max(values)}
        about["iou"] = {name: statistics.fmean(one["iou"][name] for one in found) for name in found[0]["iou"]}
        result["with" if partial_labels else "without"] = about
    files.write_json(args.out, result)


if __name__ == "__main__":
    command_line.run(main)
