"""Exports a network by TAO's own exporter, for comparisons with our graph."""

import importlib
from pathlib import Path
from typing import Any

import onnx
import onnxsim
import torch
from omegaconf import OmegaConf

from benchmarks import tao_passes
from stages import config
from stages.onnx_graph import passes

OUTPUTS = ["prob_masks", "pred_masks", "pred_scores", "pred_classes"]


def export(net: Any, spec: Path, cfg: config.Deploy, folder: Path) -> Any:
    """Export a MaskFormerModel on the CPU by TAO's exporter, unmodified, and return the ONNX model.

    `spec` is the spec.yaml of the checkpoint. The exporter writes its files to `folder`.
    """
    exporter: Any = importlib.import_module("nvidia_tao_pytorch.cv.mask2former.export.onnx_exporter")
    schema: Any = importlib.import_module("nvidia_tao_pytorch.config.mask2former.default_config")
    model: Any = importlib.import_module("nvidia_tao_pytorch.cv.mask2former.model.mask2former")
    tao_spec = OmegaConf.merge(OmegaConf.structured(schema.ExperimentConfig), OmegaConf.load(spec))
    tao_spec.model.export, tao_spec.export.on_cpu = True, True
    tao_spec.export.input_height, tao_spec.export.input_width = cfg.height_px, cfg.width_px
    tao = model.MaskFormerModel(tao_spec).eval()
    tao.load_state_dict(net.state_dict())
    writer = exporter.ONNXExporter()
    pixels = torch.ones(1, 3, cfg.height_px, cfg.width_px)
    path = str(folder / "tao.onnx")
    writer.export_model(tao, 1, path, pixels, input_names=["inputs"], output_names=OUTPUTS, opset_version=17)
    writer.onnx_change(path)
    return onnx.load(path)


def write(net: Any, spec: Path, cfg: config.Deploy, folder: Path) -> None:
    """Export and write folder/graph.onnx, with two of our passes for builders that lack cuDNN or NonZero."""
    model = export(net, spec, cfg, folder)
    tao_passes.boolean_assignment_to_and(model.graph)
    simplified, _ = onnxsim.simplify(model, check_n=0)
    simplified = onnx.shape_inference.infer_shapes(simplified)
    passes.expand_instance_normalization(simplified)
    onnx.save(simplified, folder / "graph.onnx")
