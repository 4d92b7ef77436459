"""The deployed network against TAO's own, with random weights."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from stages import config, files, precision
from stages.engines import base, sidecar
from stages.graph import passes, reference
from tests.conftest import REPO


@pytest.fixture(scope="module")
def tao(tmp_path_factory: pytest.TempPathFactory, tao_wheel: None) -> Any:
    """TAO's network of the default profile with random weights."""
    import torch
    from omegaconf import OmegaConf

    from stages.tao import spec, wheel

    cfg = config.load(REPO / "params.yaml")
    folder = tmp_path_factory.mktemp("tao")
    content = spec.train_spec(folder, {"train": folder, "val": folder}, 116, cfg)
    OmegaConf.save(content, folder / "spec.yaml")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        net = wheel.build_network(folder / "spec.yaml")
    return net.eval()


def test_deployed_network_equals_tao(tao: Any) -> None:
    import torch

    from stages.graph.network import Deployed

    deployed = Deployed(tao).eval()
    generator = torch.Generator().manual_seed(0)
    for height, width in ((192, 288), (128, 160)):
        frame = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8, generator=generator)
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = tao(deployed.normalise(frame))
            class_logits, mask_logits = deployed(frame)
        assert torch.allclose(class_logits, expected["pred_logits"], atol=1e-4)
        assert torch.allclose(mask_logits, expected["pred_masks"], atol=1e-3)
        assert mask_logits.shape == (1, 100, height // 4, width // 4)


def test_a_query_that_may_look_nowhere_looks_everywhere(tao: Any) -> None:
    """TAO's rule for a fully blocked query, on which the two paths differ in form."""
    import torch

    from stages.graph.network import decode

    decoder = tao.sem_seg_head.predictor
    generator = torch.Generator().manual_seed(1)
    levels = [torch.randn(1, 64, s, s, generator=generator) for s in (4, 8, 16)]
    features = torch.randn(1, 64, 32, 32, generator=generator)
    with torch.inference_mode():
        saved = decoder.mask_embed.layers[-1].bias.clone()
        # Constant features against a strongly negative embedding block every position of every query.
        features = features.abs() + 1
        decoder.mask_embed.layers[-1].bias.copy_(torch.full_like(saved, -50))
        expected = decoder([*levels], features)
        class_logits, mask_logits = decode(decoder, levels, features)
        decoder.mask_embed.layers[-1].bias.copy_(saved)
    assert (expected["pred_masks"] < 0).all()
    assert torch.allclose(class_logits, expected["pred_logits"], atol=1e-4)
    assert torch.allclose(mask_logits, expected["pred_masks"], rtol=1e-5)


def test_float64_becomes_float32() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.INT64, [2])
    y = helper.make_tensor_value_info("y", TensorProto.DOUBLE, [2])
    half = helper.make_tensor("half", TensorProto.DOUBLE, [1], [0.5])
    nodes = [
        helper.make_node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE),
        helper.make_node("Constant", [], ["one"], value=helper.make_tensor("v", TensorProto.DOUBLE, [1], [1.0])),
        helper.make_node("Mul", ["d", "half"], ["m"]),
        helper.make_node("Add", ["m", "one"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y], [half])
    passes.float64_to_float32(graph)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)

    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": np.array([2, 4])})
    assert result.dtype == np.float32
    assert result.tolist() == [2.0, 3.0]


def small_graph(path: Path, scale: float) -> None:
    """A graph with the deployed one's names and types: both outputs are the frame's mean times `scale`."""
    frame = helper.make_tensor_value_info(reference.INPUT, TensorProto.UINT8, [1, 32, 32, 3])
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, 1, 1]) for n in reference.OUTPUTS]
    nodes = [
        helper.make_node("Cast", ["frame"], ["pixels"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], name="mean", keepdims=1),
        helper.make_node("Mul", ["mean", "scale"], ["class_logits"], name="mul"),
        helper.make_node("Mul", ["mean", "scale"], ["mask_logits"], name="mul2"),
    ]
    initializers = [helper.make_tensor("scale", TensorProto.FLOAT, [1], [scale])]
    graph = helper.make_graph(nodes, "g", [frame], outputs, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@pytest.fixture
def frames_file(tmp_path: Path) -> Path:
    path = tmp_path / "reference.npz"
    np.savez(path, frames=np.full((1, 32, 32, 3), 100, np.uint8))
    return path


def test_precision_within_the_limit(tmp_path: Path, frames_file: Path) -> None:
    small_graph(tmp_path / "fp32.onnx", 0.01)
    precision.build(tmp_path / "fp32.onnx", frames_file, tmp_path / "fp16.onnx", tmp_path / "p.json", config.Deploy())
    assert onnx.load(tmp_path / "fp16.onnx").graph.initializer[0].data_type == TensorProto.FLOAT16


def test_precision_beyond_the_limit_fails_and_names_the_key(tmp_path: Path, frames_file: Path) -> None:
    small_graph(tmp_path / "fp32.onnx", 0.003333)
    cfg = config.Deploy(max_score_difference=1e-7)
    with pytest.raises(RuntimeError, match=r"deploy\.max_score_difference"):
        precision.build(tmp_path / "fp32.onnx", frames_file, tmp_path / "fp16.onnx", tmp_path / "p.json", cfg)
    assert (tmp_path / "p.json").exists()


@pytest.mark.parametrize("spoiled", [0, 1])
def test_nan_in_either_half_precision_output_fails(
    tmp_path: Path, frames_file: Path, monkeypatch: pytest.MonkeyPatch, spoiled: int
) -> None:
    small_graph(tmp_path / "fp32.onnx", 0.01)
    answers = [np.zeros((1, 2, 2), np.float32), np.zeros((1, 2, 2), np.float32)]
    broken = [a if i != spoiled else np.full_like(a, np.nan) for i, a in enumerate(answers)]
    monkeypatch.setattr(
        reference, "run", lambda onnx_file, frames: answers if onnx_file.name == "fp32.onnx" else broken
    )
    with pytest.raises(RuntimeError, match=r"deploy\.max_score_difference"):
        precision.build(
            tmp_path / "fp32.onnx", frames_file, tmp_path / "fp16.onnx", tmp_path / "p.json", config.Deploy()
        )


def test_unknown_operator_is_refused(tmp_path: Path, frames_file: Path) -> None:
    small_graph(tmp_path / "fp32.onnx", 0.01)
    cfg = config.Deploy(keep_float32=["GridSampel"])
    with pytest.raises(ValueError, match="GridSampel"):
        precision.build(tmp_path / "fp32.onnx", frames_file, tmp_path / "fp16.onnx", tmp_path / "p.json", cfg)


@pytest.fixture
def cpu_target() -> config.Target:
    return config.load(REPO / "params.yaml").targets["cpu"]


def test_cpu_engine_round_trip_and_guards(tmp_path: Path, cpu_target: config.Target) -> None:
    from stages import engine

    small_graph(tmp_path / "fp32.onnx", 0.01)
    folder = tmp_path / "cpu"
    engine.build(tmp_path / "fp32.onnx", folder, "cpu", cpu_target)
    blob = sidecar.verified_engine(folder, "cpu", cpu_target)
    runtime = base.backend(cpu_target).load(blob, cpu_target)
    class_logits, _ = runtime.infer(np.full((1, 32, 32, 3), 100, np.uint8))
    assert class_logits.ravel() == pytest.approx(1.0)

    with pytest.raises(RuntimeError, match="target must be 'board' here, found 'cpu'"):
        sidecar.verified_engine(folder, "board", cpu_target)
    cpu_target.precision = config.Precision.fp16
    with pytest.raises(RuntimeError, match="precision must be 'fp16' here, found 'fp32'"):
        sidecar.verified_engine(folder, "cpu", cpu_target)
    cpu_target.precision = config.Precision.fp32
    blob.write_bytes(blob.read_bytes() + b"x")
    with pytest.raises(RuntimeError, match=r"SHA-256 .* `make engines TARGET=cpu`"):
        sidecar.verified_engine(folder, "cpu", cpu_target)
    content = files.read_json(folder / sidecar.NAME)
    content["engine"]["file"] = "../other.blob"
    files.write_json(folder / sidecar.NAME, content)
    with pytest.raises(RuntimeError, match=r"engine\.file must name a file in"):
        sidecar.verified_engine(folder, "cpu", cpu_target)
    files.write_json(folder / sidecar.NAME, {"target": "cpu"})
    with pytest.raises(RuntimeError, match="builder must be 'openvino' here, found None"):
        sidecar.verified_engine(folder, "cpu", cpu_target)
    (folder / sidecar.NAME).unlink()
    with pytest.raises(RuntimeError, match="not to be trusted"):
        sidecar.verified_engine(folder, "cpu", cpu_target)


def test_host_is_checked_before_any_work(tmp_path: Path, cpu_target: config.Target) -> None:
    from stages import engine

    cpu_target.architecture = "riscv128"
    with pytest.raises(RuntimeError, match=r"needs a riscv128 CPU, found .* `make engines TARGET=cpu`"):
        engine.build(tmp_path / "no.onnx", tmp_path / "cpu", "cpu", cpu_target)
    cpu_target.architecture = "x86_64"
    cpu_target.builder_version = "1.0"
    with pytest.raises(RuntimeError, match=r"needs openvino 1\.0, found .* builder_version"):
        engine.build(tmp_path / "no.onnx", tmp_path / "cpu", "cpu", cpu_target)


def test_engines_of_other_hosts_are_told_apart() -> None:
    from stages import build_engines

    cfg = config.load(REPO / "params.yaml")
    cfg.targets["rtx"].architecture = "aarch64"
    here, elsewhere = build_engines.plan(cfg, "")
    assert here == ["cpu"]
    assert "needs a aarch64 CPU" in elsewhere["rtx"]
    with pytest.raises(ValueError, match="orin"):
        build_engines.plan(cfg, "orin")


def test_rtx_engine_is_built_and_its_errors_arrive_whole(tmp_path: Path) -> None:
    from stages import engine

    target = config.load(REPO / "params.yaml").targets["rtx"]
    small_graph(tmp_path / "fp16.onnx", 0.01)
    engine.build(tmp_path / "fp16.onnx", tmp_path / "rtx", "rtx", target)
    assert (tmp_path / "rtx/rtx.engine").stat().st_size > 1000

    model = onnx.load(tmp_path / "fp16.onnx")
    model.graph.node[1].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(RuntimeError, match=r"can't parse .*bad\.onnx(.|\n)*NoSuchOperator"):
        engine.build(tmp_path / "bad.onnx", tmp_path / "rtx", "rtx", target)
    assert (tmp_path / "rtx/rtx.engine").exists()
