"""Generated streets (stages/scenes) as scenes that every native layout can hold, and two of these sets as one tree.

python -m tests.support.streets --out data/raw/merged222 [--train 4 --val 2 --height 128 --width 192]

writes Vistas v2.0 to OUT/vistas and ADE20K to OUT/ade20k, the same streets in both, for conf/data/merged222.yaml.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from stages.scenes import compose
from stages.vistas.labels import LABELS
from tests.support import sets
from tests.support.sets import Scene, Scenes, Segment

NAMES = {vistas: name for name, vistas in sets.VISTAS_NAMES.items()} | {
    "marking--continuous--solid": "road",
    "marking--continuous--dashed": "road",
}
"""Label of Vistas -> name in the scenes. Every other label is void."""
FAR_CARS = 2
"""The smallest cars of a picture that have several; together they are a crowd."""


def street(seed: int, height: int = 256, width: int = 384, plaza: bool = False) -> Scene:
    """Return the street of a seed, or a square with hundreds of people, as polygons that are drawn one over another.

    Stuff is drawn before things, so that each layout, polygons too, holds the same segments. Rows at the bottom, like
    everything without a name in NAMES, are void.
    """
    made = compose.paint((7, 0, seed), height, width, plaza=plaza)
    groups = {label.id for label in LABELS if label.name == sets.VISTAS_GROUPS["person"]}
    names = ["person" if i in groups else NAMES.get(LABELS[i].name, "") for i in made.labels]
    areas = np.bincount(made.segments.ravel(), minlength=len(names))
    cars = sorted((i for i, name in enumerate(names) if name == "car" and areas[i]), key=lambda i: int(areas[i]))
    crowds = {i for i, label in enumerate(made.labels) if label in groups}
    crowds |= {*cars[:FAR_CARS]} if len(cars) > 2 * FAR_CARS else set()

    segments: list[Segment] = []
    indices: dict[tuple[str, int], int] = {}
    polygons: list[tuple[int, np.ndarray]] = []
    pixels = np.full((height, width), -1, np.int32)
    counts: dict[str, int] = {}
    order = sorted(range(len(names)), key=lambda i: LABELS[made.labels[i]].instances or i in crowds)
    for i in order:
        if not names[i] or not areas[i]:
            continue
        single = LABELS[made.labels[i]].instances and i not in crowds
        contours, _ = cv2.findContours((made.segments == i).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        contours = sorted((c for c in contours if len(c) > 2), key=lambda c: -len(c))[: 1 if single else None]
        if not contours:
            continue
        number = 0
        if single:
            counts[names[i]] = number = counts.get(names[i], 0) + 1
        index = indices.setdefault((names[i], number), len(segments))
        if index == len(segments):
            segments.append(Segment(names[i], number))
        for contour in contours:
            cv2.fillPoly(pixels, [contour], index)
            polygons.append((index, contour[:, 0].astype(float)))
    segments.append(Segment(""))
    pixels[pixels < 0] = len(segments) - 1
    return Scene(seed, pixels.astype(np.int64), segments, polygons, made.image)


def streets(train: int, val: int, height: int = 256, width: int = 384) -> Scenes:
    """Return generated streets for both splits."""
    return {
        "train": [street(seed, height, width) for seed in range(1, train + 1)],
        "val": [street(seed, height, width) for seed in range(1001, 1001 + val)],
    }


def main() -> None:
    """Write the two sets of conf/data/merged222.yaml."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    for name, default in (("train", 4), ("val", 2), ("height", 128), ("width", 192)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    scenes = streets(args.train, args.val, args.height, args.width)
    sets.vistas(args.out / "vistas", scenes)
    sets.ade20k(args.out / "ade20k", scenes)


if __name__ == "__main__":
    main()
