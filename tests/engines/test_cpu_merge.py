"""Engines for CPUs leave the panoptic merge to the host, and answer the same."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from stages import config
from stages.engines import interface
from stages.inference import segments
from stages.network import merge
from tests.network.test_merge import NUM_THINGS, deploy, outputs

TARGETS = [
    config.Target(builder=config.Builder.openvino, builder_version="2026"),
    config.Target(builder=config.Builder.onnxruntime, builder_version="1.32"),
]


class Network(torch.nn.Module):
    """Sixteen bytes in, and out of them the outputs of a panoptic graph."""

    def __init__(self, cfg: config.Deploy) -> None:
        super().__init__()
        self.class_logits, self.mask_logits = outputs(0, 30)
        self.merge = merge.Panoptic(cfg, NUM_THINGS)

    def forward(self, frame: torch.Tensor) -> tuple[torch.Tensor, ...]:
        zero = 0 * frame.to(torch.float32).sum()
        logits = self.class_logits[None] + zero, self.mask_logits[None] + zero
        return (*self.merge(*logits), *logits)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.builder.value)
def test_the_merge_is_left_to_the_host(tmp_path: Path, target: config.Target) -> None:
    import onnx

    from stages.onnx_graph import passes

    cfg = deploy(config.Mode.panoptic, (90, 160))
    names = [*merge.Panoptic.OUTPUTS, *segments.LOGITS]
    frame = torch.zeros(1, 4, 4, dtype=torch.uint8)
    torch.onnx.export(
        Network(cfg), (frame,), str(tmp_path / "x.onnx"), input_names=["frame"], output_names=names, dynamo=False
    )
    model = onnx.load(tmp_path / "x.onnx")
    passes.remove_outputs(model.graph, segments.LOGITS)
    onnx.save(model, tmp_path / "x.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
    whole = dict(zip(names, session.run(None, {"frame": frame.numpy()}), strict=False))
    assert set(whole) == set(merge.Panoptic.OUTPUTS)

    backend = interface.backend(target)
    backend.build(tmp_path / "x.onnx", tmp_path / "engine", target, tmp_path / "cache")
    found = backend.load(tmp_path / "engine", target).infer(frame.numpy())
    assert set(found) == set(segments.LOGITS)
    expected, ours = (segments.decode(answer, 0, cfg, NUM_THINGS) for answer in (whole, found))
    # The two may number the segments in different orders.
    assert sorted(expected.category_ids.values()) == sorted(ours.category_ids.values())
    classes = [np.vectorize({0: 0, **answer.category_ids}.get)(answer.ids) for answer in (expected, ours)]
    assert (classes[0] == classes[1]).mean() >= 0.9999
