"""Run-length masks of large rasters: ours against pycocotools on a full-size mask per segment, side by side.

Run: make bench-convert. Prints a table of CPU milliseconds an image and writes data/bench/convert.json.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask

from stages import files
from stages.coco import rle
from stages.engines.sidecar import cpu_model
from stages.scenes import compose
from stages.vistas import layout


def full_size_masks(raster: Any) -> list[Any]:
    """What most converters do: a mask of the whole picture for each segment."""
    found = []
    for value in np.unique(raster):
        runs = mask.encode(np.asfortranarray(raster == value))
        found.append((int(value), mask.area(runs), mask.toBbox(runs), runs["counts"]))
    return found


def main() -> None:
    """Command line of `make bench-convert`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=6, help="generated pictures of 3264x2448")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()

    cv2.setNumThreads(1)
    spent: dict[str, list[float]] = {"decode PNG": [], "full-size masks": [], "ours": []}
    segments = 0
    with tempfile.TemporaryDirectory() as folder:
        png = Path(folder) / "instances.png"
        for index in range(args.images):
            # Painted small and enlarged: the painter is no part of what is timed.
            scene = compose.paint((1, 0, index + 1), 612, 816, plaza=False)
            small = layout.encode_instances(scene)
            raster = cv2.resize(small, (3264, 2448), interpolation=cv2.INTER_NEAREST)
            cv2.imwrite(str(png), raster)
            segments += len(np.unique(raster))
            calls: dict[str, Callable[[], Any]] = {
                "decode PNG": lambda: cv2.imread(str(png), cv2.IMREAD_UNCHANGED),
                "full-size masks": lambda raster=raster: full_size_masks(raster),  # type: ignore[misc]
                "ours": lambda raster=raster: rle.encode(raster),  # type: ignore[misc]
            }
            for name, call in calls.items():
                start = time.process_time()
                call()
                spent[name].append(1000 * (time.process_time() - start))

    rows = {name: float(np.median(values)) for name, values in spent.items()}
    result = {
        "cpu_ms_per_image": rows,
        "ratio_to_full_size_masks": rows["full-size masks"] / rows["ours"],
        "ratio_with_decoding": (rows["full-size masks"] + rows["decode PNG"]) / (rows["ours"] + rows["decode PNG"]),
        "images": args.images,
        "segments_per_image": segments / args.images,
        "cpu": cpu_model(),
    }
    files.write_json(args.out, result)
    for name, milliseconds in rows.items():
        print(f"{name:16} {milliseconds:8.1f} ms CPU an image")
    print(f"{result['ratio_to_full_size_masks']:.1f} x, with decoding {result['ratio_with_decoding']:.1f} x")


if __name__ == "__main__":
    main()
