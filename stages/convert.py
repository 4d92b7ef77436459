"""convert: a Mapillary Vistas set -> the COCO files that TAO 7.3 reads.

Input: a set in Vistas layout. Output, for each of train and val: panoptic.json and panoptic/*.png, instances.json
(things only, compressed RLE), semantic.jsonl and semantic/*.png (mode L, 0 = ignore); and label_map.json.
Formats: cocodataset.org/#format-data; TAO's own loaders. Cost: dominated by decoding and encoding PNGs.
Deterministic: ids follow the sorted keys of the images.
"""

import argparse
import json
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from stages import config, files
from stages.coco import categories, panoptic, rle
from stages.vistas import reader

log = logging.getLogger(__name__)


def build(root: Path, out: Path, metrics: Path, cfg: config.Data) -> None:
    """Convert both splits of the set at `root` into the folder `out`; write counts to the JSON file `metrics`.

    Image and annotation ids start at 1. Both splits list the same categories, unused ones included.
    Raises FileNotFoundError or ValueError, naming the file, where the set is not as expected.
    """
    labels = reader.read_labels(root, cfg.version)
    cats, targets = categories.from_vistas(labels, cfg.crowd_of)
    if len(cats) > 254:
        raise ValueError(f"{len(cats)} classes, but TAO's 8-bit semantic masks hold 254; drop some in the config")
    counts: dict[str, Any] = {"classes": len(cats), "things": sum(c["isthing"] for c in cats)}
    with files.aside(out) as draft:
        draft.mkdir()
        label_map = [{k: c[k] for k in ("id", "name", "color", "isthing")} for c in cats]
        files.write_json(draft / "label_map.json", label_map)
        for split in reader.SPLITS:
            scenes = reader.scenes(root, cfg.version, split)
            counts[split] = _split(scenes, draft / split, out / split, cats, targets)
            log.info("%s: %s", split, counts[split])
    files.write_json(metrics, counts)


def _split(
    scenes: list[reader.Scene],
    folder: Path,
    final: Path,
    cats: list[dict[str, Any]],
    targets: list[categories.Target],
) -> dict[str, int]:
    (folder / "panoptic").mkdir(parents=True)
    (folder / "semantic").mkdir()
    things = {c["id"] for c in cats if c["isthing"]}
    semantic_of = np.array([0 if t.iscrowd else t.category_id for t in targets], dtype=np.uint8)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    records: list[str] = []
    count: Counter[str] = Counter()

    for image_id, scene in enumerate(scenes, start=1):
        raster = reader.instances(scene.instances, len(targets))
        reader.check_picture(scene.image, raster.shape)
        height, width = raster.shape
        images.append({"id": image_id, "file_name": scene.image.name, "height": height, "width": width})
        segments, ids = _segments(raster, targets)
        name = f"{scene.key}.png"
        annotations.append({"image_id": image_id, "file_name": name, "segments_info": [s for s, _ in segments]})
        for info, runs in segments:
            if info["category_id"] in things:
                instance = {**info, "id": len(instances) + 1, "image_id": image_id, "segmentation": runs}
                instances.append(instance)
        panoptic.write_ids(folder / "panoptic" / name, ids)
        panoptic.write_png(folder / "semantic" / name, semantic_of[raster >> 8])
        # TAO joins these with dataset.*.root_dir, which is this folder.
        image = os.path.relpath(scene.image, final)
        records.append(json.dumps({"img": image, "segm": f"semantic/{name}"}))
        count.update(images=1, segments=len(segments), crowds=sum(s["iscrowd"] for s, _ in segments))

    files.write_json(folder / "panoptic.json", {"images": images, "annotations": annotations, "categories": cats})
    files.write_json(folder / "instances.json", {"images": images, "annotations": instances, "categories": cats})
    (folder / "semantic.jsonl").write_text("\n".join(records) + "\n", encoding="utf-8")
    present = {s["category_id"] for a in annotations for s in a["segments_info"]}
    return {**count, "instances": len(instances), "classes_present": len(present)}


def _segments(raster: Any, targets: list[categories.Target]) -> tuple[list[tuple[dict[str, Any], Any]], Any]:
    """Segments of a raster as (segments_info entry, RLE), and the panoptic ids."""
    segments = []
    for segment in rle.encode(raster):
        target = targets[segment.value >> 8]
        if target.category_id:
            info = {
                "id": segment.value + 1,
                "category_id": target.category_id,
                "iscrowd": int(target.iscrowd),
                "area": segment.area,
                "bbox": segment.bbox,
            }
            segments.append((info, segment.rle))
    kept = np.array([bool(target.category_id) for target in targets])
    return segments, np.where(kept[raster >> 8], raster.astype(np.int32) + 1, 0)


def main() -> None:
    """Command line of the stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of the set in Vistas layout")
    parser.add_argument("--out", type=Path, required=True, help="folder for the COCO files")
    parser.add_argument("--metrics", type=Path, required=True, help="JSON file for the counts")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(args.root, args.out, args.metrics, config.load().data)


if __name__ == "__main__":
    main()
