"""sample: generate street scenes in the layout of Mapillary Vistas v2.0, so that every later stage runs offline.

Input:        the seed and the sizes in section `sample` of the parameters
Output:       OUT/config_v2.0.json and OUT/{training,validation}/..., described in stages/vistas/writer.py
Format:       https://www.mapillary.com/dataset/vistas (v2.0, panoptic_2020)
Cost:         about 0.15 s per scene of 384x256 on one core, 0.6 s per scene of 1280x720
Determinism:  byte-identical for any number of workers (data.workers). A scene depends on (seed, split, index) and its
              size alone. Training scene 0 is a crowded plaza with more than 255 segments at the default size.

The folder is written beside OUT and moved into place at the end. A killed stage leaves the old output, or none.
"""

import functools
import logging
import shutil
from pathlib import Path

from stages import config
from stages.foundation import command_line, files, parallel
from stages.foundation.coco_types import Annotation
from stages.vistas import labels, writer

log = logging.getLogger(__name__)

SPLITS = ("training", "validation")


def build(out: Path, cfg: config.Sample, workers: int = 1) -> None:
    """Write the generated data set to the folder `out`, which is replaced.

    `workers` is the number of processes; 0 means one per core. Raises ValueError if a scene has more instances of a
    label than the Vistas encoding can hold.
    """
    with files.atomic_write(out) as draft:
        draft.mkdir()
        shutil.copyfile(labels.CONFIG, draft / labels.CONFIG.name)
        for split, count in zip(SPLITS, (cfg.train_images, cfg.val_images), strict=True):
            _write_split(draft / split, cfg, split, count, parallel.count(workers, count))
    log.info("wrote %s", out)


def _write_split(folder: Path, cfg: config.Sample, split: str, count: int, workers: int) -> None:
    writer.make_folders(folder)
    write = functools.partial(_write_scene, folder, cfg, split)
    annotations = list(parallel.ordered(write, range(count), workers, split))
    log.info("%s: %d scenes", split, count)
    writer.write_panoptic_json(folder, annotations, cfg.height_px, cfg.width_px)


def _write_scene(folder: Path, cfg: config.Sample, split: str, index: int) -> Annotation:
    from stages.scenes import compose  # Not at the top, so that --help does not load it.

    scene = compose.paint(
        seed=(cfg.seed, SPLITS.index(split), index),
        height=cfg.height_px,
        width=cfg.width_px,
        plaza=split == "training" and index == 0,
    )
    return writer.write_scene(folder, writer.key(cfg.seed, split, index), scene)


def main() -> None:
    """Command line of the stage."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, such as data/raw/sample")
    args = parser.parse_args()
    cfg = config.load()
    build(args.out, cfg.sample, cfg.data.workers)


if __name__ == "__main__":
    command_line.run(main)
