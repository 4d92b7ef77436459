"""Generate street scenes in the Mapillary Vistas v2.0 layout, so that every later stage runs offline.

Input:        nothing but the seed and sizes of `conf/` (section `sample`)
Output:       OUT/config_v2.0.json and OUT/{training,validation}/..., as told in `stages.vistas.layout`
Format:       https://www.mapillary.com/dataset/vistas (v2.0, panoptic_2020)
Cost:         about 0.15 s a scene of 384x256 on one core, 0.6 s one of 1280x720
Determinism:  byte-identical from run to run, for any number of workers (data.workers); each scene depends only on
              (seed, split, index) and its size.
              Training scene 0 is a crowded plaza with more than 255 segments at the default size.

The whole folder is written beside OUT and moved into place at the end: a stage killed midway leaves the
former output, or none, never a part of one.
"""

import functools
import logging
import shutil
from pathlib import Path
from typing import Any

from stages import config
from stages.foundation import command_line, files, parallel
from stages.vistas import labels, layout

log = logging.getLogger(__name__)

SPLITS = ("training", "validation")


def build(out: Path, cfg: config.Sample, workers: int = 1) -> None:
    """Write the generated dataset to the folder `out`, replacing what was there, in `workers` processes.

    With 0 workers in one process for each core. Raises ValueError if a scene holds more instances of a label than the
    Vistas encoding can hold.
    """
    with files.aside(out) as draft:
        draft.mkdir()
        shutil.copyfile(labels.CONFIG, draft / labels.CONFIG.name)
        for split, count in zip(SPLITS, (cfg.train_images, cfg.val_images), strict=True):
            _write_split(draft / split, cfg, split, count, parallel.count(workers, count))
    log.info("wrote %s", out)


def _write_split(folder: Path, cfg: config.Sample, split: str, count: int, workers: int) -> None:
    layout.make_folders(folder)
    write = functools.partial(_write_scene, folder, cfg, split)
    annotations = list(parallel.ordered(write, range(count), workers, split))
    log.info("%s: %d scenes", split, count)
    layout.write_panoptic_json(folder, annotations, cfg.height_px, cfg.width_px)


def _write_scene(folder: Path, cfg: config.Sample, split: str, index: int) -> dict[str, Any]:
    from stages.scenes import compose  # here, so that --help need not load OpenCV's drawing code

    scene = compose.paint(
        seed=(cfg.seed, SPLITS.index(split), index),
        height=cfg.height_px,
        width=cfg.width_px,
        plaza=split == "training" and index == 0,
    )
    return layout.write_scene(folder, layout.key(cfg.seed, split, index), scene)


def main() -> None:
    """Read the command line and conf/, then build."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, such as data/raw/sample")
    args = parser.parse_args()
    cfg = config.load()
    try:
        build(args.out, cfg.sample, cfg.data.workers)
    except (OSError, RuntimeError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    command_line.run(main)
