"""Draws the pipeline: DVC resolves the stages of dvc.yaml, and each becomes a box of a diagram."""

from dataclasses import dataclass
from pathlib import Path

import networkx
from markupsafe import Markup

from stages.foundation import dvc_project
from stages.report_page import diagram


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


def read(dvc_yaml: Path) -> Pipeline:
    """Return the stages of dvc.yaml as DVC resolves them with the params.yaml beside it.

    DVC only reads, so this works inside a running stage. Raises RuntimeError with DVC's message, and FileNotFoundError
    where there is no DVC project or no stage.
    """
    path = dvc_yaml.resolve()
    with dvc_project.opened(path.parent) as repo:
        # DVC's edges lead from a stage to those that it depends on.
        resolved = repo.index.graph.reverse()
    # Data that DVC tracks without a stage, and stages of another dvc.yaml, are left out.
    found = [stage for stage in resolved if stage.path == str(path)]
    if not found:
        raise FileNotFoundError(f"{dvc_yaml} has no stages; name the project's dvc.yaml")
    reduced = networkx.transitive_reduction(resolved.subgraph(found))
    return Pipeline(
        [Stage(stage.name, stage.desc or "", [output.def_path for output in stage.outs]) for stage in found],
        sorted((earlier.name, later.name) for earlier, later in reduced.edges),
    )


def boxes(pipeline: Pipeline) -> list[diagram.Box]:
    """Return a box per stage: its name, and below it its item, such as cpu of engine@cpu, or else its first output."""
    return [_box(stage) for stage in pipeline.stages]


def _box(stage: Stage) -> diagram.Box:
    name, _, label = stage.name.partition("@")
    if not label and stage.outputs:
        first = Path(stage.outputs[0].removeprefix("data/"))
        label = first.name if first.suffix else str(first)
    tooltip = f"{stage.name}: {stage.description}; {', '.join(stage.outputs)}"
    return diagram.Box(stage.name, name, [label], tooltip)


def svg(pipeline: Pipeline) -> Markup:
    """Draw a pipeline as an <svg>; a tooltip has a stage's full name, its description and its outputs."""
    order = "; ".join(f"{earlier} before {later}" for earlier, later in pipeline.edges)
    return diagram.svg(
        "pipeline-graph", "Stages of the pipeline and their order", order, boxes(pipeline), pipeline.edges
    )
