"""Data sets in every layout that is read: random scenes come back, and spoiled annotations are refused or read."""

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from stages import config
from stages.config import Format
from stages.foundation import picture_limit
from stages.sets import formats, json_index
from stages.sets.raw_set import Scene
from tests.support import fuzz, sets
from tests.support.fuzz import fuzzed
from tests.support.sets import HEIGHT, WIDTH, WRITERS, Segment

WITHOUT_CROWDS = (Format.vistas, Format.voc, Format.ade20k_full, Format.cvat, Format.label_studio)
NAMES = ("sky", "building", "road", "car", "person", "")
rectangles = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.booleans(),
        st.integers(0, WIDTH - 2),
        st.integers(0, HEIGHT - 2),
        st.integers(1, WIDTH),
        st.integers(1, HEIGHT),
    ),
    max_size=9,
)


def scene(made: list[tuple[str, bool, int, int, int, int]]) -> sets.Scene:
    """Paint rectangles one over another: name, whether a single object, left, top, width, height."""
    segments, polygons, counts = [Segment("")], list[tuple[int, Any]](), dict[str, int]()
    pixels = np.zeros((HEIGHT, WIDTH), np.int64)
    # These are always there: a set without an object or of void alone is a problem of its own in some formats.
    sky, road, car = ("sky", False, 0, 0, WIDTH, 20), ("road", False, 0, 20, WIDTH, 9), ("car", True, 50, 33, 4, 4)
    for name, single, x, y, width, height in [sky, road, *made, car]:
        if single and Segment(name).isthing:
            counts[name] = counts.get(name, 0) + 1
        number = counts.get(name, 0) if single else 0
        segments.append(Segment(name, number))
        right, bottom = min(x + width, WIDTH) - 1, min(y + height, HEIGHT) - 1
        pixels[y : bottom + 1, x : right + 1] = len(segments) - 1
        corners = np.array([[x, y], [right, y], [right, bottom], [x, bottom]], float)
        polygons.append((len(segments) - 1, corners))
    return sets.Scene(3, pixels, segments, polygons)


def opened(root: Path, chosen: Format) -> Any:
    return formats.find(config.Source(format=chosen), root, "data.sources.a")


def known(chosen: Format, labels: Any, segment: Segment) -> bool:
    """Whether a format holds a segment: crowds are void in some, and void is a label in others."""
    name = sets.NAMES.get(chosen, {}).get(segment.name, segment.name)
    if not name or name not in {label.name for label in labels}:
        return False
    return not (segment.iscrowd and chosen in WITHOUT_CROWDS)


@fuzzed(24, made=rectangles, chosen=st.sampled_from([f for f in WRITERS if f is not Format.idd]))
def test_a_scene_is_read_as_it_was_written(made: Any, chosen: Format) -> None:
    written = scene(made)
    with fuzz.folder() as folder:
        WRITERS[chosen](folder, {"train": [written], "val": [sets.small()["val"][0]]})
        found = opened(folder, chosen)
        (one,) = (each for each in found.scenes("" if chosen is Format.kitti else "train") if "3" in each.key)
        assert isinstance(one, Scene), one
        raster = found.raster(one)
    decoded = raster.labels[raster.values]
    for index, segment in enumerate(written.segments):
        here = written.pixels == index
        if not here.any() or not known(chosen, found.labels, segment):
            continue
        (label,) = np.unique(decoded[here])
        assert found.labels[label].name == sets.NAMES.get(chosen, {}).get(segment.name, segment.name)
        numbers = np.unique(raster.values[here])
        if segment.number and found.labels[label].instances and chosen not in (Format.vistas_labels, Format.coco_stuff):
            assert len(numbers) == 1
            if chosen not in (Format.cityscapes, Format.kitti, Format.vistas):
                assert not raster.crowds[numbers[0]]
            assert not np.isin(raster.values[~here], numbers).any()


@cache
def originals(chosen: Format) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        root = WRITERS[chosen](Path(name), None)
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def annotations(chosen: Format) -> list[str]:
    """The files of a format that are no pictures."""
    pictures = ("images", "leftImg8bit", "image_2", "JPEGImages", "train2017/", "val2017/")
    return [
        name
        for name in originals(chosen)
        if name.endswith((".json", ".txt"))
        or ("_seg" in name or "panoptic" in name or "stuffthing" in name or "bitmasks" in name)
        or not any(part in name for part in pictures)
    ]


def read_all(root: Path, chosen: Format) -> None:
    found = fuzz.outcome(lambda: opened(root, chosen), lines=20)
    if found is None:
        return
    listed = fuzz.outcome(lambda: list(found.scenes()))
    for one in listed or ():
        if isinstance(one, Scene):
            raster = fuzz.outcome(lambda one=one: found.raster(one))
            if raster is not None:
                assert raster.values.max() < len(raster.labels) == len(raster.crowds)
                assert raster.labels.min() >= -1
                assert raster.labels.max() < len(found.labels)
        else:
            assert len(one.message.splitlines()) == 1
            one.message.encode()


def changed(name: str, content: bytes, changes: Any, swaps: Any, chunks: Any) -> bytes:
    if chunks and name.endswith(".png"):
        return fuzz.rechunked(content, chunks)
    if swaps and name.endswith(".json"):
        return json.dumps(fuzz.reshaped(json.loads(content.decode("latin-1")), swaps)).encode()
    return fuzz.spoiled(content, changes)


@fuzzed(
    150,
    chosen=st.sampled_from(list(WRITERS)),
    number=st.integers(0, 30),
    changes=fuzz.edits,
    swaps=st.just([]) | fuzz.swaps,
    chunks=st.just([]) | fuzz.chunk_edits,
)
def test_a_spoiled_set_is_read_or_refused(chosen: Format, number: int, changes: Any, swaps: Any, chunks: Any) -> None:
    before = picture_limit.limit_mpx()
    picture_limit.set_limit(4)
    names = annotations(chosen)
    with fuzz.folder() as folder:
        for name, content in originals(chosen).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            here = name == names[number % len(names)]
            path.write_bytes(changed(name, content, changes, swaps, chunks) if here else content)
        try:
            read_all(folder, chosen)
        finally:
            picture_limit.set_limit(before)


def entries(key: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({key: st.integers(0, 3), "a": fuzz.values})


cocos = st.fixed_dictionaries(
    {
        "images": st.lists(entries("id"), min_size=1, max_size=4, unique_by=lambda entry: entry["id"]),
        "annotations": st.lists(entries("image_id"), min_size=1, max_size=4),
        "categories": st.lists(entries("id"), min_size=1, max_size=2),
    },
    optional={"info": fuzz.values, "extra": st.lists(fuzz.values, max_size=3)},
)


@fuzzed(60, content=cocos, block=st.integers(1, 40), ascii=st.booleans())
def test_blocks_of_any_size_give_the_entries_of_the_json(content: Any, block: int, ascii: bool) -> None:
    try:
        written = json.dumps(content, ensure_ascii=ascii).encode()
    except UnicodeEncodeError:  # A lone surrogate can't be written so.
        return
    former = json_index._BLOCK
    json_index._BLOCK = block  # type: ignore[misc]
    try:
        with fuzz.folder() as folder:
            path = folder / "a.json"
            path.write_bytes(written)
            index = fuzz.outcome(lambda: json_index.read(path))
            if index is None:  # A number of more than 4300 digits, or nothing that is a COCO file.
                return
            assert json.dumps(index.categories) == json.dumps(json.loads(written)["categories"])
            for number, places in index.places.items():
                wanted = [each for each in json.loads(written)["annotations"] if each["image_id"] == number]
                assert json.dumps(json_index.entries(path, list(places))) == json.dumps(wanted)
    finally:
        json_index._BLOCK = former  # type: ignore[misc]
