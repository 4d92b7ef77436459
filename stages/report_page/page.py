"""Fills the templates of the page from its sources."""

from pathlib import Path

import jinja2
import yaml

from stages import config
from stages.report_page import figures, pictures, pipeline, tables
from stages.report_page.sources import Sources

TEMPLATES = Path(__file__).with_name("templates")
SECTIONS = ("pictures", "pipeline", "data", "training", "accuracy", "graph", "engines", "speed", "parameters")
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
    cfg = sources.cfg
    params = config.plain(cfg)
    rows, legend = pictures.rows(sources)
    timed = {name: sources.measured("benchmark", name) for name in cfg.runnable}
    return {
        "sections": SECTIONS,
        "cfg": cfg,
        "generated": cfg.data.root == SAMPLE,
        "tiles": tables.tiles(sources),
        "columns": pictures.columns(sources),
        "rows": rows,
        "legend": [{**c, "short": tables.short(c["name"])} for c in legend],
        "dag": pipeline.svg(sources.pipeline),
        "data": sources.statistics,
        "classes": {split: class_figures(sources, split) for split in ("train", "val")},
        "history": sources.history,
        "losses": figures.losses(sources.history) if sources.history else "",
        "miou": figures.miou(sources.history) if any("val_miou" in row for row in sources.history) else "",
        "evaluated": sources.metric("evaluate"),
        "per_class": tables.per_class(sources),
        "graphs": tables.graphs(sources),
        "transfers": tables.transfers(sources),
        "engines": tables.engines(sources),
        "hosts": tables.hosts(sources),
        "origins": tables.origins(sources),
        "timed": {name: found for name, found in timed.items() if found},
        "untimed": [name for name, found in timed.items() if not found],
        "latency": {
            name: figures.latency(f"latency {name}", found, f"engine {name}") for name, found in timed.items() if found
        },
        "colors": {"thing": figures.THING, "stuff": figures.STUFF, "engine": figures.ENGINE, "eager": figures.EAGER},
        "params": yaml.safe_dump(params, sort_keys=False, allow_unicode=True, width=100),
    }


def class_figures(sources: Sources, split: str) -> dict[str, object]:
    """Plot labelled pixels and segments by class of a split, at most tables.MAX_BARS each."""
    area, count = (tables.by_class(sources, split, quantity) for quantity in ("pixels", "segments"))
    total = sum(area.values())
    share = {class_id: 100 * pixels / total for class_id, pixels in area.items()}
    return {
        "shown": min(len(area), tables.MAX_BARS),
        "present": len(area),
        "pixels": figures.by_class(f"pixels {split}", tables.bars(sources, share), "share of labelled pixels, %", 1),
        "segments": figures.by_class(f"segments {split}", tables.bars(sources, count), "segments", 0),
    }
