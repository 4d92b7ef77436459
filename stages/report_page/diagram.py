"""Draws boxes and arrows as an <svg>: grandalf places them in columns, from left to right.

grandalf.layouts.SugiyamaLayout places layers from top to bottom, after Sugiyama et al. (1981), with coordinates after
Brandes and Köpf (2001). Here x and y change places, so that the layers are columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from grandalf.graphs import Edge, Graph, Vertex
from grandalf.layouts import SugiyamaLayout, VertexViewer
from markupsafe import Markup, escape

GAP_X_PX, GAP_Y_PX, MARGIN_PX = 38, 18, 4
LANE_HEIGHT_PX = 16
"""Height that an edge takes in a column that it passes."""
LINE_PX, PADDING_PX = 16, 14
"""Height of a line of text in a box, and of what is above and below all lines."""
MIN_BOX_WIDTH_PX, TITLE_CHARACTER_PX, CHARACTER_PX = 124, 8.6, 6.6
"""A box is at least as wide as the first. A wider one holds the longest text, at the width of its characters."""
MAX_CHARACTERS = 26
"""Longest line under a title. A longer one loses its beginning."""

Point = tuple[float, float]
"""x and y in pixels of the drawing."""


@dataclass(frozen=True)
class Box:
    """A box of a diagram."""

    key: str
    title: str
    lines: Sequence[str] = ()
    """Small lines under the title."""
    tooltip: str = ""
    style: str = ""
    """Class of the style sheet."""


@dataclass(frozen=True)
class Layout:
    """Places of boxes and arrows in the drawing."""

    boxes: dict[str, Point]
    """Centre of each box, by the box's key."""
    routes: dict[tuple[str, str], list[Point]]
    """Keys of an arrow's start and end -> centres of the boxes, and the points between where it passes a column."""
    box_width: float
    box_height: float
    width: float
    height: float


class _Route:
    """Receives the route of an edge from grandalf: the centres of its ends, and of the places between."""

    def setpath(self, points: list[Point]) -> None:
        self.points = points


def arrange(boxes: Sequence[Box], edges: Sequence[tuple[str, str]]) -> Layout:
    """Place boxes from left to right with few crossings. Parts without a connection are below each other."""
    widest = max(
        max(TITLE_CHARACTER_PX * len(box.title), *(CHARACTER_PX * len(_cut(line)) for line in box.lines), 0)
        for box in boxes
    )
    box_width = max(MIN_BOX_WIDTH_PX, round(widest + 14))
    box_height = PADDING_PX + LINE_PX * (1 + max(len(box.lines) for box in boxes))
    vertices = {box.key: Vertex(box.key) for box in boxes}
    for vertex in vertices.values():
        vertex.view = VertexViewer(w=box_height, h=box_width)
    lines = [Edge(vertices[start], vertices[end]) for start, end in edges]
    for line in lines:
        line.view = _Route()
    places: dict[str, Point] = {}
    routes: dict[tuple[str, str], list[Point]] = {}
    width, top = 0.0, float(MARGIN_PX)
    for component in Graph(list(vertices.values()), lines).C:
        layout = SugiyamaLayout(component)
        layout.xspace, layout.yspace, layout.dw = GAP_Y_PX, GAP_X_PX, LANE_HEIGHT_PX
        layout.init_all()
        layout.draw()
        views = [place.view for column in layout.layers for place in column]
        shift = top - min(place.xy[0] - place.w / 2 for place in views)
        for vertex in component.V():
            across, along = vertex.view.xy
            places[vertex.data] = (along + MARGIN_PX, across + shift)
        for edge in component.E():
            ends = edge.v[0].data, edge.v[1].data
            routes[ends] = [(along + MARGIN_PX, across + shift) for across, along in edge.view.points]
        width = max(width, *(place.xy[1] + place.h / 2 + 2 * MARGIN_PX for place in views))
        top = max(place.xy[0] + place.w / 2 for place in views) + shift + GAP_Y_PX
    return Layout(places, routes, box_width, box_height, width, top - GAP_Y_PX + MARGIN_PX)


def svg(name: str, title: str, description: str, boxes: Sequence[Box], edges: Sequence[tuple[str, str]]) -> Markup:
    """Draw boxes and arrows as an <svg> with a title and a description; `name` is unique in the page."""
    layout = arrange(boxes, edges)
    parts = [
        f'<svg class="diagram" viewBox="0 0 {layout.width:g} {layout.height:g}" style="width:{layout.width:g}px" '
        f'role="img" aria-labelledby="{name}-title {name}-desc">',
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>',
        f'<defs><marker id="{name}-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0,0.8 L7.5,4 L0,7.2 z"/></marker></defs>',
    ]
    parts += [
        f'<path class="edge" marker-end="url(#{name}-arrow)" d="{_path(layout.routes[edge], layout.box_width)}"/>'
        for edge in edges
    ]
    parts += [_box(box, layout) for box in boxes]
    return Markup("\n".join([*parts, "</svg>"]))


def _path(route: list[Point], box_width: float) -> str:
    """Return the edge as an SVG path: a curve in each gap between columns, a straight line through a column."""
    (x, y), *others = route
    path = f"M{x + box_width / 2:g},{y:g}"
    for number, (x, next_y) in enumerate(others, start=1):
        left = x - box_width / 2
        middle = left - GAP_X_PX / 2
        path += f" C{middle:g},{y:g} {middle:g},{next_y:g} {left:g},{next_y:g}"
        if number < len(others):
            path += f" H{x + box_width / 2:g}"
        y = next_y
    return path


def _box(box: Box, layout: Layout) -> str:
    x, y = layout.boxes[box.key]
    left, top = x - layout.box_width / 2, y - layout.box_height / 2
    # The lines together are in the middle of the box.
    first = y + 4 - LINE_PX * len(box.lines) / 2
    texts = [f'<text class="title" x="{x:g}" y="{first:g}">{escape(box.title)}</text>']
    texts += [
        f'<text x="{x:g}" y="{first + LINE_PX * number:g}">{escape(_cut(line))}</text>'
        for number, line in enumerate(box.lines, start=1)
    ]
    return (
        f'<g class="box {box.style}"><title>{escape(box.tooltip or box.title)}</title>'
        f'<rect x="{left:g}" y="{top:g}" width="{layout.box_width:g}" height="{layout.box_height:g}" rx="5"/>'
        f"{''.join(texts)}</g>"
    )


def _cut(line: str) -> str:
    return line if len(line) <= MAX_CHARACTERS else "…" + line[1 - MAX_CHARACTERS :]
