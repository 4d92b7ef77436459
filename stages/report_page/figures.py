"""Plots as inline SVG, drawn by Matplotlib without a display. Each has a title and a description for screen readers."""

import io
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure

INK, MUTED, RULE = "#1c2127", "#5a6472", "#e2e6ea"
ENGINE, EAGER = "#1f6fb2", "#8a95a3"
TRAIN, VALIDATION = "#8a95a3", "#7b4fa3"
THING, STUFF = "#c4631a", "#2f8474"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Colours of lines that all eyes tell apart: Okabe and Ito, jfly.uni-koeln.de/color."""
DASHES = ("-", "--", "-.", ":")

SMALL_SIDE_PX, LARGE_SIDE_PX = 32, 96
"""COCO's limits of small and large objects (cocodataset.org/#detection-eval)."""

SIZE_IN = (4.3, 2.7)
"""Small enough that the text is legible on a phone, where a plot takes the whole width."""
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
    "xtick.minor.size": 0,
    "legend.frameon": False,
}


def losses(history: Sequence[Mapping[str, float]]) -> Markup:
    """Plot training and validation loss over the epochs."""
    lines = [("training", "train_loss", TRAIN, ""), ("validation", "val_loss", VALIDATION, "o")]
    return _curves("losses", "Loss over the epochs", history, lines, "loss", 1)


def miou(history: Sequence[Mapping[str, float]]) -> Markup:
    """Plot TAO's own mIoU of the validation set over the epochs, in percent. TAO writes fractions."""
    lines = [("validation", "val_miou", VALIDATION, "o")]
    return _curves("miou", "Validation mIoU over the epochs", history, lines, "mIoU, %", 100)


def _curves(
    name: str,
    title: str,
    history: Sequence[Mapping[str, float]],
    lines: Sequence[tuple[str, str, str, str]],
    ylabel: str,
    factor: float,
) -> Markup:
    """Plot factor * history[i][key] over the epochs for each of `lines`: (label, key, colour, marker)."""
    told = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE_IN, layout="constrained")
        axes = figure.add_subplot()
        for label, key, color, marker in lines:
            points = [(row["epoch"], factor * row[key]) for row in history if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=4, label=label)
                (first, start), (last, end) = points[0], points[-1]
                told.append(f"{label}: {start:.3g} after epoch {first:g}, {end:.3g} after epoch {last:g}")
        axes.set(xlabel="epoch", ylabel=ylabel, xlim=(0, None), ylim=(0, None))
        if len(lines) > 1:
            axes.legend(loc="best")
        return _svg(figure, name, title, "; ".join(told))


def sizes(counts: Mapping[str, Mapping[str, int]]) -> Markup:
    """Plot the share of objects by size.

    `counts` has, by split, the least square root of the area in pixels, a power of 2 -> the number of objects.
    """
    sides = sorted({int(side) for split in counts.values() for side in split})
    told = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE_IN, layout="constrained")
        axes = figure.add_subplot()
        edges = [2**exponent for exponent in range(sides[0].bit_length() - 1, sides[-1].bit_length() + 1)]
        for (split, found), color in zip(counts.items(), (STUFF, VALIDATION), strict=False):
            total = sum(found.values()) or 1
            shares = [100 * found.get(str(side), 0) / total for side in edges[:-1]]
            axes.stairs(shares, edges, color=color, fill=True, alpha=0.15)
            axes.stairs(shares, edges, color=color, linewidth=1.6, label=f"{split}, {total:,} objects")
            told += [f"{split}: {s:.1f} % of {a} to {b} px" for (a, b), s in zip(pairwise(edges), shares, strict=True)]
        for limit in (SMALL_SIDE_PX, LARGE_SIDE_PX):
            if edges[0] < limit < edges[-1]:
                axes.axvline(limit, color=MUTED, linewidth=0.9, linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set_xticks(edges, [f"{edge}" for edge in edges])
        axes.set(xlabel="square root of an object's area, px", ylabel="objects, %", ylim=(0, None))
        axes.grid(False, axis="x")
        axes.legend(loc="best")
        return _svg(figure, "sizes", "Objects by size", "; ".join(told))


def distribution(name: str, lines: Sequence[tuple[str, Sequence[float]]]) -> Markup:
    """Plot the share of frames that take at most a latency, in ms, for lines (label, equally spaced quantiles)."""
    told = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE_IN, layout="constrained")
        axes = figure.add_subplot()
        for number, (label, quantiles) in enumerate(lines):
            color, dashes = SERIES[number % len(SERIES)], DASHES[number % len(DASHES)]
            shares = np.linspace(0, 100, len(quantiles))
            axes.plot(quantiles, shares, color=color, linestyle=dashes, label=escape_dollar(label))
            told.append(f"{label}: {quantiles[0]:.1f} to {quantiles[-1]:.1f} ms")
        least, most = min(q[0] for _, q in lines), max(q[-1] for _, q in lines)
        if most > 8 * least:
            axes.set_xscale("log")
            ticks = [m * 10.0**e for e in range(-3, 6) for m in (1, 2, 5) if least / 1.5 < m * 10.0**e < most * 1.5]
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_xticks([], minor=True)
        axes.set(xlabel="latency of a frame, ms", ylabel="frames that take at most that, %", ylim=(0, 101))
        figure.legend(loc="outside upper center", ncols=2, fontsize=8)
        return _svg(figure, name, "Distribution of latencies", "; ".join(told))


def escape_dollar(text: str) -> str:
    """Return text that Matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")


def _svg(figure: Figure, name: str, title: str, description: str) -> Markup:
    """Return the <svg> element alone, with a title and a description, the same bytes each time."""
    buffer = io.StringIO()
    # Matplotlib makes ids from the salt. A salt per figure makes them unique in the page.
    with matplotlib.rc_context({"svg.hashsalt": name}):
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    text = buffer.getvalue()
    text = re.sub(r'(<g|<path) id="[a-z]+[\w.]*_\d+"', r"\1", text[text.index("<svg") :])
    # The page sets the size of the plot.
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    key = re.sub(r"[^\w-]", "-", name)
    label = f'<svg class="plot" role="img" aria-labelledby="{key}-title {key}-desc"'
    told = f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-desc">{escape(description)}</desc>'
    start = text.index(">") + 1
    return Markup(text[:start].replace("<svg", label, 1) + told + text[start:])
