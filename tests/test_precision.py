"""The graph in lower precision: what is converted, what is kept, and what is refused. int8 itself where it is there."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from benchmarks import precision as bench
from stages import config, precision
from stages.foundation import files
from stages.inference import description, segments
from stages.onnx_graph import artifact, fp16, int8
from stages.reference import comparison

SIDE, BRIGHTNESS = 32, 100
SHAPE = (1, SIDE, SIDE, 3)
AREA = SIDE * SIDE * BRIGHTNESS
"""Beyond 65504, half precision's largest number."""
DEPLOY = config.Deploy(
    mode=config.Mode.semantic, frame_height_px=SIDE, frame_width_px=SIDE, height_px=SIDE, width_px=SIDE
)


def network() -> onnx.ModelProto:
    """Logits and a map as the deployed graph names them, and in /merge/ a large sum that two nodes read."""
    frame = helper.make_tensor_value_info(description.FUSED_INPUT, TensorProto.UINT8, SHAPE)
    outputs = [
        helper.make_tensor_value_info("class_ids", TensorProto.UINT8, [1, SIDE, SIDE]),
        helper.make_tensor_value_info("area", TensorProto.FLOAT, [1, 1, 1, 1]),
    ]
    nodes = [
        helper.make_node("Cast", [description.FUSED_INPUT], ["pixels"], name="/Cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], name="/Transpose", perm=[0, 3, 1, 2]),
        helper.make_node("ReduceMean", ["planes"], ["mean"], name="/network/decoder/ReduceMean", axes=[1]),
        helper.make_node("Mul", ["mean", "scale"], ["mask_logits"], name="/network/decoder/Einsum"),
        helper.make_node("ReduceMean", ["planes"], ["pool"], name="/network/decoder/Pool", axes=[2, 3], keepdims=0),
        # onnxsim's names.
        helper.make_node("Gemm", ["pool", "weight", "bias"], ["_v_0"], name="Gemm_0"),
        helper.make_node("Reshape", ["_v_0", "shape"], ["class_logits"], name="Reshape_1"),
        helper.make_node("ReduceSum", ["mean"], ["sum"], name="/merge/ReduceSum"),
        helper.make_node("Mul", ["sum", "two"], ["twice"], name="/merge/Mul"),
        helper.make_node("Sub", ["twice", "sum"], ["area"], name="/merge/Sub"),
        helper.make_node("Sub", ["mean", "mean"], ["zero"], name="/merge/Sub_1"),
        helper.make_node("Add", ["zero", "one"], ["ones"], name="/merge/Add"),
        helper.make_node("Squeeze", ["ones", "axis"], ["map"], name="/merge/Squeeze"),
        helper.make_node("Cast", ["map"], ["class_ids"], name="/merge/Cast", to=TensorProto.UINT8),
    ]
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [1], [0.003333]),
        helper.make_tensor("weight", TensorProto.FLOAT, [3, 2], [0.01, 0.02, 0.003, 0.004, 0.0005, 0.0006]),
        helper.make_tensor("bias", TensorProto.FLOAT, [2], [0.0, 0.0]),
        helper.make_tensor("shape", TensorProto.INT64, [3], [1, 1, 2]),
        helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0]),
        helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
    ]
    graph = helper.make_graph(nodes, "g", [frame], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def run(model: onnx.ModelProto, *outputs: str) -> list[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[Any] = session.run([*outputs], {description.FUSED_INPUT: np.full(SHAPE, BRIGHTNESS, np.uint8)})
    return found


def half_of(keep: list[str]) -> onnx.ModelProto:
    half = fp16.convert(network(), fp16.kept_names(network(), keep))
    onnx.checker.check_model(half, full_check=True)
    return half


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as simplify writes it, and beside it comparison.npz, its own answer."""
    about = description.Description(
        deploy=config.plain(DEPLOY),
        variant="onnx",
        categories=[{"id": 1, "name": "road", "isthing": 0}],
    )
    (tmp_path / "fp32").mkdir()
    artifact.save(network(), tmp_path / "fp32", about)
    frames = np.full(SHAPE, BRIGHTNESS, np.uint8)
    answer = comparison.run(network(), frames, about)
    comparison.save(tmp_path / "reference.npz", frames, answer.class_logits, answer.mask_logits, answer.segments)
    return tmp_path


def build(
    folder: Path,
    cfg: config.Deploy = DEPLOY,
    kind: config.Precision = config.Precision.fp16,
    calibration: tuple[Path, Path] | None = None,
) -> Path:
    out = folder / kind.value
    metrics = folder / "metrics.json"
    precision.build(folder / "fp32", folder / "reference.npz", out, metrics, kind, cfg, calibration)
    return out


def test_fp16_is_described_and_measured(folder: Path) -> None:
    out = build(folder)
    assert description.read(out).precision == "fp16"
    model = onnx.load(out / description.ONNX)
    kinds = {i.data_type for i in model.graph.initializer}
    assert kinds == {TensorProto.FLOAT16, TensorProto.INT64}
    assert [o.type.tensor_type.elem_type for o in model.graph.output] == [TensorProto.UINT8, TensorProto.FLOAT]
    found = files.read_json(folder / "metrics.json")
    assert found["pixel_agreement_pct"] == 100
    assert 0 < found["mask_probability_difference_max"] < 0.001


def test_what_is_kept_is_never_rounded() -> None:
    """A sum of pixels that two kept nodes read: onnxconverter-common makes infinity of it in between."""
    half = half_of(["/merge/"])
    assert run(half, "area")[0] == AREA
    assert run(bench.rounded(half), "area")[0] == AREA
    assert not np.isfinite(run(bench.rounded(half_of([])), "area")[0])


@pytest.mark.parametrize("keep", [[], ["/merge/"], ["/network/"], ["/merge/", "/network/"], ["Gemm"]])
def test_the_logits_keep_their_names(folder: Path, keep: list[str]) -> None:
    build(folder, replace(DEPLOY, keep_float32=keep))
    assert files.read_json(folder / "metrics.json")["pixel_agreement_pct"] == 100


def test_nodes_that_onnxsim_named_have_a_place() -> None:
    places = fp16.places(network().graph)
    assert places["Gemm_0"] == places["Reshape_1"] == "/network/class_logits"
    assert "Gemm_0" in fp16.kept_names(network(), ["/network/"])


def test_constants_stay_finite_and_none_becomes_zero() -> None:
    found = fp16._to_half(np.array([1e6, -1e6, 1e-12, -1e-12, 0, -np.inf, 0.5], np.float32))
    assert found.dtype == np.float16
    assert found.tolist() == [65504, -65504, 2**-24, -(2**-24), 0, -np.inf, 0.5]


def test_beyond_the_limit_fails_and_names_the_key(folder: Path) -> None:
    with pytest.raises(RuntimeError, match=r"deploy\.max_score_difference"):
        build(folder, replace(DEPLOY, max_score_difference=1e-7))
    assert (folder / "metrics.json").exists()
    assert not (folder / "fp16").exists()


@pytest.mark.parametrize("spoiled", segments.LOGITS)
def test_nan_in_either_logit_fails(folder: Path, monkeypatch: pytest.MonkeyPatch, spoiled: str) -> None:
    answer = comparison.run

    def broken(*args: Any) -> comparison.Answer:
        found = answer(*args)
        return replace(found, **{spoiled: np.full_like(getattr(found, spoiled), np.nan)})

    monkeypatch.setattr(comparison, "run", broken)
    with pytest.raises(RuntimeError, match=r"deploy\.max_score_difference"):
        build(folder)


def test_unknown_operator_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="GridSampel"):
        build(folder, replace(DEPLOY, keep_float32=["GridSampel"]))


def test_int8_without_pictures_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="split by --coco"):
        build(folder, kind=config.Precision.int8)


def test_int8_of_a_graph_with_a_plugin_is_refused(folder: Path) -> None:
    about = replace(description.read(folder / "fp32"), variant="onnx_plugin_v2")
    artifact.save(network(), folder / "fp32", about)
    with pytest.raises(ValueError, match="found variant onnx_plugin_v2, which it does not have"):
        build(folder, kind=config.Precision.int8, calibration=(folder, folder))


def linear() -> onnx.ModelProto:
    """A frame's rows through a linear layer as onnxsim writes it; Model Optimizer leaves products of one row alone."""
    frame = helper.make_tensor_value_info(description.FUSED_INPUT, TensorProto.UINT8, SHAPE)
    output = helper.make_tensor_value_info("rows", TensorProto.FLOAT, [96, SIDE])
    nodes = [
        helper.make_node("Cast", [description.FUSED_INPUT], ["pixels"], name="/Cast", to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "shape"], ["x"], name="/network/backbone/layers.0/Reshape"),
        helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], name="Gemm_0"),
        helper.make_node("Relu", ["y"], ["rows"], name="/network/backbone/layers.0/Relu"),
    ]
    weight = np.random.default_rng(0).normal(0, 0.02, (SIDE, SIDE)).astype(np.float32)
    constants = [
        helper.make_tensor("shape", TensorProto.INT64, [2], [96, SIDE]),
        onnx.numpy_helper.from_array(weight, "weight"),
        onnx.numpy_helper.from_array(np.ones(SIDE, np.float32), "bias"),
    ]
    graph = helper.make_graph(nodes, "g", [frame], [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_int8_weights_in_half_precision() -> None:
    with warnings.catch_warnings():
        # Its dependencies' own.
        warnings.simplefilter("ignore")
        frames = np.random.default_rng(0).integers(0, BRIGHTNESS + 1, (4, *SHAPE[1:]), np.uint8)
        found = int8.quantize(linear(), fp16.places(linear().graph), [], frames)
    assert [i.name for i in found.graph.initializer if i.data_type == TensorProto.INT8 and i.dims == [SIDE, SIDE]]
    half = fp16.convert(found, [])
    onnx.checker.check_model(half, full_check=True)
    expected, quantized = (run(model, "rows")[0] for model in (linear(), half))
    assert 0 < np.abs(quantized - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.filterwarnings("ignore")  # Model Optimizer's dependencies' own
def test_int8_with_nothing_to_quantise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"that deploy\.keep_float32 does not exclude"):
        int8.quantize(network(), fp16.places(network().graph), [], None)


def test_every_place_has_a_group() -> None:
    assert bench.group_of("/Cast") == "fit"
    assert bench.group_of("/network/backbone/layers.2/downsample/Concat") == "backbone, stage 2"
    assert bench.group_of("/network/class_logits") == "decoder, heads"
    assert bench.group_of("/network/decoder/Einsum") == "decoder, mask products"
