"""Pictures of a release: validation pictures beside the maps of annotation, checkpoint and engine, as JPEG files."""

from pathlib import Path

import numpy as np

from stages.coco import panoptic
from stages.foundation import picture_files
from stages.media import drawing, thumbnails


def write(out: Path, sets: dict[str, Path], count: int) -> list[str]:
    """Write 1.jpg, 2.jpg, ... to the folder `out`: at most `count` pictures, spread evenly over the set.

    `sets` are folders of COCO panoptic sets by their names in the caption; the first one is the annotation, which has
    the pictures. Returns the columns' names: picture, and those of `sets`. A set without a map of a picture shows the
    picture alone. Raises ValueError for a file that can't be read.
    """
    maps = {name: panoptic.read(folder) for name, folder in sets.items()}
    truth = next(iter(maps.values()))
    by_image = [{entry.image_id: entry for entry in found.entries} for found in maps.values()]
    painter = drawing.Painter(truth.categories, drawing.REPORT_STYLE)
    for number, index in enumerate(thumbnails.spread(len(truth.entries), count), start=1):
        first = truth.entries[index]
        picture = thumbnails.shrink(picture_files.read_rgb(first.image))
        cells = [picture]
        for found in by_image:
            entry = found.get(first.image_id)
            cells.append(thumbnails.draw_map(picture, entry, painter) if entry else picture)
        out.mkdir(exist_ok=True)
        (out / f"{number}.jpg").write_bytes(thumbnails.jpeg(np.concatenate(cells, axis=1)))
    return ["picture", *sets]
