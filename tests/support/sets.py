"""Writes annotated scenes in the native layout of each data set: small drawn ones, or generated streets (streets.py).

A scene has segments by names of its own. NAMES says what each format calls them; what it has no name for is void there,
and its lists of classes say what is a thing.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from stages.config import Format
from stages.sets import brush_rle, classes
from stages.vistas import labels

HEIGHT, WIDTH = 40, 60


@dataclass
class Segment:
    """A segment of a scene."""

    name: str
    """A name such as road or car; empty for void."""
    number: int = 0
    """Number of the object in its class, from 1; 0 for stuff and for a crowd."""

    @property
    def isthing(self) -> bool:
        return self.name in ("car", "person", "bus", "bicycle")

    @property
    def iscrowd(self) -> bool:
        return self.isthing and not self.number


@dataclass
class Scene:
    """An annotated picture."""

    number: int
    """Number in the files' names."""
    pixels: Any
    """Index into `segments` of each pixel, int [H, W]."""
    segments: list[Segment]
    polygons: list[tuple[int, Any]]
    """Index into `segments`, and the corners x, y of a polygon, in the order in which they are drawn. Together they
    cover all pixels but those of void."""
    rgb: Any = field(default=None, repr=False)
    """The picture, uint8 [H, W, 3]; None for noise."""

    def painted(self, value: Callable[[Segment], Any], dtype: Any) -> Any:
        """Return the scene with each segment's value, which may be a tuple of channels."""
        return np.array([value(segment) for segment in self.segments], dtype)[self.pixels]

    def picture(self, path: Path) -> None:
        if self.rgb is None:
            picture(path, self.number)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), np.ascontiguousarray(self.rgb[..., ::-1]))


Scenes = dict[str, list[Scene]]
"""Split, train or val -> its pictures."""


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


def _boxes(pixels: Any, segments: list[Segment]) -> Iterator[tuple[int, Any]]:
    """Yield the rectangles of the drawn scene, far to near. What nearer ones cover is a part of them."""
    whole = {"sky": (0, 9), "building": (10, 19), "road": (20, HEIGHT - 1)}
    for index, segment in enumerate(segments):
        if segment.name:
            rows, columns = np.nonzero(pixels == index)
            y0, y1 = whole.get(segment.name, (rows.min(), rows.max()))
            x0, x1 = (0, WIDTH - 1) if segment.name in whole else (columns.min(), columns.max())
            yield index, np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


SPLITS = {"train": (0, 1), "val": (100,)}
"""Split -> seeds of its pictures."""


def small() -> Scenes:
    """The drawn scenes of SPLITS."""
    made: Scenes = {}
    for split, seeds in SPLITS.items():
        drawn = [(seed, *scene(seed)) for seed in seeds]
        made[split] = [Scene(seed, pixels, parts, list(_boxes(pixels, parts))) for seed, pixels, parts in drawn]
    return made


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), np.uint8)
    assert cv2.imwrite(str(path), cv2.resize(pixels, (WIDTH, HEIGHT)))


def png(path: Path, pixels: Any) -> None:
    """Write grey of 8 or 16 bits, RGB or RGBA, as Pillow does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def palette_png(path: Path, pixels: Any) -> None:
    """Write indices as a palette PNG, as VOC does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    indexed = Image.frombytes("P", pixels.shape[::-1], pixels.astype(np.uint8).tobytes())
    indexed.putpalette([channel for number in range(256) for channel in classes.palette(number)])
    indexed.save(path)


CATEGORIES = [
    {"id": 1, "name": "person", "isthing": 1, "color": [220, 20, 60]},
    {"id": 3, "name": "car", "isthing": 1, "color": [0, 0, 142]},
    {"id": 149, "name": "road", "isthing": 0, "color": [128, 64, 128]},
    {"id": 187, "name": "sky-other-merged", "isthing": 0, "color": [70, 130, 180]},
    {"id": 197, "name": "building-other-merged", "isthing": 0, "color": [116, 112, 0]},
]
STREET_CATEGORIES = [
    *CATEGORIES,
    {"id": 2, "name": "bicycle", "isthing": 1, "color": [119, 11, 32]},
    {"id": 6, "name": "bus", "isthing": 1, "color": [0, 60, 100]},
    {"id": 10, "name": "traffic light", "isthing": 1, "color": [250, 170, 30]},
    {"id": 184, "name": "tree-merged", "isthing": 0, "color": [107, 142, 35]},
    {"id": 185, "name": "fence-merged", "isthing": 0, "color": [190, 153, 153]},
    {"id": 191, "name": "pavement-merged", "isthing": 0, "color": [244, 35, 232]},
]
"""Those that the generated streets have too."""
COCO_NAMES = {
    "sky": "sky-other-merged", "building": "building-other-merged", "vegetation": "tree-merged",
    "fence": "fence-merged", "sidewalk": "pavement-merged",
}  # fmt: skip
STUFF_NAMES = {"sky": "sky-other", "building": "building-other", "vegetation": "tree", "sidewalk": "pavement"}
FULL_CLASSES = {"sky": 2420, "building": 312, "road": 2131, "car": 401, "person": 1831}
FULL_NAMES = {"sky": "sky", "building": "building, édifice", "road": "road", "car": "car", "person": "person"}
STREET_FULL_CLASSES = FULL_CLASSES | {
    "vegetation": 2855,
    "bicycle": 195,
    "bus": 335,
    "sidewalk": 2377,
    "pole": 1930,
    "fence": 907,
    "traffic light": 2836,
}
STREET_FULL_NAMES = {name: name for name in STREET_FULL_CLASSES} | FULL_NAMES | {"bicycle": "bicycle, vélo"}
VISTAS_NAMES = {
    "sky": "nature--sky", "building": "construction--structure--building", "road": "construction--flat--road",
    "sidewalk": "construction--flat--sidewalk", "vegetation": "nature--vegetation", "pole": "object--support--pole",
    "fence": "construction--barrier--fence", "traffic light": "object--traffic-light--general-upright",
    "car": "object--vehicle--car", "person": "human--person--individual", "bus": "object--vehicle--bus",
    "bicycle": "object--vehicle--bicycle",
}  # fmt: skip
VISTAS_GROUPS = {"car": "object--vehicle--vehicle-group", "person": "human--person--person-group"}
"""Labels of crowds in Vistas."""
NAMES: dict[Format, dict[str, str]] = {
    Format.ade20k: {"vegetation": "tree"},
    Format.ade20k_full: STREET_FULL_NAMES,
    Format.coco_instances: COCO_NAMES,
    Format.coco_panoptic: COCO_NAMES,
    Format.coco_stuff: STUFF_NAMES,
    Format.cvat: COCO_NAMES,
    Format.label_studio: COCO_NAMES,
    Format.vistas: VISTAS_NAMES,
}
"""Names that a format has for those of the scenes, where they differ."""


def ids(name: str) -> dict[str, int]:
    """Return the values of a format's classes by name."""
    found = classes.load(name)
    return {label.name: value for label, value in zip(found.labels, found.ids, strict=True)}


def _pictures(scenes: Scenes) -> Iterator[tuple[str, Scene]]:
    for split, each in scenes.items():
        for one in each:
            yield split, one


def _numbered(scene: Scene, numbers: Iterable[int]) -> dict[tuple[str, int], int]:
    """Return the numbers of the objects of a scene, unique in the picture, by name and number in their class."""
    found = dict.fromkeys((s.name, s.number) for s in scene.segments if s.number)
    return dict(zip(found, numbers, strict=False))


_LONG = {"train": "training", "val": "validation"}


def vistas(root: Path, scenes: Scenes | None = None) -> Path:
    """Layout v2.0. Groups have labels of their own; of crowds without such a label nothing is known."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "config_v2.0.json").write_bytes(labels.CONFIG.read_bytes())

    def value(s: Segment) -> int:
        name = VISTAS_GROUPS.get(s.name, "") if s.iscrowd else VISTAS_NAMES.get(s.name, "")
        label = labels.BY_NAME[name or "void--unlabeled"]
        return label.id * 256 + (s.number - 1 if label.instances and s.number else 0)

    for split, one in _pictures(scenes or small()):
        one.picture(root / f"{_LONG[split]}/images/p{one.number}.jpg")
        png(root / f"{_LONG[split]}/v2.0/instances/p{one.number}.png", one.painted(value, np.uint16))
    return root


def cityscapes(root: Path, scenes: Scenes | None = None) -> Path:
    own = ids("cityscapes")
    things = {label.name for label in classes.load("cityscapes").labels if label.instances}

    def value(segment: Segment) -> int:
        label = own[segment.name or "unlabeled"]
        return label * 1000 + segment.number - 1 if segment.number and segment.name in things else label

    for split, one in _pictures(scenes or small()):
        name = f"ulm_{one.number:06}_000019"
        one.picture(root / f"leftImg8bit/{split}/ulm/{name}_leftImg8bit.png")
        folder = root / f"gtFine/{split}/ulm"
        png(folder / f"{name}_gtFine_instanceIds.png", one.painted(value, np.uint16))
        png(folder / f"{name}_gtFine_labelIds.png", one.painted(lambda s: own[s.name or "unlabeled"], np.uint8))
        objects = [{"label": one.segments[i].name, "polygon": points.tolist()} for i, points in one.polygons]
        height, width = one.pixels.shape
        content = {"imgHeight": height, "imgWidth": width, "objects": objects}
        (folder / f"{name}_gtFine_polygons.json").write_text(json.dumps(content))
    return root


def kitti(root: Path, scenes: Scenes | None = None) -> Path:
    own = ids("cityscapes")
    things = {label.name for label in classes.load("cityscapes").labels if label.instances}
    for _, one in _pictures(scenes or small()):
        one.picture(root / f"training/image_2/{one.number:06}_10.png")
        values = one.painted(lambda s: own[s.name or "unlabeled"], np.uint8)
        png(root / f"training/semantic/{one.number:06}_10.png", values)
        numbers = one.painted(lambda s: s.number if s.name in things else 0, np.uint16)
        png(root / f"training/instance/{one.number:06}_10.png", values.astype(np.uint16) * 256 + numbers)
    return root


def ade20k(root: Path, scenes: Scenes | None = None, objects: bool = True) -> Path:
    own = ids("ade20k") | {"": 0}
    things = [label.name for label in classes.load("ade20k").labels if label.instances]
    for split, one in _pictures(scenes or small()):
        name = f"ADE_{split}_{one.number:08}"
        one.picture(root / f"images/{_LONG[split]}/{name}.jpg")

        def known(s: Segment) -> str:
            return NAMES[Format.ade20k].get(s.name, s.name)

        png(root / f"annotations/{_LONG[split]}/{name}.png", one.painted(lambda s: own[known(s)], np.uint8))
        unique = _numbered(one, (1, 2, *range(7, 256)))

        def value(s: Segment, unique: dict[tuple[str, int], int] = unique) -> tuple[int, int, int]:
            number = unique.get((s.name, s.number), 0) if known(s) in things else 0
            return (things.index(known(s)) + 1 if number else 0, number, 0)

        if objects:
            png(root / f"annotations_instance/{_LONG[split]}/{name}.png", one.painted(value, np.uint8))
    return root


def vistas_labels(root: Path, scenes: Scenes | None = None) -> Path:
    names = ["car", "person", "road", "building", "sky"]
    if scenes:
        names += sorted({s.name for _, one in _pictures(scenes) for s in one.segments} - {*names, ""})
    entries = [
        {"name": n, "readable": n, "instances": Segment(n).isthing, "evaluate": True, "color": [i, 9, 9]}
        for i, n in enumerate(names)
    ]
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.json").write_text(json.dumps({"labels": entries}))
    for split, one in _pictures(scenes or small()):
        one.picture(root / f"{_LONG[split]}/images/p{one.number}.jpg")
        values = one.painted(lambda s: names.index(s.name) if s.name else 255, np.uint8)
        png(root / f"{_LONG[split]}/labels/p{one.number}.png", values)
    return root


def voc(root: Path, scenes: Scenes | None = None) -> Path:
    """What is no class is background, void edges and crowds are 255."""
    own = ids("voc")
    lists: dict[str, list[str]] = {}
    for split, one in _pictures(scenes or small()):
        name = f"2007_{one.number:06}"
        lists.setdefault(split, []).append(name)
        one.picture(root / f"JPEGImages/{name}.jpg")
        numbers = _numbered(one, range(1, 255))

        def value(s: Segment, objects: bool, numbers: dict[tuple[str, int], int] = numbers) -> int:
            if not s.name or s.iscrowd:
                return 255
            return (numbers.get((s.name, s.number), 0) if objects else own[s.name]) if s.name in own else 0

        palette_png(root / f"SegmentationClass/{name}.png", one.painted(lambda s: value(s, False), np.uint8))
        palette_png(root / f"SegmentationObject/{name}.png", one.painted(lambda s: value(s, True), np.uint8))
    for split, names in lists.items():
        listed = root / f"ImageSets/Segmentation/{split}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("".join(f"{name}\n" for name in names))
    return root


def bdd100k(root: Path, scenes: Scenes | None = None) -> Path:
    """Numbers use both channels, and alpha is 0 for one of them. Stuff has numbers too."""
    own = ids("bdd100k") | {"": 0}
    for split, one in _pictures(scenes or small()):
        one.picture(root / f"images/10k/{split}/b{one.number}.jpg")
        numbers = _numbered(one, (256, 511, 3, *range(768, 1 << 16, 64))) | {
            ("car", 0): 4,
            ("road", 0): 5,
            ("person", 0): 6,
        }

        def value(s: Segment, numbers: dict[tuple[str, int], int] = numbers) -> tuple[int, ...]:
            number = numbers.get((s.name, s.number), 0)
            return own[s.name], s.iscrowd << 1 | (s.number == 1) << 2, number >> 8, number & 255

        png(root / f"labels/pan_seg/bitmasks/{split}/b{one.number}.png", one.painted(value, np.uint8))
    return root


def idd(root: Path, scenes: Scenes | None = None) -> Path:
    """Polygons, far to near; the drives have pictures of the same name."""
    for split, one in _pictures(scenes or small()):
        folder, name = f"{split}/{one.number}", "frame0029"
        one.picture(root / f"leftImg8bit/{folder}/{name}_leftImg8bit.jpg")
        height, width = one.pixels.shape
        objects = [
            {"label": s.name + "group" * s.iscrowd, "polygon": points.tolist(), "deleted": 0, "verified": 1}
            for s, points in ((one.segments[index], points) for index, points in one.polygons)
        ]
        gone = [[0.0, 0.0], [20.0, 0.0], [20.0, 20.0]]
        objects.append({"label": "truck", "polygon": gone, "deleted": 1})
        if one.rgb is None:
            # The last rows have no label.
            bottom = [[0.0, HEIGHT - 2.0], [WIDTH, HEIGHT - 2.0], [WIDTH, HEIGHT], [0, HEIGHT]]
            objects.append({"label": "unlabeled", "polygon": bottom, "deleted": 0})
        path = root / f"gtFine/{folder}/{name}_gtFine_polygons.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"imgWidth": width, "imgHeight": height, "objects": objects}))
    return root


def coco_panoptic(root: Path, scenes: Scenes | None = None) -> Path:
    categories = STREET_CATEGORIES if scenes else CATEGORIES
    own = {category["name"]: category["id"] for category in categories}
    for split, each in (scenes or small()).items():
        images, annotations = [], []
        for one in each:
            name = f"{one.number:012}"
            one.picture(root / f"{split}2017/{name}.jpg")
            known = [COCO_NAMES.get(s.name, s.name) for s in one.segments]
            # Ids use all three channels.
            numbers = [1 + index * 52361 if known[index] in own else 0 for index in range(len(known))]
            table = np.array([(n % 256, n // 256 % 256, n // 65536) for n in numbers], np.uint8)
            png(root / f"annotations/panoptic_{split}2017/{name}.png", table[one.pixels])
            areas = np.bincount(one.pixels.ravel(), minlength=len(known)).tolist()
            infos = [
                {
                    "id": n,
                    "category_id": own[known[index]],
                    "area": areas[index],
                    "bbox": [0, 0, 1, 1],
                    "iscrowd": int(s.iscrowd),
                }
                for index, (n, s) in enumerate(zip(numbers, one.segments, strict=True))
                if n and areas[index]
            ]
            height, width = one.pixels.shape
            images.append({"id": one.number, "file_name": f"{name}.jpg", "height": height, "width": width})
            annotations.append({"image_id": one.number, "file_name": f"{name}.png", "segments_info": infos})
        content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        (root / f"annotations/panoptic_{split}2017.json").write_text(json.dumps(content))
    return root


def coco_instances(root: Path, scenes: Scenes | None = None) -> Path:
    """Objects as run lengths, compressed, and those of crowds as a list."""
    from pycocotools import mask

    categories = [
        {k: c[k] for k in ("id", "name")} for c in (STREET_CATEGORIES if scenes else CATEGORIES) if c["isthing"]
    ]
    own = {category["name"]: category["id"] for category in categories}
    for split, each in (scenes or small()).items():
        images, annotations = [], []
        for one in each:
            name = f"{one.number:012}"
            one.picture(root / f"{split}2017/{name}.jpg")
            for index, segment in enumerate(one.segments):
                here = np.asfortranarray(one.pixels == index, np.uint8)
                if segment.name not in own or not here.any():
                    continue
                rle: dict[str, Any] = mask.encode(here)
                shape: Any = {"size": rle["size"], "counts": rle["counts"].decode()}
                if segment.iscrowd:
                    flat = here.ravel(order="F")
                    edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
                    shape["counts"] = np.diff([0, *edges, flat.size]).tolist()
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": one.number,
                        "category_id": own[segment.name],
                        "iscrowd": int(segment.iscrowd),
                        "area": int(here.sum()),
                        "bbox": [0, 0, 1, 1],
                        "segmentation": shape,
                    }
                )
            height, width = one.pixels.shape
            images.append({"id": one.number, "file_name": f"{name}.jpg", "height": height, "width": width})
        (root / "annotations").mkdir(exist_ok=True)
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content, indent=1))
    return root


def coco_stuff(root: Path, scenes: Scenes | None = None) -> Path:
    own = ids("coco_stuff")
    for split, one in _pictures(scenes or small()):
        one.picture(root / f"{split}2017/{one.number:012}.jpg")
        values = one.painted(lambda s: own.get(STUFF_NAMES.get(s.name, s.name), 256) - 1, np.uint8)
        png(root / f"stuffthingmaps/{split}2017/{one.number:012}.png", values)
    return root


def ade20k_full(root: Path, scenes: Scenes | None = None) -> Path:
    known = STREET_FULL_CLASSES if scenes else FULL_CLASSES
    for split, one in _pictures(scenes or small()):
        folder = root / f"images/ADE/{_LONG[split]}/urban/street"
        name = f"ADE_{split}_{one.number:08}"
        one.picture(folder / f"{name}.jpg")

        def value(s: Segment, segments: list[Segment] = one.segments) -> tuple[int, int, int]:
            if s.name not in known:
                return 0, 0, 0
            number = known[s.name]
            return number // 256 * 10 + 3, number % 256, 255 - 2 * segments.index(s)

        png(folder / f"{name}_seg.png", one.painted(value, np.uint8))
        objects = [
            {"id": 0, "name": NAMES[Format.ade20k_full][s.name], "name_ndx": known[s.name]}
            for s in one.segments
            if s.name in known
        ]
        text = json.dumps({"annotation": {"object": objects}}, ensure_ascii=False)
        (folder / f"{name}.json").write_bytes(text.encode("latin-1"))
    return root


def _label_map(root: Path, scenes: Scenes | None) -> list[dict[str, Any]]:
    """Write label_map.json, which says what is a thing in the sets of tools."""
    categories = [dict(c) for c in (STREET_CATEGORIES if scenes else CATEGORIES)]
    root.mkdir(parents=True, exist_ok=True)
    (root / "label_map.json").write_text(json.dumps(categories))
    return categories


def _labelled(one: Scene, categories: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The name and the mask of each segment; tools know no crowds."""
    known = {str(c["name"]) for c in categories}
    for index, segment in enumerate(one.segments):
        name, mask = COCO_NAMES.get(segment.name, segment.name), one.pixels == index
        if name in known and not segment.iscrowd and mask.any():
            yield name, mask


def cvat(root: Path, scenes: Scenes | None = None) -> Path:
    """An export "COCO 1.0" of CVAT, with a mask for each object: iscrowd is 1, and category ids are its own."""
    known = _label_map(root, scenes)
    own = {str(c["name"]): place for place, c in enumerate(reversed(known), start=1)}
    for split, each in (scenes or small()).items():
        images, annotations = [], []
        for one in each:
            name, (height, width) = f"{one.number:012}.jpg", one.pixels.shape
            one.picture(root / f"images/{split.title()}/{name}")
            images.append({"id": one.number, "file_name": name, "height": height, "width": width, "license": 0})
            for label, mask in _labelled(one, known):
                flat = mask.ravel(order="F")
                edges = np.flatnonzero(np.diff(flat, prepend=False)).tolist()
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": one.number,
                        "category_id": own[label],
                        "segmentation": {"counts": np.diff([0, *edges, flat.size]).tolist(), "size": [height, width]},
                        "area": float(mask.sum()),
                        "bbox": [0.0, 0.0, 1.0, 1.0],
                        "iscrowd": 1,
                        "attributes": {"occluded": False},
                    }
                )
        categories = [{"id": i, "name": label, "supercategory": ""} for label, i in own.items()]
        content = {"licenses": [], "info": {}, "categories": categories, "images": images, "annotations": annotations}
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/instances_{split.title()}.json").write_text(json.dumps(content))
    return root


def label_studio(root: Path, scenes: Scenes | None = None) -> Path:
    """An export "JSON" of Label Studio, with a brush for each object."""
    known = _label_map(root, scenes)
    for split, each in (scenes or small()).items():
        tasks = []
        for one in each:
            name, (height, width) = f"{one.number:012}.jpg", one.pixels.shape
            one.picture(root / f"images/{name}")
            result = [
                {
                    "id": f"r{place}",
                    "type": "brushlabels",
                    "value": {"format": "rle", "rle": brush_rle.encode(mask), "brushlabels": [label]},
                    "origin": "manual",
                    "to_name": "image",
                    "from_name": "label",
                    "image_rotation": 0,
                    "original_width": width,
                    "original_height": height,
                }
                for place, (label, mask) in enumerate(_labelled(one, known))
            ]
            annotation = {"id": one.number, "was_cancelled": False, "ground_truth": False, "result": result}
            data = {"image": f"/data/local-files/?d=drive%2F{name}"}
            tasks.append({"id": one.number, "data": data, "annotations": [annotation], "predictions": []})
        (root / "annotations").mkdir(exist_ok=True)
        (root / f"annotations/{split}.json").write_text(json.dumps(tasks))
    return root


Writer = Callable[[Path, Scenes | None], Path]
WRITERS: dict[Format, Writer] = {
    Format.vistas: vistas,
    Format.vistas_labels: vistas_labels,
    Format.ade20k: ade20k,
    Format.ade20k_full: ade20k_full,
    Format.cityscapes: cityscapes,
    Format.kitti: kitti,
    Format.coco_panoptic: coco_panoptic,
    Format.coco_instances: coco_instances,
    Format.coco_stuff: coco_stuff,
    Format.voc: voc,
    Format.bdd100k: bdd100k,
    Format.idd: idd,
    Format.cvat: cvat,
    Format.label_studio: label_studio,
}
