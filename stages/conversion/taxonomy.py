"""Classes of one or several sets as COCO categories: ids from 1, things before stuff.

TAO keeps class 0 for no-object, and its visualizer indexes thing names by class index, hence the order. A table, such
as conf/tables/vistas_v2_0.csv, has a row for each label of a set's config:

source   the label's name
target   the class that it becomes; `void` for pixels of no class, `drop` for a class that is not wanted, whose pixels
         are void too and counted apart
crowd    `crowd` where the label marks a group of the class's objects: a segment with iscrowd 1
isthing  1 or 0; empty: as the config says
color    #RRGGBB of the class; empty: as the config says
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.vistas.labels import Label

MAX_CLASSES = 254
VOID, DROP, CROWD = "void", "drop", "crowd"
COLUMNS = ("source", "target", "crowd", "isthing", "color")


@dataclass(frozen=True)
class Row:
    """What a table says of a label."""

    where: str
    """File and line, for messages."""
    source: str
    target: str
    crowd: bool = False
    isthing: int | None = None
    color: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Target:
    """What a source label becomes."""

    category_id: int
    """1 to N, or 0 for void."""
    iscrowd: bool = False
    dropped: bool = False


def read(path: Path, labels: Sequence[Label]) -> list[Row]:
    """A table's rows, one for each label, in id order. Raises ValueError naming the line, FileNotFoundError."""
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.csv"))
        raise FileNotFoundError(f"{path} not found; write that table, or set the source's taxonomy to one of {there}")
    rows: dict[str, Row] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = set(reader.fieldnames or [])
            if columns - set(COLUMNS) or not {"source", "target"} <= columns:
                raise ValueError(f"{path}:1: columns {reader.fieldnames}, expected source, target and of {COLUMNS[2:]}")
            for cells in reader:
                row = _row(cells, f"{path}:{reader.line_num}")
                if row.source in rows:
                    raise ValueError(f"{row.where}: {row.source!r} is in {rows[row.source].where} too; delete one line")
                rows[row.source] = row
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no CSV in UTF-8 ({error}); write it anew") from error
    names = {label.name for label in labels}
    for row in rows.values():
        if row.source not in names:
            raise ValueError(f"{row.where}: {row.source!r} is no label of the set's config; delete or correct the line")
    missing = [label.name for label in labels if label.name not in rows]
    if missing:
        raise ValueError(f"{path}: no line for {missing[:3]} ({len(missing)} labels); add them, as void if need be")
    return [rows[label.name] for label in labels]


def _row(cells: dict[str, Any], where: str) -> Row:
    texts = {name: (cells.get(name) or "").strip() for name in COLUMNS}
    if not texts["source"] or not texts["target"] or None in cells:
        raise ValueError(f"{where}: found {list(cells.values())}, expected a source and a target; mend the line")
    if texts["crowd"] and texts["target"] in (VOID, DROP):
        raise ValueError(f"{where}: a crowd of {texts['target']!r}, which is no class; mend the line")
    if texts["crowd"] not in ("", CROWD):
        raise ValueError(f"{where}: crowd is {texts['crowd']!r}, expected {CROWD!r} or nothing; mend the line")
    if texts["isthing"] not in ("", "0", "1"):
        raise ValueError(f"{where}: isthing is {texts['isthing']!r}, expected 0, 1 or nothing; mend the line")
    color, text = None, texts["color"].removeprefix("#")
    if text:
        try:
            color = tuple(bytes.fromhex(text))
        except ValueError:
            color = ()
        if len(color) != 3:
            raise ValueError(f"{where}: color is {texts['color']!r}, expected #RRGGBB or nothing; mend the line")
    isthing = int(texts["isthing"]) if texts["isthing"] else None
    return Row(where, texts["source"], texts["target"], texts["crowd"] == CROWD, isthing, color)


def as_evaluated(labels: Sequence[Label], where: str) -> list[Row]:
    """The rows of a set without a table: each evaluated label is a class, the others are void."""
    return [Row(f"{where}, label {i}", x.name, x.name if x.evaluate else VOID) for i, x in enumerate(labels)]


def build(
    sets: Mapping[str, tuple[Sequence[Label], Sequence[Row]]],
) -> tuple[list[dict[str, Any]], dict[str, tuple[Target, ...]]]:
    """Categories of all sources together, and for each source its labels' targets, in id order.

    Classes of the same name are one. Raises ValueError, naming the line, for labels of one name, for classes that are
    things in one source and stuff in another, for a crowd of a class that nothing else becomes or of stuff, and for
    more classes than TAO's 8-bit masks hold.
    """
    classes: dict[str, dict[str, Any]] = {}
    said: dict[str, str] = {}
    for source, (labels, rows) in sets.items():
        names = [label.name for label in labels]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the config of source {source} names labels twice: {twice}; names must be unique")
        for label, row in zip(labels, rows, strict=True):
            if row.crowd or row.target in (VOID, DROP):
                continue
            isthing = int(label.instances) if row.isthing is None else row.isthing
            first = classes.setdefault(
                row.target,
                {
                    "name": row.target,
                    "supercategory": row.target.partition("--")[0],
                    "isthing": isthing,
                    "color": list(row.color or label.color),
                },
            )
            where = said.setdefault(row.target, row.where)
            if first["isthing"] != isthing:
                kinds = ("stuff", "a thing")
                raise ValueError(
                    f"{row.where}: {row.target!r} is {kinds[isthing]}, but {kinds[first['isthing']]} in {where}; say "
                    "which in the column isthing of one of them"
                )
    if not 1 <= len(classes) <= MAX_CLASSES:
        raise ValueError(f"{len(classes)} classes, expected 1 to {MAX_CLASSES}, as TAO's 8-bit masks hold; drop some")
    ordered = sorted(classes.values(), key=lambda c: not c["isthing"])
    categories = [{"id": category_id, **c} for category_id, c in enumerate(ordered, start=1)]
    by_name = {c["name"]: c for c in categories}
    return categories, {source: tuple(_target(row, by_name) for row in rows) for source, (_, rows) in sets.items()}


def _target(row: Row, by_name: dict[str, dict[str, Any]]) -> Target:
    if row.target in (VOID, DROP):
        return Target(0, dropped=row.target == DROP)
    found = by_name.get(row.target)
    if found is None or (row.crowd and not found["isthing"]):
        what = "stuff, which has no crowds" if found else "a class that no other line leads to"
        raise ValueError(f"{row.where}: a crowd of {row.target!r}, which is {what}; correct the line")
    return Target(found["id"], iscrowd=row.crowd)
