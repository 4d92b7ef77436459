"""Maps the labels of one or several sets to COCO categories, by CSV tables. Ids begin at 1; things come before stuff.

TAO reserves class 0 for "no object", and its visualizer looks up thing names by class index: hence this order. A table,
such as conf/tables/vistas_v2_0.csv, has a row for each label of a set's config and these columns:

source   name of the label
target   name of the class that it becomes; `void`: its pixels belong to no class; `drop`: the same, and its segments
         are counted in statistics.json
crowd    `crowd` where the label marks a group of objects of the class: its segments get iscrowd 1
isthing  1 for a thing, 0 for stuff; empty: `instances` of the config
color    #RRGGBB of the class; empty: the color of the config
union    where the target is `void`: two or more classes, separated by semicolons, that the label does not tell apart,
         such as a road and its markings; its pixels are counted in statistics.json
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.foundation import names, text
from stages.foundation.coco_types import Category
from stages.sets.raw_set import RawSet
from stages.vistas.labels import Label

log = logging.getLogger(__name__)

MAX_CLASSES = 254
VOID, DROP, CROWD = "void", "drop", "crowd"
COLUMNS = ("source", "target", "crowd", "isthing", "color", "union")
SEPARATOR = ";"
"""Between the classes of a union."""


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    where: str
    """File and line, for messages."""
    source: str
    target: str
    crowd: bool = False
    isthing: int | None = None
    color: tuple[int, ...] | None = None
    union: tuple[str, ...] = ()
    """Classes that the label does not tell apart; the target is void."""


@dataclass(frozen=True)
class LabelMapping:
    """The category that a label becomes."""

    category_id: int
    """1 to N, or 0 for void."""
    iscrowd: bool = False
    """True if the label marks groups of objects."""
    dropped: bool = False
    """True if the table's target is `drop`."""
    union: bool = False
    """True if the label is void because it covers several classes."""


def read(path: Path, labels: Sequence[Label]) -> list[Row]:
    """Return the rows of a table, one for each label, in id order.

    Names are compared character by character. Blanks around a cell without quotes are ignored, unless a label has
    exactly that name. Raises FileNotFoundError, and ValueError naming the line that is wrong.
    """
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("[!.]*.csv"))
        raise FileNotFoundError(f"{path} not found; write it, or set the source's taxonomy to one of {there}")
    lines = text.read_csv(path)
    columns = lines[0].cells if lines else []
    if set(columns) - set(COLUMNS) or not {"source", "target"} <= set(columns) or len(set(columns)) < len(columns):
        expected = f"source and target, and any of {', '.join(COLUMNS[2:])}, each once"
        place = f"{path}:{lines[0].number if lines else 1}"
        raise ValueError(f"{place}: columns {columns}, expected {expected}; correct the first line")
    known = [label.name for label in labels]
    rows: dict[str, Row] = {}
    for line in lines[1:]:
        where = f"{path}:{line.number}"
        if len(line.cells) > len(columns):
            raise ValueError(f"{where}: {len(line.cells)} cells {line.cells}, expected {columns}; correct the line")
        cells = dict.fromkeys(COLUMNS, "") | dict(zip(columns, line.cells, strict=False))
        as_written = dict(zip(columns, line.written, strict=False)).get("source", "")
        row = _row(cells | ({"source": as_written} if as_written in known else {}), where)
        if row.source in rows:
            raise ValueError(f"{row.where}: {row.source!r} is also in {rows[row.source].where}; delete one line")
        if row.source not in known:
            hint = names.hint(row.source, known)
            raise ValueError(
                f"{where}: {row.source!r} is not a label of the set's config{hint}; correct or delete the line"
            )
        rows[row.source] = row
    missing = [name for name in known if name not in rows]
    if missing:
        found = f"no line for {missing[:3]} ({len(missing)} labels are missing)"
        raise ValueError(f"{path}: {found}; add a line for each, with target void for no class")
    return [rows[name] for name in known]


def _row(texts: dict[str, str], where: str) -> Row:
    if not texts["source"].strip() or not texts["target"].strip():
        raise ValueError(f"{where}: found {list(texts.values())}, expected a source and a target; correct the line")
    if texts["target"] not in (VOID, DROP) and (word := names.similar(texts["target"], (VOID, DROP))):
        raise ValueError(
            f"{where}: target {texts['target']!r} is not the keyword {word[0]!r}; write the keyword, or name the class "
            "otherwise"
        )
    if not names.is_plain(texts["target"]):
        raise ValueError(f"{where}: target {texts['target']!r} has a line end or a control character; remove it")
    if texts["crowd"] and texts["target"] in (VOID, DROP):
        raise ValueError(f"{where}: a crowd of {texts['target']!r}, which is not a class; correct the line")
    if texts["crowd"] not in ("", CROWD):
        raise ValueError(f"{where}: crowd is {texts['crowd']!r}, expected {CROWD!r} or nothing; correct the line")
    if texts["isthing"] not in ("", "0", "1"):
        raise ValueError(f"{where}: isthing is {texts['isthing']!r}, expected 0, 1 or nothing; correct the line")
    color = None
    if texts["color"]:
        digits = texts["color"].removeprefix("#")
        # bytes.fromhex would also accept blanks between the digits.
        if not re.fullmatch("[0-9A-Fa-f]{6}", digits):
            raise ValueError(f"{where}: color is {texts['color']!r}, expected #RRGGBB or nothing; correct the line")
        color = tuple(bytes.fromhex(digits))
    isthing = int(texts["isthing"]) if texts["isthing"] else None
    union = _union(texts, where) if texts["union"] else ()
    return Row(where, texts["source"], texts["target"], texts["crowd"] == CROWD, isthing, color, union)


def _union(texts: dict[str, str], where: str) -> tuple[str, ...]:
    classes = tuple(name.strip() for name in texts["union"].split(SEPARATOR))
    if texts["target"] != VOID:
        raise ValueError(
            f"{where}: union with the target {texts['target']!r}, expected {VOID!r}: pixels of a union have no class; "
            "correct the line"
        )
    if len(set(classes)) < max(2, len(classes)) or {"", VOID, DROP} & set(classes):
        expected = f"two or more different classes, with {SEPARATOR!r} between them"
        raise ValueError(f"{where}: union is {texts['union']!r}, expected {expected}; correct the line")
    return classes


def of_set(tables: Path, name: str, found: RawSet) -> list[Row]:
    """Return what each label of a set becomes: by the table `name`, or without one by what the set evaluates."""
    if name:
        return read(tables / f"{name}.csv", found.labels)
    return as_evaluated(found.labels, found.source)


def as_evaluated(labels: Sequence[Label], where: str) -> list[Row]:
    """Return rows for a set without a table: each label that the config evaluates is a class, the others are void."""
    return [Row(f"{where}, label {i}", x.name, x.name if x.evaluate else VOID) for i, x in enumerate(labels)]


def build(
    sets: Mapping[str, tuple[Sequence[Label], Sequence[Row]]],
) -> tuple[list[Category], dict[str, tuple[LabelMapping, ...]]]:
    """Return the categories of all sources, and for each source the mappings of its labels, in id order.

    `sets` has the labels of each source and its rows, both in id order. Classes with the same name are one category.

    Raises ValueError, naming the line: labels of one set have the same name; a class is a thing in one source and stuff
    in another; a crowd belongs to stuff, or to a class that no other row has as its target; a union names a class that
    differs only by spelling from one that there is; there are more classes than TAO's 8-bit masks hold.
    """
    classes: dict[str, Category] = {}
    first_rows: dict[str, str] = {}
    for source, (labels, rows) in sets.items():
        given = [label.name for label in labels]
        if twice := sorted({name for name in given if given.count(name) > 1}):
            raise ValueError(f"the config of source {source} names labels twice: {twice}; make the names unique")
        for label, row in zip(labels, rows, strict=True):
            if row.crowd or row.target in (VOID, DROP):
                continue
            isthing = int(label.instances) if row.isthing is None else row.isthing
            first = classes.setdefault(
                row.target,
                {
                    "id": 0,
                    "name": row.target,
                    "supercategory": row.target.partition("--")[0],
                    "isthing": isthing,
                    "color": list(row.color or label.color),
                },
            )
            where = first_rows.setdefault(row.target, row.where)
            if first["isthing"] != isthing:
                kinds = ("stuff", "a thing")
                raise ValueError(
                    f"{row.where}: {row.target!r} is {kinds[isthing]}, but {kinds[first['isthing']]} in {where}; set "
                    "the column isthing of one of the two lines"
                )
    for name, other in names.similar_pairs(classes):
        places = f"{name!a} ({first_rows[name]}) and {other!a} ({first_rows[other]})"
        log.warning("classes %s differ only by blanks, case or punctuation: they are two classes", places)
    if not 1 <= len(classes) <= MAX_CLASSES:
        rule = f"1 to {MAX_CLASSES}, which TAO's 8-bit masks hold"
        raise ValueError(f"{len(classes)} classes, expected {rule}; change the targets in the taxonomies")
    categories = sorted(classes.values(), key=lambda c: not c["isthing"])
    for category_id, category in enumerate(categories, start=1):
        category["id"] = category_id
    by_name = {c["name"]: c for c in categories}
    for row in (row for _, rows in sets.values() for row in rows):
        # Classes of a union that no source has are right: a set may be used alone.
        for name in row.union:
            if name not in by_name and (found := names.similar(name, by_name)):
                problem = f"{name!a} of the union differs only by spelling from the class {found[0]!a}"
                raise ValueError(f"{row.where}: {problem} ({first_rows[found[0]]}); write it alike")
    return categories, {source: tuple(_mapping(row, by_name) for row in rows) for source, (_, rows) in sets.items()}


def _mapping(row: Row, by_name: dict[str, Category]) -> LabelMapping:
    if row.target in (VOID, DROP):
        return LabelMapping(0, dropped=row.target == DROP, union=bool(row.union))
    found = by_name.get(row.target)
    if found is None:
        hint = names.hint(row.target, by_name)
        raise ValueError(
            f"{row.where}: a crowd of {row.target!r}, but no other line has that target{hint}; correct the line"
        )
    if row.crowd and not found["isthing"]:
        raise ValueError(f"{row.where}: a crowd of {row.target!r}, which is stuff and has no crowds; correct the line")
    return LabelMapping(found["id"], iscrowd=row.crowd)


@dataclass(frozen=True)
class Coverage:
    """What a source labels of the classes."""

    everywhere: tuple[Category, ...]
    """Classes whose every pixel has them: a label becomes the class, and no other label covers it with others."""
    partly: tuple[Category, ...]
    """Classes that a label becomes, while another label covers them together with other classes."""
    never: tuple[Category, ...]
    """Classes that no label becomes."""


def coverage(rows: Sequence[Row], categories: Sequence[Category]) -> Coverage:
    """Return which classes a source with these rows labels."""
    targets = {row.target for row in rows if not row.crowd}
    united = {name for row in rows for name in row.union}
    return Coverage(
        tuple(c for c in categories if c["name"] in targets - united),
        tuple(c for c in categories if c["name"] in targets & united),
        tuple(c for c in categories if c["name"] not in targets),
    )
