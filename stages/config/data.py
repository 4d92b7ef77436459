"""The section `data`: the sets that are converted, and how their labels become classes."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from stages.config.rules import Range, check_inside, check_ranges, is_name, name_rule, require

_SHELL = set("'\"`$;&|<>\\*?!")
"""Characters that mean something to a shell. A path with one of them is refused, also where it would be quoted."""


class Format(Enum):
    """Layouts of data sets, as they are downloaded."""

    auto = "auto"
    vistas = "vistas"
    vistas_labels = "vistas_labels"
    ade20k = "ade20k"
    ade20k_full = "ade20k_full"
    bdd100k = "bdd100k"
    cityscapes = "cityscapes"
    coco_instances = "coco_instances"
    coco_panoptic = "coco_panoptic"
    coco_stuff = "coco_stuff"
    cvat = "cvat"
    idd = "idd"
    kitti = "kitti"
    label_studio = "label_studio"
    voc = "voc"


@dataclass
class Source:
    """One data set."""

    root: str = ""
    """Folder of the set, relative to data.root. Empty: data.root itself."""
    format: Format = Format.auto
    """Layout of the set. auto: found by looking at its files. Set it if the folder has several. vistas_labels is the
    layout of Vistas with 8-bit PNGs of label ids, 255 for void, in place of instance masks."""
    version: str = ""
    """Version of Vistas' layout: v1.2, v2.0 or flat. Empty: the only one there is. Set it if the folder has several."""
    config: str = ""
    """Name of the set's config JSON in its folder. Empty: config_VERSION.json or config.json."""
    taxonomy: str = ""
    """Table that maps the set's labels to classes: NAME for conf/tables/NAME.csv. Empty: a class for each label that
    the set's config evaluates."""
    repeat: Annotated[float, Range(at_least=1, at_most=1000)] = 1.0
    """Times that a training picture of the set comes in an epoch, such as 2.5, which is twice or three times. For small
    sets beside large ones."""


class Splits(Enum):
    """Ways to divide pictures into training and validation."""

    folders = "folders"
    file = "file"
    fraction = "fraction"


class SmallSegments(Enum):
    """Ways to treat objects with fewer pixels than data.min_segment_px."""

    keep = "keep"
    crowd = "crowd"
    void = "void"


class OnError(Enum):
    """Reactions to a picture that can't be converted."""

    fail = "fail"
    skip = "skip"


class CheckMasks(Enum):
    """Reactions to a set whose masks seem not to be label * 256 + instance."""

    fail = "fail"
    warn = "warn"


class CheckSplits(Enum):
    """Reactions to a validation split whose pictures are training pictures too."""

    fail = "fail"
    warn = "warn"


@dataclass
class Data:
    """The sets that are converted, and how their labels become classes."""

    root: str = "data/raw/sample"
    """Folder of all pictures, relative to the repository; a path without .. and without characters of the shell."""
    sources: dict[str, Source] = field(default_factory=dict)
    """Sets by name (a-z A-Z 0-9 -). Several sets become one; then a picture's key begins with the name of its set.
    Empty: one set, at data.root."""
    splits: Splits = Splits.folders
    """Way to divide the pictures: by the folders training and validation, by a file, or by a fraction."""
    split_file: str = ""
    """For splits: file. NAME of the file conf/tables/NAME.csv with lines `name,split`. `name` is a picture's key, with
    SOURCE_ before it where there are several sources; `split` is train, val or empty."""
    val_fraction: Annotated[float, Range(above=0, below=1)] = 0.1
    """For splits: fraction. Share of the pictures in the validation split. A picture's key decides on its split."""
    split_seed: int = 0
    """For splits: fraction. Change it for another choice of pictures."""
    max_edge_px: Annotated[int, Range(at_least=64, or_zero=True)] = 0
    """Longest edge of a picture. Larger pictures and their masks are scaled down to it. 0: no limit. Set it to train
    faster on pictures that are much larger than the network's input."""
    min_segment_px: Annotated[int, Range(at_least=0)] = 0
    """Least number of pixels of an object. small_segments says how to treat smaller ones. 0: no object is too small."""
    small_segments: SmallSegments = SmallSegments.keep
    """keep: small objects stay. crowd: they become crowds. void: their pixels become void."""
    on_error: OnError = OnError.fail
    """If a picture can't be converted. fail: the stage ends with an error. skip: the picture is left out and
    listed in statistics.json."""
    max_skipped: Annotated[int, Range(at_least=0)] = 0
    """For on_error: skip. Largest number of pictures of a split that may be left out; with more the stage fails."""
    check_masks: CheckMasks = CheckMasks.fail
    """If the masks of a set don't look like label * 256 + instance. fail: the stage ends with an error. warn: it
    continues. Set warn once you have looked at the masks."""
    check_splits: CheckSplits = CheckSplits.fail
    """If at least half of the validation pictures are training pictures too: the same key and the same bytes. fail: the
    stage ends with an error. warn: it continues, as it does for fewer."""
    bare_file_names: bool = False
    """false: file_name in the COCO files is a path relative to data/coco/SPLIT, and pictures stay where they are.
    true: it is a bare name, and all pictures are copied to data/coco/SPLIT/images. Set true for tools that look for
    all pictures in one folder."""
    max_picture_mpx: Annotated[int, Range(at_least=1, at_most=1073)] = 200
    """Most pixels of a picture or a mask, in millions. One with more is refused by its header, before it takes memory:
    about 20 bytes a pixel. OpenCV's own limit is 1073."""
    max_archive_gib: Annotated[int, Range(at_least=1)] = 500
    """Most GiB that `make data` copies or unpacks for a set."""
    workers: Annotated[int, Range(at_least=0)] = 0
    """Processes that generate scenes and convert pictures. 0: one for each core. The result does not depend on it."""

    def __post_init__(self) -> None:
        # dvc.yaml has the root in a command, between single quotes.
        plain_path = bool(self.root) and self.root.isprintable() and not set(self.root) & _SHELL
        signs = " ".join(sorted(_SHELL - {"'"}))
        rule = f"a path without line ends, apostrophes and {signs}; a link can lead there"
        require(plain_path, "data.root", rule, self.root)
        require(".." not in self.root.split("/"), "data.root", "a path without ..; a link can lead there", self.root)
        check_ranges(self, "data")
        for name, source in self.sources.items():
            check_ranges(source, f"data.sources.{name}")
            for key in ("root", "config", "taxonomy"):
                check_inside(f"data.sources.{name}.{key}", getattr(source, key))
        check_inside("data.split_file", self.split_file)
        for name in self.sources:
            # No underscore: one separates the name from the key of a picture.
            require(is_name(name, "-"), "data.sources", name_rule("-"), name)
        wanted = (self.splits is Splits.file) == bool(self.split_file)
        require(wanted, "data.split_file", "a file exactly for data.splits: file", self.split_file)
