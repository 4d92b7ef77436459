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

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.foundation import names, text
from stages.vistas.labels import Label

log = logging.getLogger(__name__)

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
    """A table's rows, one for each label, in id order. Raises ValueError naming the line, FileNotFoundError.

    A label's name is compared as it is, blanks included. Blanks around a cell without quotes do not count, but where a
    label is named so.
    """
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("[!.]*.csv"))
        raise FileNotFoundError(f"{path} not found; write that table, or set the source's taxonomy to one of {there}")
    lines = text.read_csv(path)
    columns = lines[0].cells if lines else []
    if set(columns) - set(COLUMNS) or not {"source", "target"} <= set(columns) or len(set(columns)) < len(columns):
        expected = f"source, target and of {COLUMNS[2:]}, each once"
        raise ValueError(f"{path}:{lines[0].number if lines else 1}: columns {columns}, expected {expected}")
    known = [label.name for label in labels]
    rows: dict[str, Row] = {}
    for line in lines[1:]:
        where = f"{path}:{line.number}"
        if len(line.cells) > len(columns):
            raise ValueError(f"{where}: {len(line.cells)} cells {line.cells}, expected {columns}; mend the line")
        cells = dict.fromkeys(COLUMNS, "") | dict(zip(columns, line.cells, strict=False))
        as_written = dict(zip(columns, line.written, strict=False)).get("source", "")
        row = _row(cells | ({"source": as_written} if as_written in known else {}), where)
        if row.source in rows:
            raise ValueError(f"{row.where}: {row.source!r} is in {rows[row.source].where} too; delete one line")
        if row.source not in known:
            hint = names.hint(row.source, known)
            raise ValueError(
                f"{where}: {row.source!r} is no label of the set's config{hint}; delete or correct the line"
            )
        rows[row.source] = row
    missing = [name for name in known if name not in rows]
    if missing:
        raise ValueError(f"{path}: no line for {missing[:3]} ({len(missing)} labels); add them, as void if need be")
    return [rows[name] for name in known]


def _row(texts: dict[str, str], where: str) -> Row:
    if not texts["source"].strip() or not texts["target"].strip():
        raise ValueError(f"{where}: found {list(texts.values())}, expected a source and a target; mend the line")
    if texts["target"] not in (VOID, DROP) and (word := names.similar(texts["target"], (VOID, DROP))):
        raise ValueError(
            f"{where}: target {texts['target']!r}, which is not the word {word[0]!r}; write that, or rename it"
        )
    if not names.is_plain(texts["target"]):
        raise ValueError(f"{where}: target {texts['target']!r} has a line end or a control character; take it out")
    if texts["crowd"] and texts["target"] in (VOID, DROP):
        raise ValueError(f"{where}: a crowd of {texts['target']!r}, which is no class; mend the line")
    if texts["crowd"] not in ("", CROWD):
        raise ValueError(f"{where}: crowd is {texts['crowd']!r}, expected {CROWD!r} or nothing; mend the line")
    if texts["isthing"] not in ("", "0", "1"):
        raise ValueError(f"{where}: isthing is {texts['isthing']!r}, expected 0, 1 or nothing; mend the line")
    color = None
    if texts["color"]:
        digits = texts["color"].removeprefix("#")
        # bytes.fromhex would take blanks between digits too.
        if not re.fullmatch("[0-9A-Fa-f]{6}", digits):
            raise ValueError(f"{where}: color is {texts['color']!r}, expected #RRGGBB or nothing; mend the line")
        color = tuple(bytes.fromhex(digits))
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
        given = [label.name for label in labels]
        if twice := sorted({name for name in given if given.count(name) > 1}):
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
    for name, other in names.similar_pairs(classes):
        places = f"{name!a} ({said[name]}) and {other!a} ({said[other]})"
        log.warning("classes %s differ by blanks, case or marks alone: they are two classes", places)
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
        what += "" if found else names.hint(row.target, by_name)
        raise ValueError(f"{row.where}: a crowd of {row.target!r}, which is {what}; correct the line")
    return Target(found["id"], iscrowd=row.crowd)
