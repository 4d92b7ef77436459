"""Validation pictures beside their panoptic maps, as data URIs."""

import base64
import math
from dataclasses import dataclass

from stages import config
from stages.coco import panoptic
from stages.foundation import picture_files
from stages.foundation.coco_types import Category
from stages.inference import frames
from stages.media import drawing, thumbnails
from stages.report_page import differences
from stages.report_page.sources import Sources


@dataclass(frozen=True)
class Cell:
    """A picture in the page."""

    label: str
    """Caption, such as checkpoint."""
    uri: str
    """Data URI; empty where a set has no map of the picture."""


@dataclass(frozen=True)
class PictureRow:
    """One validation picture in all columns."""

    name: str
    """File name of the picture."""
    width: int
    height: int
    cells: list[Cell]
    note: str = ""
    """Text beside the name."""


@dataclass(frozen=True)
class Worst:
    """The pictures in which two sets agree least."""

    first: str
    second: str
    rows: list[PictureRow]
    pictures: int
    """Pictures that were compared."""
    differing: int
    """Pictures in which the sets don't agree on all pixels."""


def columns(sources: Sources) -> list[tuple[str, str]]:
    """Return header and explanation of each column."""
    found = [("image", "validation picture"), ("annotation", "of the data set")]
    if sources.checkpoint:
        found.append(("checkpoint", "TAO network, PyTorch"))
    for name in sources.runnable:
        target = sources.cfg.targets[name]
        found.append((f"engine {name}", f"{target.builder.value}, {target.precision.value}"))
    return found


def rows(sources: Sources) -> tuple[list[PictureRow], list[Category]]:
    """Return rows spread evenly over the validation set, and the classes that they show, by rising id."""
    entries = sources.truth.entries
    sets = [s for s in (sources.truth, sources.checkpoint, *sources.runnable.values()) if s]
    by_image = [{entry.image_id: entry for entry in s.entries} for s in sets]
    labels = [label for label, _ in columns(sources)]
    painter = drawing.Painter(list(sources.classes.values()), drawing.REPORT_STYLE)
    result: list[PictureRow] = []
    shown: set[int] = set()
    for index in thumbnails.spread(len(entries), sources.cfg.report.pictures):
        picture = thumbnails.shrink(picture_files.read_rgb(entries[index].image))
        uris = [data_uri(picture)]
        for maps in by_image:
            entry = maps.get(entries[index].image_id)
            uris.append(data_uri(thumbnails.draw_map(picture, entry, painter)) if entry else "")
            shown |= {segment["category_id"] for segment in entry.segments} if entry else set()
        cells = [Cell(label, uri) for label, uri in zip(labels, uris, strict=True)]
        height, width = picture.shape[:2]
        result.append(PictureRow(entries[index].image.name, width, height, cells))
    return result, [sources.classes[i] for i in sorted(shown) if i in sources.classes]


def worst(sources: Sources) -> list[Worst]:
    """Return the worst pictures of the checkpoint against the annotation, and of each engine against the checkpoint."""
    if not sources.checkpoint:
        return []
    cfg = sources.cfg
    # A network of instances has no stuff.
    things_only = cfg.deploy.mode is config.Mode.instance
    classes = frozenset(i for i, c in sources.classes.items() if c["isthing"] or not things_only)
    found = [_worst(sources, "annotation", sources.truth, "checkpoint", sources.checkpoint, classes)]
    for name, maps in sources.runnable.items():
        found.append(_worst(sources, "checkpoint", sources.checkpoint, f"engine {name}", maps, None))
    return found


def _worst(
    sources: Sources,
    first: str,
    first_set: panoptic.PanopticSet,
    second: str,
    second_set: panoptic.PanopticSet,
    classes: frozenset[int] | None,
) -> Worst:
    compared = differences.compare(first_set, second_set, classes, sources.cfg.data.workers)
    differing = [each for each in compared if each.agreement_pct < 100]
    images = {entry.image_id: entry.image for entry in sources.truth.entries}
    painter = drawing.Painter(list(sources.classes.values()), drawing.REPORT_STYLE)
    result = []
    for each in differing[: sources.cfg.report.pictures]:
        image = images[each.first.image_id]
        picture = thumbnails.shrink(picture_files.read_rgb(image))
        height, width = picture.shape[:2]
        found = differences.difference(each.first, each.second, classes)
        shown = {
            "image": picture,
            first: thumbnails.draw_map(picture, each.first, painter),
            second: thumbnails.draw_map(picture, each.second, painter),
            "difference": differences.draw(picture, differences.shrink(found, width, height)),
        }
        cells = [Cell(label, data_uri(drawn)) for label, drawn in shown.items()]
        result.append(PictureRow(image.name, width, height, cells, f"{_share(each.agreement_pct)} % of pixels agree"))
    return Worst(first, second, result, len(compared), len(differing))


def _share(pct: float) -> str:
    """Format a share below 100 %, so that it does not round to 100."""
    return f"{pct:.1f}" if pct < 99.9 else f"{math.floor(pct * 10000) / 10000:.4f}"


def data_uri(picture: frames.Frame) -> str:
    """Return a picture, uint8 [H, W, 3], RGB, as the data URI of a JPEG. Raises ValueError if it can't be encoded."""
    return "data:image/jpeg;base64," + base64.b64encode(thumbnails.jpeg(picture)).decode("ascii")
