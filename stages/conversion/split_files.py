"""Writes the JSON files of a split: panoptic.json, instances.json and semantic.jsonl."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from stages.coco import panoptic
from stages.coco.stream import CocoJson
from stages.conversion import picture
from stages.conversion.records import Record
from stages.conversion.statistics import Statistics
from stages.foundation.coco_types import Category


def write(
    records: Iterable[Record], settings: picture.Settings, categories: Sequence[Category], counted: Statistics
) -> None:
    """Write the files and add each record to `counted`. Only one record is in memory at a time.

    Images are numbered from 1 in the order of the records. Annotations of instances.json have ids from 1; entries of
    segments_info keep the ids of their pixels.
    """
    image_id = annotation_id = 0
    info = panoptic.IMAGES if settings.bare_file_names else {}
    root = Path(info.get("image_folder", ""))
    with (
        CocoJson(settings.folder / "panoptic.json", categories, info) as segments,
        CocoJson(settings.folder / "instances.json", categories, info) as instances,
        (settings.folder / "semantic.jsonl").open("w", encoding="utf-8") as semantic,
    ):
        for record in records:
            if "segments" not in record:
                counted.leave_out(record)
                continue
            counted.add(record)
            image_id += 1
            image = {"id": image_id, **record["image"]}
            for segment in record["segments"]:
                if (mask := segment.pop("segmentation", None)) is not None:
                    annotation_id += 1
                    own = {"id": annotation_id, "image_id": image_id, "segmentation": mask}
                    instances.annotations.add({**segment, **own})
            annotation = {"image_id": image_id, "file_name": record["name"], "segments_info": record["segments"]}
            segments.annotations.add(annotation)
            for written in (segments, instances):
                written.images.add(image)
            # TAO's loader of semantic masks joins both names with dataset.*.root_dir, which is the split's folder.
            line = {"img": (root / record["image"]["file_name"]).as_posix(), "segm": f"semantic/{record['name']}"}
            semantic.write(json.dumps(line) + "\n")
