"""The section `deploy`: the graph as it is deployed, its variants and precisions."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated

from stages.config.model import Mode
from stages.config.precision import LowerPrecision
from stages.config.rules import Range, check_ranges, require


class GraphKind(Enum):
    """What the deployed graph takes and returns; docs/outputs.md describes both."""

    fused = "fused"
    tao = "tao"


class Resize(Enum):
    """How a frame is brought to the size of the network's input."""

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
    """The network as it is deployed: evaluate measures it like this, and an engine computes this."""

    graph: GraphKind = GraphKind.fused
    """fused: frames as uint8 in, merged maps out. tao: inputs and outputs of TAO's exporter, for TAO Deploy and
    DeepStream."""
    mode: Mode = Mode.panoptic
    """Task of the graph: that of the network, model.mode, or any where the network learned panoptic. panoptic: a map
    of query ids. semantic: a map of classes. instance: the masks of the best top_k."""
    batch_size: Annotated[int, Range(at_least=1, at_most=64)] = 1
    """Frames that an engine takes at once. An engine takes exactly so many."""
    frame_height_px: Annotated[int, Range(at_least=32)] = 720
    """Height of the frames that an engine takes: that of your camera."""
    frame_width_px: Annotated[int, Range(at_least=32)] = 1280
    """Width of the frames that an engine takes: that of your camera."""
    height_px: Annotated[int, Range(above=0, multiple_of=32)] = 736
    """Height of the network's input. Lower it for speed, raise it for small objects."""
    width_px: Annotated[int, Range(above=0, multiple_of=32)] = 1280
    """Width of the network's input. Lower it for speed, raise it for small objects."""
    resize: Resize = Resize.pad
    """From frame to network input. pad: scaled to fit, with zeros at the bottom and the right. stretch: height and
    width are scaled separately, as TAO Deploy does."""
    variants: list[Variant] = field(default_factory=lambda: [Variant.onnx])
    """Variants of the graph that are exported, one or more. Each target takes one of them, targets.NAME.variant, which
    explains them."""
    lower_precisions: list[LowerPrecision] = field(default_factory=lambda: [LowerPrecision.fp16])
    """Precisions below fp32 into which each variant is converted. Each target takes fp32 or one of them."""
    opset: Annotated[int, Range(at_least=17, at_most=20)] = 17
    """Version of ONNX's operators. From 17 on LayerNorm is one operator, which half precision needs."""
    object_mask_threshold: Annotated[float, Range(at_least=0, below=1)] = 0.4
    """Queries with a class score up to this are dropped. Raise it for fewer false segments."""
    overlap_threshold: Annotated[float, Range(at_least=0, at_most=1)] = 0.5
    """A query keeps its segment if it wins at least this share of its own mask. Raise it for fewer fragments."""
    top_k: Annotated[int, Range(at_least=1)] = 100
    """For mode: instance. Masks that are returned, the best first; at most queries x classes."""
    reference_frames: Annotated[int, Range(at_least=1)] = 2
    """Validation pictures on which TAO's answer is kept. Every graph is compared with it."""
    max_logit_difference: Annotated[float, Range(above=0)] = 0.01
    """Largest difference between the logits of the exported or simplified graph and those of TAO's network on the
    reference frames, at the 99th percentile. A larger one fails the stage. The percentile and not the maximum, since a
    query whose mask is empty but for a pixel near 0 attends, by rounding, either to that pixel or to the whole picture
    (arXiv:2112.01527, eq. 4)."""
    min_pixel_agreement_pct: Annotated[float, Range(at_least=0, at_most=100)] = 99.99
    """Share of pixels with the same segment in the exported or simplified graph as by TAO's post-processing, on the
    reference frames. A smaller one fails the stage."""
    keep_float32: list[str] = field(default_factory=list)
    """What stays in float32 in a graph of lower precision: ONNX operators, such as Softmax, or parts of the network by
    a piece of the names of their nodes, such as /merge/. Add to it where a lower precision differs too much."""
    expand_instance_normalization: bool = False
    """true: InstanceNormalization, which GroupNorm is exported as, is replaced by elementary operators. For TensorRT 8
    without cuDNN."""
    max_score_difference: Annotated[float, Range(above=0, at_most=1)] = 0.05
    """Largest difference between a class or mask probability of a graph in lower precision and that of TAO's network on
    the reference frames, at the 99.9th percentile. A larger one fails the precision stage."""
    calibration_pictures: Annotated[int, Range(at_least=1)] = 64
    """Validation pictures from which the ranges of int8 are taken."""

    def __post_init__(self) -> None:
        check_ranges(self, "deploy")
        require(bool(self.variants), "deploy.variants", "one variant or more", [])
        if self.graph is GraphKind.tao:
            rule = "without cuda for the graph tao, which is one ONNX file for other runtimes"
            require(Variant.cuda not in self.variants, "deploy.variants", rule, "cuda")
