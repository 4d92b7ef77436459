"""JSON of another shape ends in one line that names the file, whatever stands in it."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypedDict

import pytest

from stages import config
from stages.coco import panoptic
from stages.engines import build_record, manifest
from stages.foundation import coco_types, files, json_shapes, text
from stages.inference import description


class Small(TypedDict):
    name: str
    sizes: list[int]
    rate: float


@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [
        (Small, [], "the file: found [], expected an object with name, sizes, rate"),
        (Small, {"name": "a", "sizes": [1]}, "the file: has no rate"),
        (Small, {"name": None, "sizes": [], "rate": 1}, "name: found null, expected text"),
        (Small, {"name": "a", "sizes": {"0": 1}, "rate": 1}, 'sizes: found {"0": 1}, expected a list'),
        (Small, {"name": "a", "sizes": [1, True], "rate": 1}, "sizes[1]: found true, expected a whole number"),
        (Small, {"name": "a", "sizes": [10**30], "rate": 1}, "sizes[0]: found 10000"),
        (Small, {"name": "a", "sizes": [], "rate": float("inf")}, "rate: found Infinity, expected a finite number"),
        (dict[str, list[Small]], {"x": [3]}, "x[0]: found 3, expected an object with name"),
        (Literal["a", "b"], "c", 'found "c", expected one of'),
        (tuple[int, int], [1], "expected a list of 2"),
        (int | str, 1.5, "found 1.5, expected a whole number or text"),
        (build_record.Host, {"name": "n"}, "has no cpu, gpu, system, python"),
    ],
)
def test_what_is_found_and_expected(kind: Any, content: object, words: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        json_shapes.parse(kind, content)
    assert words in str(caught.value)


def test_what_fits_is_kept() -> None:
    content = {"name": "a", "sizes": [1], "rate": 2, "more": None}
    assert json_shapes.parse(Small, content) == {**content, "rate": 2.0}
    assert json_shapes.parse(tuple[int, ...], [1, 2]) == (1, 2)
    host = {"name": "n", "cpu": "c", "gpu": None, "system": "s", "python": "3"}
    assert json_shapes.parse(build_record.Host, host) == build_record.Host("n", "c", None, "s", "3")


BYTES = {
    "deep": b"[" * 100_000,
    "digits": b"9" * 5000,
    "utf-16": '{"a": "é"'.encode("utf-16"),
    "latin-1": b'{"a": "\xe9"}',
    "cut": b'{"a": ',
    "empty": b"",
    "pickle": b"\x80\x04K\x01.",
    "zip": b"PK\x03\x04",
}


@pytest.mark.parametrize("name", BYTES)
@pytest.mark.parametrize("read", [files.read_json, text.read_json])
def test_bytes_that_are_no_json(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(BYTES[name])
    with pytest.raises(ValueError, match=r"x\.json") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_utf_16_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-8-sig"):
        (tmp_path / "x.json").write_text('{"a": "é"}', encoding=encoding)
        assert files.read_json(tmp_path / "x.json") == {"a": "é"}


CATEGORIES = [{"id": 1, "name": "car", "isthing": 1, "color": [255, 0, 0]}]
GRAPH = {
    "deploy": config.plain(config.Deploy()), "variant": "cuda", "categories": CATEGORIES, "provenance": {"spec": "0"},
    "precision": "fp32", "sha256": "0",
    "steps": [
        {"kind": "part", "file": "part_1.onnx", "sha256": "0"},
        {
            "kind": "kernel", "operator": "Resize", "attributes": {"scale": 2}, "inputs": ["a"], "outputs": ["b"],
            "tensors": {name: {"shape": [1, 2], "dtype": "float32"} for name in "ab"},
        },
    ],
}  # fmt: skip
ENGINE = {
    **config.plain(config.Target(builder_version="1")), "target": "cpu", "graph": GRAPH,
    "engine": {"file": "cpu.blob", "bytes": 1, "sha256": "0"},
}  # fmt: skip
BUILD = {
    "engine_sha256": "0", "date": "2026-11-28T00:00:00+00:00", "seconds": 1.5, "commit": "", "dirty": True,
    "code_sha256": "0", "host": {"name": "n", "cpu": "c", "gpu": {"name": "g"}, "system": "s", "python": "3"},
}  # fmt: skip
PANOPTIC = {
    "info": {"image_folder": "images"}, "categories": CATEGORIES, "images": [{"id": 1, "file_name": "a.jpg"}],
    "annotations": [
        {"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 1, "category_id": 1, "iscrowd": 0, "area": 3}]}
    ],
}  # fmt: skip
SOURCES = {"vistas": {"format": "vistas", "category_ids_everywhere": [1, 2], "category_ids_partly": [3]}}
READERS: dict[str, tuple[object, Callable[[Path], object]]] = {
    "label_map.json": (CATEGORIES, coco_types.read_label_map),
    "panoptic.json": (PANOPTIC, lambda path: panoptic.read(path.parent)),
    "sources.json": (SOURCES, lambda path: panoptic.read_labelled(path.parent, panoptic.PanopticSet([], []))),
    "graph.json": (GRAPH, lambda path: description.read(path.parent)),
    "engine.json": (ENGINE, lambda path: manifest.target_of(path.parent)),
    "build.json": (BUILD, lambda path: build_record.read(path.parent, "0")),
}
STRANGE: tuple[object, ...] = (
    None, True, -1, 0, 10**40, 1e400, "", "../../etc/passwd", "x\ny", [], {}, [[]], {"a": {"b": [None]}}, [None, "a"],
)  # fmt: skip


def places(content: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield above
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield from places(value, (*above, key)) if isinstance(value, dict | list) else [(*above, key)]


def refusal(read: Callable[[Path], object], path: Path) -> str | None:
    """Return the message by which a reader refuses a file, or None if it takes it. Any other exception is a bug."""
    try:
        read(path)
    except (RecursionError, NotImplementedError):
        raise
    except (ValueError, RuntimeError) as error:
        return str(error)
    return None


def changed(content: Any, place: tuple[Any, ...], value: object) -> Any:
    if not place:
        return value
    found = copy.deepcopy(content)
    inside = found
    for key in place[:-1]:
        inside = inside[key]
    if value is ...:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return found


@pytest.mark.parametrize("name", READERS)
def test_another_shape_at_any_place_is_one_line_with_the_file(name: str, tmp_path: Path) -> None:
    content, read = READERS[name]
    path = tmp_path / name
    refused = 0
    for place in places(content):
        for value in (*STRANGE, *([...] if place else [])):
            path.write_text(json.dumps(changed(content, place, value)))
            if (message := refusal(read, path)) is not None:
                assert tmp_path.name in message, (place, value)
                assert "\n" not in message, (place, value)
                refused += 1
    assert refused > 20


def test_nested_at_random(tmp_path: Path) -> None:
    """Values of every type, several levels deep."""
    draw = random.Random(0)

    def value(depth: int) -> object:
        kind = draw.randrange(8 if depth else 6)
        if kind < 6:
            return draw.choice([None, True, 3, -1.5, "text", 2**70])
        size = draw.randrange(4)
        if kind == 6:
            return [value(depth - 1) for _ in range(size)]
        names = ["id", "name", "images", "annotations", "categories", "engine", "graph", "steps", "host"]
        return {draw.choice(names): value(depth - 1) for _ in range(size)}

    for _ in range(300):
        content = value(4)
        for name, (_, read) in READERS.items():
            (tmp_path / name).write_text(json.dumps(content))
            assert "\n" not in (refusal(read, tmp_path / name) or ""), content


@pytest.mark.parametrize("name", ["a\nb", "a\ud800", "\x1b[2J"])
def test_a_key_of_any_characters_is_shown_in_one_line(name: str) -> None:
    for content in ({name: "x"}, {name: {"a": [1]}}):
        with pytest.raises(ValueError, match="expected a number") as raised:
            json_shapes.parse(dict[str, float], content)
        assert len(str(raised.value).splitlines()) == 1
        assert str(raised.value).encode().isascii()
