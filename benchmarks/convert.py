"""Times the stage convert on large rasters against other ways to convert, and against decoding alone, on one core.

Run: make bench-convert. Prints a table of CPU milliseconds an image and writes data/bench/convert.json.
Scenes are painted small and enlarged to 3264x2448; painting is not timed.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
from pycocotools import mask
from scipy import ndimage

from stages import config
from stages.coco import rle
from stages.conversion import picture, picture_decoding, taxonomy
from stages.engines.manifest import cpu_model
from stages.foundation import command_line, files, parallel
from stages.scenes import compose
from stages.sets import formats
from stages.sets.raw_set import Scene
from stages.vistas import labels, reader, writer

SIZE = (2448, 3264)
COPIES = 60
"""Number of links to each picture, so that the whole stage has enough of them to be timed."""
ROUNDS = 3
"""Runs of the whole stage with one worker and with two, in turns. The medians are compared."""
TABLES = Path("conf/tables")
FASTEST, OURS = "decode PNG, imagecodecs", "instance JSON, ours"
LIMITS = {
    "ratio_to_full_size_masks": (10, np.inf),
    "ratio_to_decoding": (0, 1.6),
    "all_files_cpu_ms": (0, 200),
    "speedup_of_2_workers": (1.8, np.inf),
    "worker_peak_mib": (0, 300),
}
"""Figure -> (least, most) on two cores or more. Other figures end the command with an error."""
THINGS = np.array([label.instances for label in labels.LABELS])


def paint(index: int) -> tuple[Any, Any]:
    """Return a picture, uint8 [H, W, 3] in BGR, of two streets side by side, and its instances, uint16 [H, W].

    It has about 80 segments.
    """
    scenes = [compose.paint((1, side, index + 1), SIZE[0] // 4, SIZE[1] // 8, plaza=False) for side in (0, 1)]
    left, right = map(writer.encode_instances, scenes)
    # The objects of the right street are numbered after those of the left one, without gaps.
    used = np.zeros(256, np.uint16)
    np.maximum.at(used, np.unique(left) >> 8, (np.unique(left) & 255) + 1)
    right = np.where(THINGS[right >> 8], right + used[right >> 8], right).astype(np.uint16)
    bgr = np.hstack([scene.image for scene in scenes])[..., ::-1]
    enlarged = cv2.resize(np.ascontiguousarray(bgr), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    return enlarged, cv2.resize(np.hstack([left, right]), SIZE[::-1], interpolation=cv2.INTER_NEAREST)


def write_set(root: Path, images: int) -> float:
    """Write a set in Vistas' layout with `images` pictures for training; return their mean number of segments."""
    segments = 0
    for folder in ("training/images", "training/v2.0/instances", "validation/images", "validation/v2.0/instances"):
        (root / folder).mkdir(parents=True)
    (root / "config_v2.0.json").write_bytes(labels.CONFIG.read_bytes())
    for index in range(images + 1):
        split = root / ("training" if index else "validation")
        bgr, raster = paint(index)
        segments += len(np.unique(raster)) if index else 0
        cv2.imwrite(str(split / "v2.0/instances" / f"{index:03}.png"), raster)
        cv2.imwrite(str(split / "images" / f"{index:03}.jpg"), bgr)
    return segments / images


def full_size(png: Path) -> str:
    """Return the annotations as JSON, made as most converters do: with a mask of the whole picture for each object."""
    raster = cv2.imread(str(png), cv2.IMREAD_UNCHANGED)
    found = []
    for value in np.unique(raster):
        if THINGS[value >> 8]:
            runs = mask.encode(np.asfortranarray(raster == value))
            found.append(annotation(int(value), int(mask.area(runs)), mask.toBbox(runs).tolist(), runs))
    return json.dumps(found)


def cropped(png: Path) -> str:
    """Return the annotations as JSON, made with a mask of each object's bounding box."""
    raster = cv2.imread(str(png), cv2.IMREAD_UNCHANGED)
    values, places = np.unique(raster, return_inverse=True)
    boxes = ndimage.find_objects(places.reshape(raster.shape).astype(np.int32) + 1)
    whole = np.zeros(raster.shape, np.uint8, order="F")
    found = []
    for value, box in zip(values, boxes, strict=True):
        if THINGS[value >> 8]:
            whole[box] = raster[box] == value
            runs = mask.encode(whole)
            whole[box] = 0
            found.append(annotation(int(value), int(mask.area(runs)), mask.toBbox(runs).tolist(), runs))
    return json.dumps(found)


def ours(png: Path) -> str:
    """Return the annotations as JSON, made from the run lengths of all segments at once."""
    segments = rle.encode(rle.runs(reader.instances(png, len(labels.LABELS))))
    return json.dumps(
        [
            {"id": s.value, "area": s.area, "bbox": s.bbox, "segmentation": s.rle}
            for s in segments
            if THINGS[s.value >> 8]
        ]
    )


def annotation(value: int, area: int, bbox: list[float], runs: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of an instance file."""
    text = {"size": runs["size"], "counts": runs["counts"].decode("ascii")}
    return {"id": value, "area": area, "bbox": bbox, "segmentation": text}


def timed(root: Path, folder: Path, workers: int, source: config.Source) -> tuple[float, float, float]:
    """Time the whole stage, the start of Python included.

    Returns its seconds, those of CPU time of all its processes, and the peak memory of a worker in MiB.
    """
    cfg = config.load()
    cfg.data = config.Data(sources={"a": source}, workers=workers)
    folder.mkdir()
    # JSON is YAML.
    files.write_json(folder / "params.yaml", config.plain(cfg))
    paths = ["--root", root, "--tables", TABLES.resolve(), "--out", folder / "coco", "--metrics", folder / "data.json"]
    env = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "stages.convert", *map(str, paths)], cwd=folder, env=env, check=True)
    seconds = time.perf_counter() - start
    shutil.rmtree(folder)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    """Command line of `make bench-convert`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--images", type=int, default=24, help="number of generated pictures of 3264x2448")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()

    cv2.setNumThreads(1)
    # Otherwise each way is timed with page faults that the one before it caused.
    parallel.keep_memory()
    spent: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        root, out = Path(temporary) / "set", Path(temporary) / "coco"
        segments = write_set(root, args.images)
        cfg = config.Data(sources={"vistas": config.Source(taxonomy="vistas_v2_0")})
        rows = taxonomy.read(TABLES / "vistas_v2_0.csv", labels.LABELS)
        categories, mappings = taxonomy.build({"vistas": (labels.LABELS, rows)})
        things = frozenset(c["id"] for c in categories if c["isthing"])
        limits = picture.Limits(0, 0, config.SmallSegments.keep)
        for name in ("panoptic", "semantic"):
            (out / name).mkdir(parents=True)

        raw = formats.find(cfg.sources["vistas"], root, "data.sources.vistas")
        source = picture.Source(raw, mappings["vistas"])
        settings = picture.Settings({"vistas": source}, things, out, out, limits)

        def all_three(scene: Scene) -> None:
            json.dumps(picture.convert(picture.Task(scene, "vistas", scene.key), settings))

        scenes = [scene for scene in raw.scenes("train") if isinstance(scene, Scene)]
        calls: dict[str, Callable[[Scene], Any]] = {
            "decode PNG, OpenCV": lambda scene: cv2.imread(str(scene.annotation), cv2.IMREAD_UNCHANGED),
            "decode the picture, OpenCV and Pillow": lambda scene: picture_decoding.read(scene.image),
            FASTEST: lambda scene: imagecodecs.png_decode(scene.annotation.read_bytes()),
            OURS: lambda scene: ours(scene.annotation),
            "instance, panoptic and semantic files, ours": all_three,
            "instance JSON, full-size masks, pycocotools": lambda scene: full_size(scene.annotation),
            "instance JSON, cropped masks, pycocotools": lambda scene: cropped(scene.annotation),
        }
        for call in calls.values():
            call(scenes[0])
        for scene in scenes:
            for name, call in calls.items():
                start = time.process_time()
                call(scene)
                spent.setdefault(name, []).append(1000 * (time.process_time() - start))

        # With this many pictures the start of the workers takes only a small part of the time.
        for folder, suffix in ((scenes[0].image.parent, ".jpg"), (scenes[0].annotation.parent, ".png")):
            for path in sorted(folder.iterdir()):
                for copy in range(1, COPIES):
                    os.link(path, folder / f"{path.stem}_{copy}{suffix}")
        stage: dict[int, list[tuple[float, float, float]]] = {1: [], 2: []}
        for _ in range(ROUNDS):
            for workers, runs in stage.items():
                # In a process of its own, because the peak memory of a child starts at that of its parent.
                with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                    runs.append(
                        pool.submit(timed, root, Path(temporary) / "stage", workers, cfg.sources["vistas"]).result()
                    )

    seconds = {workers: float(np.median([run[0] for run in runs])) for workers, runs in stage.items()}
    rows_ms = {name: float(np.median(values)) for name, values in spent.items()}
    instance = rows_ms[OURS]
    result = {
        "cpu_ms_per_image": rows_ms,
        "ratio_to_full_size_masks": rows_ms["instance JSON, full-size masks, pycocotools"] / instance,
        "ratio_to_cropped_masks": rows_ms["instance JSON, cropped masks, pycocotools"] / instance,
        "all_files_cpu_ms": rows_ms["instance, panoptic and semantic files, ours"],
        "ratio_to_decoding": float(np.median(np.divide(spent[OURS], spent[FASTEST]))),
        "stage_seconds": {f"workers {workers}": [run[0] for run in runs] for workers, runs in stage.items()},
        "speedup_of_2_workers": seconds[1] / seconds[2],
        "stage_images": COPIES * args.images,
        "worker_peak_mib": max(run[2] for run in stage[2]),
        "images": args.images,
        "segments_per_image": segments,
        "cpu": cpu_model(),
    }
    files.write_json(args.out, result)
    for name, milliseconds in rows_ms.items():
        print(f"{name:45} {milliseconds:8.1f} ms CPU an image")
    for name in ("ratio_to_full_size_masks", "ratio_to_cropped_masks", "ratio_to_decoding", "speedup_of_2_workers"):
        print(f"{name:45} {result[name]:8.2f}")
    print(f"{'peak memory of a worker':45} {result['worker_peak_mib']:8.0f} MiB")
    beyond = [f"{name}: {result[name]:.2f}" for name, (low, high) in LIMITS.items() if not low <= result[name] <= high]
    if beyond:
        raise RuntimeError(f"beyond the limits {LIMITS}: {', '.join(beyond)}")


if __name__ == "__main__":
    command_line.run(main)
