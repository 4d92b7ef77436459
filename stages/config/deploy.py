"""The section `deploy`: the graph as it is deployed, its variants and precisions."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from stages.config.model import Mode
from stages.config.precision import LowerPrecision
from stages.config.rules import Range, check_ranges, require


class GraphKind(Enum):
    """Kinds of inputs and outputs of the deployed graph; docs/outputs.md describes them."""

    fused = "fused"
    tao = "tao"


class Resize(Enum):
    """Ways to resize a frame to the network's input."""

    pad = "pad"
    stretch = "stretch"


class Variant(Enum):
    """The operators that the deployed graph is made of. All variants compute the same; Target.variant explains them."""

    onnx = "onnx"
    onnx_gather = "onnx_gather"
    onnx_plugin_v1 = "onnx_plugin_v1"
    onnx_plugin_v2 = "onnx_plugin_v2"
    cuda = "cuda"


PLUGIN_VARIANTS = (Variant.onnx_plugin_v1, Variant.onnx_plugin_v2)
"""Variants with a plugin of standard TensorRT."""


@dataclass
class Deploy:
    """The deployed network. evaluate and the engines use the same settings."""

    graph: GraphKind = GraphKind.fused
    """fused: frames as uint8 in, merged maps out. tao: inputs and outputs of TAO's exporter, for TAO Deploy and
    DeepStream."""
    mode: Mode = Mode.panoptic
    """Task of the graph: the same as model.mode, or any task if model.mode is panoptic. panoptic: a map of query ids.
    semantic: a map of classes. instance: the masks of the best top_k."""
    batch_size: Annotated[int, Range(at_least=1, at_most=64)] = 1
    """Frames in a batch. An engine accepts batches of exactly this size."""
    frame_height_px: Annotated[int, Range(at_least=32)] = 720
    """Height of an engine's frames. Set it to the height of your camera's pictures."""
    frame_width_px: Annotated[int, Range(at_least=32)] = 1280
    """Width of an engine's frames. Set it to the width of your camera's pictures."""
    height_px: Annotated[int, Range(above=0, multiple_of=32)] = 736
    """Height of the network's input. Lower it for speed, raise it for small objects."""
    width_px: Annotated[int, Range(above=0, multiple_of=32)] = 1280
    """Width of the network's input. Lower it for speed, raise it for small objects."""
    resize: Resize = Resize.pad
    """From frame to network input. pad: scaled to fit, with zeros at the bottom and the right. stretch: height and
    width are scaled separately, as TAO Deploy does."""
    variants: list[Variant] = field(default_factory=lambda: [Variant.onnx])
    """Variants of the graph to export, one or more. Each target uses one of them; targets.NAME.variant describes
    them."""
    lower_precisions: list[LowerPrecision] = field(default_factory=lambda: [LowerPrecision.fp16])
    """Precisions below fp32 to convert each variant to. Each target uses fp32 or one of them."""
    opset: Annotated[int, Range(at_least=17, at_most=20)] = 17
    """Version of ONNX's operators. Half precision needs 17 or later, where LayerNorm is one operator."""
    object_mask_threshold: Annotated[float, Range(at_least=0, below=1)] = 0.4
    """Queries whose class score is at most this are dropped. Raise it for fewer false segments."""
    overlap_threshold: Annotated[float, Range(at_least=0, at_most=1)] = 0.5
    """A query keeps its segment if it wins at least this share of its own mask. Raise it for fewer fragments."""
    top_k: Annotated[int, Range(at_least=1)] = 100
    """For mode: instance. Number of masks in the output, best first; at most queries x classes."""
    reference_frames: Annotated[int, Range(at_least=1)] = 2
    """Number of validation pictures for which TAO's predictions are stored. Every graph is compared with them."""
    max_logit_difference: Annotated[float, Range(above=0)] = 0.01
    """Largest difference between the logits of the exported or simplified graph and those of TAO's network on the
    reference frames, at the 99th percentile. A larger one fails the stage. It is not the maximum, because a query whose
    mask is empty except for a pixel near 0 attends, by rounding, either to that pixel or to the whole picture
    (arXiv:2112.01527, eq. 4)."""
    min_pixel_agreement_pct: Annotated[float, Range(at_least=0, at_most=100)] = 99.99
    """Least share of pixels with the same segment in the maps of the exported or simplified graph and in TAO's, on the
    reference frames. A smaller share fails the stage."""
    keep_float32: list[str] = field(default_factory=list)
    """Nodes that stay in float32 in a graph of lower precision: ONNX operators, such as Softmax, or parts of the nodes'
    names, such as /merge/ for the merge. Add nodes if lower precision differs too much."""
    expand_instance_normalization: bool = False
    """true: InstanceNormalization, which GroupNorm is exported as, is replaced by elementary operators. For TensorRT 8
    without cuDNN."""
    max_score_difference: Annotated[float, Range(above=0, at_most=1)] = 0.05
    """Largest difference between a class or mask probability of a graph in lower precision and that of TAO's network on
    the reference frames, at the 99.9th percentile. A larger one fails the precision stage."""
    calibration_pictures: Annotated[int, Range(at_least=1)] = 64
    """Number of validation pictures that calibrate int8."""

    def __post_init__(self) -> None:
        check_ranges(self, "deploy")
        require(bool(self.variants), "deploy.variants", "one variant or more", [])
        if self.graph is GraphKind.tao:
            rule = "without cuda for the graph tao, which is one ONNX file for other runtimes"
            require(Variant.cuda not in self.variants, "deploy.variants", rule, "cuda")
