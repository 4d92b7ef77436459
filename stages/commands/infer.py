"""infer: run a TAO checkpoint on pictures and write overlays and machine-readable results. Not a DVC stage.

TAO's own network and post-processing run with the parameters `deploy` of params.yaml, on the GPU if there is one. The
output folder gets overlays/NAME.png, images.json with the image_id of each picture and, for the modes that the network
learned, panoptic.json with panoptic/NAME.png (COCO panoptic), instances.json (COCO results) and semantic/NAME.png
(category_id of each pixel, from 1); see docs/outputs.md. The exit status is 0 if at least one picture was read. A
warning names each picture that can't be read. To run an engine instead, use `predict`.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from stages import config
from stages.coco import panoptic
from stages.foundation import command_line, files
from stages.foundation.coco_types import read_label_map
from stages.media import file_names
from stages.media.drawing import Painter
from stages.media.frame_sources import PictureFiles, open_source
from stages.metrics import average_precision

if TYPE_CHECKING:
    from stages.tao.wheel import TaoModule

log = logging.getLogger(__name__)


def build(checkpoint: Path, label_map: Path, source: str, out: Path, cfg: config.Config) -> int:
    """Write the results for each picture of `source`, a file or a folder, to `out`; return the number of pictures.

    `checkpoint` is the folder that train wrote. An `out` that an earlier run wrote is replaced as a whole once the
    results are complete. Raises ValueError for a source of another kind, for a label map of other classes than the
    checkpoint's, for two pictures whose names differ only by the suffix, for an `out` that contains the source, has
    files that no earlier run wrote or is a file, and if no picture can be read. Raises OSError if a file can't be read
    or written.
    """
    pictures = open_source(source)
    if not isinstance(pictures, PictureFiles):
        raise ValueError(
            f"{pictures.label}: found a video, a camera or a stream, expected a picture or a folder of pictures; "
            "run `make predict` for it"
        )
    file_names.check_folder(out, len("..draft"))
    if Path(source).resolve().is_relative_to(out.resolve()):
        raise ValueError(f"{files.printable(out)} contains the files of SOURCE; give OUT another folder")
    by_png: dict[str, Path] = {}
    for path in pictures.paths:
        if (other := by_png.setdefault(_png(path.name), path)) != path:
            found = f"two pictures are named {path.stem}, {other.name} and {path.name}"
            raise ValueError(files.printable(f"{source}: {found}, so their results would have one name; rename one"))
    categories = read_label_map(label_map)

    from stages.reference.tao_model import Checkpoint, best_device

    model = Checkpoint(checkpoint, sum(c["isthing"] for c in categories), cfg.deploy, best_device())
    # The network has one class more than the label map: no-object.
    net: TaoModule = model.net
    learned = net.sem_seg_head.predictor.class_embed.out_features - 1
    if [c["id"] for c in categories] != [*range(1, learned + 1)]:
        raise ValueError(
            f"{files.printable(label_map)} has {len(categories)} classes, and the network of "
            f"{files.printable(checkpoint)} {learned}, with ids from 1; give the label_map.json of its training"
        )
    painter = Painter(categories)
    modes = tuple(config.Mode) if cfg.model.mode is config.Mode.panoptic else (cfg.model.mode,)
    images: list[dict[str, int | str]] = []
    results: list[average_precision.Result] = []
    with files.atomic_write(out, recorded=True) as draft:
        writer = panoptic.Writer(draft, categories)
        for name in ("overlays", "semantic"):
            (draft / name).mkdir()
        for number, picture in enumerate(pictures, start=1):
            png = _png(picture.name)
            answer = model.predict(picture.rgb, *modes)
            height, width = picture.rgb.shape[:2]
            file_name = file_names.unicode_name(picture.name)
            images.append({"id": number, "file_name": file_name, "height": height, "width": width})
            shown = answer.segments[cfg.deploy.mode]
            painted = painter.draw(picture.rgb, shown, [])
            _write_png(draft / "overlays" / png, cv2.cvtColor(painted, cv2.COLOR_RGB2BGR))
            if config.Mode.panoptic in modes:
                merged = answer.segments[config.Mode.panoptic]
                entry = panoptic.Entry(number, Path(file_name), Path(png), [])
                writer.add(entry, merged.ids, merged.category_ids)
            if config.Mode.semantic in modes:
                _write_png(draft / "semantic" / png, answer.segments[config.Mode.semantic].ids)
            if objects := answer.instances:
                results += average_precision.results(number, objects.masks, objects.scores, objects.category_ids)
        if not images:
            raise ValueError(pictures.no_frames())
        files.write_json(draft / "images.json", {"images": images, "categories": categories})
        _finish(draft, writer, results, modes)
    if pictures.skipped:
        log.warning("%d of %d pictures could not be read and are left out", pictures.skipped, len(pictures.paths))
    return len(images)


def _finish(
    draft: Path, writer: panoptic.Writer, results: list[average_precision.Result], modes: tuple[config.Mode, ...]
) -> None:
    """Write the JSON files of `modes` to the folder `draft`, and remove the empty folders of the other modes."""
    if config.Mode.panoptic in modes:
        writer.close()
    else:
        (draft / "panoptic").rmdir()
    if config.Mode.instance in modes:
        files.write_json(draft / "instances.json", results)
    if config.Mode.semantic not in modes:
        (draft / "semantic").rmdir()


def _png(picture: str) -> str:
    """Return the name of a picture's PNGs: its own with another suffix. It is valid Unicode, as JSON needs it."""
    return file_names.png_name(file_names.unicode_name(Path(picture).stem))


def _write_png(path: Path, pixels: "cv2.typing.MatLike") -> None:
    """Write labels [H, W] or BGR [H, W, 3], values 0 to 255, as an 8-bit PNG."""
    path.write_bytes(cv2.imencode(".png", pixels.astype(np.uint8))[1].tobytes())


def main() -> None:
    """Command line of `make infer`."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that train wrote")
    parser.add_argument("--label-map", type=Path, required=True, help="label_map.json that convert wrote")
    parser.add_argument("--source", required=True, help="a picture or a folder of pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    args = parser.parse_args()
    count = build(args.checkpoint, args.label_map, args.source, args.out, config.load())
    log.info("%d pictures; see %s", count, files.printable(str(args.out)))


if __name__ == "__main__":
    command_line.run(main)
