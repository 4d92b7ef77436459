"""Launch plans for GPUs of other sizes, valid on all of them, and tiles that tune measured."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import config, engine
from stages.commands import tune
from stages.engines import manifest
from stages.engines.cuda import bundle, compiler, tuning
from stages.engines.cuda.launch import MAX_GRID, MAX_THREADS
from stages.engines.cuda.launch_plans import linear_tiles, machine, planner, tuned
from stages.engines.cuda.launch_plans.linear_tiles import Layer
from stages.engines.cuda.launch_plans.machine import Machine
from stages.foundation import files
from stages.inference import description
from stages.inference.steps import KernelCall, TensorSpec
from stages.onnx_graph import artifact
from tests.conftest import REPO
from tests.engines import test_kernels as kernels
from tests.engines.test_engines import needs_no_gpu

COUNTS = [16, 20, 66, 132]
CAPABILITIES = ["", *dict.fromkeys(gpu.compute_capability for gpu in machine.known())]
OPTIONAL = ["", "bias,weight_row_sums", "bias,residual", "bias,residual,scale,shift,pos_embed"]
# Rows, K and columns of Swin-Tiny's layers at 720p, and of some that fill no tile.
SIZES = [(58880, 96, 288), (14720, 768, 192), (3680, 384, 1536), (920, 3072, 768), (19320, 1024, 256), (100, 2048, 256),
         (100, 256, 14720), (58880, 2304, 256), (77, 40, 117), (5000, 64, 320)]  # fmt: skip


def linear(rows: int, depth: int, columns: int, optional: str, dtype: str = "float16") -> KernelCall:
    shapes: dict[str, tuple[int, ...]] = {"residual": (1, rows, columns), "pos_embed": (rows, columns)}
    extras = [shapes.get(name, (columns,)) for name in optional.split(",") if name]
    inputs = [TensorSpec(shape, dtype) for shape in ((1, rows, depth), (columns, depth), *extras)]
    return kernels.call("Linear", {**kernels.LINEAR, "rows": rows, "optional_inputs": optional}, inputs)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("count", COUNTS)
def test_all_tiles_of_linear_layers_fit_each_gpu(capability: str, count: int) -> None:
    gpu = Machine(capability, count)
    for rows, depth, columns in SIZES:
        for optional in OPTIONAL:
            post_norm = "scale" in optional
            layer = Layer(1, rows, columns, depth, True, "weight_row_sums" in optional, post_norm)
            found = linear_tiles.tiles(layer, gpu)
            assert len(set(found)) == len(found)
            call = linear(rows, depth, columns, optional)
            for tile in found:
                whole = post_norm and not tile.split_k
                shared_bytes = tile.shared_bytes + tile.static_bytes(whole)
                assert shared_bytes <= gpu.block_shared_bytes
                # With 1 KiB of the driver's, as many blocks as wgmma's registers are shared out among.
                assert not tile.wgmma or tile.blocks * (shared_bytes + 1024) <= gpu.shared_bytes
                assert not tile.wgmma or capability == "9.0"
                assert not whole or tile.columns >= columns
                plan = planner.plan(call, gpu, tile.choice())
                for launch in plan.launches:
                    assert launch.block[0] * launch.block[1] * launch.block[2] <= MAX_THREADS
                    assert all(n <= limit for n, limit in zip(launch.grid, MAX_GRID, strict=True))
                first = plan.launches[0]
                assert first.grid[0] * tile.columns >= columns
                assert first.grid[1] * tile.rows >= rows
                assert first.grid[2] == max(1, tile.split_k)


@pytest.mark.parametrize("name", [name for name in planner.PLANNERS if name != "Linear"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_all_choices_of_other_kernels_compile(name: str, dtype: str) -> None:
    attributes, inputs = kernels.example(name, dtype)
    call = kernels.call(name, attributes, inputs)
    for count in (16, 132):
        gpu = Machine("8.7", count)
        for choice in planner.choices(call, gpu):
            plan = planner.plan(call, gpu, choice)
            assert all(launch.block[0] * launch.block[1] <= MAX_THREADS for launch in plan.launches)
            if count == 16 and choice:
                assert compiler.compile_source(plan.source, plan.defines, "8.7").startswith(b"\x7fELF")


@pytest.mark.parametrize(
    ("capability", "rows", "optional"),
    [("8.7", 5000, "scale,shift"), ("9.0", 5000, "scale,shift"), ("9.0", 3680, "bias,weight_row_sums")],
)
def test_all_tiles_compile_with_the_shared_memory_that_was_reckoned(capability: str, rows: int, optional: str) -> None:
    call, gpu = linear(rows, 384, 256, optional), Machine(capability, 16)
    for choice in planner.choices(call, gpu):
        plan, tile = planner.plan(call, gpu, choice), linear_tiles.parse(choice)
        code = compiler.compile_source(plan.source, plan.defines, capability)
        static_bytes = kernels.section_bytes(code, ".nv.shared.linear")
        assert tile.shared_bytes + static_bytes <= gpu.block_shared_bytes + (1024 if capability == "9.0" else 0)


def test_shared_memory_is_that_of_the_compute_capability() -> None:
    for gpu in machine.known():
        assert (gpu.block_shared_kib << 10) == Machine(gpu.compute_capability).block_shared_bytes
        assert (gpu.multiprocessor_shared_kib << 10) == Machine(gpu.compute_capability).shared_bytes
    # Of the oldest one where nothing is known, as for PTX.
    assert Machine("").block_shared_bytes == Machine("99.0").block_shared_bytes == 64 << 10
    target = config.find_target(config.load(REPO / "params.yaml"), "gpu")
    assert set(target.compute_capabilities) <= {gpu.compute_capability for gpu in machine.known()}


@pytest.mark.parametrize(("depth", "stages", "fits"), [(128, 2, True), (256, 2, False), (256, 3, True)])
def test_wgmma_with_too_few_stages_is_refused(depth: int, stages: int, fits: bool) -> None:
    """It would compute what is not loaded yet. Only where all of K is loaded at once two stages are enough."""
    tile = linear_tiles.Tile(64, 256, 4, 2, 1, wgmma=True, stages=stages)
    call, gpu = linear(100, depth, 2048, "bias"), Machine("9.0", 16)
    plan = planner.plan(call, gpu, tile.choice())
    if fits:
        assert compiler.compile_source(plan.source, plan.defines, "9.0").startswith(b"\x7fELF")
    else:
        with pytest.raises(RuntimeError, match="a step must be loaded before it is computed"):
            compiler.compile_source(plan.source, plan.defines, "9.0")
    for choice in planner.choices(call, gpu):
        assert not choice["WGMMA"] or choice["STAGES"] >= min(3, depth // 64)


def test_a_wrong_answer_is_told_from_rounding() -> None:
    rng = np.random.default_rng(0)
    for dtype in ("float16", "float32"):
        expected = rng.standard_normal((100, 64)).astype(dtype)
        rounded = (expected * (1 + 1e-4)).astype(dtype)
        assert tuning.same_answer(rounded, expected)
        for change in (0.5, np.nan, np.inf):
            wrong = expected.copy()
            wrong[7, 3] += change
            assert not tuning.same_answer(wrong, expected)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    about = description.Description({}, "cuda", [{"id": 1, "name": "car", "isthing": 1}])
    artifact.save(kernels.network(), folder, about)
    return folder


def a_target(*tiles: str, capability: str = "8.6") -> config.Target:
    values = {**vars(kernels.GPUS), "compute_capabilities": [capability], "tiles": [*tiles]}
    target = config.Target(**values)
    target.check("here")
    return target


def build(graph: Path, out: Path, target: config.Target) -> Path:
    engine.build(graph, out / "here", "here", target, graph.parent / "cache", out / "m.json")
    return out / "here" / "here.cuda"


def calls_of(graph: Path) -> list[KernelCall]:
    return [step for step in description.read(graph).steps if isinstance(step, KernelCall)]


def test_measured_tiles_are_built_in_and_change_the_engine(graph: Path, tmp_path: Path) -> None:
    calls, gpu = calls_of(graph), Machine("8.6", 20)
    call = next(call for call in calls if call.operator == "DeformableAttention")
    choice = planner.choices(call, gpu)[1]
    line = tuned.line(call, gpu, choice)
    before = build(graph, tmp_path / "before", a_target()).read_bytes()
    file = build(graph, tmp_path / "after", a_target(line))
    assert file.read_bytes() != before
    found = bundle.read(file, kernels.a_gpu("8.6"))
    kernel = next(kernel for kernel in found.kernels if kernel.operator == "DeformableAttention")
    assert kernel.plan.code.endswith(planner.plan(call, gpu, choice).code_digest())
    target = files.read_json(tmp_path / "after/here" / manifest.NAME)
    assert target["tiles"] == [line]


def test_tiles_that_a_kernel_does_not_have_are_refused(graph: Path, tmp_path: Path) -> None:
    call = next(call for call in calls_of(graph) if call.operator == "Linear")
    gpu = Machine("8.6", 16)
    line = tuned.line(call, gpu, {**planner.choices(call, gpu)[0], "TILE_M": 17})
    with pytest.raises(
        ValueError, match=r"tiles: '8\.6/16 Linear .* TILE_M=17 .*' is none of the tiles that Linear has now"
    ):
        build(graph, tmp_path, a_target(line))
    assert not (tmp_path / "here").exists()


def test_tiles_of_another_graph_are_named(graph: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        build(graph, tmp_path, a_target("8.6/16 Linear 1x7x8,8x8 0123abcd TILE_M=128"))
    assert "none of the 1 measured tiles in conf/tiles is for this graph" in caplog.text


@pytest.mark.parametrize(
    "line",
    [
        "8.9/16 Linear 1x7x8,8x8 0123abcd TILE_M=128",
        "8.6/0 Linear 1x7x8 0123abcd A=1",
        "8.6/16 Linear 0123abcd A=1",
        "x",
        "",
    ],
)
def test_lines_that_tune_does_not_write_are_refused(line: str) -> None:
    with pytest.raises(
        ValueError, match=r"targets\.here\.tiles: must be lines that `make tune` wrote, for compute cap"
    ):
        a_target(line)
    two = ["8.6/16 Linear 1x7x8,8x8 0123abcd A=1", "8.6/84 Linear 1x7x8,8x8 0123abcd A=1"]
    with pytest.raises(
        ValueError, match=r"tiles: must be of one GPU for each compute capability, found \['8\.6/16', '8"
    ):
        a_target(*two)
    other: dict[str, Any] = {"builder_version": "1", "tiles": ["8.6/16 Linear 1x7x8,8x8 0123abcd TILE_M=128"]}
    with pytest.raises(ValueError, match=r"tiles: must be empty for builder: openvino"):
        config.Target(**other).check("here")


def test_lines_of_other_gpus_stay_and_other_files_are_not_overwritten(tmp_path: Path) -> None:
    out, gpu = tmp_path / "orin.yaml", Machine("8.6", 16)
    assert tune.former_lines(out, gpu) == []
    of_others = "8.9/48 Linear 1x7x8,8x8 0123abcd TILE_M=128"
    out.write_text(f"# Written\ntiles:\n- 8.6/16 Linear 1x7x8,8x8 0123abcd TILE_M=64\n- {of_others}\n")
    assert tune.former_lines(out, gpu) == [of_others]
    out.write_text("# Written\ntiles: []\n")
    assert tune.former_lines(out, gpu) == []
    for content in ("mine: 1\n", "tiles:\n- x\n", ""):
        out.write_text(content)
        with pytest.raises(ValueError, match=r"orin\.yaml is there, and this command did not write it; give OUT"):
            tune.former_lines(out, gpu)


@needs_no_gpu
def test_tune_needs_a_gpu_and_a_target_with_tiles() -> None:
    with pytest.raises(RuntimeError, match="tiles are measured on a GPU, found no NVIDIA GPU or no driver; run it on"):
        tune.this_machine("here", a_target())
    with pytest.raises(ValueError, match="target cpu has builder: openvino, which has no tiles; tune one of cuda"):
        tune.this_machine("cpu", config.Target())


def test_the_fastest_tile_is_written_where_it_is_not_the_default(graph: Path) -> None:
    calls, gpu = calls_of(graph), Machine("8.6", 16)
    found = tuning.candidates(calls, gpu)
    # Calls of the same sizes are measured once.
    assert tuning.candidates([*calls, *calls], gpu).keys() == found.keys()
    (name, (call, choices)) = next(iter(found.items()))
    times = [(choice, 2.0) for choice in choices]
    same = tuning.Measured(call, times, [], choices[0], 2.0, 2.0)
    faster = tuning.Measured(call, times, [], choices[1], 1.0, 2.0)
    assert [*tuning.lines([same], gpu)] == []
    (line,) = tuning.lines([faster], gpu)
    assert line.startswith(f"8.6/16 {name} ")
    assert tuned.Tuned(a_target(line).tiles).choice(call, "8.6") == choices[1]
