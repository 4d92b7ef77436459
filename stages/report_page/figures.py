"""Plots as inline SVG, drawn by Matplotlib without a display."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

INK, MUTED, RULE = "#1c2127", "#5a6472", "#e2e6ea"
ENGINE, EAGER = "#1f6fb2", "#8a95a3"
TRAIN, VALIDATION = "#8a95a3", "#7b4fa3"
THING, STUFF = "#d0722a", "#2f8474"

WIDTH_IN = 5.7
STYLE: Any = {  # Matplotlib has a type of its own for these keys.
    "svg.fonttype": "none",
    "font.size": 8.5,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


def losses(history: Sequence[Mapping[str, float]]) -> Markup:
    """Plot training and validation loss over the epochs."""
    lines = [("training", "train_loss", TRAIN, ""), ("validation", "val_loss", VALIDATION, "o")]
    return _curves("losses", history, lines, "loss", 1)


def miou(history: Sequence[Mapping[str, float]]) -> Markup:
    """Plot TAO's own mIoU of the validation set over the epochs, in percent. TAO writes fractions."""
    return _curves("miou", history, [("validation", "val_miou", VALIDATION, "o")], "mIoU, %", 100)


def _curves(
    name: str,
    history: Sequence[Mapping[str, float]],
    lines: Sequence[tuple[str, str, str, str]],
    ylabel: str,
    factor: float,
) -> Markup:
    """Plot factor * history[i][key] over the epochs for each of `lines`: (label, key, colour, marker)."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 2.6), layout="constrained")
        axes = figure.add_subplot()
        for label, key, color, marker in lines:
            points = [(row["epoch"], factor * row[key]) for row in history if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=4, label=label)
        axes.set(xlabel="epoch", ylabel=ylabel, xlim=(0, None), ylim=(0, None))
        if len(lines) > 1:
            axes.legend(loc="best")
        return _svg(figure, name)


def by_class(name: str, bars: Sequence[tuple[str, bool, float]], xlabel: str, decimals: int) -> Markup:
    """Plot horizontal bars, from the first at the top: (class, whether it is a thing, value)."""
    from matplotlib.patches import Patch

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 0.75 + 0.178 * len(bars)), layout="constrained")
        axes = figure.add_subplot()
        values = [value for _, _, value in bars]
        colors = [THING if is_thing else STUFF for _, is_thing, _ in bars]
        drawn = axes.barh(range(len(bars)), values, color=colors, height=0.66)
        axes.bar_label(drawn, [f"{v:,.{decimals}f}" for v in values], padding=3, color=MUTED, fontsize=7.5)
        axes.set_yticks(range(len(bars)), [escape_dollar(label) for label, _, _ in bars])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.grid(False, axis="y")
        axes.set(xlabel=xlabel, ylim=(len(bars) - 0.4, -0.6), xlim=(0, 1.12 * max(values, default=1) or 1))
        axes.legend(handles=[Patch(color=THING, label="thing"), Patch(color=STUFF, label="stuff")], loc="lower right")
        return _svg(figure, name)


def latency(name: str, timed: dict[str, Any], engine_label: str) -> Markup:
    """Plot latencies in ms: a bar to the median, and a line with ticks at the 90th and the 99th percentile.

    `timed` is the content of benchmark_TARGET.json.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, 2.3), layout="constrained")
        axes = figure.add_subplot()
        labels, y, top = [], 0.0, max(timed[who]["end_to_end"]["p99_ms"] for who in ("engine", "eager") if who in timed)
        places = []
        for scope, title in (("end_to_end", "end to end"), ("network", "network")):
            for who, label, color in (("eager", "PyTorch eager", EAGER), ("engine", engine_label, ENGINE)):
                if who not in timed:
                    continue
                p50, p90, p99 = (timed[who][scope][key] for key in ("p50_ms", "p90_ms", "p99_ms"))
                axes.barh(y, p50, color=color, height=0.62)
                axes.plot([p50, p99], [y, y], color=INK, linewidth=1)
                axes.plot([p90, p99], [y, y], color=INK, linewidth=0, marker="|", markersize=7)
                axes.text(p99 + 0.008 * top, y, f"p50 {p50:.1f}, p99 {p99:.1f} ms", va="center", color=INK)
                labels.append(escape_dollar(f"{title}, {label}"))
                places.append(y)
                y += 1
            y += 0.45
        axes.set_yticks(places, labels)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.grid(False, axis="y")
        axes.set(xlabel="latency of a frame, ms", xlim=(0, 1.32 * top), ylim=(places[-1] + 0.6, -0.6))
        return _svg(figure, name)


def escape_dollar(text: str) -> str:
    """Return text that Matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")


def _svg(figure: Figure, name: str) -> Markup:
    """Return the <svg> element alone, the same bytes each time."""
    buffer = io.StringIO()
    # Matplotlib makes ids from the salt. A salt per figure makes them unique in the page.
    with matplotlib.rc_context({"svg.hashsalt": name}):
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    text = buffer.getvalue()
    text = re.sub(r'(<g|<path) id="[a-z]+[\w.]*_\d+"', r"\1", text[text.index("<svg") :])
    # The page sets the size of the plot.
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    return Markup(text)
