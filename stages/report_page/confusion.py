"""Draws which classes the pixels of each class were predicted as, as an <svg> of one square per pair of classes."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

CELL_PX, LABEL_PX, HEAD_PX = 25, 210, 26
FAINT, STRONG = (238, 244, 250), (11, 79, 138)
"""Colours of 0 % and of 100 %, RGB."""
LEAST_WRITTEN_PCT = 1.0
"""Smallest share that is written into its square."""
LIGHT_TEXT_PCT = 50.0
"""Smallest share whose text is white."""

Shares = Mapping[tuple[str, str], float]
"""(actual class, predicted class) -> share of the actual class's pixels, in percent."""


def svg(shares: Shares, classes: Sequence[tuple[str, str]]) -> Markup:
    """Draw the shares of `classes`, each with its name and the name that is shown. Columns have the numbers of rows."""
    width, height = LABEL_PX + CELL_PX * len(classes), HEAD_PX + CELL_PX * len(classes)
    told = "; ".join(f"{label}: {shares.get((name, name), 0.0):.0f} %" for name, label in classes)
    parts = [
        f'<svg class="confusion" viewBox="0 0 {width} {height}" style="width:{width}px" role="img" '
        'aria-labelledby="confusion-title confusion-desc">',
        '<title id="confusion-title">Confusion matrix</title>',
        f'<desc id="confusion-desc">Pixels that were predicted as their own class: {escape(told)}</desc>',
    ]
    for row, (actual, label) in enumerate(classes):
        y = HEAD_PX + CELL_PX * row
        middle = y + CELL_PX / 2 + 4
        x = LABEL_PX + CELL_PX * (row + 0.5)
        parts.append(f'<text class="number" x="{x:g}" y="{HEAD_PX - 8}">{row + 1}</text>')
        parts.append(f'<text class="number" x="{LABEL_PX - 18}" y="{middle:g}">{row + 1}</text>')
        parts.append(f'<text class="label" x="{LABEL_PX - 34}" y="{middle:g}">{escape(label)}</text>')
        for column, (predicted, other) in enumerate(classes):
            share = shares.get((actual, predicted), 0.0)
            parts.append(_square(LABEL_PX + CELL_PX * column, y, share, f"{label} as {other}: {share:.1f} %"))
    return Markup("\n".join([*parts, "</svg>"]))


def _square(x: float, y: float, share: float, tooltip: str) -> str:
    color = ",".join(str(round(a + (b - a) * share / 100)) for a, b in zip(FAINT, STRONG, strict=True))
    size = CELL_PX - 2
    square = f'<rect x="{x + 1:g}" y="{y + 1:g}" width="{size}" height="{size}" rx="2" fill="rgb({color})"/>'
    text = ""
    if share >= LEAST_WRITTEN_PCT:
        light = ' class="light"' if share >= LIGHT_TEXT_PCT else ""
        text = f'<text{light} x="{x + CELL_PX / 2:g}" y="{y + CELL_PX / 2 + 3.5:g}">{share:.0f}</text>'
    return f"<g><title>{escape(tooltip)}</title>{square}{text}</g>"


def largest(shares: Shares, count: int) -> list[tuple[str, str, float]]:
    """Return the `count` largest shares of pixels predicted as another class: (actual, predicted, percent)."""
    wrong = [(actual, predicted, share) for (actual, predicted), share in shares.items() if actual != predicted]
    return sorted(wrong, key=lambda each: (-each[2], each[:2]))[:count]
