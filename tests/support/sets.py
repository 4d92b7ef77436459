"""Draws one street scene and writes it in the native layout of each data set."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from stages.sets import classes

HEIGHT, WIDTH = 40, 60


@dataclass
class Segment:
    """A segment of the scene."""

    name: str
    """road, building, sky, car or person; empty for void."""
    number: int = 0
    """Number of the object in its class, from 1; 0 for stuff and for a crowd."""

    @property
    def isthing(self) -> bool:
        return self.name in ("car", "person")

    @property
    def iscrowd(self) -> bool:
        return self.isthing and not self.number


def scene(seed: int = 0) -> tuple[Any, list[Segment]]:
    """Return an index into the list of segments for each pixel, int [HEIGHT, WIDTH], and the segments."""
    rng = np.random.default_rng(seed)
    segments = [
        Segment("sky"),
        Segment("building"),
        Segment("road"),
        Segment("car", 1),
        Segment("car", 2),
        Segment("person", 1),
        Segment("car"),
        Segment(""),
    ]
    pixels = np.zeros((HEIGHT, WIDTH), np.int64)
    pixels[10:20], pixels[20:] = 1, 2
    x, y = int(rng.integers(0, 8)), int(rng.integers(18, 24))
    pixels[y : y + 8, x : x + 12] = 3
    pixels[y + 3 : y + 9, x + 9 : x + 18] = 4
    pixels[15:30, 40:44] = 5
    pixels[30:36, 30:40] = 6
    pixels[-2:] = 7
    return pixels, segments


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), np.uint8)
    assert cv2.imwrite(str(path), cv2.resize(pixels, (WIDTH, HEIGHT)))


def png(path: Path, pixels: Any) -> None:
    """Write grey of 8 or 16 bits, RGB or RGBA, as Pillow does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def painted(seed: int, value: Callable[[Segment], Any], dtype: Any) -> Any:
    """Return the scene with each segment's value, which may be a tuple of channels."""
    pixels, segments = scene(seed)
    return np.array([value(segment) for segment in segments], dtype)[pixels]


def ids(name: str) -> dict[str, int]:
    """Return the values of a format's classes by name."""
    found = classes.load(name)
    return {label.name: value for label, value in zip(found.labels, found.ids, strict=True)}


SPLITS = {"train": (0, 1), "val": (100,)}
"""Split -> seeds of its pictures."""


def cityscapes(root: Path) -> Path:
    own = ids("cityscapes")

    def value(segment: Segment) -> int:
        label = own[segment.name or "unlabeled"]
        return label * 1000 + segment.number - 1 if segment.number else label

    for split, seeds in SPLITS.items():
        for seed in seeds:
            name = f"ulm_{seed:06}_000019"
            picture(root / f"leftImg8bit/{split}/ulm/{name}_leftImg8bit.png", seed)
            folder = root / f"gtFine/{split}/ulm"
            png(folder / f"{name}_gtFine_instanceIds.png", painted(seed, value, np.uint16))
            png(folder / f"{name}_gtFine_labelIds.png", painted(seed, lambda s: own[s.name or "unlabeled"], np.uint8))
            (folder / f"{name}_gtFine_polygons.json").write_text("{}")
    return root


def kitti(root: Path) -> Path:
    own = ids("cityscapes")
    for seed in (*SPLITS["train"], *SPLITS["val"]):
        picture(root / f"training/image_2/{seed:06}_10.png", seed)
        labels = painted(seed, lambda s: own[s.name or "unlabeled"], np.uint8)
        png(root / f"training/semantic/{seed:06}_10.png", labels)
        numbers = painted(seed, lambda s: s.number, np.uint16)
        png(root / f"training/instance/{seed:06}_10.png", labels.astype(np.uint16) * 256 + numbers)
    return root


def ade20k(root: Path, objects: bool = True) -> Path:
    own = ids("ade20k") | {"": 0}
    things = [value for value, label in enumerate(classes.load("ade20k").labels, 1) if label.instances]
    for split, seeds in SPLITS.items():
        long = {"train": "training", "val": "validation"}[split]
        for seed in seeds:
            name = f"ADE_{split}_{seed:08}"
            picture(root / f"images/{long}/{name}.jpg", seed)
            png(root / f"annotations/{long}/{name}.png", painted(seed, lambda s: own[s.name], np.uint8))
            unique = {("car", 1): 1, ("car", 2): 2, ("person", 1): 7}

            def value(s: Segment, unique: dict[tuple[str, int], int] = unique) -> tuple[int, int, int]:
                number = unique.get((s.name, s.number), 0)
                return (things.index(own[s.name]) + 1 if number else 0, number, 0)

            if objects:
                png(root / f"annotations_instance/{long}/{name}.png", painted(seed, value, np.uint8))
    return root


def vistas_labels(root: Path) -> Path:
    names = ["car", "person", "road", "building", "sky"]
    entries = [
        {"name": n, "readable": n, "instances": n in ("car", "person"), "evaluate": True, "color": [i, 9, 9]}
        for i, n in enumerate(names)
    ]
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.json").write_text(json.dumps({"labels": entries}))
    for split, seeds in {"training": SPLITS["train"], "validation": SPLITS["val"]}.items():
        for seed in seeds:
            picture(root / f"{split}/images/p{seed}.jpg", seed)
            values = painted(seed, lambda s: names.index(s.name) if s.name else 255, np.uint8)
            png(root / f"{split}/labels/p{seed}.png", values)
    return root


def palette_png(path: Path, pixels: Any) -> None:
    """Write indices as a palette PNG, as VOC does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    indexed = Image.frombytes("P", pixels.shape[::-1], pixels.astype(np.uint8).tobytes())
    indexed.putpalette([channel for number in range(256) for channel in classes.palette(number)])
    indexed.save(path)


def voc(root: Path) -> Path:
    """Only car and person are classes; sky and building are background, the road's void edge is 255."""
    own = ids("voc")
    numbers = {("car", 1): 1, ("car", 2): 2, ("person", 1): 3}
    for split, seeds in SPLITS.items():
        listed = root / f"ImageSets/Segmentation/{split}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("".join(f"2007_{seed:06}\n" for seed in seeds))
        for seed in seeds:
            name = f"2007_{seed:06}"
            picture(root / f"JPEGImages/{name}.jpg", seed)

            def value(s: Segment, objects: bool) -> int:
                if not s.name or s.iscrowd:
                    return 255
                return numbers.get((s.name, s.number), 0) if objects else own.get(s.name, 0)

            palette_png(root / f"SegmentationClass/{name}.png", painted(seed, lambda s: value(s, False), np.uint8))
            palette_png(root / f"SegmentationObject/{name}.png", painted(seed, lambda s: value(s, True), np.uint8))
    return root


def bdd100k(root: Path) -> Path:
    own = ids("bdd100k") | {"": 0}
    for split, seeds in SPLITS.items():
        for seed in seeds:
            picture(root / f"images/10k/{split}/b{seed}.jpg", seed)
            numbers = {("car", 1): 256, ("car", 2): 511, ("person", 1): 3, ("car", 0): 4, ("road", 0): 5}

            def value(s: Segment, numbers: dict[tuple[str, int], int] = numbers) -> tuple[int, ...]:
                number = numbers.get((s.name, s.number), 0)
                return own[s.name], s.iscrowd << 1 | (s.number == 1) << 2, number >> 8, number & 255

            png(root / f"labels/pan_seg/bitmasks/{split}/b{seed}.png", painted(seed, value, np.uint8))
    return root


def idd(root: Path) -> Path:
    """Rectangles, far to near; two drives have pictures of the same name."""
    for split, seeds in SPLITS.items():
        for seed in seeds:
            folder, name = f"{split}/{seed}", "frame0029"
            picture(root / f"leftImg8bit/{folder}/{name}_leftImg8bit.jpg", seed)
            pixels, segments = scene(seed)
            objects = []
            for index, segment in enumerate(segments):
                if segment.name:
                    # What nearer ones cover is a part of the polygon.
                    rows, columns = np.nonzero(pixels == index)
                    box = [columns.min(), rows.min(), columns.max(), rows.max()]
                    if segment.name in ("building", "road", "sky"):
                        box[0], box[2] = 0, WIDTH - 1
                        box[3] = {"sky": 9, "building": 19, "road": HEIGHT - 1}[segment.name]
                        box[1] = {"sky": 0, "building": 10, "road": 20}[segment.name]
                    x0, y0, x1, y1 = (float(b) for b in box)
                    label = segment.name + "group" * segment.iscrowd
                    polygon = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
                    objects.append({"label": label, "polygon": polygon, "deleted": 0, "verified": 1})
            gone = [[0.0, 0.0], [20.0, 0.0], [20.0, 20.0]]
            objects.append({"label": "truck", "polygon": gone, "deleted": 1})
            # The last rows have no label.
            bottom = [[0.0, HEIGHT - 2.0], [WIDTH, HEIGHT - 2.0], [WIDTH, HEIGHT], [0, HEIGHT]]
            objects.append({"label": "unlabeled", "polygon": bottom, "deleted": 0})
            path = root / f"gtFine/{folder}/{name}_gtFine_polygons.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"imgWidth": WIDTH, "imgHeight": HEIGHT, "objects": objects}))
    return root


CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1, "color": [220, 20, 60]},
    {"id": 3, "name": "car", "isthing": 1, "color": [0, 0, 142]},
    {"id": 149, "name": "road", "isthing": 0, "color": [128, 64, 128]},
    {"id": 187, "name": "sky-other-merged", "isthing": 0, "color": [70, 130, 180]},
    {"id": 197, "name": "building-other-merged", "isthing": 0, "color": [116, 112, 0]},
]
COCO_NAMES = {"sky": "sky-other-merged", "building": "building-other-merged"}


def coco_panoptic(root: Path) -> Path:
    own = {category["name"]: category["id"] for category in CATEGORIES}
    for split, seeds in SPLITS.items():
        images, annotations = [], []
        for seed in seeds:
            name = f"{seed:012}"
            picture(root / f"{split}2017/{name}.jpg", seed)
            pixels, segments = scene(seed)
            # Ids use all three channels.
            numbers = [0 if not s.name else 1 + index * 70001 for index, s in enumerate(segments)]
            table = np.array([(n % 256, n // 256 % 256, n // 65536) for n in numbers], np.uint8)
            png(root / f"annotations/panoptic_{split}2017/{name}.png", table[pixels])
            infos = [
                {
                    "id": n,
                    "category_id": own[COCO_NAMES.get(s.name, s.name)],
                    "area": int((pixels == index).sum()),
                    "bbox": [0, 0, 1, 1],
                    "iscrowd": int(s.iscrowd),
                }
                for index, (n, s) in enumerate(zip(numbers, segments, strict=True))
                if n
            ]
            images.append({"id": seed, "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH})
            annotations.append({"image_id": seed, "file_name": f"{name}.png", "segments_info": infos})
        content = {"info": {}, "images": images, "annotations": annotations, "categories": CATEGORIES}
        (root / f"annotations/panoptic_{split}2017.json").write_text(json.dumps(content))
    return root


def coco_instances(root: Path) -> Path:
    """Objects as polygons, and a crowd as run lengths; the larger car lies under the smaller."""
    from pycocotools import mask

    for split, seeds in SPLITS.items():
        images, annotations = [], []
        for seed in seeds:
            name = f"{seed:012}"
            picture(root / f"{split}2017/{name}.jpg", seed)
            pixels, segments = scene(seed)
            for index, segment in enumerate(segments):
                if not segment.isthing:
                    continue
                here = np.asfortranarray(pixels == index, np.uint8)
                rle: dict[str, Any] = mask.encode(here)
                shape: Any = {"size": rle["size"], "counts": rle["counts"].decode()}
                if segment.iscrowd:
                    flat = here.ravel(order="F")
                    edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
                    shape["counts"] = np.diff([0, *edges, flat.size]).tolist()
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": seed,
                        "category_id": 3 if segment.name == "car" else 1,
                        "iscrowd": int(segment.iscrowd),
                        "segmentation": shape,
                    }
                )
            images.append({"id": seed, "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH})
        (root / "annotations").mkdir(exist_ok=True)
        categories = [{k: c[k] for k in ("id", "name")} for c in CATEGORIES[:2]]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content, indent=1))
    return root


STUFF_NAMES = {"sky": "sky-other", "building": "building-other"}


def coco_stuff(root: Path) -> Path:
    own = ids("coco_stuff")
    for split, seeds in SPLITS.items():
        for seed in seeds:
            picture(root / f"{split}2017/{seed:012}.jpg", seed)
            values = painted(seed, lambda s: own[STUFF_NAMES.get(s.name, s.name)] - 1 if s.name else 255, np.uint8)
            png(root / f"stuffthingmaps/{split}2017/{seed:012}.png", values)
    return root


FULL_CLASSES = {"sky": 2420, "building": 312, "road": 2131, "car": 401, "person": 1831}
FULL_NAMES = {"sky": "sky", "building": "building, édifice", "road": "road", "car": "car", "person": "person"}


def ade20k_full(root: Path) -> Path:
    for split, seeds in SPLITS.items():
        long = {"train": "training", "val": "validation"}[split]
        for seed in seeds:
            folder = root / f"images/ADE/{long}/urban/street"
            name = f"ADE_{split}_{seed:08}"
            picture(folder / f"{name}.jpg", seed)
            _, segments = scene(seed)

            def value(s: Segment, segments: list[Segment] = segments) -> tuple[int, int, int]:
                if not s.name:
                    return 0, 0, 0
                number = FULL_CLASSES[s.name]
                return number // 256 * 10 + 3, number % 256, 20 * segments.index(s) + 7

            png(folder / f"{name}_seg.png", painted(seed, value, np.uint8))
            objects = [
                {"id": 0, "name": FULL_NAMES[s.name], "name_ndx": FULL_CLASSES[s.name]} for s in segments if s.name
            ]
            text = json.dumps({"annotation": {"object": objects}}, ensure_ascii=False)
            (folder / f"{name}.json").write_bytes(text.encode("latin-1"))
    return root
