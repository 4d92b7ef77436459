"""Draws the pipeline: DVC resolves the stages of dvc.yaml, grandalf places them, and the result is an <svg>.

grandalf.layouts.SugiyamaLayout places layers from top to bottom, after Sugiyama et al. (1981), with coordinates after
Brandes and Köpf (2001). Here x and y change places, so that the layers are columns.
"""

from dataclasses import dataclass
from pathlib import Path

import networkx
from grandalf.graphs import Edge, Graph, Vertex
from grandalf.layouts import SugiyamaLayout, VertexViewer
from markupsafe import Markup, escape

BOX_HEIGHT_PX, GAP_X_PX, GAP_Y_PX, MARGIN_PX = 46, 38, 20, 4
LANE_HEIGHT_PX = 16
"""Height that an edge takes in a column that it passes."""
MIN_BOX_WIDTH_PX, CHARACTER_WIDTH_PX = 124, 8
"""A box is at least as wide as the first. A wider one holds the longest name, at the second per character."""
MAX_LABEL_CHARACTERS = 20
"""Longest label under the name of a stage. A longer label loses its beginning."""

Point = tuple[float, float]
"""x and y in pixels of the drawing."""


@dataclass(frozen=True)
class Stage:
    """A stage as DVC resolves it."""

    name: str
    """With its item, such as engine@cpu."""
    description: str
    outputs: list[str]
    """Paths of outputs and metrics files, as dvc.yaml writes them."""


@dataclass(frozen=True)
class Pipeline:
    """Stages in the order of dvc.yaml, and their dependencies."""

    stages: list[Stage]
    edges: list[tuple[str, str]]
    """Names of an earlier and a later stage, without the dependencies that follow from others."""


@dataclass(frozen=True)
class Layout:
    """Places of stages and dependencies in the drawing."""

    boxes: dict[str, Point]
    """Centre of each stage's box, by the stage's name."""
    routes: dict[tuple[str, str], list[Point]]
    """(earlier stage, later stage) -> centres of the boxes, and the points between where the edge passes a column."""
    box_width: float
    width: float
    height: float


class _Route:
    """Receives the route of an edge from grandalf: the centres of its ends, and of the places between."""

    def setpath(self, points: list[Point]) -> None:
        self.points = points


def read(dvc_yaml: Path) -> Pipeline:
    """Return the stages of dvc.yaml as DVC resolves them with the params.yaml beside it.

    DVC only reads, so this works inside a running stage. Raises RuntimeError with DVC's message, and FileNotFoundError
    where there is no DVC project or no stage.
    """
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    path = dvc_yaml.resolve()
    try:
        with Repo(str(path.parent)) as repo:
            # DVC's edges lead from a stage to those that it depends on.
            resolved = repo.index.graph.reverse()
    except NotDvcRepoError as error:
        raise FileNotFoundError(f"{dvc_yaml} is not in a DVC project; run in the project's folder") from error
    except DvcException as error:
        raise RuntimeError(f"{dvc_yaml}: DVC can't resolve its stages: {error}; correct dvc.yaml") from error
    # Data that DVC tracks without a stage, and stages of another dvc.yaml, are left out.
    found = [stage for stage in resolved if stage.path == str(path)]
    if not found:
        raise FileNotFoundError(f"{dvc_yaml} has no stages; name the project's dvc.yaml")
    reduced = networkx.transitive_reduction(resolved.subgraph(found))
    return Pipeline(
        [Stage(stage.name, stage.desc or "", [output.def_path for output in stage.outs]) for stage in found],
        sorted((earlier.name, later.name) for earlier, later in reduced.edges),
    )


def arrange(pipeline: Pipeline) -> Layout:
    """Place the stages from left to right with few crossings. Separate parts of the pipeline are below each other."""
    longest = max(len(stage.name.partition("@")[0]) for stage in pipeline.stages)
    box_width = max(MIN_BOX_WIDTH_PX, CHARACTER_WIDTH_PX * longest + 12)
    vertices = {stage.name: Vertex(stage.name) for stage in pipeline.stages}
    for vertex in vertices.values():
        vertex.view = VertexViewer(w=BOX_HEIGHT_PX, h=box_width)
    lines = [Edge(vertices[earlier], vertices[later]) for earlier, later in pipeline.edges]
    for line in lines:
        line.view = _Route()
    boxes: dict[str, Point] = {}
    routes: dict[tuple[str, str], list[Point]] = {}
    width, top = 0.0, float(MARGIN_PX)
    for component in Graph(list(vertices.values()), lines).C:
        layout = SugiyamaLayout(component)
        layout.xspace, layout.yspace, layout.dw = GAP_Y_PX, GAP_X_PX, LANE_HEIGHT_PX
        layout.init_all()
        layout.draw()
        places = [place.view for column in layout.layers for place in column]
        shift = top - min(place.xy[0] - place.w / 2 for place in places)
        for vertex in component.V():
            across, along = vertex.view.xy
            boxes[vertex.data] = (along + MARGIN_PX, across + shift)
        for edge in component.E():
            ends = edge.v[0].data, edge.v[1].data
            routes[ends] = [(along + MARGIN_PX, across + shift) for across, along in edge.view.points]
        width = max(width, *(place.xy[1] + place.h / 2 + 2 * MARGIN_PX for place in places))
        top = max(place.xy[0] + place.w / 2 for place in places) + shift + GAP_Y_PX
    return Layout(boxes, routes, box_width, width, top - GAP_Y_PX + MARGIN_PX)


def svg(pipeline: Pipeline) -> Markup:
    """Draw a pipeline as an <svg>; a tooltip has a stage's full name, its description and its outputs."""
    layout = arrange(pipeline)
    parts = [
        f'<svg class="dag" viewBox="0 0 {layout.width:g} {layout.height:g}" role="img" '
        'aria-label="stages and their order">'
    ]
    parts += [f'<path class="edge" d="{_path(layout.routes[edge], layout.box_width)}"/>' for edge in pipeline.edges]
    parts += [_box(stage, layout.boxes[stage.name], layout.box_width) for stage in pipeline.stages]
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


def _box(stage: Stage, center: Point, width: float) -> str:
    """Return a stage's box: its name, and below it its item, such as cpu of engine@cpu, or else its first output."""
    name, _, label = stage.name.partition("@")
    if not label and stage.outputs:
        first = Path(stage.outputs[0].removeprefix("data/"))
        label = first.name if first.suffix else str(first)
    if len(label) > MAX_LABEL_CHARACTERS:
        label = "…" + label[1 - MAX_LABEL_CHARACTERS :]
    x, y = center
    return (
        f"<g><title>{escape(stage.name)}: {escape(stage.description)}; {escape(', '.join(stage.outputs))}</title>"
        f'<rect x="{x - width / 2:g}" y="{y - BOX_HEIGHT_PX / 2:g}" width="{width:g}" height="{BOX_HEIGHT_PX}" rx="5"/>'
        f'<text class="stage" x="{x:g}" y="{y - 3:g}">{escape(name)}</text>'
        f'<text class="out" x="{x:g}" y="{y + 13:g}">{escape(label)}</text></g>'
    )
