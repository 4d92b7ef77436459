"""prelabels: write the segments of pictures as labels for CVAT, Label Studio and FiftyOne. Not a DVC stage.

The segments are those of an engine, or with --predictions those that `infer`, `evaluate` or `verify` wrote (a panoptic
set). People correct them, and the tools' exports are data sets again: data.sources.NAME.format cvat and label_studio.
docs/labels.md describes the files, and what each tool reads of them.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from stages import config
from stages.coco import panoptic, rle, stream
from stages.engines import loading, manifest
from stages.foundation import command_line, files, picture_limit
from stages.foundation.coco_types import Category
from stages.inference.segments import Segments
from stages.media import file_names
from stages.media.frame_sources import PictureFiles, open_source
from stages.releases import received
from stages.sets import brush_rle, label_maps

log = logging.getLogger(__name__)

COCO, CVAT_LABELS = "annotations/instances_default.json", "cvat_labels.json"
TASKS, LABELING = "label_studio.json", "label_studio.xml"
IMAGE_PREFIX = "/data/local-files/?d="
"""Address at which Label Studio serves the files of its document root."""
_FROM, _TO = "label", "image"
"""Names of the tags in Label Studio's configuration."""


@dataclass(frozen=True)
class Predicted:
    """The segments of one picture."""

    name: str
    """Name of the picture file, valid Unicode."""
    found: Segments

    def visible(self) -> "Predicted":
        """Return the picture without segments that have no pixel: CVAT refuses a file with an empty mask."""
        present = set(np.unique(self.found.ids).tolist())
        category_ids = {i: category_id for i, category_id in self.found.category_ids.items() if i in present}
        return replace(self, found=replace(self.found, category_ids=category_ids))


@dataclass(frozen=True)
class Predictions:
    """The segments of pictures."""

    categories: list[Category]
    version: str
    """What they are from, for Label Studio's list of predictions."""
    pictures: Iterator[Predicted]


def of_engine(engine: Path, source: str) -> Predictions:
    """Return the predictions of an engine for a picture or a folder of pictures.

    Raises ValueError for a source of another kind, and RuntimeError if the engine is not for this host.
    """
    pictures = open_source(source)
    if not isinstance(pictures, PictureFiles):
        raise ValueError(
            f"{pictures.label}: found a video, a camera or a stream, expected pictures; extract its frames"
        )
    name, target = manifest.target_of(engine)
    predictor = loading.load(engine, name, target)
    if predictor.description.config.mode is config.Mode.semantic:
        log.warning("the engine's deploy.mode is semantic: each class is one region, whose objects are not separate")

    def found() -> Iterator[Predicted]:
        for frame in pictures:
            (segments,) = predictor.segments([frame.rgb])
            yield Predicted(file_names.unicode_name(frame.name), segments)
        if pictures.skipped:
            raise ValueError(
                f"{pictures.skipped} of {len(pictures.paths)} pictures of {pictures.label} could not be read; restore "
                "or remove them"
            )

    return Predictions(predictor.description.categories, f"{name} {predictor.engine_sha256[:12]}", found())


def of_folder(folder: Path) -> Predictions:
    """Return the predictions in a folder with panoptic.json. Raises as panoptic.read does."""
    content = panoptic.read(folder)

    def found() -> Iterator[Predicted]:
        for entry in content.entries:
            category_ids = {segment["id"]: segment["category_id"] for segment in entry.segments}
            yield Predicted(entry.image.name, Segments(panoptic.read_ids(entry.png), category_ids))

    return Predictions(content.categories, folder.name, found())


def build(predictions: Predictions, out: Path, image_prefix: str = IMAGE_PREFIX) -> int:
    """Write the files of docs/labels.md to the folder `out`; return the number of pictures.

    An `out` that an earlier run wrote is replaced as a whole once all is complete. Raises ValueError for an `out` that
    has files which no earlier run wrote, if a class has no name of its own, and if there is no picture.
    """
    file_names.check_folder(out, len("..draft"))
    categories = predictions.categories
    names = {category["id"]: category["name"] for category in categories}
    if len(set(names.values())) < len(names):
        raise ValueError("two classes have one name, by which the tools tell labels apart; give them different names")
    count = 0
    with files.atomic_write(out, recorded=True) as draft:
        (draft / COCO).parent.mkdir(parents=True)
        writer = panoptic.Writer(draft / "coco", categories)
        tools = [{"name": c["name"], "color": _color(c), "attributes": []} for c in categories]
        files.write_json(draft / CVAT_LABELS, tools)
        files.write_json(draft / label_maps.NAME, categories)
        (draft / LABELING).write_text(_labeling(categories), encoding="utf-8")
        annotation_id = 0
        with stream.CocoJson(draft / COCO, categories) as coco, (draft / TASKS).open("w", encoding="utf-8") as tasks:
            for count, one in enumerate((picture.visible() for picture in predictions.pictures), start=1):
                height, width = one.found.ids.shape
                coco.images.add({"id": count, "file_name": one.name, "height": height, "width": width})
                for segment, annotation in _annotations(one.found).items():
                    annotation_id += 1
                    score = {"score": one.found.scores[segment]} if segment in one.found.scores else {}
                    coco.annotations.add({"id": annotation_id, "image_id": count, **annotation, **score})
                tasks.write(
                    ("[\n" if count == 1 else ",\n") + json.dumps(_task(one, names, predictions.version, image_prefix))
                )
                entry = panoptic.Entry(count, Path(one.name), Path(file_names.png_name(Path(one.name).stem)), [])
                writer.add(entry, one.found.ids, one.found.category_ids)
            tasks.write("\n]\n")
        writer.close()
        if not count:
            raise ValueError("no picture has predictions; give SOURCE another one")
    return count


def _annotations(found: Segments) -> dict[int, dict[str, object]]:
    """Return COCO's annotation of each segment, with uncompressed run lengths, without its ids."""
    numbers = np.zeros(int(found.ids.max(initial=0)) + 1, np.uint16)
    numbers[list(found.category_ids)] = np.arange(1, len(found.category_ids) + 1)
    encoded = {segment.value: segment for segment in rle.encode(rle.runs(numbers[found.ids]))}
    return {
        i: {
            "category_id": category_id,
            "segmentation": {"size": list(found.ids.shape), "counts": rle.counts(encoded[n].rle["counts"]).tolist()},
            "area": encoded[n].area,
            "bbox": encoded[n].bbox,
            "iscrowd": 0,
        }
        for n, (i, category_id) in enumerate(found.category_ids.items(), start=1)
    }


def _task(one: Predicted, names: dict[int, str], version: str, image_prefix: str) -> dict[str, object]:
    """Return Label Studio's task of a picture, with one prediction."""
    height, width = one.found.ids.shape
    regions = []
    for segment, category_id in one.found.category_ids.items():
        mask = brush_rle.encode(one.found.ids == segment)
        region: dict[str, object] = {
            "id": f"segment{segment}",
            "type": "brushlabels",
            "from_name": _FROM,
            "to_name": _TO,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {"format": "rle", "rle": mask, "brushlabels": [names[category_id]]},
        }
        if segment in one.found.scores:
            region["score"] = one.found.scores[segment]
        regions.append(region)
    return {
        "data": {"image": image_prefix + quote(one.name), "picture": one.name},
        "predictions": [{"model_version": version, "result": regions}],
    }


def _labeling(categories: list[Category]) -> str:
    """Return Label Studio's configuration: a brush for each class."""
    labels = "".join(
        f"    <Label value={quoteattr(category['name'])} background={quoteattr(_color(category))}/>\n"
        for category in categories
    )
    return (
        f'<View>\n  <Image name="{_TO}" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="{_FROM}" toName="{_TO}">\n{labels}  </BrushLabels>\n</View>\n'
    )


def _color(category: Category) -> str:
    return "#" + bytes(category["color"]).hex()


def main() -> None:
    """Command line of `make prelabels`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--engine", type=Path, help="folder of an engine, such as data/engines/cpu")
    parser.add_argument("--source", help="a picture or a folder of pictures, for the engine")
    parser.add_argument("--predictions", type=Path, help="folder with panoptic.json, in place of engine and source")
    parser.add_argument("--out", type=Path, required=True, help="folder for the labels")
    parser.add_argument("--image-prefix", default=IMAGE_PREFIX, help="address of the pictures for Label Studio")
    parser.add_argument(
        "--max-picture-mpx", type=int, default=picture_limit.DEFAULT_MPX, help="most pixels of a picture, in millions"
    )
    args = parser.parse_args()
    picture_limit.set_limit(args.max_picture_mpx)
    if args.predictions is not None:
        predictions = of_folder(args.predictions)
    elif args.engine is not None and args.source is not None:
        received.check_engine(args.engine)
        predictions = of_engine(args.engine, args.source)
    else:
        raise ValueError("expected --engine and --source, or --predictions")
    count = build(predictions, args.out, args.image_prefix)
    log.info("%d pictures; see %s", count, files.printable(str(args.out)))


if __name__ == "__main__":
    command_line.run(main)
