"""Times convert's reader of each format on generated streets of the format's usual size, against decoding its files.

Run: make bench-convert. Prints a table of CPU milliseconds a picture on one core, medians, and writes
data/bench/readers.json. Then it times the whole stage on COCO's panoptic set, and the reading of the JSON files of
ADE20K full, and says what that means for the whole sets.

decode      the annotation files of a picture by the fastest decoder at hand: imagecodecs for PNG, Pillow for palette
            PNG, json and Pillow's polygons for IDD, json and pycocotools for COCO
read        the reader: the same files, checked, as a raster of segments with their classes and crowds
picture     the picture itself, by both libraries that will read it (stages/conversion/picture_decoding.py)
all         everything that convert does for a picture, its files written
"""

import json
import os
import statistics
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
from PIL import Image, ImageDraw
from pycocotools import mask

from benchmarks import convert
from stages import config
from stages.config import Format
from stages.conversion import picture, picture_decoding, taxonomy
from stages.engines.manifest import cpu_model
from stages.foundation import command_line, files, parallel
from stages.sets import ade20k_full, formats
from stages.sets.raw_set import Scene
from tests.support import sets, streets

SIZES = {
    Format.vistas: (2448, 3264),
    Format.vistas_labels: (2448, 3264),
    Format.ade20k: (512, 683),
    Format.ade20k_full: (1200, 1600),
    Format.cityscapes: (1024, 2048),
    Format.kitti: (375, 1242),
    Format.coco_panoptic: (480, 640),
    Format.coco_instances: (480, 640),
    Format.coco_stuff: (480, 640),
    Format.voc: (375, 500),
    Format.bdd100k: (720, 1280),
    Format.idd: (1080, 1920),
}
"""Format -> height and width of its pictures, or a common size of them."""
ENLARGED = 3
"""Pictures of more than LARGE_PX pixels are painted smaller by this factor and enlarged."""
LARGE_PX = 5_000_000
RATIO = 1.6
SLACK_MS = 1.0
"""`read` may take RATIO times `decode`, or this much longer: masks of ADE20K, COCO and VOC are decoded in less."""
COCO_PICTURES, COCO_CPU_HOURS = 118_287, 1.0
"""Pictures for training in COCO's panoptic set of 2017, and the most CPU time that they may take with two workers."""
ADE_JSONS = 27_574
"""JSON files of ADE20K full."""
COPIES = 10
"""Links to each picture of the set that the whole stage is timed on."""


def decode(chosen: Format, scene: Scene) -> None:
    """Decode the annotation files of a picture and do nothing with them."""
    if chosen is Format.idd:
        content = json.loads(scene.annotation.read_bytes())
        pen = ImageDraw.Draw(Image.new("I", (content["imgWidth"], content["imgHeight"])))
        for number, entry in enumerate(content["objects"], 1):
            if not entry["deleted"]:
                pen.polygon([(x, y) for x, y in entry["polygon"]], fill=number)
    for path in (scene.annotation, *scene.others):
        if path.suffix == ".png" and chosen is Format.voc:
            with Image.open(path) as image:
                np.asarray(image)
        elif path.suffix == ".png":
            imagecodecs.png_decode(path.read_bytes())
        elif scene.detail:
            height, width, *places = json.loads(scene.detail)
            with path.open("rb") as file:
                for begin, length in zip(places[::2], places[1::2], strict=True):
                    file.seek(begin)
                    entry = json.loads(file.read(length))
                    if shape := entry.get("segmentation"):
                        plain = isinstance(shape["counts"], list)
                        mask.decode(mask.frPyObjects(shape, height, width) if plain else shape)


def drawn(chosen: Format, count: int) -> sets.Scenes:
    """Return generated streets of a format's size: `count` for training, one for validation."""
    height, width = SIZES[chosen]
    factor = ENLARGED if height * width > LARGE_PX else 1
    scenes = streets.streets(count, 1, height // factor, width // factor)
    for scene in (one for each in scenes.values() for one in each) if factor > 1 else ():
        pixels = cv2.resize(scene.pixels.astype(np.int16), (width, height), interpolation=cv2.INTER_NEAREST)
        scene.pixels = pixels.astype(np.int64)
        scene.rgb = cv2.resize(scene.rgb, (width, height), interpolation=cv2.INTER_CUBIC)
    return scenes


def measure(chosen: Format, count: int, folder: Path) -> dict[str, float]:
    """Return the CPU milliseconds a picture of each part, medians of `count` pictures, each in turns."""
    root = sets.WRITERS[chosen](folder / "set", drawn(chosen, count))
    raw = formats.find(config.Source(format=chosen), root, "data.sources.NAME")
    rows = taxonomy.as_evaluated(raw.labels, raw.source)
    if chosen is Format.ade20k_full:
        rows = [taxonomy.Row(row.where, row.source, row.source, isthing=1) for row in rows]
    categories, mappings = taxonomy.build({"a": (raw.labels, rows)})
    things = frozenset(c["id"] for c in categories if c["isthing"])
    out = folder / "coco"
    for name in ("panoptic", "semantic"):
        (out / name).mkdir(parents=True)
    limits = picture.Limits(0, 0, config.SmallSegments.keep)
    settings = picture.Settings({"a": picture.Source(raw, mappings["a"])}, things, out, out, limits)
    calls: dict[str, Callable[[Scene], Any]] = {
        "decode": lambda scene: decode(chosen, scene),
        "read": raw.raster,
        "picture": lambda scene: picture_decoding.read(scene.image),
        "all": lambda scene: json.dumps(picture.convert(picture.Task(scene, "a", scene.key), settings)),
    }
    found = [scene for scene in raw.scenes("train") if isinstance(scene, Scene)]
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call(found[0])
    for scene in found:
        for name, call in calls.items():
            start = time.process_time()
            call(scene)
            spent[name].append(1000 * (time.process_time() - start))
    result = {name: statistics.median(each) for name, each in spent.items()}
    return result | {"ratio": statistics.median(np.divide(spent["read"], spent["decode"]).tolist())}


def whole_stage(count: int, folder: Path) -> dict[str, Any]:
    """Time the stage on COPIES links to each of `count` panoptic pictures, with one worker and with two."""
    scenes = drawn(Format.coco_panoptic, count)
    root = sets.coco_panoptic(folder / "set", scenes)
    path = root / "annotations/panoptic_train2017.json"
    content = json.loads(path.read_text())
    for key in ("images", "annotations"):
        content[key] = [
            entry | {name: entry[name] + 10_000 * copy for name in ("id", "image_id") if name in entry}
            | {"file_name": f"{Path(entry['file_name']).stem}{copy}{Path(entry['file_name']).suffix}"}
            for copy in range(COPIES)
            for entry in content[key]
        ]  # fmt: skip
    path.write_text(json.dumps(content))
    for place in (root / "train2017", path.with_suffix("")):
        for file in sorted(place.iterdir()):
            for copy in range(COPIES):
                os.link(file, place / f"{file.stem}{copy}{file.suffix}")
            file.unlink()
    found: dict[str, Any] = {"pictures": COPIES * count}
    source = config.Source(format=Format.coco_panoptic)
    for workers in (1, 2):
        # In a process of its own, because the peak memory of a child starts at that of its parent.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            seconds, cpu, peak = pool.submit(convert.timed, root, folder / "stage", workers, source).result()
        found[f"seconds, workers {workers}"] = seconds
        found[f"CPU seconds, workers {workers}"] = cpu
        found[f"peak MiB, workers {workers}"] = peak
    found["hours for COCO"] = found["seconds, workers 2"] / found["pictures"] * COCO_PICTURES / 3600
    found["CPU hours for COCO"] = found["CPU seconds, workers 2"] / found["pictures"] * COCO_PICTURES / 3600
    return found


def ade_json(count: int, folder: Path) -> dict[str, float]:
    """Time the reading of ADE20K full's JSON files, here with polygons of 30 kB each, as the set's are."""
    root = sets.ade20k_full(folder / "set", drawn(Format.ade20k_full, 1))
    first = next(root.glob("images/ADE/training/*/*/*.json"))
    content = json.loads(first.read_bytes().decode("latin-1"))
    for entry in content["annotation"]["object"]:
        entry["polygon"] = {"x": list(range(40)), "y": list(range(1000, 1040))}
        entry["attributes"] = ["occluded"] * 4
    for number in range(count):
        (first.parent / f"ADE_train_{number:07}.json").write_bytes(
            json.dumps(content, ensure_ascii=False).encode("latin-1")
        )
    start = time.process_time()
    ade20k_full.open_set(root, config.Source(), "data.sources.NAME")
    seconds = time.process_time() - start
    return {"kB a file": first.with_name("ADE_train_0000000.json").stat().st_size / 1000, "files": count,
            "seconds": seconds, "seconds for ADE20K": seconds / count * ADE_JSONS}  # fmt: skip


def main() -> None:
    """Command line of `make bench-convert`, second part."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--images", type=int, default=20, help="generated pictures of each format")
    parser.add_argument("--stage-images", type=int, default=100, help=f"{COPIES} times as many for the whole stage")
    parser.add_argument("--formats", nargs="*", default=[chosen.value for chosen in SIZES], help="formats to time")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    # Otherwise each part is timed with page faults that the one before it caused.
    parallel.keep_memory()
    result: dict[str, Any] = {"cpu": cpu_model(), "images": args.images, "readers": {}}
    print(f"{'format':16}{'pixels':>11}{'decode':>9}{'read':>9}{'ratio':>7}{'picture':>9}{'all':>9}  ms CPU a picture")
    for name in args.formats:
        with tempfile.TemporaryDirectory() as temporary:
            found = measure(Format(name), args.images, Path(temporary))
        result["readers"][name] = found
        height, width = SIZES[Format(name)]
        figures = "".join(f"{found[key]:9.2f}" for key in ("picture", "all"))
        print(
            f"{name:16}{f'{width}x{height}':>11}{found['decode']:9.2f}{found['read']:9.2f}{found['ratio']:7.2f}{figures}",
            flush=True,
        )
    with tempfile.TemporaryDirectory() as temporary:
        result["coco_panoptic"] = whole_stage(args.stage_images, Path(temporary))
    with tempfile.TemporaryDirectory() as temporary:
        result["ade20k_full"] = ade_json(COPIES * args.stage_images, Path(temporary))
    for name in ("coco_panoptic", "ade20k_full"):
        print(f"{name}: {', '.join(f'{key} {value:.4g}' for key, value in result[name].items())}")
    files.write_json(args.out, result)
    slow = [
        f"{name}: {one['read']:.2f} ms for what is decoded in {one['decode']:.2f}"
        for name, one in result["readers"].items()
        if one["read"] > max(RATIO * one["decode"], one["decode"] + SLACK_MS)
    ]
    if (hours := result["coco_panoptic"]["CPU hours for COCO"]) > COCO_CPU_HOURS:
        slow.append(f"COCO's panoptic set would take {hours:.2f} hours of CPU, expected {COCO_CPU_HOURS} at most")
    if slow:
        raise RuntimeError(f"slower than {RATIO} x or {SLACK_MS} ms above decoding: {'; '.join(slow)}")


if __name__ == "__main__":
    command_line.run(main)
