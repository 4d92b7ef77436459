"""Fills the templates of the page from its sources."""

from pathlib import Path

import jinja2
import yaml

from stages import config
from stages.report_page import confusion, differences, figures, pictures, pipeline, provenance, tables, targets
from stages.report_page.sources import Sources

TEMPLATES = Path(__file__).with_name("templates")
SECTIONS = (
    "pictures", "accuracy", "differences", "targets", "speed", "data", "training", "graph", "provenance", "pipeline",
    "parameters",
)  # fmt: skip
"""Sections in the order of the page; each has a template of its name."""
SAMPLE = "data/raw/sample"
"""Folder of the generated scenes, which the stage sample writes."""


def render(sources: Sources) -> str:
    """Return the HTML page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["num"] = tables.number
    return environment.get_template("page.html.j2").render(context(sources))


def context(sources: Sources) -> dict[str, object]:
    """Return the variables of the templates."""
    cfg, states = sources.cfg, sources.states
    rows, legend = pictures.rows(sources)
    sizes = {split: sources.statistics[split]["instances_by_side_px"] for split in ("train", "val")}
    wanted = {name: targets.graph_name(target) for name, target in cfg.targets.items()}
    latencies = {title: tables.distributions(states, scope) for title, scope in tables.SCOPES.items()}
    return {
        "sections": SECTIONS,
        "cfg": cfg,
        "generated": cfg.data.root == SAMPLE,
        "tiles": tables.tiles(sources),
        "columns": pictures.columns(sources),
        "rows": rows,
        "legend": [{**c, "short": tables.short(c["name"])} for c in legend],
        "worst": pictures.worst(sources),
        "difference_kinds": [{"name": name, "color": color} for name, color in differences.KINDS.values()],
        "dag": pipeline.svg(sources.pipeline),
        "data": sources.statistics,
        "classes": tables.classes(sources),
        "sizes": figures.sizes(sizes) if any(sizes.values()) else "",
        "history": sources.history,
        "losses": figures.losses(sources.history) if sources.history else "",
        "miou": figures.miou(sources.history) if any("val_miou" in row for row in sources.history) else "",
        "evaluated": sources.metric("evaluate"),
        "by_source": tables.by_source(sources.metric("evaluate")),
        "per_class": tables.per_class(sources),
        "confusion": confusion.svg(sources.confusion, tables.confusion_classes(sources)) if sources.confusion else "",
        "confusions": tables.confusions(sources),
        "graphs": tables.graphs(sources),
        "transfers": tables.transfers(sources),
        "targets": tables.target_rows(states, cfg),
        "timed": {name: state.timed for name, state in states.items() if state.timed},
        "distributions": [
            (title, figures.distribution(f"latencies {title}", lines)) for title, lines in latencies.items() if lines
        ],
        "provenance": provenance.svg(sources.raw_sets, sources.descriptions, states, wanted),
        "origins": provenance.origins(sources.descriptions, states),
        "machines": tables.machines(states),
        "code": tables.code(states),
        "versions": tables.versions(),
        "colors": {"thing": figures.THING, "stuff": figures.STUFF, "engine": figures.ENGINE, "eager": figures.EAGER},
        "params": yaml.safe_dump(config.plain(cfg), sort_keys=False, allow_unicode=True, width=100),
    }
