"""The deployed graph against TAO's own network and post-processing, with random weights."""

import copy
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch

from stages import config, export, simplify
from stages.inference import description, segments
from stages.inference.steps import Constants, KernelCall
from stages.network import kernel_network
from stages.network.network import Decoder, Fused
from stages.onnx_graph import artifact
from stages.operators.patch_embedding import normalise
from stages.reference import comparison
from tests.conftest import REPO
from tests.support import networks

NUM_THINGS = 70


@pytest.fixture(scope="module")
def tao(tmp_path_factory: pytest.TempPathFactory, tao_wheel: None) -> Any:
    """TAO's network of the default profile with random weights."""
    return networks.random_tao(tmp_path_factory.mktemp("tao"), config.load(REPO / "params.yaml"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", [config.Variant.onnx, config.Variant.onnx_gather, config.Variant.cuda])
@pytest.mark.parametrize("shape", [(1, 192, 288), (3, 128, 160)])
def test_network_equals_tao(tao: Any, variant: config.Variant, shape: tuple[int, int, int]) -> None:
    batch, height, width = shape
    cfg = config.Deploy(height_px=height, width_px=width, frame_height_px=height, frame_width_px=width)
    fused = Fused(tao, variant, NUM_THINGS, cfg).eval()
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, generator=generator)
    with torch.inference_mode():
        pixels = normalise(frames, [height, width], [height, width], fused.mean, fused.std)
        expected = tao(pixels)
        class_logits, mask_logits = fused.network(frames if variant is config.Variant.cuda else pixels)
    if variant is config.Variant.cuda:
        mask_logits = torch.unflatten(mask_logits, 2, (height // 4, width // 4))
    assert mask_logits.shape == (batch, 100, height // 4, width // 4)
    # Relative to their size, for the sharpened logits reach hundreds.
    for found, wanted in ((class_logits, expected["pred_logits"]), (mask_logits, expected["pred_masks"])):
        assert ((found - wanted).abs().max() / wanted.abs().max()) < 1e-4


def identity() -> torch.nn.Conv2d:
    """A last convolution of the pixel decoder that changes nothing."""
    convolution = torch.nn.Conv2d(64, 64, 1)
    torch.nn.init.dirac_(convolution.weight)
    torch.nn.init.zeros_(convolution.bias)
    return convolution


def decode_by_kernels(decoder: Any, levels: list[torch.Tensor], features: torch.Tensor) -> tuple[Any, Any]:
    """Logits of the variant `cuda`, from what TAO's decoder takes."""
    kernels = kernel_network.Decoder(decoder, identity())
    tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1)
    sizes = [tuple(level.shape[2:]) for level in levels]
    size = tuple(features.shape[2:])
    with_pos_embed = tokens + kernels.pos_embed(sizes)
    class_logits, flat = kernels(features.flatten(2).transpose(1, 2), size, tokens, with_pos_embed, sizes)
    return class_logits, torch.unflatten(flat, 2, size)


@pytest.mark.parametrize("count", [1, 2])
def test_a_decoder_of_few_layers_leaves_levels_alone(tao: Any, count: int) -> None:
    decoder = copy.deepcopy(tao.sem_seg_head.predictor)
    decoder.num_layers = count
    levels = [torch.randn(1, 64, s, s, generator=torch.Generator().manual_seed(s)) for s in (4, 8, 16)]
    features = torch.randn(1, 64, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = decoder([*levels], features)
        class_logits, mask_logits = decode_by_kernels(decoder, levels, features)
    assert torch.allclose(class_logits, expected["pred_logits"], rtol=1e-4, atol=1e-3)
    assert torch.allclose(mask_logits, expected["pred_masks"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("by_kernel", [False, True])
def test_a_query_that_may_look_nowhere_looks_everywhere(tao: Any, by_kernel: bool) -> None:
    """TAO's rule for a fully blocked query, on which the two paths differ in form."""
    decoder = tao.sem_seg_head.predictor
    generator = torch.Generator().manual_seed(1)
    levels = [torch.randn(2, 64, s, s, generator=generator) for s in (4, 8, 16)]
    features = torch.randn(2, 64, 32, 32, generator=generator)
    with torch.inference_mode():
        saved = decoder.mask_embed.layers[-1].bias.clone()
        # Constant features against a strongly negative embedding block every position of every query.
        features = features.abs() + 1
        decoder.mask_embed.layers[-1].bias.copy_(torch.full_like(saved, -500))
        expected = decoder([*levels], features)
        if by_kernel:
            class_logits, mask_logits = decode_by_kernels(decoder, levels, features)
        else:
            class_logits, mask_logits = Decoder(decoder, identity())(levels, features)
        decoder.mask_embed.layers[-1].bias.copy_(saved)
    assert (expected["pred_masks"] < 0).all()
    assert torch.allclose(class_logits, expected["pred_logits"], rtol=1e-4, atol=1e-3)
    assert torch.allclose(mask_logits, expected["pred_masks"], rtol=1e-4)


def picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    small = rng.integers(0, 256, (12, 18, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


PANOPTIC, FUSED, TAO = config.Mode.panoptic, config.GraphKind.fused, config.GraphKind.tao
CASES = [
    (PANOPTIC, FUSED, 2, (256, 384), config.Resize.pad, config.Variant.onnx),
    (PANOPTIC, FUSED, 1, (190, 250), config.Resize.stretch, config.Variant.onnx),
    (PANOPTIC, FUSED, 2, (256, 384), config.Resize.pad, config.Variant.cuda),
    (PANOPTIC, FUSED, 1, (190, 250), config.Resize.stretch, config.Variant.cuda),
    (config.Mode.semantic, FUSED, 1, (190, 288), config.Resize.pad, config.Variant.onnx),
    (config.Mode.semantic, FUSED, 1, (190, 288), config.Resize.pad, config.Variant.cuda),
    (config.Mode.instance, FUSED, 1, (256, 384), config.Resize.pad, config.Variant.onnx),
    (config.Mode.semantic, FUSED, 2, (256, 384), config.Resize.stretch, config.Variant.cuda),
    (config.Mode.instance, FUSED, 1, (190, 250), config.Resize.pad, config.Variant.cuda),
    (config.Mode.instance, FUSED, 2, (256, 384), config.Resize.pad, config.Variant.cuda),
    (PANOPTIC, TAO, 2, (190, 288), config.Resize.pad, config.Variant.onnx),
    (config.Mode.semantic, TAO, 1, (256, 384), config.Resize.pad, config.Variant.onnx),
    (config.Mode.instance, TAO, 1, (256, 384), config.Resize.pad, config.Variant.onnx),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("mode", "kind", "batch", "frame", "resize", "variant"), CASES)
def test_exported_graph_answers_as_tao(
    tao: Any,
    tmp_path: Path,
    mode: config.Mode,
    kind: config.GraphKind,
    batch: int,
    frame: tuple[int, int],
    resize: config.Resize,
    variant: config.Variant,
) -> None:
    from stages.reference import tao_model

    cfg = config.Deploy(
        graph=kind, mode=mode, batch_size=batch, frame_height_px=frame[0], frame_width_px=frame[1], height_px=192,
        width_px=288, resize=resize, top_k=20, object_mask_threshold=0.05, overlap_threshold=0,
    )  # fmt: skip
    checkpoint = tao_model.Checkpoint.__new__(tao_model.Checkpoint)
    checkpoint.net = tao
    checkpoint.use_post_processing(NUM_THINGS, cfg)
    # Of pictures none of whose masks has a logit so near zero that the order of a sum decides what a query looks at.
    rng = np.random.default_rng(1)
    # One picture of another size than the frame, and more pictures than a batch.
    frames = np.stack([picture(rng, *frame) for _ in range(3)])
    logits = [checkpoint.logits(f) for f in frames]
    stacked = [np.stack([pair[i].numpy() for pair in logits]) for i in (0, 1)]
    answers = [checkpoint.segments(f) for f in frames]
    # How well segments merge is tests/network/test_merge.py's; trained weights are tests/project/test_pipeline.py's.
    assert any(a.category_ids for a in answers)
    comparison.save(tmp_path / "r.npz", frames, *stacked, answers)

    model = export.trace(tao, variant, NUM_THINGS, cfg)
    assert not export.DATA_DEPENDENT & {n.op_type for n in model.graph.node}
    categories = [{"id": i + 1, "name": f"class {i}", "isthing": int(i < NUM_THINGS)} for i in range(116)]
    about = description.Description(config.plain(cfg), variant.value, categories)
    if variant is config.Variant.cuda:
        # Its shapes are known once it is simplified.
        model = simplify.simplify(model, cfg)
        artifact.save(model, tmp_path, about)
        described = description.read(tmp_path).steps
        steps = [
            step.operator if isinstance(step, KernelCall) else "part"
            for step in described
            if not isinstance(step, Constants)
        ]
        # Nothing is left to a builder of ONNX graphs.
        assert "part" not in steps
        merge = f"{mode.value.capitalize()}Merge"
        # Of each of three layers of the decoder two: to the picture, and to one another.
        kernels = ["PatchEmbedding", *["WindowAttention"] * 5, *["DeformableAttention"] * 2, *["MaskedAttention"] * 6]
        assert [step for step in steps if step not in ("Linear", "GroupNorm", "Resize")] == [*kernels, merge]
    found = comparison.check(model, tmp_path / "r.npz", about, comparison.differences)
    assert found["logit_difference_max"] < 1e-4 * np.abs(stacked[1]).max()
    assert found["pixel_agreement_pct"] >= 99.99


def test_outputs_of_tao_shaped_graph_are_those_of_its_exporter(tao: Any) -> None:
    """Names and order: nvidia_tao_pytorch.cv.mask2former.scripts.export; scores and classes have a batch."""
    cfg = config.Deploy(graph=config.GraphKind.tao, batch_size=2, height_px=192, width_px=288)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = export.trace(tao, config.Variant.onnx, NUM_THINGS, cfg)
    (entry,) = model.graph.input
    assert entry.name == "inputs"
    shapes = {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim] for o in model.graph.output}
    masks, queries = [2, 100, 192, 288], [2, 100]
    expected = {"prob_masks": masks, "pred_masks": masks, "pred_scores": queries, "pred_classes": queries}
    assert {name: shape for name, shape in shapes.items() if name not in segments.LOGITS} == expected
    assert list(expected) == [o.name for o in model.graph.output][:4]


def test_description_vouches_for_its_file(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
    graph.output[0].name = "y"
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    about = description.Description(
        config.plain(config.Deploy()), "onnx_gather", [{"id": 1, "name": "car", "isthing": 1}], {"data": "1"}
    )
    artifact.save(model, tmp_path, about)
    assert description.read(tmp_path).num_things == 1
    assert description.read(tmp_path).config == config.Deploy()
    kept = {p.key: p.value for p in onnx.load(tmp_path / description.ONNX).metadata_props}
    assert kept == {description.PROVENANCE: '{"data": "1"}'}
    with (tmp_path / description.ONNX).open("ab") as file:
        file.write(b" ")
    with pytest.raises(RuntimeError, match=r"is not the file that .*graph\.json describes; run `dvc checkout"):
        description.read(tmp_path)
    (tmp_path / description.ONNX).unlink()
    with pytest.raises(RuntimeError, match=r"graph\.onnx not found"):
        description.read(tmp_path)


def test_a_signal_while_the_network_is_traced_ends_export_as_it_does_elsewhere() -> None:
    """PyTorch's C++ code calls the network, and can't pass on Python's exceptions everywhere."""
    code = """
import os, signal, torch
from stages import config, export
from stages.foundation import command_line
from stages.network import network
class Net(torch.nn.Module):
    input_name, output_names = "frame", ("out",)
    def forward(self, frame):
        os.kill(os.getpid(), signal.SIGTERM)
        print("no exception here")
        return frame + 1
def main():
    cfg = config.Deploy()
    network.GRAPHS[cfg.graph] = lambda *_: Net()
    export.trace(None, config.Variant.onnx, 1, cfg)
command_line.run(main)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "no exception here" in done.stdout
