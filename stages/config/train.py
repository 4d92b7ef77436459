"""The section `train`: training by TAO."""

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any

from stages.config.rules import Range, check_ranges, require

# Hydra uses the names of an Enum's members, and a member of a class can't be named `import`, a keyword of Python. So
# this Enum is made by a call, and the code says Runner.imported.
Runner = Enum(
    "Runner",
    {"wheel": "wheel", "docker": "docker", "launcher": "launcher", "import": "import", "imported": "import"},
)
"""Ways to make the checkpoint."""

CONTAINER_RUNNERS = (Runner.docker, Runner.launcher)
"""Runners that train in TAO's container."""


class Scheduler(Enum):
    """Schedules by which TAO lowers the learning rate."""

    MultiStep = "MultiStep"
    Warmuppoly = "Warmuppoly"


class Strategy(Enum):
    """Ways to train one network on several GPUs."""

    ddp = "ddp"
    fsdp = "fsdp"


class TrainingPrecision(Enum):
    """Numeric types in which TAO trains."""

    fp32 = "fp32"
    fp16 = "fp16"


class Keep(Enum):
    """Choices of the epoch whose network becomes the checkpoint."""

    last = "last"
    best = "best"


class Monitor(Enum):
    """Metrics of the validation split by which epochs are compared."""

    accuracy = "accuracy"
    loss = "loss"


@dataclass
class Container:
    """TAO's container, for the runners docker and launcher."""

    image: str = ""
    """For runner: docker. The image by its digest, NAME@sha256:..., as `docker pull` prints it. Tags are refused,
    because a tag can later name another image."""
    shm_size_gib: Annotated[int, Range(at_least=1)] = 16
    """Shared memory of the container, through which loader processes pass batches. Raise it if they die with a bus
    error."""

    def __post_init__(self) -> None:
        check_ranges(self, "train.container")
        named = re.fullmatch(r"(\S+@sha256:[0-9a-f]{64})?", self.image) is not None
        require(named, "train.container.image", "NAME@sha256:DIGEST, as `docker pull` prints it", self.image)


@dataclass
class Train:
    """Training by TAO. Sizes are those of TAO's augmentation."""

    runner: Runner = Runner.wheel
    """wheel: TAO in this environment. docker: TAO's container. launcher: the same container, by `tao model
    mask2former`. import: no training; the network of model.weights becomes the checkpoint."""
    container: Container = field(default_factory=Container)
    gpus: list[int] = field(default_factory=lambda: [0])
    """Numbers of the GPUs to use on a machine, each once. The wheel starts a process for each. On a machine without
    CUDA it trains on the CPU."""
    nodes: Annotated[int, Range(at_least=1)] = 1
    """Machines that train together, each with the same number of GPUs. docs/training.md has the command for each."""
    strategy: Strategy = Strategy.ddp
    """With more than one GPU. ddp: each GPU holds the whole network. fsdp: each holds a part of it, and TAO trains in
    fp16; for networks too large for one GPU."""
    activation_checkpoint: bool = False
    """true: activations are computed again in the backward pass, which takes less memory and more time."""
    epochs: Annotated[int, Range(at_least=1)] = 50
    """Passes over the training split."""
    batch_size: Annotated[int, Range(at_least=1)] = 4
    """Pictures in a step on each GPU, at most as many as the training split has. Lower it if memory runs out."""
    lr: Annotated[float, Range(above=0)] = 1e-4
    """Learning rate of AdamW. Scale it with batch_size x GPUs."""
    backbone_multiplier: Annotated[float, Range(at_least=0)] = 0.1
    """Learning rate of the backbone as a fraction of lr. Set 1 for a backbone with random weights."""
    weight_decay: Annotated[float, Range(at_least=0)] = 0.05
    """Weight decay of AdamW. Normalisation layers, embeddings and position tables have none."""
    lr_scheduler: Scheduler = Scheduler.MultiStep
    """MultiStep: lr is multiplied by 0.1 at each of milestones. Warmuppoly: it falls to 0 over the run, step by
    step."""
    milestones: list[int] = field(default_factory=lambda: [44, 48])
    """Epochs after which MultiStep multiplies lr by 0.1, each from 1 to epochs."""
    clip_grad_norm: Annotated[float, Range(above=0)] = 0.1
    """Largest norm of the gradient of all parameters; a larger gradient is scaled down to it."""
    precision: TrainingPrecision = TrainingPrecision.fp32
    """Numeric type of a training step. fp16: mixed precision."""
    min_sizes_px: list[int] = field(default_factory=lambda: [512, 768, 1024])
    """Shorter edge of a picture after the random resize: one of these, two or more sizes from 32."""
    max_size_px: Annotated[int, Range(at_least=32)] = 2560
    """Longest edge of a picture after the random resize; at least the largest of min_sizes_px."""
    crop_height_px: Annotated[int, Range(above=0, multiple_of=32)] = 512
    """Height of the training crop. Lower it if memory runs out."""
    crop_width_px: Annotated[int, Range(above=0, multiple_of=32)] = 1024
    """Width of the training crop. Lower it if memory runs out."""
    validation_interval: Annotated[int, Range(at_least=1)] = 5
    """Epochs from one validation to the next, at most epochs."""
    checkpoint_interval: Annotated[int, Range(at_least=1)] = 1
    """Epochs from one checkpoint to the next, a divisor of epochs. An interrupted training resumes from the last
    checkpoint."""
    keep: Keep = Keep.last
    """last: the network of the last epoch becomes the checkpoint. best: that of the epoch with the best monitor."""
    monitor: Monitor = Monitor.accuracy
    """accuracy: TAO's mIoU, or its mask AP in instance mode. loss: the validation loss."""
    patience: Annotated[int, Range(at_least=0)] = 0
    """Training ends after this number of consecutive validations without a better monitor. 0: it runs all epochs."""
    partial_labels: bool = False
    """true: for data.sources that label different classes. A query that finds a class which the picture's source does
    not label is not punished. See docs/training.md. false: TAO's own losses."""
    repeat_threshold: Annotated[float, Range(at_least=0, at_most=1)] = 0.0
    """Pictures with a class that a smaller share of the training pictures has come several times in an epoch, by the
    rule of LVIS (docs/training.md), such as 0.001. 0: each picture comes once, or as often as its source says
    (data.sources.NAME.repeat)."""
    workers: Annotated[int, Range(at_least=0)] = 4
    """Loader processes. 0: the training process loads the pictures."""
    seed: Annotated[int, Range(at_least=0)] = 1234
    """Seed of weights, order of pictures and augmentation."""
    tao_spec: dict[str, Any] = field(default_factory=dict)
    """Other fields of TAO's spec, nested as there, such as {model: {mask_former: {dropout: 0.1}}}."""

    def __post_init__(self) -> None:
        check_ranges(self, "train")
        self._check_epochs()
        sizes = self.min_sizes_px
        # From a single size TAO makes its own range, from half to twice the size.
        require(len(sizes) >= 2 and min(sizes) >= 32, "train.min_sizes_px", "two or more sizes from 32", sizes)
        rule = f"at least the largest of min_sizes_px, {max(sizes)}"
        require(self.max_size_px >= max(sizes), "train.max_size_px", rule, self.max_size_px)
        distinct = bool(self.gpus) and len(set(self.gpus)) == len(self.gpus) and min(self.gpus) >= 0
        require(distinct, "train.gpus", "one GPU number or more, each once", self.gpus)
        named = bool(self.container.image) or self.runner is not Runner.docker
        require(named, "train.container.image", "an image for train.runner: docker", "")
        clips = self.strategy is Strategy.ddp or self.runner not in CONTAINER_RUNNERS
        rule = f"ddp for train.runner: {self.runner.value}: TAO's own fsdp can't clip gradients and fails"
        require(clips, "train.strategy", rule, self.strategy.value)

    def _check_epochs(self) -> None:
        rule = f"epochs from 1 to {self.epochs} (train.epochs)"
        require(all(1 <= m <= self.epochs for m in self.milestones), "train.milestones", rule, self.milestones)
        for key in ("validation_interval", "checkpoint_interval"):
            interval = getattr(self, key)
            require(interval <= self.epochs, f"train.{key}", f"1 to {self.epochs} (train.epochs)", interval)
        whole = self.epochs % self.checkpoint_interval == 0
        rule = f"a divisor of {self.epochs} (train.epochs), so that the last epoch has a checkpoint"
        require(whole, "train.checkpoint_interval", rule, self.checkpoint_interval)
        inside = self.runner not in CONTAINER_RUNNERS
        for key, off in {"patience": "0", "partial_labels": "false", "repeat_threshold": "0"}.items():
            value = getattr(self, key)
            rule = f"{off} for train.runner: {self.runner.value}: TAO has none"
            require(inside or not value, f"train.{key}", rule, value)
        if self.patience:
            whole = self.validation_interval % self.checkpoint_interval == 0
            rule = f"a divisor of {self.validation_interval} (train.validation_interval) with train.patience"
            require(whole, "train.checkpoint_interval", rule, self.checkpoint_interval)
