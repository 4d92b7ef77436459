"""Our CUDA kernels as far as they go without a GPU: compiled for every GPU there is, planned, cut out and packed."""

import dataclasses
import struct
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from stages import config, engine
from stages.engines import manifest
from stages.engines.cuda import bundle, catalog, compiler, driver, tensorrt_common
from stages.engines.cuda.catalog import Tensor
from stages.foundation import files
from stages.inference import description
from stages.onnx_graph import artifact, partition
from tests.test_engines import needs_no_gpu

SIZES = [3, 5, 6, 10]
LENGTH, HEADS, POINTS = 75, 2, 4
ATTENTION = {"heads": HEADS, "points": POINTS, "sizes": SIZES}
MERGE = {
    "low": [8, 16], "things": 2, "score_threshold": 0.5, "overlap_threshold": 0.5, "input": [32, 64], "used": [32, 64],
    "frame": [32, 64],
}  # fmt: skip
RTX = config.Target(
    builder=config.Builder.tensorrt_rtx, builder_version="1.7",
    device=config.Device.cuda, compute_capabilities=["8.6", "8.9"],
    deformable_attention=config.Sampler.kernels,
)  # fmt: skip


def attention_inputs(dtype: str, depth: int = 8) -> list[Tensor]:
    samples = HEADS * POINTS * len(SIZES) // 2
    return [Tensor((1, LENGTH, n), dtype) for n in (HEADS * depth, 3 * samples)]


LINEAR = {"extras": "", "activation": "none", "epsilon": 1e-5, "first": 0, "rows": 500, "plane": []}
LOOK = {"heads": 2, "channels": 64, "firsts": [0, 0, 0]}


def plan(name: str, dtype: str, compute_capability: str) -> catalog.Plan:
    window = {"heads": 2, "height": 12, "width": 18, "window": 7, "shift": 3}
    shapes: dict[str, tuple[Any, list[tuple[int, ...]]]] = {
        "DeformableAttention": (ATTENTION, [tensor.shape for tensor in attention_inputs(dtype)]),
        "GroupNorm": (
            {"extras": "position", "groups": 32, "epsilon": 1e-5, "activation": "none"},
            [(2, 70, 64), (2, 30, 64), (2, 64), (2, 64), (100, 64)],
        ),
        "Resize": ({"first": 4, "plane": [6, 10], "to": [3, 5]}, [(2, 64, 24)]),
        "Linear": ({**LINEAR, "extras": "bias,sums", "activation": "gelu"}, [(1, 500, 96), (72, 96), (72,), (72,)]),
        "MaskedAttention": (LOOK, [(1, 100, 64), (1, LENGTH, 64), (1, LENGTH, 64), (1, 100, LENGTH)]),
        "PanopticMerge": (MERGE, [(1, 20, 6), (1, 20, 128)]),
        "WindowAttention": (window, [(1, 216, 192), (192,), (2, 49, 49)]),
    }
    attributes, inputs = shapes[name]
    return catalog.plan(name, attributes, [Tensor(shape, dtype) for shape in inputs], compute_capability)


@pytest.mark.parametrize("name", catalog.KERNELS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("compute_capability", ["7.5", "8.7", "9.0", "12.0"])
def test_every_kernel_compiles(name: str, dtype: str, compute_capability: str) -> None:
    found = plan(name, dtype, compute_capability)
    code = compiler.compile_source(found.source, found.defines, compute_capability)
    assert code.startswith(b"\x7fELF")
    for launch in found.launches:
        assert launch.function.encode() in code
        assert np.prod(launch.block) <= 1024


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("queries", "heads", "depth"), [(255, 4, 64), (100, 2, 96), (1, 8, 32)])
def test_unusual_sizes_compile(dtype: str, queries: int, heads: int, depth: int) -> None:
    channels, samples = heads * depth, heads * POINTS * 2
    shapes = [(1, queries, channels), (1, LENGTH, channels), (1, LENGTH, channels), (1, queries, LENGTH)]
    attention = [Tensor((1, LENGTH, n), dtype) for n in (channels, 3 * samples)]
    logits = [Tensor((1, queries, 6), dtype), Tensor((1, queries, 128), dtype)]
    look = {"heads": heads, "channels": channels, "firsts": [0, 0, 0]}
    for found in (
        catalog.masked_attention(look, [Tensor(shape, dtype) for shape in shapes]),
        catalog.masked_attention(look, [Tensor(shape, dtype) for shape in shapes[:3]]),
        catalog.deformable_attention({**ATTENTION, "heads": heads}, attention),
        catalog.panoptic_merge(MERGE, logits),
    ):
        assert compiler.compile_source(found.source, found.defines, "8.9")
        assert all(np.prod(launch.block) <= catalog.MAX_THREADS for launch in found.launches)


# Of Swin-Tiny at 720p, and of such as fill no tile: one block for whole rows, products shared out, neither.
@pytest.mark.parametrize(
    ("rows", "depth", "columns"),
    [(19320, 1024, 256), (100, 2048, 256), (5000, 64, 320), (5000, 64, 72), (4100, 104, 256)],
)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("compute_capability", ["7.5", "8.9", "9.0"])
def test_linear_layers_compile_and_fit(
    rows: int, depth: int, columns: int, dtype: str, compute_capability: str
) -> None:
    vector, plane = Tensor((columns,), dtype), Tensor((1, rows, columns), dtype)
    extras = [vector, plane, vector, vector, Tensor((rows, columns), dtype)]
    attributes = {**LINEAR, "extras": "bias,residual,scale,shift,position", "rows": rows}
    inputs = [Tensor((1, rows, depth), dtype), Tensor((columns, depth), dtype), *extras]
    found = catalog.plan("Linear", attributes, inputs, compute_capability)
    code = compiler.compile_source(found.source, found.defines, compute_capability)
    assert found.outputs == (plane, plane)
    assert all(np.prod(launch.block) <= catalog.MAX_THREADS for launch in found.launches)
    first = found.launches[0]
    # With what the source declares itself, and from 9.0 on 1 KiB of the driver's. Of 7.5 that is all there is.
    shared_bytes, wgmma = first.shared_bytes + section_bytes(code, ".nv.shared.linear"), found.defines["WGMMA"]
    assert wgmma == (compute_capability == "9.0" and dtype == "float16" and rows > 1000 and columns != 320)
    assert shared_bytes * (found.defines["BLOCKS"] if wgmma else 1) <= (228 if wgmma else 64) << 10
    assert first.grid[0] * found.defines["TILE_N"] >= columns
    assert first.grid[1] * found.defines["TILE_M"] >= rows


def section_bytes(code: bytes, wanted: str) -> int:
    """Size of a section of an ELF file of 64 bits, 0 where it has none."""
    offset, size, count, names = *struct.unpack_from("<Q", code, 40), *struct.unpack_from("<HHH", code, 58)
    headers = [struct.unpack_from("<IIQQQQ", code, offset + i * size) for i in range(count)]
    start = headers[names][4]
    for name, _, _, _, _, length in headers:
        if code[start + name :].partition(b"\0")[0].decode() == wanted:
            return int(length)
    return 0


def test_rows_that_fill_no_vector_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a multiple of 8 channels in float16, found 20 of 20; choose another form"):
        catalog.linear(LINEAR, [Tensor((1, 500, 20), "float16"), Tensor((64, 20), "float16")])
    narrow = [Tensor((1, 100, 72), "float16"), *[Tensor((1, LENGTH, 72), "float16")] * 2]
    with pytest.raises(ValueError, match=r"multiples of 8 channels, found \{'VALUE_FIRST': 4\}"):
        catalog.masked_attention({**LOOK, "firsts": [0, 0, 4]}, narrow)


@pytest.mark.parametrize(
    ("name", "attributes", "shapes", "message"),
    [
        ("Linear", {"rows": 600}, [(1, 500, 64), (8, 64)], "rows and columns that x has"),
        ("Linear", {"first": 1}, [(1, 500, 64), (8, 64)], "rows and columns that x has"),
        ("Linear", {}, [(1, 500, 64), (8, 72)], "rows and columns that x has"),
        ("Linear", {}, [(2, 500, 64), (1, 8, 64)], "a weight for each image or for all"),
        ("Linear", {"extras": "sums,scale,shift"}, [(1, 500, 64), (8, 64), *[(8,)] * 3], "one normalisation"),
        ("Linear", {"plane": [20, 25, 2], "rows": 125}, [(1, 500, 64), (8, 256)], "all of a plane's patches"),
        ("Linear", {"plane": [20, 25, 3], "rows": 130}, [(1, 500, 64), (8, 576)], "all of a plane's patches"),
        ("MaskedAttention", {"channels": 65}, [(1, 9, 72)] * 3, "whole heads"),
        ("MaskedAttention", {"firsts": [0, 8, 0]}, [(1, 9, 64)] * 3, "columns that rows have"),
        ("MaskedAttention", {}, [*[(1, 9, 64)] * 3, (1, 9, 16)], "as many values as keys"),
        ("GroupNorm", {"groups": 7}, [(1, 9, 64), (1, 64), (1, 64)], "whole groups"),
        ("GroupNorm", {"activation": "gelu"}, [(1, 9, 64), (1, 64), (1, 64)], "activation none or relu"),
        ("GroupNorm", {}, [(1, 9, 64), (1, 9, 72), (2, 64), (2, 64)], "levels of one width"),
        ("Resize", {"first": 5}, [(1, 64, 24)], "rows that x has"),
    ],
)
def test_nodes_that_a_kernel_would_get_wrong_are_refused(
    name: str, attributes: dict[str, Any], shapes: list[tuple[int, ...]], message: str
) -> None:
    whole = {
        "Linear": LINEAR,
        "MaskedAttention": LOOK,
        "GroupNorm": {"extras": "", "groups": 32, "epsilon": 1e-5, "activation": "none"},
        "Resize": {"first": 4, "plane": [6, 10], "to": [3, 5]},
    }[name]
    with pytest.raises(ValueError, match=f"{name} needs .*{message}.*; found .* and shapes"):
        catalog.plan(name, {**whole, **attributes}, [Tensor(shape, "float16") for shape in shapes])


WGMMA_LAYERS = [
    # Rows, K, columns and plane: all tiles, and patches of both kinds.
    (58880, 2304, 256, [184, 320, 3]),
    (3680, 384, 1536, []),
    (16896, 64, 128, []),
    (19320, 256, 256, []),
    (920, 768, 768, []),
    (3680, 384, 1152, []),
    (3680, 768, 384, [92, 160, 2]),
]


@pytest.mark.parametrize("extras", [[], ["bias", "sums"]])
def test_layers_by_wgmma_compile_and_fit(extras: list[str]) -> None:
    seen = set()
    for rows, depth, columns, plane in WGMMA_LAYERS:
        x = (1, plane[0] * plane[1], depth // plane[2] ** 2) if plane else (1, rows, depth)
        inputs = [Tensor(shape, "float16") for shape in (x, (columns, depth), *[(columns,)] * len(extras))]
        attributes = {**LINEAR, "extras": ",".join(extras), "rows": rows, "plane": plane}
        found = catalog.plan("Linear", attributes, inputs, "9.0")
        defines, first = found.defines, found.launches[0]
        code = compiler.compile_source(found.source, defines, "9.0")
        assert defines["WGMMA"]
        # With 1 KiB of the driver's.
        assert defines["BLOCKS"] * (first.shared_bytes + section_bytes(code, ".nv.shared.linear")) <= 228 << 10
        seen.add((defines["TILE_M"], defines["TILE_N"], defines["BLOCKS"]))
    assert seen == {(tile.rows, tile.columns, tile.blocks) for tile in catalog.WGMMA_TILES}


def test_a_kernel_runs_what_it_was_compiled_for_and_one_tensor_may_be_two_inputs() -> None:
    launched = []

    class Module:
        def launch(self, *arguments: Any) -> None:
            launched.append((arguments[0], arguments[3]))

    known = {"both": Tensor((1, 100, 128), "float16"), "value": Tensor((1, 100, 64), "float16")}
    attributes, read = {**LOOK, "firsts": [0, 64, 0]}, ["both", "both", "value"]
    digest = catalog.plan("MaskedAttention", attributes, [known[name] for name in read], "9.0").digest()
    step = bundle.Step(b"", "MaskedAttention", attributes, read, ["seen"], digest)
    kernel = tensorrt_common.Kernel(step, cast(driver.Module, Module()), known, "9.0")
    kernel.bind({"both": 1, "value": 2, "seen": 3}, 4)
    kernel.enqueue(cast(driver.Stream, None))
    assert kernel.outputs == {"seen": Tensor((1, 100, 64), "float16")}

    # What was compiled for another plan is refused.
    with pytest.raises(RuntimeError, match=f"was planned as 0123, {digest} is expected: .*; build it again"):
        tensorrt_common.Kernel(dataclasses.replace(step, digest="0123"), cast(driver.Module, Module()), known, "9.0")
    assert launched == [("attend", [1, 1, 2, 1, 4, 3])]


def test_windows_beyond_a_block_are_refused() -> None:
    def window(size: int) -> catalog.Plan:
        sizes = {"heads": 4, "height": 48, "width": 48, "window": size, "shift": 0}
        inputs = [Tensor((1, 48 * 48, 384), "float16"), Tensor((384,), "float16")]
        return catalog.window_attention(sizes, [*inputs, Tensor((4, size**2, size**2), "float16")])

    assert compiler.compile_source(window(12).source, window(12).defines, "8.9")
    with pytest.raises(ValueError, match=r"can't serve windows of 16: a block would need \d+ bytes .* 49152 and 1024"):
        window(16)


def test_what_the_compiler_says_arrives() -> None:
    defines = {**plan("DeformableAttention", "float16", "9.0").defines, "DEPTH": 4}
    with pytest.raises(RuntimeError, match=r"can't compile .*deformable_attention\.cu(.|\n)*vectors of 16 bytes"):
        compiler.compile_source("deformable_attention.cu", defines, "8.9")
    with pytest.raises(RuntimeError, match=r"can't compile(.|\n)*sm_11"):
        compiler.compile_source("deformable_attention.cu", defines, "1.1")


def test_tensors_that_a_kernel_cannot_serve_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a multiple of 8 channels a head in float16, found 4; choose another form"):
        catalog.deformable_attention(ATTENTION, attention_inputs("float16", depth=4))
    mixed = [attention_inputs("float16")[0], attention_inputs("float32")[1]]
    with pytest.raises(ValueError, match=r"float16 or float32; found \['float16', 'float32'\]"):
        catalog.deformable_attention(ATTENTION, mixed)


def network() -> onnx.ModelProto:
    """frame -> part -> attention -> part -> merge, with a tensor of the first part read by the second."""
    channels, samples = HEADS * 8, HEADS * POINTS * len(SIZES) // 2
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "to_value": rng.standard_normal((3, channels)), "to_samples": rng.standard_normal((3, 3 * samples)),
        "to_classes": rng.standard_normal((channels, 6)),
        "to_masks": rng.standard_normal((channels, 128)), "scale": np.array(0.01),
    }  # fmt: skip
    constants = [onnx.numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()]
    constants += [
        onnx.numpy_helper.from_array(np.array(a, np.int64), name)
        for name, a in {"rows": [1, LENGTH, 3], "queries": [1, 20, channels], "planes": [1, 20, 128],
                        "from": [0], "to": [20], "axis": [1]}.items()
    ]  # fmt: skip
    nodes = [
        helper.make_node("Cast", ["frame"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "rows"], ["x"]),
        helper.make_node("MatMul", ["x", "to_value"], ["value"]),
        helper.make_node("MatMul", ["x", "to_samples"], ["samples"]),
        helper.make_node("DeformableAttention", ["value", "samples"], ["sampled"], domain=catalog.DOMAIN, **ATTENTION),
        helper.make_node("Add", ["sampled", "value"], ["sum"]),
        helper.make_node("Slice", ["sum", "from", "to", "axis"], ["first"]),
        helper.make_node("MatMul", ["first", "to_classes"], ["class_logits"]),
        helper.make_node("MatMul", ["first", "to_masks"], ["masks"]),
        helper.make_node("Reshape", ["masks", "planes"], ["mask_logits"]),
        helper.make_node(
            "PanopticMerge", ["class_logits", "mask_logits"], ["query_ids", "areas", "scores", "category_ids"],
            domain=catalog.DOMAIN, **MERGE,
        ),
    ]  # fmt: skip
    frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, 1, LENGTH, 3])
    kinds = {"query_ids": (TensorProto.UINT8, [1, 32, 64]), "areas": (TensorProto.INT32, [1, 20]),
             "scores": (TensorProto.FLOAT, [1, 20]), "category_ids": (TensorProto.INT32, [1, 20])}  # fmt: skip
    outputs = [helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()]
    graph = helper.make_graph(nodes, "g", [frame], outputs, constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(catalog.DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def test_a_graph_is_cut_at_its_kernels() -> None:
    first, attention, second, merge = partition.split(network())
    names = [
        [value.name for value in values] for part in (first, second) for values in (part.graph.input, part.graph.output)
    ]
    assert names == [["frame"], ["value", "samples"], ["sampled", "value"], ["class_logits", "mask_logits"]]
    assert [attention.op_type, merge.op_type] == ["DeformableAttention", "PanopticMerge"]
    for part in (first, second):
        onnx.checker.check_model(part, full_check=True)
    # Each constant is where it is read, and only there.
    assert {i.name for i in second.graph.initializer} == {"to_classes", "to_masks", "planes", "from", "to", "axis"}


def test_a_computed_weight_is_refused_as_its_kernel_would_read_it_too_early(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["half_x", "half_x"], ["x"]),
        helper.make_node("Add", ["half_weight", "half_weight"], ["weight"]),
        helper.make_node("Linear", ["x", "weight"], ["out"], domain=catalog.DOMAIN, **{**LINEAR, "plane": [20, 25, 3]}),
    ]
    shapes = {"half_x": [1, 500, 16], "half_weight": [8, 144], "out": [1, 500, 8]}
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    graph = helper.make_graph(nodes, "g", [values["half_x"], values["half_weight"]], [values["out"]])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(catalog.DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    with pytest.raises(ValueError, match=r"out: the weight weight must be a constant, found a computed"):
        artifact.save(model, tmp_path, description.Description({}, "kernels", []))


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """The folder of an engine with kernels."""
    about = description.Description({}, "kernels", [{"id": 1, "name": "car", "isthing": 1}])
    (tmp_path / "graph").mkdir()
    artifact.save(network(), tmp_path / "graph", about)
    engine.build(tmp_path / "graph", tmp_path / "rtx", "rtx", RTX, tmp_path / "timing.cache")
    return tmp_path / "rtx"


def test_an_engine_holds_its_parts_and_kernels(built: Path) -> None:
    file = built / files.read_json(built / manifest.NAME)["engine"]["file"]
    steps = {capability: bundle.read(file, capability)[0] for capability in RTX.compute_capabilities}
    for found in steps.values():
        assert [step.kernel for step in found] == ["", "DeformableAttention", "", "PanopticMerge"]
        assert found[1].attributes == ATTENTION
        assert found[3].inputs == ["class_logits", "mask_logits"]
        assert all(step.code for step in found)
    assert steps["8.6"][0] == steps["8.9"][0]
    assert steps["8.6"][1].code != steps["8.9"][1].code
    with pytest.raises(RuntimeError, match=r"kernels for compute capability 8\.6, 8\.9, found 9\.0; .*conf/target"):
        bundle.read(file, "9.0")


@needs_no_gpu
def test_kernels_are_not_loaded_without_a_gpu(built: Path) -> None:
    with pytest.raises(RuntimeError, match="runs on a GPU, found no NVIDIA GPU"):
        engine.interface.backend(RTX).load(next(built.glob("*.engine")), RTX)
