"""Text, CSV, JSON and YAML files, and the shapes of JSON that each reader expects."""

import csv
import io
import json
import math
from typing import Any

from hypothesis import strategies as st

from stages.foundation import coco_types, files, json_shapes, text
from stages.foundation.coco_types import Annotation, Category, SegmentInfo
from stages.vistas import labels
from tests.support import fuzz
from tests.support.fuzz import fuzzed

lines = st.text(st.sampled_from("ab,;\t\"' \n\r:-[]{}&*?|<>!%@`#0123._~éß\u2028\ufeff"), max_size=60)
WORDS = [
    "a:",
    "- ",
    "&x",
    "*x",
    "<<:",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "\n",
    "  ",
    "1e5",
    "0b_",
    "._",
    "1:2:3",
    "0x_",
    "!!python/x",
    "!!binary",
    "!!int",
    "!!set",
    "2020-13-45",
    "${",
    "${a}",
    "'",
    "null",
    "${oc.env:HOME}",
    "? ",
    ": ",
    "\\x",
    ".inf",
    ".nan",
    "!!float",
    "!!timestamp",
    "!!omap",
    "a",
    "true",
    "",
]
yaml_words = st.sampled_from([*WORDS, "|", '"'])
encodings = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"])


@fuzzed(60, content=st.binary(max_size=80) | st.tuples(lines, encodings).map(lambda p: p[0].encode(p[1], "replace")))
def test_any_bytes_are_text_or_refused(content: bytes) -> None:
    with fuzz.folder() as folder:
        path = folder / "a.txt"
        path.write_bytes(content)
        for read in (text.read, text.read_csv, text.read_json, files.read_json, text.read_yaml, labels.load):
            fuzz.outcome(lambda read=read: read(path), lines=20 if read is labels.load else 1)  # type: ignore[misc]


@fuzzed(60, words=st.lists(yaml_words, max_size=14))
def test_any_yaml_is_read_or_refused(words: list[str]) -> None:
    with fuzz.folder() as folder:
        path = folder / "a.yaml"
        path.write_text("".join(words))
        fuzz.outcome(lambda: text.read_yaml(path))


cells = st.lists(st.text(st.sampled_from('ab ,"\né'), min_size=1, max_size=6).filter(str.strip), min_size=2, max_size=4)


@fuzzed(40, rows=st.lists(cells, min_size=1, max_size=4))
def test_csv_is_read_as_it_was_written(rows: list[list[str]]) -> None:
    written = io.StringIO()
    csv.writer(written, quoting=csv.QUOTE_ALL).writerows(rows)
    with fuzz.folder() as folder:
        path = folder / "a.csv"
        path.write_text(written.getvalue(), newline="")
        assert [line.cells for line in text.read_csv(path)] == rows


@fuzzed(40, content=fuzz.values)
def test_json_is_read_as_it_was_written(content: Any) -> None:
    with fuzz.folder() as folder:
        path = folder / "a.json"
        path.write_text(json.dumps(content))
        read = fuzz.outcome(lambda: text.read_json(path))
    if read is not None:
        assert json.dumps(read) == json.dumps(content)


KINDS = (list[Category], Annotation, SegmentInfo, dict[str, float], tuple[int, int], tuple[str, ...], int | str | None)


@fuzzed(80, content=fuzz.values, kind=st.sampled_from(KINDS))
def test_a_shape_holds_or_is_refused(content: Any, kind: Any) -> None:
    fuzz.outcome(lambda: json_shapes.parse(kind, content))


names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=9)
colors = st.lists(st.integers(0, 255), min_size=3, max_size=3)
maps = st.lists(st.tuples(names, st.integers(0, 1), colors), max_size=4).map(
    lambda rows: [{"id": i, "name": n, "isthing": t, "color": c} for i, (n, t, c) in enumerate(rows, 1)]
)


@fuzzed(40, content=maps, changes=st.just([]) | fuzz.swaps)
def test_label_maps(content: Any, changes: Any) -> None:
    with fuzz.folder() as folder:
        path = folder / "label_map.json"
        path.write_text(json.dumps(fuzz.reshaped(content, changes)))
        read = fuzz.outcome(lambda: coco_types.read_label_map(path))
    assert changes or read == content
    for category in read or ():
        assert type(category["id"]) is int
        assert math.isfinite(category["isthing"])


config = json.loads(labels.CONFIG.read_text())["labels"][:4]


@fuzzed(40, changes=fuzz.swaps)
def test_configs_of_vistas(changes: Any) -> None:
    with fuzz.folder() as folder:
        path = folder / "config.json"
        path.write_text(json.dumps(fuzz.reshaped({"labels": config}, changes)))
        fuzz.outcome(lambda: labels.load(path), lines=20)
