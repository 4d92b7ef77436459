"""infer: a TAO checkpoint on pictures, to overlays and machine-readable results. No DVC stage.

As deployed (deploy in params.yaml), by TAO's network and post-processing, on the GPU where there is one. In the folder
OUT: overlays/NAME.png, and by what the network learned panoptic.json with panoptic/NAME.png (COCO panoptic),
instances.json (COCO results) and semantic/NAME.png (category_id of each pixel, from 1); docs/outputs.md. images.json
has the image_id of each picture. For an engine there is `predict`. The exit status is 0 where at least one picture was
worked on; skipped ones are told by name and counted.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stages import config
from stages.coco import panoptic
from stages.foundation import files
from stages.foundation.coco_types import Category
from stages.media import names
from stages.media.drawing import Painter
from stages.media.sources import Pictures, open_source
from stages.metrics import average_precision

log = logging.getLogger(__name__)


def build(checkpoint: Path, label_map: Path, source: str, out: Path, cfg: config.Config) -> int:
    """Write what the module's text says for each picture of `source`, a file or a folder; return their number.

    `out` is written aside and replaced as a whole. Raises ValueError for a source of another kind, where two pictures
    have one name but for the suffix, or where none can be read.
    """
    from stages.reference.tao_model import Checkpoint, best_device

    pictures = open_source(source)
    if not isinstance(pictures, Pictures):
        raise ValueError(f"{source}: expected a picture or a folder of pictures; videos are for `make predict`")
    if Path(source).resolve().is_relative_to(out.resolve()):
        raise ValueError(f"{out} holds the source's own files; give OUT another folder")
    by_png: dict[str, Path] = {}
    for path in pictures.paths:
        if (other := by_png.setdefault(_png(path.name), path)) != path:
            raise ValueError(f"{source}: two pictures are named {path.stem}, {other.name} and {path.name}; rename one")
    categories: list[Category] = files.read_json(label_map)
    model = Checkpoint(checkpoint, sum(c["isthing"] for c in categories), cfg.deploy, best_device())
    painter = Painter(categories)
    modes = tuple(config.Mode) if cfg.model.mode is config.Mode.panoptic else (cfg.model.mode,)
    images: list[dict[str, Any]] = []
    found: list[average_precision.Result] = []
    with files.atomic_write(out) as draft:
        writer = panoptic.Writer(draft, categories)
        for name in ("overlays", "semantic"):
            (draft / name).mkdir()
        for number, picture in enumerate(pictures, start=1):
            png = _png(picture.name)
            answer = model.predict(picture.rgb, *modes)
            height, width = picture.rgb.shape[:2]
            images.append(
                {"id": number, "file_name": names.unicode_name(picture.name), "height": height, "width": width}
            )
            shown = answer.segments[cfg.deploy.mode]
            painted = painter.draw(picture.rgb, shown, [])
            _write_png(draft / "overlays" / png, cv2.cvtColor(painted, cv2.COLOR_RGB2BGR))
            if config.Mode.panoptic in modes:
                merged = answer.segments[config.Mode.panoptic]
                entry = panoptic.Entry(number, Path(images[-1]["file_name"]), Path(png), [])
                writer.add(entry, merged.ids, merged.category_ids)
            if config.Mode.semantic in modes:
                _write_png(draft / "semantic" / png, answer.segments[config.Mode.semantic].ids)
            if objects := answer.instances:
                found += average_precision.results(number, objects.masks, objects.scores, objects.category_ids)
        if not images:
            raise ValueError(f"{source}: no picture that can be read")
        files.write_json(draft / "images.json", {"images": images, "categories": categories})
        _finish(draft, writer, found, modes)
    if pictures.skipped:
        log.warning("%d of %d pictures could not be read and are left out", pictures.skipped, len(pictures.paths))
    return len(images)


def _finish(
    draft: Path, writer: panoptic.Writer, found: list[average_precision.Result], modes: tuple[config.Mode, ...]
) -> None:
    if config.Mode.panoptic in modes:
        writer.close()
    else:
        (draft / "panoptic").rmdir()
    if config.Mode.instance in modes:
        files.write_json(draft / "instances.json", found)
    if config.Mode.semantic not in modes:
        (draft / "semantic").rmdir()


def _png(picture: str) -> str:
    """Name of the PNGs of a picture: as its own but for the suffix, and valid Unicode, since JSON has it too."""
    return names.png_name(names.unicode_name(Path(picture).stem))


def _write_png(path: Path, pixels: Any) -> None:
    path.write_bytes(cv2.imencode(".png", pixels.astype(np.uint8))[1].tobytes())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that train wrote")
    parser.add_argument("--label-map", type=Path, required=True, help="label_map.json that convert wrote")
    parser.add_argument("--source", required=True, help="a picture or a folder of pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        count = build(args.checkpoint, args.label_map, args.source, args.out, config.load())
    except (OSError, RuntimeError, ValueError, cv2.error) as error:
        parser.exit(1, f"{files.printable(str(error).strip())}\n")
    log.info("%d pictures; see %s", count, files.printable(str(args.out)))


if __name__ == "__main__":
    main()
