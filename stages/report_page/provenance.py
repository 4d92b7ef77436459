"""Draws what engines were made from, from the data to each engine, with the hashes that the files pass on."""

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from stages.inference.description import Description
from stages.report_page import diagram
from stages.report_page.targets import State, TargetState

HASH_CHARACTERS = 10
"""Beginning of a SHA-256 in the drawing."""


@dataclass(frozen=True)
class Origin:
    """A file that engines were made from, or an engine."""

    kind: str
    name: str
    sha256: str


def origins(graphs: Mapping[str, Description], states: Mapping[str, TargetState]) -> list[Origin]:
    """Return the files from data to engines, each with its SHA-256. `graphs` has the keys variant/precision."""
    found: dict[tuple[str, str], Origin] = {}
    for graph in graphs.values():
        for key, sha256 in graph.provenance.items():
            name = key.removesuffix("_sha256").replace("_", " ")
            kind = "data" if name.startswith(("train ", "val ", "label ")) else "training"
            found[name, sha256] = Origin(kind, name, sha256)
    rows = [*found.values(), *(Origin("graph", name, graph.sha256) for name, graph in graphs.items())]
    engines = [(name, state.engine) for name, state in states.items() if state.engine]
    return rows + [Origin("engine", name, engine["engine_sha256"]) for name, engine in engines]


def svg(
    sources: Mapping[str, str],
    graphs: Mapping[str, Description],
    states: Mapping[str, TargetState],
    wanted: Mapping[str, str],
) -> Markup:
    """Draw data, checkpoint, graphs and engines as an <svg>.

    `sources` is the name of each raw set and its version, `wanted` the graph of each target. An engine of another graph
    than today's has no arrow to it.
    """
    boxes: dict[str, diagram.Box] = {}
    edges: dict[tuple[str, str], None] = {}
    raw = [f"raw {name}" for name in sources]
    for key, (name, version) in zip(raw, sources.items(), strict=True):
        boxes[key] = diagram.Box(key, name, ["raw set", version or "version not stated"])
    used = {name: graph for name, graph in graphs.items() if name in wanted.values()}
    for name, graph in used.items():
        checkpoint = _training(boxes, edges, raw, graph.provenance)
        boxes[name] = _box(name, f"ONNX {name}", "graph", graph.sha256)
        edges[checkpoint, name] = None
    for name, state in states.items():
        key, graph_name = f"engine {name}", wanted[name]
        engine = state.engine
        where = [f"{state.state.value}{f' {state.date}' if state.date and not state.timed_only else ''}"]
        sha256 = engine["engine_sha256"] if engine else ""
        boxes[key] = _box(key, f"engine {name}", where[0], sha256, state.state.name.replace("_", "-"))
        if graph_name in used and (
            state.state is not State.stale or (engine or {}).get("graph_sha256") == used[graph_name].sha256
        ):
            edges[graph_name, key] = None
    order = "; ".join(f"{boxes[start].title} before {boxes[end].title}" for start, end in edges)
    return diagram.svg("provenance-graph", "What each engine was made from", order, list(boxes.values()), list(edges))


def _training(
    boxes: dict[str, diagram.Box], edges: dict[tuple[str, str], None], raw: list[str], provenance: Mapping[str, str]
) -> str:
    """Add the boxes of the converted sets and of the checkpoint, with their arrows; return the checkpoint's key."""
    hashes = {key.removesuffix("_sha256"): sha256 for key, sha256 in provenance.items()}
    weights = hashes.get("checkpoint", "")
    checkpoint = f"checkpoint {weights}"
    boxes[checkpoint] = _box(checkpoint, "checkpoint", "weights", weights)
    for name, label in (("train_panoptic", "training set"), ("val_panoptic", "validation set"), ("spec", "TAO's spec")):
        if name in hashes:
            key = f"{name} {hashes[name]}"
            boxes[key] = _box(key, label, "COCO panoptic" if name != "spec" else "parameters", hashes[name])
            edges[key, checkpoint] = None
            if name != "spec":
                edges |= dict.fromkeys((each, key) for each in raw)
    return checkpoint


def _box(key: str, title: str, line: str, sha256: str, style: str = "") -> diagram.Box:
    return diagram.Box(
        key, title, [line, sha256[:HASH_CHARACTERS] or "no file"], f"{title}: SHA-256 {sha256 or 'none'}", style
    )
