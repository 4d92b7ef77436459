"""The ways to sample of deformable attention against each other and TAO's own."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from stages import config
from stages.inference import plugin
from stages.network import deformable
from stages.operators.deformable_attention import deformable_attention

SIZES = [(5, 8), (10, 16), (20, 31)]


HEADS, DEPTH, POINTS = 4, 8, 4


def arguments(seed: int, batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Value, offsets, some of them far outside, and logits, as deformable.sample takes them."""
    generator = torch.Generator().manual_seed(seed)
    stacked, samples = sum(h * w for h, w in SIZES), HEADS * len(SIZES) * POINTS
    value = torch.randn(batch, stacked, HEADS * DEPTH, generator=generator)
    offsets = 6 * torch.randn(batch, stacked, 2 * samples, generator=generator)
    return value, offsets, torch.randn(batch, stacked, samples, generator=generator)


@pytest.mark.parametrize("variant", config.Variant)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_variant_equals_tao(tao_wheel: None, variant: config.Variant, batch: int) -> None:
    modules: Any = importlib.import_module("nvidia_tao_pytorch.cv.deformable_detr.model.ops.modules")
    value, offsets, logits = arguments(0, batch)
    if variant is config.Variant.cuda:
        found = deformable_attention(value, torch.cat([offsets, logits], -1), SIZES, HEADS, POINTS)
    else:
        found = deformable.sample(deformable.SAMPLERS[variant](), value, offsets, logits, SIZES, HEADS, POINTS)

    shape = (batch, value.shape[1], HEADS, len(SIZES), POINTS)
    centres = []
    for h, w in SIZES:
        y, x = torch.meshgrid(torch.linspace(0.5, h - 0.5, h) / h, torch.linspace(0.5, w - 0.5, w) / w, indexing="ij")
        centres.append(torch.stack([x, y], -1).flatten(0, 1))
    scale = torch.tensor([[w, h] for h, w in SIZES])
    locations = torch.cat(centres)[:, None, None, None] + offsets.view(*shape, 2) / scale[:, None]
    weights = logits.view(*shape[:3], -1).softmax(-1).view(shape)
    by_head = value.view(*shape[:3], DEPTH)
    expected = modules.multi_scale_deformable_attn_pytorch(by_head, SIZES, locations, weights)
    assert found.shape == value.shape
    assert torch.allclose(found, expected, atol=1e-5)


class Alone(torch.nn.Module):
    def __init__(self, variant: config.Variant) -> None:
        super().__init__()
        self.sampler = deformable.SAMPLERS[variant]()

    def forward(self, value: Any, offsets: Any, logits: Any) -> Any:
        return deformable.sample(self.sampler, value, offsets, logits, SIZES, HEADS, POINTS)


def export(variant: config.Variant, path: Path) -> onnx.ModelProto:
    torch.onnx.export(
        Alone(variant),
        arguments(0, 2),
        str(path),
        input_names=["value", "offsets", "logits"],
        opset_version=17,
        custom_opsets=deformable.CUSTOM_OPSETS.get(variant),
        dynamo=False,
    )
    return onnx.load(path)


@pytest.mark.filterwarnings("ignore")
def test_grid_sample_and_gather_agree_in_onnx_runtime(tmp_path: Path) -> None:
    answers = []
    for variant in (config.Variant.onnx, config.Variant.onnx_gather):
        export(variant, tmp_path / "x.onnx")
        session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
        names = ("value", "offsets", "logits")
        answers += session.run(None, dict(zip(names, (a.numpy() for a in arguments(1, 2)), strict=True)))
    assert np.abs(answers[0] - answers[1]).max() < 1e-5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("variant", "version"), [(config.Variant.onnx_plugin_v1, "1"), (config.Variant.onnx_plugin_v2, "2")]
)
def test_plugin_node_is_what_tensorrt_reads(tmp_path: Path, variant: config.Variant, version: str) -> None:
    """Inputs and types: TensorRT's plugin/multiscaleDeformableAttnPlugin; attributes: its ONNX parser."""
    model = export(variant, tmp_path / "x.onnx")
    (node,) = [n for n in model.graph.node if n.op_type == plugin.NAME]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert attributes == {"plugin_version": version.encode(), "plugin_namespace": b""}
    constants = {n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"}
    constants |= {i.name: i for i in model.graph.initializer}
    shapes, starts = (onnx.numpy_helper.to_array(constants[name]) for name in node.input[1:3])
    assert shapes.dtype == starts.dtype == np.int32
    assert shapes.tolist() == [list(size) for size in SIZES]
    assert starts.tolist() == [0, 40, 200]
    assert len(node.input) == 5
