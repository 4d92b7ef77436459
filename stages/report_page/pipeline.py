"""The pipeline as a graph: the stages of dvc.yaml, expanded as DVC does, and a layered drawing of them."""

import itertools
import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup, escape

BOX_W, BOX_H, GAP_X, GAP_Y, LANE_H, MARGIN = 124, 46, 38, 20, 16, 4
MOST_CHARACTERS = 20
"""Of the line under a stage's name."""
CHARACTER_W = 8
"""At most, of a stage's name without its item."""
TRIES = 200
"""Orders tried for one with few crossings."""


@dataclass
class Stage:
    """A stage after expansion, such as engine@cpu."""

    name: str
    desc: str
    deps: list[str]
    outs: list[str]
    """Outputs and metrics files."""
    before: set[str] = field(default_factory=set)
    """Stages that it takes its inputs from, without those implied by others."""


def read(dvc_yaml: Path, params: dict[str, Any]) -> list[Stage]:
    """Stages of a dvc.yaml in its order, `foreach` and `matrix` expanded with the parameters."""
    stages: list[Stage] = []
    for name, content in yaml.safe_load(dvc_yaml.read_text(encoding="utf-8"))["stages"].items():
        for suffix, body, context in _expand(content, params):
            outs = [*body.get("outs", []), *body.get("metrics", [])]
            paths = [_fill(next(iter(out)) if isinstance(out, dict) else out, context) for out in outs]
            deps = [_fill(dep, context) for dep in body.get("deps", [])]
            stages.append(Stage(name + suffix, body.get("desc", ""), deps, paths))
    reach: dict[str, set[str]] = {}
    for stage in stages:
        direct = {
            s.name for s in stages if s is not stage and any(map(_overlap, itertools.product(stage.deps, s.outs)))
        }
        reach[stage.name] = direct
    ancestors = {name: _ancestors(name, reach) for name in reach}
    for stage in stages:
        direct = reach[stage.name]
        stage.before = {d for d in direct if not any(d in ancestors[other] for other in direct)}
    return stages


def _expand(content: dict[str, Any], params: dict[str, Any]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(suffix of the name, body, variables) of each stage that an entry of dvc.yaml stands for."""
    if "foreach" in content:
        over = _value(content["foreach"], params)
        pairs = over.items() if isinstance(over, dict) else [(item, item) for item in over]
        return [(f"@{key}", content["do"], {**params, "key": key, "item": item}) for key, item in pairs]
    if "matrix" in content:
        axes = {axis: _value(values, params) for axis, values in content["matrix"].items()}
        items = [dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*axes.values())]
        return [("@" + "-".join(map(str, item.values())), content, {**params, "item": item}) for item in items]
    return [("", content, params)]


def _value(template: Any, context: dict[str, Any]) -> Any:
    """What a `${key.key}` stands for; anything else is itself."""
    found = re.fullmatch(r"\$\{([\w.]+)\}", template) if isinstance(template, str) else None
    return _look_up(found[1], context) if found else template


def _fill(text: str, context: dict[str, Any]) -> str:
    return re.sub(r"\$\{([\w.]+)\}", lambda found: str(_look_up(found[1], context)), text)


def _look_up(key: str, context: dict[str, Any]) -> Any:
    value: Any = context
    for part in key.split("."):
        value = value[part]
    return value


def _overlap(paths: tuple[str, str]) -> bool:
    """Whether one path is the other one or inside it."""
    a, b = (Path(p).parts for p in paths)
    return a[: len(b)] == b[: len(a)]


def _ancestors(name: str, before: dict[str, set[str]]) -> set[str]:
    return before[name] | {a for b in before[name] for a in _ancestors(b, before)}


def layers(stages: list[Stage]) -> list[list[str]]:
    """Columns of the drawing, each from the top down.

    A stage stands one column after the last of its predecessors. An edge over several columns holds a place in each
    one between, named `from>to`, so that it meets no box.
    """
    before = {s.name: sorted(s.before) for s in stages}
    depth: dict[str, int] = {}
    while len(depth) < len(stages):
        for name in before:
            if name not in depth and all(b in depth for b in before[name]):
                depth[name] = 1 + max((depth[b] for b in before[name]), default=-1)
    columns: list[list[str]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
    for name, column in depth.items():
        columns[column].append(name)
    links: list[list[tuple[str, str]]] = [[] for _ in columns]
    for name in before:
        for b in before[name]:
            path = [b, *(f"{b}>{name}" for _ in range(depth[b] + 1, depth[name])), name]
            for column, (start, end) in enumerate(itertools.pairwise(path), start=depth[b]):
                links[column].append((start, end))
                if end != name:
                    columns[column + 1].append(end)
    return _untangled(columns, links)


def _untangled(columns: list[list[str]], links: list[list[tuple[str, str]]]) -> list[list[str]]:
    """The columns in an order with few crossings; links[k] are the edges from column k to the next.

    Sorts each column by the mean place of its neighbours to the left, from several starting orders.
    """
    best, fewest = columns, sum(map(_crossings, columns, columns[1:], links))
    chance = random.Random(0)
    for _ in range(TRIES):
        if not fewest:
            break
        tried = [chance.sample(column, len(column)) for column in columns]
        for k, column in enumerate(tried[1:]):
            height = {place: (i + 0.5) / len(tried[k]) for i, place in enumerate(tried[k])}
            means = {}
            for place in column:
                found = [height[start] for start, end in links[k] if end == place]
                means[place] = sum(found) / len(found) if found else 0.5
            column.sort(key=means.__getitem__)
        crossings = sum(map(_crossings, tried, tried[1:], links))
        if crossings < fewest:
            best, fewest = tried, crossings
    return best


def _crossings(left: list[str], right: list[str], links: list[tuple[str, str]]) -> int:
    places = [(left.index(start), right.index(end)) for start, end in links]
    return sum((a[0] - b[0]) * (a[1] - b[1]) < 0 for a, b in itertools.combinations(places, 2))


def svg(stages: list[Stage]) -> Markup:
    """An <svg> of the stages from left to right; a tooltip has the full name, what a stage does and its outputs."""
    columns = layers(stages)
    heights = [sum(LANE_H if ">" in p else BOX_H for p in c) + GAP_Y * (len(c) - 1) for c in columns]
    box_w = max(BOX_W, CHARACTER_W * max(len(stage.name.partition("@")[0]) for stage in stages) + 12)
    height, width = max(heights) + 2 * MARGIN, len(columns) * (box_w + GAP_X) - GAP_X + 2 * MARGIN
    at: dict[tuple[str, int], float] = {}
    for k, column in enumerate(columns):
        y = (height - heights[k]) / 2
        for place in column:
            size = LANE_H if ">" in place else BOX_H
            at[place, k] = y + size / 2
            y += size + GAP_Y
    column_of = {place: k for (place, k) in at if ">" not in place}
    parts = [f'<svg class="dag" viewBox="0 0 {width} {height:g}" role="img" aria-label="stages and their order">']
    for stage in stages:
        for b in sorted(stage.before):
            route = [(k, at[f"{b}>{stage.name}", k]) for k in range(column_of[b] + 1, column_of[stage.name])]
            start, end = ((column_of[name], at[name, column_of[name]]) for name in (b, stage.name))
            parts.append(f'<path class="edge" d="{_path([start, *route, end], box_w)}"/>')
    for stage in stages:
        k = column_of[stage.name]
        parts.append(_box(stage, _left(k, box_w), at[stage.name, k] - BOX_H / 2, box_w))
    return Markup("\n".join([*parts, "</svg>"]))


def _left(column: int, box_w: int) -> int:
    return MARGIN + column * (box_w + GAP_X)


def _path(points: list[tuple[int, float]], box_w: int) -> str:
    """A curve in each gap between columns, and a straight line through a column that it passes."""
    d = f"M{_left(points[0][0], box_w) + box_w},{points[0][1]:g}"
    for (_, y0), (column, y1) in itertools.pairwise(points):
        x1 = _left(column, box_w)
        middle = x1 - GAP_X / 2
        d += f" C{middle:g},{y0:g} {middle:g},{y1:g} {x1},{y1:g}"
        if column != points[-1][0]:
            d += f" H{x1 + box_w}"
    return d


def _box(stage: Stage, x: float, y: float, box_w: int) -> str:
    """Under its name stands what an expanded stage is for, such as cpu of engine@cpu, or the first output."""
    name, _, label = stage.name.partition("@")
    if not label and stage.outs:
        first = Path(stage.outs[0].removeprefix("data/"))
        label = first.name if first.suffix else str(first)
    if len(label) > MOST_CHARACTERS:
        label = "…" + label[1 - MOST_CHARACTERS :]
    middle = x + box_w / 2
    return (
        f"<g><title>{escape(stage.name)}: {escape(stage.desc)}; {escape(', '.join(stage.outs))}</title>"
        f'<rect x="{x:g}" y="{y:g}" width="{box_w}" height="{BOX_H}" rx="5"/>'
        f'<text class="stage" x="{middle:g}" y="{y + 20:g}">{escape(name)}</text>'
        f'<text class="out" x="{middle:g}" y="{y + 36:g}">{escape(label)}</text></g>'
    )
