"""Every parameter of the pipeline: typed, with its unit, its range and what it does.

`Config` is the schema of conf/ and of params.yaml. People edit conf/; `make params` composes it, checks it
against this file and writes params.yaml, which the stages read through `load`.
"""

import math
import re
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from stages.foundation import text


def require(rule: bool, key: str, words: str, value: object) -> None:
    """Raise ValueError naming the key, the rule in words and the value found, unless the rule holds."""
    if not rule:
        raise ValueError(f"{key}: must be {words}, found {value!r}; edit it under conf/ and run `make params`")


def is_name(name: str, marks: str = "._-") -> bool:
    """Whether `name` can stand for a folder, a DVC stage and an argument of a command without quotes.

    It consists of a-z, A-Z, 0-9 and `marks`, with a letter or digit first, and doesn't end in .dvc, which is how DVC
    names the files of its own that it puts beside a folder.
    """
    return re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9{re.escape(marks)}]*", name) is not None and not name.endswith(".dvc")


def name_rule(marks: str = "._-") -> str:
    """The rule of `is_name` in words, for messages."""
    return f"a name of a-z A-Z 0-9 {' '.join(marks)}, with a letter or digit first"


def _divisible(key: str, value: int, by: int) -> None:
    require(value > 0 and value % by == 0, key, f"a positive multiple of {by}", value)


def _inside(key: str, path: str) -> None:
    # DVC tracks the folder: it would not see a change of what lies elsewhere.
    parts = Path(path).parts
    require(
        ".." not in parts and not Path(path).is_absolute(), key, "a path that stays in its folder, without ..", path
    )


@dataclass
class Sample:
    """The generated street scenes that stand in for a real dataset."""

    seed: int = 2020
    """Seed of every scene; the same seed gives byte-identical files."""
    train_images: int = 64
    """Scenes in the training split, 1 or more."""
    val_images: int = 16
    """Scenes in the validation split, 1 or more."""
    height_px: int = 256
    """Height of a scene, 128 to 2160."""
    width_px: int = 384
    """Width of a scene, 128 to 3840."""

    def __post_init__(self) -> None:
        require(self.train_images >= 1, "sample.train_images", "1 or more", self.train_images)
        require(self.val_images >= 1, "sample.val_images", "1 or more", self.val_images)
        require(128 <= self.height_px <= 2160, "sample.height_px", "128 to 2160", self.height_px)
        require(128 <= self.width_px <= 3840, "sample.width_px", "128 to 3840", self.width_px)


@dataclass
class Source:
    """One set in Mapillary Vistas layout."""

    root: str = ""
    """Its folder under data.root; empty: data.root itself."""
    version: str = ""
    """v1.2, v2.0 or flat; empty: the one that is there."""
    config: str = ""
    """Its own config JSON, a name in its folder; empty: config_VERSION.json or config.json."""
    taxonomy: str = ""
    """Table of what its labels become, a file conf/tables/NAME.csv; empty: the labels that its config evaluates."""


class Splits(Enum):
    """Where training and validation pictures are told apart."""

    folders = "folders"
    file = "file"
    fraction = "fraction"


class SmallSegments(Enum):
    """What becomes of objects below data.min_segment_px."""

    keep = "keep"
    crowd = "crowd"
    void = "void"


class OnError(Enum):
    """What becomes of a picture that can't be converted."""

    fail = "fail"
    skip = "skip"


class CheckMasks(Enum):
    """What becomes of a set whose masks look like another coding than label * 256 + instance."""

    fail = "fail"
    warn = "warn"


@dataclass
class Data:
    """Which sets are converted, and how their labels become classes."""

    root: str = "data/raw/sample"
    """Folder that all pictures are in, relative to the repository; any path without apostrophes."""
    sources: dict[str, Source] = field(default_factory=dict)
    """Name (a-z A-Z 0-9 -) -> set. Several become one, with the names before the pictures' keys. Empty: one set, at
    data.root."""
    splits: Splits = Splits.folders
    """By the folders training and validation, by a file, or by a fraction."""
    split_file: str = ""
    """For splits: file. A file conf/tables/NAME.csv of lines `name,split`: a picture's key, after SOURCE_ where there
    are several sources, and train, val or nothing."""
    val_fraction: float = 0.1
    """For splits: fraction. Share of the pictures to validate on, chosen by their keys; above 0, below 1."""
    split_seed: int = 0
    """For splits: fraction. Another seed chooses others."""
    max_edge_px: int = 0
    """Pictures with a longer edge are scaled down to it, and their masks; 0: none, else 64 or more."""
    min_segment_px: int = 0
    """Objects with fewer pixels are small; 0 or more."""
    small_segments: SmallSegments = SmallSegments.keep
    """Small objects stay, become crowds, or void."""
    on_error: OnError = OnError.fail
    """Whether a picture that can't be converted ends the run or is left out and listed in statistics.json."""
    max_skipped: int = 0
    """For on_error: skip. Pictures of a split that may be left out; 0 or more."""
    check_masks: CheckMasks = CheckMasks.fail
    """Whether masks that look like another coding than label * 256 + instance end the run or are a warning."""
    bare_file_names: bool = False
    """Whether file_name in the COCO files is a bare name, for tools that look for it in one folder. All pictures are
    then copied to data/coco/SPLIT/images. Else it is a path relative to data/coco/SPLIT, and pictures stay in place."""
    workers: int = 0
    """Processes that generate scenes and convert; 0: one for each core. The result is the same."""

    def __post_init__(self) -> None:
        # dvc.yaml has it in a command, between single quotes.
        plain_path = bool(self.root) and self.root.isprintable() and "'" not in self.root
        require(plain_path, "data.root", "a path without line ends and apostrophes; a link can lead there", self.root)
        for name, source in self.sources.items():
            for key in ("root", "config", "taxonomy"):
                _inside(f"data.sources.{name}.{key}", getattr(source, key))
        _inside("data.split_file", self.split_file)
        for name in self.sources:
            # An underscore would make it one with the key that follows it in a picture's name.
            require(is_name(name, "-"), "data.sources", name_rule("-"), name)
        wanted = (self.splits is Splits.file) == bool(self.split_file)
        require(wanted, "data.split_file", "a file exactly for data.splits: file", self.split_file)
        require(0 < self.val_fraction < 1, "data.val_fraction", "in (0, 1)", self.val_fraction)
        require(
            self.max_edge_px == 0 or self.max_edge_px >= 64, "data.max_edge_px", "0, or 64 or more", self.max_edge_px
        )
        for key in ("min_segment_px", "max_skipped", "workers"):
            require(getattr(self, key) >= 0, f"data.{key}", "0 or more", getattr(self, key))


class SwinType(Enum):
    """Sizes in TAO's own table; `custom` takes embed_dim, depths and num_heads as given."""

    tiny = "tiny"
    small = "small"
    base = "base"
    large = "large"
    custom = "custom"


@dataclass
class Backbone:
    """Swin transformer."""

    type: SwinType = SwinType.tiny
    """Size by TAO's name. `custom` needs the wheel runner: TAO's containers know only the four sizes."""
    embed_dim: int = 96
    """Channels after the patch embedding; a multiple of num_heads[0]."""
    depths: list[int] = field(default_factory=lambda: [2, 2, 6, 2])
    """Blocks of each of the four stages."""
    num_heads: list[int] = field(default_factory=lambda: [3, 6, 12, 24])
    """Attention heads of each of the four stages."""
    window_size: int = 7
    """Side of an attention window, in patches, 2 to 24."""
    drop_path_rate: float = 0.3
    """Stochastic depth rate, 0 to below 1."""
    pretrained_weights: str = ""
    """File of ImageNet weights in the original Swin's form, relative to the repository; empty: random weights."""
    pretrained_weights_sha256: str = ""
    """SHA-256 that the file must have, in hexadecimal; empty: any."""

    def __post_init__(self) -> None:
        for key, value in (("depths", self.depths), ("num_heads", self.num_heads)):
            require(len(value) == 4 and min(value) >= 1, f"model.backbone.{key}", "four numbers from 1", value)
        for stage, heads in enumerate(self.num_heads):
            dim = self.embed_dim << stage
            rule = f"a divisor of {dim}, the channels of stage {stage}"
            require(dim % heads == 0, f"model.backbone.num_heads[{stage}]", rule, heads)
        require(2 <= self.window_size <= 24, "model.backbone.window_size", "2 to 24", self.window_size)
        require(0 <= self.drop_path_rate < 1, "model.backbone.drop_path_rate", "in [0, 1)", self.drop_path_rate)


class Mode(Enum):
    """The segmentation task of a network, or of a deployed graph."""

    panoptic = "panoptic"
    semantic = "semantic"
    instance = "instance"


LABEL_MAP = "label_map"
"""The one word of model.weights_classes where the weights' classes are in the label map's order."""


@dataclass
class Model:
    """The Mask2Former network, in TAO's terms."""

    name: str = "swin_tiny"
    """Name shown in the report."""
    mode: Mode = Mode.panoptic
    """What the network learns, from which files, and which figures evaluate has. conf/deploy takes it for its own."""
    backbone: Backbone = field(default_factory=Backbone)
    num_object_queries: int = 100
    """Queries, each at most one segment, 1 to 255 (the panoptic map is uint8)."""
    hidden_dim: int = 256
    """Channels of pixel and transformer decoder; a multiple of 32 (GroupNorm) and of nheads."""
    nheads: int = 8
    """Attention heads of both decoders."""
    dim_feedforward: int = 2048
    """Inner channels of the transformer decoder's MLPs."""
    enc_layers: int = 6
    """Deformable attention layers of the pixel decoder."""
    dec_layers: int = 10
    """Prediction heads of the transformer decoder: TAO builds dec_layers - 1 layers. 2 or more."""
    weights: str = ""
    """A whole network, relative to the repository: .pth or .pkl of the original Mask2Former or of TAO, or a folder of
    Hugging Face. For train.runner: import it is the checkpoint, else what training starts from. Empty: none."""
    weights_sha256: str = ""
    """SHA-256 that its file must have, in hexadecimal: by it DVC sees that a file is another. Empty: any."""
    weights_format: str = ""
    """Whose its file is: tao, original or hugging_face. Empty: as its content tells; needed where that tells nothing,
    for TAO has the class no-object first and the original has it last. One that the content contradicts is refused."""
    weights_classes: list[str] = field(default_factory=list)
    """Its classes in their order, by the label map's names; [label_map] where that is the map's own. Empty: as Hugging
    Face's config.json says; the others' files name none."""

    def __post_init__(self) -> None:
        q = self.num_object_queries
        require(1 <= q <= 255, "model.num_object_queries", "1 to 255", q)
        _divisible("model.hidden_dim", self.hidden_dim, 32)
        rule = f"a divisor of hidden_dim {self.hidden_dim}"
        require(self.nheads > 0 and self.hidden_dim % self.nheads == 0, "model.nheads", rule, self.nheads)
        require(self.enc_layers >= 1, "model.enc_layers", "1 or more", self.enc_layers)
        require(self.dec_layers >= 2, "model.dec_layers", "2 or more", self.dec_layers)
        formats = ("", "tao", "original", "hugging_face")
        require(self.weights_format in formats, "model.weights_format", f"one of {formats}", self.weights_format)


class Precision(Enum):
    """Numeric type that the artifact computes in; some operators may stay in float32."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


# Hydra takes an Enum's names, and no class can have one that is a word of Python: `imported` is another name of it.
Runner = Enum(
    "Runner",
    {"wheel": "wheel", "docker": "docker", "launcher": "launcher", "import": "import", "imported": "import"},
)
"""What makes the checkpoint."""


class Scheduler(Enum):
    """How TAO lowers the learning rate."""

    MultiStep = "MultiStep"
    Warmuppoly = "Warmuppoly"


CONTAINER_RUNNERS = (Runner.docker, Runner.launcher)


class Strategy(Enum):
    """How several GPUs train one network."""

    ddp = "ddp"
    fsdp = "fsdp"


class Keep(Enum):
    """Which epoch's network becomes the artifact."""

    last = "last"
    best = "best"


class Monitor(Enum):
    """What tells a good epoch from a bad one, on the validation split."""

    accuracy = "accuracy"
    loss = "loss"


@dataclass
class Container:
    """TAO's container, for the runners docker and launcher."""

    image: str = ""
    """For docker. Image by digest, NAME@sha256:..., as `docker pull` prints it: a tag may be another image tomorrow."""
    shm_size_gib: int = 16
    """Shared memory, in GiB, which loader processes hand batches on through. 1 or more."""

    def __post_init__(self) -> None:
        named = re.fullmatch(r"(\S+@sha256:[0-9a-f]{64})?", self.image) is not None
        require(named, "train.container.image", "NAME@sha256:DIGEST, as `docker pull` prints it", self.image)
        require(self.shm_size_gib >= 1, "train.container.shm_size_gib", "1 or more", self.shm_size_gib)


@dataclass
class Train:
    """TAO training. The sizes are those of TAO's augmentation."""

    runner: Runner = Runner.wheel
    """wheel: TAO in this environment. docker: TAO's container. launcher: the same by `tao model mask2former`. import:
    no training, the network of model.weights is taken as it is."""
    container: Container = field(default_factory=Container)
    gpus: list[int] = field(default_factory=lambda: [0])
    """Numbers of the GPUs of a node; the wheel trains in as many processes. Without CUDA, on the CPU."""
    nodes: int = 1
    """Machines, each with as many GPUs, 1 or more; docs/training.md has the command for each."""
    strategy: Strategy = Strategy.ddp
    """For more than one GPU. ddp: each holds the whole network. fsdp: each holds a part; TAO trains in fp16 then."""
    activation_checkpoint: bool = False
    """Compute activations again in the backward pass: less memory, more time."""
    epochs: int = 50
    """Passes over the training split, 1 or more."""
    batch_size: int = 4
    """Images a step and GPU, 1 or more; the train stage refuses more than the split has."""
    lr: float = 1e-4
    """Learning rate of AdamW, above 0."""
    backbone_multiplier: float = 0.1
    """Learning rate of the backbone as a fraction of lr, 0 or more; 1 where it starts from random weights."""
    weight_decay: float = 0.05
    """Weight decay of AdamW, 0 or more; norms, embeddings and position tables have none."""
    lr_scheduler: Scheduler = Scheduler.MultiStep
    """MultiStep lowers lr by 0.1 at each of milestones; Warmuppoly lowers it to 0 over the whole run, step by step."""
    milestones: list[int] = field(default_factory=lambda: [44, 48])
    """Epochs after which MultiStep multiplies lr by 0.1."""
    clip_grad_norm: float = 0.1
    """Largest norm of the whole gradient, above 0."""
    precision: Precision = Precision.fp32
    """Arithmetic of the training step."""
    min_sizes_px: list[int] = field(default_factory=lambda: [512, 768, 1024])
    """Shorter image edge after the random resize: one of these."""
    max_size_px: int = 2560
    """Longest image edge after the random resize."""
    crop_height_px: int = 512
    """Height of the training crop, a multiple of 32."""
    crop_width_px: int = 1024
    """Width of the training crop, a multiple of 32."""
    validation_interval: int = 5
    """Epochs from one validation to the next, 1 to epochs."""
    checkpoint_interval: int = 1
    """Epochs from one checkpoint to the next, 1 to epochs: a killed training goes on from the last one."""
    keep: Keep = Keep.last
    """The last epoch's network, or the one that was best by monitor."""
    monitor: Monitor = Monitor.accuracy
    """accuracy: TAO's mIoU, or its mask AP in instance mode. loss: the validation loss."""
    patience: int = 0
    """Validations in a row without a better monitor after which training ends; 0: none."""
    workers: int = 4
    """Loader processes, 0 or more; 0 loads in the training process."""
    seed: int = 1234
    """Seed of weights, order and augmentation, 0 or more."""
    tao_spec: dict[str, Any] = field(default_factory=dict)
    """Other fields of TAO's spec, in its own nesting, such as {model: {mask_former: {dropout: 0.1}}}."""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "train.epochs", "1 or more", self.epochs)
        require(self.batch_size >= 1, "train.batch_size", "1 or more", self.batch_size)
        require(self.lr > 0, "train.lr", "above 0", self.lr)
        for key in ("backbone_multiplier", "weight_decay", "workers"):
            require(getattr(self, key) >= 0, f"train.{key}", "0 or more", getattr(self, key))
        rule = f"epochs from 1 to {self.epochs} (train.epochs)"
        require(all(1 <= m <= self.epochs for m in self.milestones), "train.milestones", rule, self.milestones)
        require(self.clip_grad_norm > 0, "train.clip_grad_norm", "above 0", self.clip_grad_norm)
        _divisible("train.crop_height_px", self.crop_height_px, 32)
        _divisible("train.crop_width_px", self.crop_width_px, 32)
        sizes = self.min_sizes_px
        # With one size TAO invents a range of its own, from half of it to twice it.
        require(len(sizes) >= 2 and min(sizes) >= 32, "train.min_sizes_px", "two or more sizes from 32", sizes)
        rule = f"at least the largest of min_sizes_px, {max(sizes)}"
        require(self.max_size_px >= max(sizes), "train.max_size_px", rule, self.max_size_px)
        for key in ("validation_interval", "checkpoint_interval"):
            interval = getattr(self, key)
            require(1 <= interval <= self.epochs, f"train.{key}", f"1 to {self.epochs} (train.epochs)", interval)
        require(self.patience >= 0, "train.patience", "0 or more", self.patience)
        distinct = bool(self.gpus) and len(set(self.gpus)) == len(self.gpus) and min(self.gpus) >= 0
        require(distinct, "train.gpus", "one GPU number or more, each once", self.gpus)
        require(self.nodes >= 1, "train.nodes", "1 or more", self.nodes)
        named = bool(self.container.image) or self.runner is not Runner.docker
        require(named, "train.container.image", "an image for train.runner: docker", "")
        whole = self.epochs % self.checkpoint_interval == 0
        rule = f"a divisor of {self.epochs} (train.epochs), so that the last epoch has a checkpoint"
        require(whole, "train.checkpoint_interval", rule, self.checkpoint_interval)
        if self.patience:
            whole = self.validation_interval % self.checkpoint_interval == 0
            rule = f"a divisor of {self.validation_interval} (train.validation_interval) with train.patience"
            require(whole, "train.checkpoint_interval", rule, self.checkpoint_interval)
            inside = self.runner not in CONTAINER_RUNNERS
            require(inside, "train.patience", f"0 for train.runner: {self.runner.value}: TAO has none", self.patience)
        clips = self.strategy is Strategy.ddp or self.runner not in CONTAINER_RUNNERS
        rule = f"ddp for train.runner: {self.runner.value}: TAO's own fsdp can't clip gradients and fails"
        require(clips, "train.strategy", rule, self.strategy.value)
        require(self.seed >= 0, "train.seed", "0 or more", self.seed)


class GraphKind(Enum):
    """What the deployed graph takes and returns; docs/outputs.md has both in full."""

    fused = "fused"
    tao = "tao"


class Resize(Enum):
    """How a frame gets the size of the network's input."""

    pad = "pad"
    stretch = "stretch"


class Variant(Enum):
    """Which graph of the network is compiled; its checkpoint and its answer are the same."""

    onnx = "onnx"
    onnx_gather = "onnx_gather"
    onnx_plugin_v1 = "onnx_plugin_v1"
    onnx_plugin_v2 = "onnx_plugin_v2"
    cuda = "cuda"


PLUGIN = "MultiscaleDeformableAttnPlugin_TRT"
"""TensorRT's own plugin for deformable attention."""
PLUGIN_VERSIONS = {Variant.onnx_plugin_v1: "1", Variant.onnx_plugin_v2: "2"}
"""Variants that use it -> its version."""


@dataclass
class Deploy:
    """The network as it is deployed: what the checkpoint is evaluated at, and what an engine computes."""

    graph: GraphKind = GraphKind.fused
    """fused: uint8 frames in, merged maps out. tao: names, shapes and meaning of TAO's exporter, for TAO Deploy and
    DeepStream."""
    mode: Mode = Mode.panoptic
    """The network's own, model.mode, but one that learned panoptic has all three. panoptic: a map of query ids.
    semantic: a map of classes. instance: the masks of the best top_k."""
    batch_size: int = 1
    """Frames an engine takes at once, 1 to 64; fixed."""
    frame_height_px: int = 720
    """Height of the frames that an engine takes, 32 or more."""
    frame_width_px: int = 1280
    """Width of the frames that an engine takes, 32 or more."""
    height_px: int = 736
    """Height of the network's input, a multiple of 32."""
    width_px: int = 1280
    """Width of the network's input, a multiple of 32."""
    resize: Resize = Resize.pad
    """From frame to network input. pad: scaled to fit, zeros at the bottom and the right. stretch: each axis scaled by
    itself, as TAO Deploy does."""
    variants: list[Variant] = field(default_factory=lambda: [Variant.onnx])
    """Variants of the graph that are exported; each target takes one."""
    lower_precisions: list[Precision] = field(default_factory=lambda: [Precision.fp16])
    """Precisions below fp32 that are made of each variant; each target takes fp32 or one of these."""
    opset: int = 17
    """ONNX opset, 17 to 20: from 17 LayerNorm is one operator, which half precision needs."""
    object_mask_threshold: float = 0.4
    """Queries whose class score is at most this are dropped, in [0, 1)."""
    overlap_threshold: float = 0.5
    """A query keeps its segment when it won at least this fraction of its own mask, in [0, 1]."""
    top_k: int = 100
    """Instance mode: pairs of query and class that are kept, best first; 1 or more, at most queries x classes."""
    reference_frames: int = 2
    """Validation pictures on which TAO's answer is kept, to compare every graph with. 1 or more."""
    max_logit_difference: float = 0.01
    """Largest difference of logits between the exported or simplified graph and TAO's network on the reference frames,
    at the 99th percentile; more fails the stage. Above 0. At most it says little: a query whose mask is empty but for a
    pixel near 0 attends to that pixel or, by rounding, to the whole picture (arXiv:2112.01527, eq. 4)."""
    min_pixel_agreement_pct: float = 99.99
    """Pixels with the same segment as by TAO's post-processing, in the exported and the simplified graph on the
    reference frames, in percent; fewer fails the stage. 0 to 100."""
    keep_float32: list[str] = field(default_factory=list)
    """What stays in float32 in a graph of lower precision: ONNX operators, such as Softmax, or parts of the network
    by a piece of their nodes' names, such as /merge/."""
    expand_instance_normalization: bool = False
    """Write InstanceNormalization, which GroupNorm becomes, as elementary operators: for TensorRT 8 without cuDNN."""
    max_score_difference: float = 0.05
    """Largest difference of a class or mask probability between a graph in lower precision and TAO's network on the
    reference frames, at the 99.9th percentile; more fails the precision stage. In (0, 1]."""
    calibration_pictures: int = 64
    """Validation pictures that int8 ranges are taken from, 1 or more."""

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of the frames that an engine takes."""
        return self.frame_height_px, self.frame_width_px

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the network's input."""
        return self.height_px, self.width_px

    @property
    def mask_size(self) -> tuple[int, int]:
        """(height, width) of the network's mask logits."""
        return self.height_px // 4, self.width_px // 4

    def __post_init__(self) -> None:
        require(1 <= self.batch_size <= 64, "deploy.batch_size", "1 to 64", self.batch_size)
        for key in ("frame_height_px", "frame_width_px"):
            require(getattr(self, key) >= 32, f"deploy.{key}", "32 or more", getattr(self, key))
        _divisible("deploy.height_px", self.height_px, 32)
        _divisible("deploy.width_px", self.width_px, 32)
        require(bool(self.variants), "deploy.variants", "one variant or more", [])
        if self.graph is GraphKind.tao:
            rule = "without cuda for the graph tao, which is one ONNX file for other runtimes"
            require(Variant.cuda not in self.variants, "deploy.variants", rule, "cuda")
        lower = [p.value for p in self.lower_precisions]
        require(Precision.fp32 not in self.lower_precisions, "deploy.lower_precisions", "without fp32", lower)
        require(17 <= self.opset <= 20, "deploy.opset", "17 to 20", self.opset)
        score, overlap = self.object_mask_threshold, self.overlap_threshold
        require(0 <= score < 1, "deploy.object_mask_threshold", "in [0, 1)", score)
        require(0 <= overlap <= 1, "deploy.overlap_threshold", "in [0, 1]", overlap)
        for key in ("top_k", "reference_frames", "calibration_pictures"):
            require(getattr(self, key) >= 1, f"deploy.{key}", "1 or more", getattr(self, key))
        logit = self.max_logit_difference
        require(logit > 0, "deploy.max_logit_difference", "above 0", logit)
        pct = self.min_pixel_agreement_pct
        require(0 <= pct <= 100, "deploy.min_pixel_agreement_pct", "0 to 100", pct)
        limit = self.max_score_difference
        require(0 < limit <= 1, "deploy.max_score_difference", "in (0, 1]", limit)


class Builder(Enum):
    """What compiles the ONNX file into an engine: a module of stages/engines."""

    openvino = "openvino"
    onnxruntime = "onnxruntime"
    tensorrt_rtx = "tensorrt_rtx"
    tensorrt = "tensorrt"


CPU_BUILDERS = (Builder.openvino, Builder.onnxruntime)


class Device(Enum):
    """What an engine runs on: a folder of stages/engines."""

    cpu = "cpu"
    cuda = "cuda"


RTX_COMPUTE_CAPABILITIES = ["7.5", "8.0", "8.6", "8.9", "12.0", "12.1"]
"""What TensorRT-RTX 1.7 generates code for, by its enumeration ComputeCapability."""


class Typing(Enum):
    """Where a TensorRT engine's numeric types come from."""

    strong = "strong"
    weak = "weak"


class Verbosity(Enum):
    """What an engine tells of its layers to TensorRT's inspector."""

    none = "none"
    layer_names_only = "layer_names_only"
    detailed = "detailed"


@dataclass
class Target:
    """A kind of machine that an engine is for."""

    description: str = ""
    """Machines that the engine runs on, for the report."""
    builder: Builder = Builder.openvino
    """What compiles the engine."""
    builder_version: str = ""
    """Version of the builder, or its beginning up to a dot: 8.6 stands for every 8.6.x. Another one installed is an
    error, for engines load only in their own version."""
    architecture: str = "x86_64"
    """CPU architecture of the machine, as `uname -m` prints it."""
    device: Device = Device.cpu
    """What the engine runs on: cpu for the builders openvino and onnxruntime, cuda for the others."""
    compute_capabilities: list[str] = field(default_factory=list)
    """CUDA compute capabilities that the engine holds code for; empty for a CPU target, one for standard TensorRT."""
    precision: Precision = Precision.fp32
    """Which ONNX file is compiled: data/onnx/<variant>/<precision>."""
    variant: Variant = Variant.onnx
    """onnx: standard ONNX operators; deformable attention samples by GridSample. cuda: our CUDA operators for the
    network after its first layer; GPUs only. onnx_gather: as onnx, but samples by Gather, for TensorRT versions whose
    GridSample is wrong. onnx_plugin_v1, onnx_plugin_v2: as onnx, but samples by standard TensorRT's
    MultiscaleDeformableAttnPlugin_TRT of that version; version 2 needs TensorRT 10.11 or later."""
    typing: Typing = Typing.strong
    """Standard TensorRT alone. strong: the ONNX file's types, from 10.12 on. weak: the builder may choose lower types
    as precision allows, but for what the file has in float32; up to 10.x."""
    external_tactics: bool = False
    """Standard TensorRT up to 10.x: cuBLAS, cuBLASLt and cuDNN as sources of kernels too; they must be installed."""
    optimization_level: int = 3
    """TensorRT's search effort, 0 to 5."""
    profiling_verbosity: Verbosity = Verbosity.layer_names_only
    """What TensorRT's inspector can tell of the engine's layers."""
    threads: int = 2
    """CPU threads at run time; ignored by GPU targets. 1 or more."""
    workspace_mib: int = 4096
    """Scratch memory that the builder's tactics may use, in MiB; ignored by CPU targets. 64 or more."""

    def check(self, name: str) -> None:
        """Raise ValueError for a value out of range; `name` is the target's id."""
        # It is a folder, a part of a DVC stage's name and, in `params: targets.NAME`, of a key: so no dots.
        require(is_name(name, "_-"), "targets", name_rule("_-"), name)
        key = f"targets.{name}"
        require(bool(self.builder_version), f"{key}.builder_version", "a version", self.builder_version)
        require(self.threads >= 1, f"{key}.threads", "1 or more", self.threads)
        require(self.workspace_mib >= 64, f"{key}.workspace_mib", "64 or more", self.workspace_mib)
        level = self.optimization_level
        require(0 <= level <= 5, f"{key}.optimization_level", "0 to 5", level)
        device = Device.cpu if self.builder in CPU_BUILDERS else Device.cuda
        rule = f"{device.value} for builder: {self.builder.value}"
        require(self.device is device, f"{key}.device", rule, self.device.value)
        found = self.compute_capabilities
        where = f"{key}.compute_capabilities"
        if self.builder in CPU_BUILDERS:
            require(not found, where, "empty for a CPU target", found)
        elif self.builder is Builder.tensorrt_rtx:
            known = bool(found) and set(found) <= set(RTX_COMPUTE_CAPABILITIES)
            require(known, where, f"one or more of {RTX_COMPUTE_CAPABILITIES}", found)
        else:
            require(len(found) == 1, where, "one, such as 8.9", found)
            self._check_tensorrt(key)
        if self.builder is not Builder.tensorrt:
            variant = self.variant
            rule = f"one without plugins, which {self.builder.value} does not have"
            require(variant not in PLUGIN_VERSIONS, f"{key}.variant", rule, variant.value)
        if self.builder in CPU_BUILDERS:
            rule = "another for a CPU target: our kernels are CUDA's"
            require(self.variant is not Variant.cuda, f"{key}.variant", rule, "cuda")

    def _check_tensorrt(self, key: str) -> None:
        version = version_numbers(self.builder_version)
        typing = self.typing
        if typing is Typing.strong:
            rule = f"weak with TensorRT {self.builder_version}: strong typing is whole from 10.12 on"
            require(version >= (10, 12), f"{key}.typing", rule, typing.value)
        else:
            rule = f"strong with TensorRT {self.builder_version}, which has no weak typing"
            require(version < (11,), f"{key}.typing", rule, typing.value)
        if self.external_tactics:
            rule = f"false with TensorRT {self.builder_version}, which has kernels of its own alone"
            require(version < (11,), f"{key}.external_tactics", rule, True)
        if self.variant is Variant.onnx_plugin_v2:
            rule = f"another with TensorRT {self.builder_version}: version 2 of the plugin came with 10.11"
            require(version >= (10, 11), f"{key}.variant", rule, "onnx_plugin_v2")


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "10.13.2.6" -> (10, 13, 2, 6). Raises ValueError where it starts with none."""
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    require(bool(numbers), "builder_version", "numbers separated by dots", version)
    return tuple(numbers)


@dataclass
class Verify:
    """Limits of an engine against the checkpoint, on the validation images. Beyond them the stage fails."""

    min_pixel_agreement_pct: float = 99.5
    """Pixels with the same segment in both panoptic maps, in percent of all, over all images."""
    max_pq_difference: float = 0.2
    """Largest difference of PQ either way, in points of 100."""

    def __post_init__(self) -> None:
        pct = self.min_pixel_agreement_pct
        require(0 <= pct <= 100, "verify.min_pixel_agreement_pct", "0 to 100", pct)
        require(self.max_pq_difference >= 0, "verify.max_pq_difference", "0 or more", self.max_pq_difference)


@dataclass
class Benchmark:
    """Timing of an engine on this host, and of PyTorch eager in the same run."""

    frames: int = 50
    """Timed frames, 10 or more."""
    warmup_frames: int = 5
    """Frames before the clock starts, 1 or more."""
    pictures: int = 16
    """Validation pictures that the frames are taken from, in turn, 1 or more."""

    def __post_init__(self) -> None:
        require(self.frames >= 10, "benchmark.frames", "10 or more", self.frames)
        require(self.warmup_frames >= 1, "benchmark.warmup_frames", "1 or more", self.warmup_frames)
        require(self.pictures >= 1, "benchmark.pictures", "1 or more", self.pictures)


@dataclass
class Report:
    """The HTML page."""

    pictures: int = 4
    """Validation images shown side by side, 1 or more."""

    def __post_init__(self) -> None:
        require(self.pictures >= 1, "report.pictures", "1 or more", self.pictures)


@dataclass
class Config:
    """All parameters; the root of params.yaml."""

    profile: str = "sample"
    """Name of the profile that was composed."""
    sample: Sample = field(default_factory=Sample)
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    deploy: Deploy = field(default_factory=Deploy)
    targets: dict[str, Target] = field(default_factory=dict)
    """Target id (a-z A-Z 0-9 _ -) -> target: an engine is built for each."""
    runnable: list[str] = field(default_factory=list)
    """Targets whose engines this workspace can run: these are verified and benchmarked."""
    verify: Verify = field(default_factory=Verify)
    benchmark: Benchmark = field(default_factory=Benchmark)
    report: Report = field(default_factory=Report)

    def __post_init__(self) -> None:
        require(is_name(self.profile, "._-/"), "profile", name_rule("._-/"), self.profile)
        require(bool(self.targets), "targets", "one target or more", self.targets)
        for name, target in self.targets.items():
            target.check(name)
            self._check_graph(name, target)
        imported = self.train.runner is Runner.imported
        require(bool(self.model.weights) or not imported, "model.weights", "a path for train.runner: import", "")
        custom = self.model.backbone.type is SwinType.custom and self.train.runner in CONTAINER_RUNNERS
        rule = f"one of TAO's own for train.runner: {self.train.runner.value}"
        require(not custom, "model.backbone.type", rule, SwinType.custom.value)
        learned, wanted = self.model.mode, self.deploy.mode
        rule = f"{learned.value}, which the network learns (model.mode)"
        require(learned in (Mode.panoptic, wanted), "deploy.mode", rule, wanted.value)
        for name in self.runnable:
            require(name in self.targets, "runnable", f"among the targets {sorted(self.targets)}", name)

    def _check_graph(self, name: str, target: Target) -> None:
        variants = [variant.value for variant in self.deploy.variants]
        variant = target.variant.value
        rule = f"among deploy.variants {variants}"
        require(variant in variants, f"targets.{name}.variant", rule, variant)
        precisions = ["fp32", *(p.value for p in self.deploy.lower_precisions)]
        found = target.precision.value
        rule = f"fp32 or among deploy.lower_precisions {precisions[1:]}"
        require(found in precisions, f"targets.{name}.precision", rule, found)

    def target(self, name: str) -> Target:
        """The target of an id. Raises ValueError naming the ids there are."""
        require(name in self.targets, "--target", f"among the targets {sorted(self.targets)}", name)
        return self.targets[name]


def load(path: Path = Path("params.yaml")) -> Config:
    """Read and check a composed parameter file, YAML or, for machines without a YAML reader, JSON.

    Raises FileNotFoundError when it is not there, ValueError with the full key for one that is unknown, ill-typed or
    out of range.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path} not found; run `make params` in the repository's root, or "
            f"`python -m stages.commands.params --out {path}`"
        )
    return check(text.read_json(path) if path.suffix == ".json" else text.read_yaml(path))


def check(composed: Any) -> Config:
    """Turn plain mappings and lists into a Config, or raise as `load` says."""
    result = _typed(Config, composed, "")
    assert isinstance(result, Config)
    return result


def deploy(content: Any) -> Deploy:
    """The `deploy` part alone, from its plain form; raises as `load`."""
    result = _typed(Deploy, content, "deploy")
    assert isinstance(result, Deploy)
    return result


def target(name: str, content: Any) -> Target:
    """One target, `targets.<name>`, from its plain form; raises as `load`."""
    result = _typed(Target, content, f"targets.{name}")
    assert isinstance(result, Target)
    result.check(name)
    return result


RULES: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
"""Types of parameters in words."""


def _typed(kind: Any, value: Any, key: str) -> Any:
    """`value` as `kind`: a dataclass, an Enum, a list, a dict or a scalar."""
    if is_dataclass(kind):
        require(isinstance(value, dict), key or "the parameters", "a mapping", value)
        known = get_type_hints(kind)
        for name in value:
            require(name in known, f"{key}.{name}".lstrip("."), f"one of the keys {sorted(known)}", name)
        arguments = {name: _typed(known[name], v, f"{key}.{name}".lstrip(".")) for name, v in value.items()}
        result: Any = kind
        return result(**arguments)
    if get_origin(kind) is list:
        require(isinstance(value, list), key, "a list", value)
        return [_typed(get_args(kind)[0], v, f"{key}[{i}]") for i, v in enumerate(value)]
    if get_origin(kind) is dict:
        require(isinstance(value, dict), key, "a mapping", value)
        for name in value:
            require(isinstance(name, str), key, f"a mapping with names of text, in quotes ('{name}')", name)
        return {name: _typed(get_args(kind)[1], v, f"{key}.{name}") for name, v in value.items()}
    if kind is Any:
        return value
    if issubclass(kind, Enum):
        choices = [choice.value for choice in kind]
        require(value in choices, key, f"one of {choices}", value)
        return kind(value)
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 2**1023 else math.inf
    if kind is str:
        require(type(value) is str, key, "text, in quotes where YAML reads it as a number or a truth value", value)
        require(value != "???", key, "given", value)
    require(type(value) is kind, key, RULES[kind], value)
    require(kind is not float or math.isfinite(value), key, "a finite number", value)
    return value


def plain(value: Any) -> Any:
    """The plain form of a config object, for JSON and YAML: dataclasses to dicts, enums to their values."""
    if isinstance(value, Enum):
        return value.value
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value
