"""The section `model`: the network and its weights."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from stages.config.rules import Range, check_ranges, require


class SwinType(Enum):
    """Sizes of Swin in TAO's table; custom takes embed_dim, depths and num_heads as given."""

    tiny = "tiny"
    small = "small"
    base = "base"
    large = "large"
    custom = "custom"


@dataclass
class Backbone:
    """The Swin transformer that turns a picture into features."""

    type: SwinType = SwinType.tiny
    """Size by TAO's name. custom is for the wheel runner only: TAO's containers know the other four."""
    embed_dim: Annotated[int, Range(at_least=1)] = 96
    """Channels after the patch embedding; a multiple of num_heads[0]."""
    depths: list[int] = field(default_factory=lambda: [2, 2, 6, 2])
    """Blocks of each of the four stages, 1 or more each."""
    num_heads: list[int] = field(default_factory=lambda: [3, 6, 12, 24])
    """Attention heads of each of the four stages, 1 or more each. The channels of a stage are a multiple of them."""
    window_size: Annotated[int, Range(at_least=2, at_most=24)] = 7
    """Side of an attention window, in patches. It must be that of the pretrained weights."""
    drop_path_rate: Annotated[float, Range(at_least=0, below=1)] = 0.3
    """Rate of stochastic depth. Lower it for small networks and short trainings."""
    pretrained_weights: str = ""
    """File of ImageNet weights with the original Swin's names, relative to the repository. Empty: random weights."""
    pretrained_weights_sha256: str = ""
    """SHA-256 that this file must have, in hexadecimal. Empty: not checked."""

    def __post_init__(self) -> None:
        check_ranges(self, "model.backbone")
        for key, value in (("depths", self.depths), ("num_heads", self.num_heads)):
            require(len(value) == 4 and min(value) >= 1, f"model.backbone.{key}", "four numbers from 1", value)
        for stage, heads in enumerate(self.num_heads):
            dim = self.embed_dim << stage
            rule = f"a divisor of {dim}, the channels of stage {stage}"
            require(dim % heads == 0, f"model.backbone.num_heads[{stage}]", rule, heads)


class Mode(Enum):
    """The segmentation task of a network, or of a deployed graph."""

    panoptic = "panoptic"
    semantic = "semantic"
    instance = "instance"


LABEL_MAP = "label_map"
"""The one entry of model.weights_classes if the classes of the weights have the order of the label map."""


@dataclass
class Model:
    """The Mask2Former network, with the names of TAO's spec."""

    name: str = "swin_tiny"
    """Name of the network in the report."""
    mode: Mode = Mode.panoptic
    """Task that the network learns. It determines the files to train from and the metrics of evaluate. The files of
    conf/deploy set deploy.mode to it."""
    backbone: Backbone = field(default_factory=Backbone)
    num_object_queries: Annotated[int, Range(at_least=1, at_most=255)] = 100
    """Queries; each yields at most one segment. The panoptic map is uint8, hence the limit."""
    hidden_dim: Annotated[int, Range(above=0, multiple_of=32)] = 256
    """Channels of the pixel decoder and the transformer decoder; a multiple of 32 (for GroupNorm) and of nheads."""
    nheads: Annotated[int, Range(at_least=1)] = 8
    """Attention heads of both decoders; a divisor of hidden_dim."""
    dim_feedforward: Annotated[int, Range(at_least=1)] = 2048
    """Inner channels of the MLPs of the transformer decoder."""
    enc_layers: Annotated[int, Range(at_least=1)] = 6
    """Layers of deformable attention in the pixel decoder."""
    dec_layers: Annotated[int, Range(at_least=2)] = 10
    """Prediction heads of the transformer decoder. TAO builds dec_layers - 1 layers."""
    weights: str = ""
    """File or folder of a whole network, relative to the repository: .pth or .pkl of the original Mask2Former or of
    TAO, or a folder of Hugging Face. With train.runner: import it becomes the checkpoint, else training starts from
    it. Empty: none."""
    weights_sha256: str = ""
    """SHA-256 that the file of weights must have, in hexadecimal. With it DVC notices a changed file. Empty: not
    checked."""
    weights_format: str = ""
    """Project that wrote the weights: tao, original or hugging_face. Empty: detected from the content. Set it if
    that fails: TAO has the class no-object first, the original has it last. A format that contradicts the content
    is an error."""
    weights_classes: list[str] = field(default_factory=list)
    """Names of the weights' classes, as in the label map, in the weights' order; [label_map] if that is the order of
    the label map. Empty: read from config.json of Hugging Face. Other files have no names of classes."""

    def __post_init__(self) -> None:
        check_ranges(self, "model")
        rule = f"a divisor of hidden_dim {self.hidden_dim}"
        require(self.hidden_dim % self.nheads == 0, "model.nheads", rule, self.nheads)
        formats = ("", "tao", "original", "hugging_face")
        require(self.weights_format in formats, "model.weights_format", f"one of {formats}", self.weights_format)
