"""Standard TensorRT on a machine that has it and a GPU: build, load, answer, and the timing cache."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from stages import config, engine
from stages.engines import interface, manifest
from stages.engines.cuda import gpu, tensorrt
from stages.foundation import files, versions
from stages.onnx_graph import fp16
from tests.support import graphs

pytestmark = pytest.mark.gpu


@pytest.fixture
def target() -> config.Target:
    """A target that is this machine."""
    found = gpu.current()
    assert found is not None, "these tests need an NVIDIA GPU"
    version = tensorrt.installed_version(config.Target())
    strong = versions.numbers(version) >= (10, 12)
    here = config.Target(
        builder=config.Builder.tensorrt,
        builder_version=".".join(version.split(".")[:2]),
        device=config.Device.cuda,
        compute_capabilities=[found.compute_capability],
        typing=config.Typing.strong if strong else config.Typing.weak,
        optimization_level=1,
    )
    here.check("here")
    return here


def test_engine_answers_as_numpy_does(tmp_path: Path, target: config.Target) -> None:
    graph = graphs.write(tmp_path / "graph", graphs.two_outputs(), target)
    cache = tmp_path / "cache/timing.cache"
    engine.build(graph, tmp_path / "here", "here", target, cache, tmp_path / "engine_metrics.json")
    assert cache.stat().st_size > 0

    content = files.read_json(tmp_path / "here/engine.json")
    assert content["builder_version"] == tensorrt.installed_version(target)
    record = files.read_json(tmp_path / "here/build.json")
    assert record["host"]["gpu"]["compute_capability"] == target.compute_capabilities[0]

    found = manifest.verified_engine(tmp_path / "here", "here", target)
    runtime = interface.backend(target).load(found.path, target)
    rng = np.random.default_rng(0)
    for _ in range(3):
        frames = rng.integers(0, 256, graphs.SHAPE, dtype=np.uint8)
        answer = runtime.infer(frames)
        assert set(answer) == {"mean", "count"}
        np.testing.assert_allclose(answer["mean"].ravel(), frames.mean() * 0.01, rtol=1e-5)
        assert answer["count"].dtype == np.int32
        assert answer["count"].ravel() == [7]
        buffer = runtime.input_buffer()
        buffer[:] = 255 - frames
        # A frame of it, as a batch, is the buffer.
        np.testing.assert_allclose(runtime.infer(buffer[0][None])["mean"], buffer.mean() * 0.01, rtol=1e-5)
        np.testing.assert_array_equal(buffer, 255 - frames)
    with pytest.raises(ValueError, match=r"takes uint8 \[1, 32, 32, 3\]"):
        runtime.infer(np.zeros((1, 32, 64, 3), np.uint8))
    runtime.close()
    with pytest.raises(RuntimeError, match="closed"):
        runtime.infer(frames)


def test_a_timing_cache_of_another_kind_is_begun_anew(tmp_path: Path, target: config.Target) -> None:
    graph = graphs.write(tmp_path / "graph", graphs.two_outputs(), target)
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"not a cache")
    engine.build(graph, tmp_path / "here", "here", target, cache, tmp_path / "engine_metrics.json")
    written = cache.read_bytes()
    assert written != b"not a cache"
    engine.build(graph, tmp_path / "again", "here", target, cache, tmp_path / "engine_metrics.json")


def test_another_gpu_is_refused(tmp_path: Path, target: config.Target) -> None:
    found = target.compute_capabilities[0]
    target.compute_capabilities = ["5.0"]
    graph = graphs.write(tmp_path / "graph", graphs.two_outputs(), target)
    with pytest.raises(RuntimeError, match=rf"a GPU of compute capability 5\.0, found {found}"):
        engine.build(
            graph, tmp_path / "here", "here", target, tmp_path / "timing.cache", tmp_path / "engine_metrics.json"
        )


def test_an_unknown_operator_is_named(tmp_path: Path, target: config.Target) -> None:
    model = graphs.two_outputs()
    model.graph.node[1].op_type = "NoSuchOperator"
    graph = graphs.write(tmp_path / "graph", model, target)
    with pytest.raises(RuntimeError, match=r"can't parse .*graph\.onnx(.|\n)*node 1(.|\n)*NoSuchOperator"):
        engine.build(
            graph, tmp_path / "here", "here", target, tmp_path / "timing.cache", tmp_path / "engine_metrics.json"
        )


def test_float32_in_an_fp16_graph_stays_float32(tmp_path: Path, target: config.Target) -> None:
    """An area beyond the largest half, as the merge counts it; a weakly typed builder is free to take fp16."""
    shape = [1, 512, 512, 3]
    nodes = [
        helper.make_node("Cast", ["frames"], ["pixels"], name="/to_float", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "pixels"], ["squares"], name="/squares"),
        helper.make_node("ReduceSum", ["squares"], ["area"], name="/merge/area", keepdims=0),
        helper.make_node("Cast", ["area"], ["count"], name="/merge/to_int", to=TensorProto.INT32),
    ]
    frames = helper.make_tensor_value_info("frames", TensorProto.UINT8, shape)
    count = helper.make_tensor_value_info("count", TensorProto.INT32, [])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [frames], [count]), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    target.precision = config.Precision.fp16
    graph = graphs.write(tmp_path / "graph", fp16.convert(model, ["/merge/area", "/merge/to_int"]), target)
    engine.build(graph, tmp_path / "here", "here", target, tmp_path / "timing.cache", tmp_path / "engine_metrics.json")
    found = manifest.verified_engine(tmp_path / "here", "here", target)
    answer = interface.backend(target).load(found.path, target).infer(np.ones(shape, np.uint8))
    assert int(answer["count"]) == 512 * 512 * 3
