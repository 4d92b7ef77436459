"""Builders and runtimes of this host, for real, and what guards their engines."""

import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stages import config, engine
from stages.commands import build_engines
from stages.engines import interface, manifest
from stages.engines.cuda import driver, gpu, tensorrt, tensorrt_rtx
from stages.foundation import files
from tests.support import graphs

OPENVINO = config.Target(builder=config.Builder.openvino, builder_version="2026")
ONNXRUNTIME = config.Target(builder=config.Builder.onnxruntime, builder_version="1.32")
RTX = config.Target(
    builder=config.Builder.tensorrt_rtx, builder_version="1.7",
    device=config.Device.cuda, compute_capabilities=["8.6", "8.9"],
)  # fmt: skip
needs_no_gpu = pytest.mark.skipif(gpu.current() is not None, reason="says what is said where there is no GPU")


@pytest.fixture
def target() -> config.Target:
    return config.Target(builder=config.Builder.onnxruntime, builder_version="1.32")


@pytest.fixture
def built(tmp_path: Path, target: config.Target) -> Path:
    """A folder with an engine of target `cpu`."""
    graph = graphs.write(tmp_path / "graph", graphs.two_outputs(), target)
    engine.build(graph, tmp_path / "cpu", "cpu", target, tmp_path / "timing.cache", tmp_path / "engine_metrics.json")
    return tmp_path / "cpu"


@pytest.mark.parametrize("target", [OPENVINO, ONNXRUNTIME], ids=lambda t: t.builder.value)
def test_cpu_engine_answers_by_the_graphs_names(built: Path, target: config.Target) -> None:
    found = manifest.verified_engine(built, "cpu", target)
    assert found.description.provenance == {"checkpoint_sha256": "0" * 64}
    runtime = interface.backend(target).load(found.path, target)
    first = runtime.infer(np.full(graphs.SHAPE, 100, np.uint8))
    runtime.infer(np.full(graphs.SHAPE, 200, np.uint8))
    assert list(first) == ["mean", "count"]
    assert first["mean"].ravel() == pytest.approx(1.0)
    assert first["count"].dtype == np.int32
    assert first["count"].ravel() == [7]


@pytest.mark.parametrize("target", [OPENVINO, ONNXRUNTIME], ids=lambda t: t.builder.value)
def test_frames_may_lie_in_the_engines_own_memory(built: Path, target: config.Target) -> None:
    runtime = interface.backend(target).load(manifest.verified_engine(built, "cpu", target).path, target)
    for value in (100, 200):
        runtime.input_buffer()[:] = value
        assert runtime.infer(runtime.input_buffer())["mean"].item() == pytest.approx(value / 100)
    assert runtime.infer(np.full(graphs.SHAPE, 50, np.uint8))["mean"].item() == pytest.approx(0.5)


@pytest.mark.parametrize("target", [OPENVINO, ONNXRUNTIME], ids=lambda t: t.builder.value)
def test_batches_in_flight_come_back_in_order(built: Path, target: config.Target) -> None:
    runtime = interface.backend(target).load(manifest.verified_engine(built, "cpu", target).path, target, in_flight=2)
    for value in (100, 200):
        runtime.submit(np.full(graphs.SHAPE, value, np.uint8))
    assert [runtime.result()["mean"].item() for _ in range(2)] == pytest.approx([1.0, 2.0])
    with pytest.raises(RuntimeError, match="no batch is in flight; submit one first"):
        runtime.result()


@pytest.mark.parametrize("target", [OPENVINO, ONNXRUNTIME], ids=lambda t: t.builder.value)
@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (np.zeros((1, 32, 64, 3), np.uint8), r"uint8 \[1, 32, 64, 3\]"),
        (np.zeros(graphs.SHAPE, np.float32), r"float32 \[1, 32, 32, 3\]"),
    ],
)
def test_wrong_input_is_refused(built: Path, target: config.Target, wrong: interface.Array, found: str) -> None:
    runtime = interface.backend(target).load(manifest.verified_engine(built, "cpu", target).path, target)
    with pytest.raises(ValueError, match=rf"takes uint8 \[1, 32, 32, 3\], found {found}; .*deploy\.frame_height_px"):
        runtime.infer(wrong)


@pytest.mark.parametrize("target", [OPENVINO, ONNXRUNTIME, RTX], ids=lambda t: t.builder.value)
def test_an_unknown_operator_is_named(tmp_path: Path, target: config.Target) -> None:
    model = graphs.two_outputs()
    model.graph.node[1].op_type = "NoSuchOperator"
    graph = graphs.write(tmp_path / "graph", model, target)
    with pytest.raises(RuntimeError, match=r"graph\.onnx(.|\n)*NoSuchOperator|NoSuchOperator") as caught:
        engine.build(graph, tmp_path / "out", "x", target, tmp_path / "timing.cache", tmp_path / "engine_metrics.json")
    if target is RTX:
        assert "node 1 /average NoSuchOperator" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_failed_build_leaves_the_old_engine(built: Path, target: config.Target) -> None:
    before = files.sha256(built / "cpu.onnx")
    model = graphs.two_outputs()
    model.graph.node[1].op_type = "NoSuchOperator"
    graph = graphs.write(built.parent / "graph", model, target)
    with pytest.raises(RuntimeError, match="NoSuchOperator"):
        engine.build(graph, built, "cpu", target, built.parent / "timing.cache", built.parent / "engine_metrics.json")
    assert files.sha256(built / "cpu.onnx") == before


def test_rtx_engine_is_built_without_a_gpu(tmp_path: Path) -> None:
    graph = graphs.write(tmp_path / "graph", graphs.two_outputs(), RTX)
    engine.build(graph, tmp_path / "rtx", "rtx", RTX, tmp_path / "timing.cache", tmp_path / "engine_metrics.json")
    assert (tmp_path / "rtx/rtx.engine").stat().st_size > 1000
    content = files.read_json(tmp_path / "rtx/engine.json")
    assert content["builder_version"].startswith("1.7.")
    assert content["compute_capabilities"] == ["8.6", "8.9"]
    assert content["graph"]["precision"] == "fp32"
    assert files.read_json(tmp_path / "rtx/build.json")["host"]["gpu"] is None


@needs_no_gpu
def test_rtx_engine_is_not_loaded_without_a_gpu(tmp_path: Path) -> None:
    graph = graphs.write(tmp_path / "graph", graphs.two_outputs(), RTX)
    engine.build(graph, tmp_path / "rtx", "rtx", RTX, tmp_path / "timing.cache", tmp_path / "engine_metrics.json")
    with pytest.raises(RuntimeError, match=r"rtx needs a GPU of compute capability 8\.6 or 8\.9, found no NVIDIA GPU"):
        manifest.verified_engine(tmp_path / "rtx", "rtx", RTX)
    with pytest.raises(RuntimeError, match=r"rtx\.engine runs on a GPU, found no NVIDIA GPU"):
        interface.backend(RTX).load(tmp_path / "rtx/rtx.engine", RTX)


def changed(**values: object) -> Callable[[config.Target], None]:
    def change(target: config.Target) -> None:
        for key, value in values.items():
            setattr(target, key, value)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(precision=config.Precision.fp16), "a graph with precision fp16, found fp32 .*onnx/fp16"),
        (
            changed(variant=config.Variant.onnx_gather),
            "a graph with variant onnx_gather, found onnx .*--graph data/onnx/onnx_gather/fp32",
        ),
    ],
)
def test_a_graph_of_another_kind_is_refused(
    tmp_path: Path, target: config.Target, change: Callable[[config.Target], None], message: str
) -> None:
    graph = graphs.write(tmp_path / "graph", graphs.two_outputs(), target)
    change(target)
    with pytest.raises(RuntimeError, match=message):
        engine.build(
            graph, tmp_path / "cpu", "cpu", target, tmp_path / "timing.cache", tmp_path / "engine_metrics.json"
        )


def test_host_is_checked_before_any_work(tmp_path: Path, target: config.Target) -> None:
    def build() -> None:
        engine.build(
            tmp_path / "missing",
            tmp_path / "cpu",
            "cpu",
            target,
            tmp_path / "timing.cache",
            tmp_path / "engine_metrics.json",
        )

    target.builder_version = "1.3"
    with pytest.raises(RuntimeError, match=r"needs onnxruntime 1\.3, found 1\.32.*builder_version"):
        build()
    target.architecture = "riscv128"
    with pytest.raises(RuntimeError, match=r"the CPU architecture riscv128, found .* `make engine TARGET=cpu`"):
        build()


@needs_no_gpu
def test_engines_of_other_hosts_are_told_apart_with_a_command() -> None:
    board = config.Target(
        builder=config.Builder.tensorrt, builder_version="10.3", architecture="aarch64",
        device=config.Device.cuda, compute_capabilities=["8.7"],
        variant=config.Variant.onnx_plugin_v1, typing=config.Typing.weak, precision=config.Precision.fp16,
    )  # fmt: skip
    server = config.Target(
        builder=config.Builder.tensorrt, builder_version="10.13", architecture=platform.machine(),
        device=config.Device.cuda, compute_capabilities=["8.9"],
    )  # fmt: skip
    cfg = config.Config(
        targets={"cpu": ONNXRUNTIME, "board": board, "server": server},
        deploy=config.Deploy(variants=[config.Variant.onnx, config.Variant.onnx_plugin_v1]),
    )
    here, elsewhere = build_engines.plan(cfg, "")
    assert here == ["cpu"]
    assert "the CPU architecture aarch64, found" in elsewhere["board"]
    assert "run `make engine TARGET=board` on such a machine" in elsewhere["board"]
    # By where the tests run: no module, or a module and no GPU.
    assert "tensorrt can't be imported" in elsewhere["server"] or "server needs" in elsewhere["server"]
    with pytest.raises(ValueError, match="orin"):
        build_engines.plan(cfg, "orin")


@pytest.mark.parametrize(
    ("version", "typing", "names"),
    [
        ("8.6.0", "weak", ["EXPLICIT_BATCH"]),
        ("10.3.0", "weak", []),
        ("10.13.0.35", "strong", ["STRONGLY_TYPED"]),
        ("11.1.0.106", "strong", ["STRONGLY_TYPED"]),
    ],
)
def test_network_flags_are_those_that_a_version_needs(version: str, typing: str, names: list[str]) -> None:
    assert tensorrt.network_flags(version, config.Typing(typing)) == names


def test_what_an_enumeration_lacks_is_no_bit() -> None:
    """TensorRT-RTX, as TensorRT 11, has neither cuBLAS nor cuDNN, and no batch dimension of its own."""
    api = tensorrt_rtx.library()
    assert tensorrt.bits(api.TacticSource, tensorrt.EXTERNAL_TACTICS) == 0
    flags = api.NetworkDefinitionCreationFlag
    assert tensorrt.bits(flags, ["EXPLICIT_BATCH", "STRONGLY_TYPED"]) == 1 << int(flags.STRONGLY_TYPED)


@needs_no_gpu
def test_nothing_of_the_driver_is_there_without_a_gpu() -> None:
    assert gpu.current() is None
    for make in (lambda: driver.Buffer((1, 2), np.uint8), driver.Stream, lambda: driver.Module(b"")):
        with pytest.raises(
            RuntimeError, match="found no NVIDIA GPU or no driver; run it where nvidia-smi lists the GPU"
        ):
            make()
