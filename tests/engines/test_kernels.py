"""Our operators and their CUDA kernels without a GPU: checked, planned, compiled, cut out of a graph and packed."""

import itertools
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from stages import config, engine
from stages.engines import manifest
from stages.engines.cuda import bundle, compiler, driver, runtime
from stages.engines.cuda.launch import MAX_THREADS, Launch
from stages.engines.cuda.launch_plans import linear_tiles, planner
from stages.engines.cuda.launch_plans.plan import Plan
from stages.foundation import files
from stages.inference import description
from stages.inference.steps import Attributes, KernelCall, Part, TensorSpec
from stages.onnx_graph import artifact, partition
from stages.operators import registry, schema
from tests.engines.test_engines import needs_no_gpu

SIZES = [3, 5, 6, 10]
LENGTH, HEADS, POINTS = 75, 2, 4
ATTENTION = {"heads": HEADS, "points": POINTS, "sizes": SIZES}
MERGE = {
    "mask_size": [8, 16], "things": 2, "score_threshold": 0.5, "overlap_threshold": 0.5, "input_size": [32, 64],
    "used_size": [32, 64], "frame_size": [32, 64],
}  # fmt: skip
SIZES_OF_MASKS = {name: MERGE[name] for name in ("mask_size", "input_size", "used_size", "frame_size")}
PATCH = {
    "input_size": [32, 64], "used_size": [32, 64], "mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4], "patch": 4,
    "epsilon": 1e-5,
}  # fmt: skip
RTX = config.Target(
    builder=config.Builder.tensorrt_rtx, builder_version="1.7",
    device=config.Device.cuda, compute_capabilities=["8.6", "8.9"],
    variant=config.Variant.cuda,
)  # fmt: skip


LINEAR: dict[str, Any] = {
    "optional_inputs": "", "activation": "none", "epsilon": 1e-5, "first_row": 0, "rows": 500, "gather": "none",
    "plane": [],
}  # fmt: skip
LOOK = {"heads": 2, "channels": 64, "first_columns": [0, 0, 0]}
PATCHES = {"gather": "patch_merging", "plane": [20, 25]}
CONV3X3 = {"gather": "conv3x3", "plane": [20, 25]}


def call(name: str, attributes: dict[str, Any], inputs: list[TensorSpec]) -> KernelCall:
    """A call of an operator on tensors i0, i1, ... that writes o0, o1, ..."""
    outputs = registry.output_specs(name, Attributes(attributes), inputs)
    tensors = {f"i{i}": spec for i, spec in enumerate(inputs)} | {f"o{i}": spec for i, spec in enumerate(outputs)}
    names = [name for name in tensors if name[0] == "i"], [name for name in tensors if name[0] == "o"]
    return KernelCall(name, Attributes(attributes), tuple(names[0]), tuple(names[1]), tensors)


def plan_for(name: str, attributes: dict[str, Any], inputs: list[TensorSpec], compute_capability: str = "8.9") -> Plan:
    return planner.plan(call(name, attributes, inputs), compute_capability)


def attention_inputs(dtype: str, depth: int = 8) -> list[TensorSpec]:
    samples = HEADS * POINTS * len(SIZES) // 2
    return [TensorSpec((1, LENGTH, n), dtype) for n in (HEADS * depth, 3 * samples)]


def plan(name: str, dtype: str, compute_capability: str) -> Plan:
    window = {"heads": 2, "height": 12, "width": 18, "window": 7, "shift": 3}
    shapes: dict[str, tuple[Any, list[tuple[int, ...]]]] = {
        "DeformableAttention": (ATTENTION, [spec.shape for spec in attention_inputs(dtype)]),
        "GroupNorm": (
            {"optional_input": "pos_embed", "groups": 32, "epsilon": 1e-5, "activation": "none"},
            [(2, 70, 64), (2, 30, 64), (2, 64), (2, 64), (100, 64)],
        ),
        "Resize": ({"first_row": 4, "plane": [6, 10], "to": [3, 5]}, [(2, 64, 24)]),
        "Linear": (
            {**LINEAR, "optional_inputs": "bias,weight_row_sums", "activation": "gelu"},
            [(1, 500, 96), (72, 96), (72,), (72,)],
        ),
        "MaskedAttention": (LOOK, [(1, 100, 64), (1, LENGTH, 64), (1, LENGTH, 64), (1, 100, LENGTH)]),
        "InstanceMerge": ({**SIZES_OF_MASKS, "top_k": 5}, [(1, 20, 6), (1, 20, 128)]),
        "PanopticMerge": (MERGE, [(1, 20, 6), (1, 20, 128)]),
        "PatchEmbedding": (PATCH, [(1, 40, 80, 3), (48, 24), (24,), (24,), (24,)]),
        "SemanticMerge": (SIZES_OF_MASKS, [(1, 20, 66), (1, 20, 128)]),
        "WindowAttention": (window, [(1, 216, 192), (192,), (2, 49, 49)]),
    }
    attributes, inputs = shapes[name]
    specs = [TensorSpec(shape, "uint8" if len(shape) == 4 else dtype) for shape in inputs]
    return plan_for(name, attributes, specs, compute_capability)


def test_every_operator_has_a_kernel() -> None:
    assert sorted(planner.PLANNERS) == sorted(registry.OPERATORS)


@pytest.mark.parametrize("name", planner.PLANNERS)
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
    attention = [TensorSpec((1, LENGTH, n), dtype) for n in (channels, 3 * samples)]
    logits = [TensorSpec((1, queries, 6), dtype), TensorSpec((1, queries, 128), dtype)]
    look = {"heads": heads, "channels": channels, "first_columns": [0, 0, 0]}
    for found in (
        plan_for("MaskedAttention", look, [TensorSpec(shape, dtype) for shape in shapes]),
        plan_for("MaskedAttention", look, [TensorSpec(shape, dtype) for shape in shapes[:3]]),
        plan_for("DeformableAttention", {**ATTENTION, "heads": heads}, attention),
        plan_for("PanopticMerge", MERGE, logits),
    ):
        assert compiler.compile_source(found.source, found.defines, "8.9")
        assert all(np.prod(launch.block) <= MAX_THREADS for launch in found.launches)


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
    vector, plane = TensorSpec((columns,), dtype), TensorSpec((1, rows, columns), dtype)
    extras = [vector, plane, vector, vector, TensorSpec((rows, columns), dtype)]
    attributes = {**LINEAR, "optional_inputs": "bias,residual,scale,shift,pos_embed", "rows": rows}
    inputs = [TensorSpec((1, rows, depth), dtype), TensorSpec((columns, depth), dtype), *extras]
    found = plan_for("Linear", attributes, inputs, compute_capability)
    code = compiler.compile_source(found.source, found.defines, compute_capability)
    assert registry.output_specs("Linear", Attributes(attributes), inputs) == (plane, plane)
    assert all(np.prod(launch.block) <= MAX_THREADS for launch in found.launches)
    first = found.launches[0]
    # With what the source declares itself, and from 9.0 on 1 KiB of the driver's. Of 7.5 that is all there is.
    shared_bytes, wgmma = first.shared_bytes + section_bytes(code, ".nv.shared.linear"), found.defines["WGMMA"]
    assert wgmma == (compute_capability == "9.0" and dtype == "float16" and rows > 1000 and columns != 320)
    assert shared_bytes * (int(found.defines["BLOCKS"]) if wgmma else 1) <= (228 if wgmma else 64) << 10
    assert first.grid[0] * int(found.defines["TILE_N"]) >= columns
    assert first.grid[1] * int(found.defines["TILE_M"]) >= rows


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
    with pytest.raises(ValueError, match=r"a multiple of 8 channels in float16, found 20, 20; set another variant"):
        plan_for("Linear", LINEAR, [TensorSpec((1, 500, 20), "float16"), TensorSpec((64, 20), "float16")])
    narrow = [TensorSpec((1, 100, 72), "float16"), *[TensorSpec((1, LENGTH, 72), "float16")] * 2]
    with pytest.raises(ValueError, match=r"rows of a multiple of 8 channels, found \{'VALUE_FIRST': 4\}"):
        plan_for("MaskedAttention", {**LOOK, "first_columns": [0, 0, 4]}, narrow)


@pytest.mark.parametrize(
    ("name", "attributes", "shapes", "message"),
    [
        ("Linear", {"rows": 600}, [(1, 500, 64), (8, 64)], "rows and columns that x has"),
        ("Linear", {"first_row": 1}, [(1, 500, 64), (8, 64)], "rows and columns that x has"),
        ("Linear", {}, [(1, 500, 64), (8, 72)], "rows and columns that x has"),
        ("Linear", {}, [(2, 500, 64), (1, 8, 64)], "a weight for each image or for all"),
        (
            "Linear",
            {"optional_inputs": "weight_row_sums,scale,shift"},
            [(1, 500, 64), (8, 64), *[(8,)] * 3],
            "one normalisation",
        ),
        ("Linear", {**PATCHES, "rows": 125}, [(1, 500, 64), (8, 256)], "all of a plane's tokens"),
        ("Linear", {**CONV3X3, "rows": 130}, [(1, 500, 64), (8, 576)], "all of a plane's tokens"),
        ("MaskedAttention", {"channels": 65}, [(1, 9, 72)] * 3, "whole heads"),
        ("MaskedAttention", {"first_columns": [0, 8, 0]}, [(1, 9, 64)] * 3, "columns that rows have"),
        ("MaskedAttention", {}, [*[(1, 9, 64)] * 3, (1, 9, 16)], "as many values as keys"),
        ("GroupNorm", {"groups": 7}, [(1, 9, 64), (1, 64), (1, 64)], "whole groups"),
        ("GroupNorm", {"activation": "gelu"}, [(1, 9, 64), (1, 64), (1, 64)], "activation none or relu"),
        ("GroupNorm", {}, [(1, 9, 64), (1, 9, 72), (2, 64), (2, 64)], "levels of one width"),
        ("Resize", {"first_row": 5}, [(1, 64, 24)], "rows that x has"),
        ("Linear", {"gather": "conv5x5"}, [(1, 500, 64), (8, 64)], "gather one of none, patch_merging, conv3x3"),
        ("Linear", {"optional_inputs": "bias"}, [(1, 500, 64), (8, 64)], "x, weight and the optional inputs"),
        (
            "Linear",
            {"optional_inputs": "bias"},
            [(1, 500, 64), (8, 64), (9,)],
            "optional inputs of the output's columns",
        ),
        ("DeformableAttention", {}, [(1, 74, 16), (1, 74, 48)], "a position for each pixel of the levels"),
        ("PanopticMerge", {}, [(1, 20, 6), (1, 20, 100)], "a mask logit for each pixel of mask_size"),
        ("SemanticMerge", {}, [(1, 20, 257), (1, 20, 128)], "at most 255 classes"),
        ("SemanticMerge", {"used_size": [40, 64]}, [(1, 20, 6), (1, 20, 128)], "a used_size inside input_size"),
        ("InstanceMerge", {"top_k": 101}, [(1, 20, 6), (1, 20, 128)], "a top_k of 1 to queries x classes"),
        ("PatchEmbedding", {"patch": 2}, [(1, 40, 80, 3), (48, 24), (24,)], "a weight for each value of a patch"),
        ("PatchEmbedding", {"input_size": [32, 62]}, [(1, 40, 80, 3), (48, 24), (24,)], "whole patches"),
        ("PatchEmbedding", {}, [(1, 40, 80, 3), (48, 24), (24,), (24,)], "and scale and shift or neither"),
        ("PatchEmbedding", {}, [(1, 40, 80, 4), (48, 24), (24,)], r"frames uint8 \[B, H, W, 3\]"),
        ("WindowAttention", {}, [(1, 216, 192), (192,), (2, 49, 48)], "a position bias for each head and pair"),
    ],
)
def test_nodes_that_a_kernel_would_get_wrong_are_refused(
    name: str, attributes: dict[str, Any], shapes: list[tuple[int, ...]], message: str
) -> None:
    whole = {
        "Linear": LINEAR,
        "MaskedAttention": LOOK,
        "GroupNorm": {"optional_input": "", "groups": 32, "epsilon": 1e-5, "activation": "none"},
        "Resize": {"first_row": 4, "plane": [6, 10], "to": [3, 5]},
        "DeformableAttention": ATTENTION,
        "InstanceMerge": {**SIZES_OF_MASKS, "top_k": 5},
        "PanopticMerge": MERGE,
        "PatchEmbedding": PATCH,
        "SemanticMerge": SIZES_OF_MASKS,
        "WindowAttention": {"heads": 2, "height": 12, "width": 18, "window": 7, "shift": 3},
    }[name]
    specs = [TensorSpec(shape, "uint8" if len(shape) == 4 else "float16") for shape in shapes]
    with pytest.raises(ValueError, match=f"{name} needs .*{message}.*; found .* and shapes"):
        call(name, {**whole, **attributes}, specs)


WGMMA_LAYERS = [
    # Rows, K, columns and plane: all tiles, and patches of both kinds.
    (58880, 2304, 256, "conv3x3", [184, 320]),
    (3680, 384, 1536, "none", []),
    (16896, 64, 128, "none", []),
    (19320, 256, 256, "none", []),
    (920, 768, 768, "none", []),
    (3680, 384, 1152, "none", []),
    (3680, 768, 384, "patch_merging", [92, 160]),
]


@pytest.mark.parametrize("optional", [[], ["bias", "weight_row_sums"]])
def test_layers_by_wgmma_compile_and_fit(optional: list[str]) -> None:
    seen = set()
    for rows, depth, columns, gather, plane in WGMMA_LAYERS:
        tokens = {"none": 1, "patch_merging": 4, "conv3x3": 9}[gather]
        x = (1, plane[0] * plane[1] if plane else rows, depth // tokens)
        inputs = [TensorSpec(shape, "float16") for shape in (x, (columns, depth), *[(columns,)] * len(optional))]
        names = ",".join(optional)
        attributes = {**LINEAR, "optional_inputs": names, "rows": rows, "gather": gather, "plane": plane}
        found = plan_for("Linear", attributes, inputs, "9.0")
        defines, first = found.defines, found.launches[0]
        code = compiler.compile_source(found.source, defines, "9.0")
        assert defines["WGMMA"]
        # With 1 KiB of the driver's.
        assert int(defines["BLOCKS"]) * (first.shared_bytes + section_bytes(code, ".nv.shared.linear")) <= 228 << 10
        seen.add((defines["TILE_M"], defines["TILE_N"], defines["BLOCKS"]))
    assert seen == {(tile.rows, tile.columns, tile.blocks) for tile in linear_tiles.WGMMA_TILES}


def test_a_kernel_runs_its_launches_and_one_tensor_may_be_two_inputs() -> None:
    launched = []

    class Module:
        def launch(self, launch: Launch, pointers: list[int], stream: driver.Stream) -> None:
            launched.append((launch, pointers))

    specs = {"both": TensorSpec((1, 100, 128), "float16"), "value": TensorSpec((1, 100, 64), "float16")}
    attributes, read = Attributes({**LOOK, "first_columns": [0, 64, 0]}), ("both", "both", "value")
    (seen,) = registry.output_specs("MaskedAttention", attributes, [specs[name] for name in read])
    found = planner.plan(KernelCall("MaskedAttention", attributes, read, ("seen",), {**specs, "seen": seen}), "9.0")
    step = bundle.CompiledKernel(
        "MaskedAttention", read, ("seen",), {**specs, "seen": seen}, b"", found.launches, found.workspace_bytes
    )
    kernel = runtime.KernelRunner(step, cast(driver.Module, Module()))
    kernel.bind({"both": 1, "value": 2, "seen": 3}, 4)
    kernel.enqueue(cast(driver.Stream, None))
    assert kernel.outputs == {"seen": TensorSpec((1, 100, 64), "float16")}
    assert launched == [(found.launches[0], [1, 1, 2, 1, 4, 3])]
    assert found.launches[0].function == "attend"


@pytest.mark.parametrize(
    ("channels", "dtype", "tile"), [(96, "float16", 64), (192, "float16", 64), (384, "float16", 0)]
)
def test_patches_take_the_largest_tile_that_fits(channels: int, dtype: str, tile: int) -> None:
    vectors = [TensorSpec((channels,), dtype)] * 3
    inputs = [TensorSpec((1, 720, 1280, 3), "uint8"), TensorSpec((48, channels), dtype), *vectors]
    attributes = {**PATCH, "input_size": [736, 1280], "used_size": [720, 1280]}
    if not tile:
        with pytest.raises(
            ValueError, match=r"can't serve patches of 4 with 384 channels in float16: .* another variant"
        ):
            plan_for("PatchEmbedding", attributes, inputs)
        return
    found = plan_for("PatchEmbedding", attributes, inputs)
    assert found.defines["TILE"] == tile
    assert compiler.compile_source(found.source, found.defines, "7.5")


def test_windows_beyond_a_block_are_refused() -> None:
    def window(size: int) -> Plan:
        sizes = {"heads": 4, "height": 48, "width": 48, "window": size, "shift": 0}
        inputs = [TensorSpec((1, 48 * 48, 384), "float16"), TensorSpec((384,), "float16")]
        return plan_for("WindowAttention", sizes, [*inputs, TensorSpec((4, size**2, size**2), "float16")])

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
    with pytest.raises(ValueError, match=r"a multiple of 8 channels a head in float16, found 4; set another variant"):
        plan_for("DeformableAttention", ATTENTION, attention_inputs("float16", depth=4))
    mixed = [attention_inputs("float16")[0], attention_inputs("float32")[1]]
    with pytest.raises(ValueError, match=r"float16 or float32; found \['float16', 'float32'\]"):
        call("DeformableAttention", ATTENTION, mixed)


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
        helper.make_node("DeformableAttention", ["value", "samples"], ["sampled"], domain=schema.DOMAIN, **ATTENTION),
        helper.make_node("Add", ["sampled", "value"], ["sum"]),
        helper.make_node("Slice", ["sum", "from", "to", "axis"], ["first"]),
        helper.make_node("MatMul", ["first", "to_classes"], ["class_logits"]),
        helper.make_node("MatMul", ["first", "to_masks"], ["masks"]),
        helper.make_node("Reshape", ["masks", "planes"], ["mask_logits"]),
        helper.make_node(
            "PanopticMerge", ["class_logits", "mask_logits"], ["query_ids", "areas", "scores", "category_ids"],
            domain=schema.DOMAIN, **MERGE,
        ),
    ]  # fmt: skip
    frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, 1, LENGTH, 3])
    kinds = {"query_ids": (TensorProto.UINT8, [1, 32, 64]), "areas": (TensorProto.INT32, [1, 20]),
             "scores": (TensorProto.FLOAT, [1, 20]), "category_ids": (TensorProto.INT32, [1, 20])}  # fmt: skip
    outputs = [helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()]
    graph = helper.make_graph(nodes, "g", [frame], outputs, constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(schema.DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def test_the_same_graph_gives_the_same_bytes() -> None:
    """Not those of the order of a set, which differs from one process to the next."""
    names = [f"t{i}" for i in range(12)]
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in itertools.pairwise(names)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in (names[0], names[-1])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    (part,) = partition.split(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    assert isinstance(part, onnx.ModelProto)
    assert [value.name for value in part.graph.value_info] == names[1:-1]


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
        helper.make_node("Linear", ["x", "weight"], ["out"], domain=schema.DOMAIN, **{**LINEAR, **CONV3X3}),
    ]
    shapes = {"half_x": [1, 500, 16], "half_weight": [8, 144], "out": [1, 500, 8]}
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    graph = helper.make_graph(nodes, "g", [values["half_x"], values["half_weight"]], [values["out"]])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(schema.DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    with pytest.raises(ValueError, match=r"out: the weight weight is computed, expected a constant"):
        artifact.save(model, tmp_path, description.Description({}, "cuda", []))


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """The folder of an engine with kernels."""
    about = description.Description({}, "cuda", [{"id": 1, "name": "car", "isthing": 1}])
    (tmp_path / "graph").mkdir()
    artifact.save(network(), tmp_path / "graph", about)
    engine.build(
        tmp_path / "graph", tmp_path / "rtx", "rtx", RTX, tmp_path / "timing.cache", tmp_path / "engine_metrics.json"
    )
    return tmp_path / "rtx"


def engine_file(built: Path) -> Path:
    return built / str(files.read_json(built / manifest.NAME)["engine"]["file"])


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    """Whenever it is written: ZIP files have times, to two seconds."""
    bundle.write(tmp_path / "a", [bundle.part_step("part")], {"part": b"code"})
    with zipfile.ZipFile(tmp_path / "a") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_an_engine_holds_its_parts_and_planned_kernels(built: Path) -> None:
    file = engine_file(built)
    described = manifest.description.parse(files.read_json(built / manifest.NAME)["graph"]).steps
    steps = {capability: bundle.read(file, capability)[0] for capability in RTX.compute_capabilities}
    for capability, found in steps.items():
        kinds = [step.operator if isinstance(step, bundle.CompiledKernel) else "part" for step in found]
        assert kinds == ["part", "DeformableAttention", "part", "PanopticMerge"]
        for step, about in zip(found, described, strict=True):
            assert step.code
            if isinstance(step, bundle.CompiledKernel):
                assert isinstance(about, KernelCall)
                plan = planner.plan(about, capability)
                assert (step.launches, step.workspace_bytes) == (plan.launches, plan.workspace_bytes)
                assert (step.inputs, step.outputs, step.tensors) == (about.inputs, about.outputs, about.tensors)
    assert steps["8.6"][0] == steps["8.9"][0]
    assert steps["8.6"][1].code != steps["8.9"][1].code
    with pytest.raises(RuntimeError, match=r"kernels for compute capability 8\.6, 8\.9, found 9\.0; .*conf/target"):
        bundle.read(file, "9.0")


def spoil(key: str, value: object) -> Callable[[list[Any]], object]:
    """A change of the second step in an archive: of the step, of its plan for 8.9, or of that plan's first launch."""

    def change(steps: list[Any]) -> object:
        plan = steps[1]["plans"]["8.9"]
        place = next(part for part in (steps[1], plan, plan["launches"][0]) if key in part)
        place[key] = value
        return steps

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda steps: {"steps": steps}, "steps.json must be a list of steps, found dict"),
        (lambda steps: [*steps, 7], "step 4: a step must be an object, found 7"),
        (lambda steps: [{"part": "../other"}], r"step 0: '../other' must be the name of one file in the archive"),
        (
            lambda steps: [{"kernel": "Linear", "digest": "0"}],
            "step 0: keys must be inputs, operator, .*found digest, k",
        ),
        (spoil("code", "nowhere"), "step 1: 'nowhere' must be the name of one file in the archive"),
        (spoil("tensors", {}), "step 1: tensors must have shape and dtype of each of"),
        (spoil("inputs", ["value", 3]), "step 1: inputs must be a list of names, found"),
        (spoil("launches", []), "step 1: launches must be a list of launches"),
        (spoil("workspace_bytes", [-1]), "step 1: workspace_bytes must be a list of positive integers"),
        (spoil("function", "a b"), "step 1: function must be a name, found 'a b'"),
        (spoil("grid", [1, 70000, 1]), r"step 1: grid must be 1 to \[2147483647, 65535, 65535\], found"),
        (spoil("block", [64, 64, 1]), "step 1: block must have at most 1024 threads"),
        (spoil("block", [True, 1, 1]), "step 1: block must be three integers"),
        (spoil("arguments", ["i0", "i2", "o0"]), "step 1: arguments must be among i0, i1, o0, found"),
        (spoil("shared_bytes", 1 << 20), "step 1: shared_bytes must be 0 to"),
    ],
)
def test_an_archive_of_another_form_is_refused_in_one_line(
    built: Path, tmp_path: Path, change: Callable[[list[Any]], object], message: str
) -> None:
    with zipfile.ZipFile(engine_file(built)) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content[bundle.STEPS] = json.dumps(change(json.loads(content[bundle.STEPS]))).encode()
    spoiled = tmp_path / "spoiled.engine"
    with zipfile.ZipFile(spoiled, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    with pytest.raises(RuntimeError, match=rf"spoiled\.engine: {message}.*; build the engine again") as caught:
        bundle.read(spoiled, "8.9")
    assert "\n" not in str(caught.value)


def edited(archive: Path, out: Path, change: Callable[[dict[str, bytes]], object], method: int = 0) -> Path:
    with zipfile.ZipFile(archive) as file:
        content = {name: file.read(name) for name in file.namelist()}
    change(content)
    with zipfile.ZipFile(out, "w", method) as file:
        for name, data in content.items():
            file.writestr(name, data)
    return out


def steps_changed(change: Callable[[list[Any]], object]) -> Callable[[dict[str, bytes]], object]:
    def edit(content: dict[str, bytes]) -> None:
        found = json.loads(content[bundle.STEPS])
        change(found)
        content[bundle.STEPS] = json.dumps(found).encode()

    return edit


@pytest.mark.parametrize(
    ("change", "method", "message"),
    [
        (steps_changed(lambda steps: steps.pop()), 0, "must be a list of 4 steps"),
        (steps_changed(lambda steps: steps.reverse()), 0, "step 0: keys must be|keys must be part"),
        (steps_changed(lambda steps: steps[1].update(operator="Resize")), 0, "step 1 must be DeformableAttention"),
        (
            steps_changed(lambda steps: next(iter(steps[1]["tensors"].values())).update(shape=[1, 9, 9, 9])), 0,
            "step 1 must be DeformableAttention of the manifest",
        ),
        (lambda content: content.update({"extra.so": b"code"}), 0, r"the files \['extra.so'\]"),
        (lambda content: content.pop("part_0.engine"), 0, r"the files \['part_0.engine'\] are missing"),
        (lambda content: None, zipfile.ZIP_DEFLATED, "must be stored as it is"),
    ],
)  # fmt: skip
def test_an_archive_that_is_not_of_the_manifests_graph_is_refused(
    built: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], object], method: int, message: str
) -> None:
    described = manifest.description.parse(files.read_json(built / manifest.NAME)["graph"]).steps
    bundle.require_described(engine_file(built), described)
    other = edited(engine_file(built), tmp_path / "other.engine", change, method)
    with pytest.raises(RuntimeError, match=rf"other\.engine is not of the graph.*{message}.*build the engine again"):
        bundle.require_described(other, described)


def test_an_archive_with_other_bytes_or_without_steps_is_refused(built: Path, tmp_path: Path) -> None:
    content = bytearray(engine_file(built).read_bytes())
    spoiled = tmp_path / "spoiled.engine"
    # A byte of the first part's engine, which follows the steps.
    content[content.index(b"part_0.engine") + 1000] ^= 1
    spoiled.write_bytes(content)
    with pytest.raises(RuntimeError, match=r"spoiled\.engine: .*CRC.*; build the engine again"):
        bundle.read(spoiled, "8.9")
    with zipfile.ZipFile(spoiled, "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(RuntimeError, match=r"spoiled\.engine: 'steps.json' must be the name of one file"):
        bundle.read(spoiled, "8.9")


@needs_no_gpu
def test_kernels_are_not_loaded_without_a_gpu(built: Path) -> None:
    with pytest.raises(RuntimeError, match="runs on a GPU, found no NVIDIA GPU"):
        engine.interface.backend(RTX).load(next(built.glob("*.engine")), RTX)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda steps: {}, "steps must be a list, found dict"),
        (lambda steps: [{"onnx": "part_0.onnx", "sha256": "0"}], "step 0: kind must be one of constants, part, kernel"),
        (
            lambda steps: [{**steps[0], "file": "../part.onnx"}],
            "step 0: file must be the name of a file beside graph.json",
        ),
        (
            lambda steps: [{**steps[0], "more": 1}],
            "step 0: keys must be file, kind, sha256, found file, kind, more, sha256",
        ),
        (lambda steps: [{**steps[1], "outputs": []}], "step 0: outputs must be a list of names, found"),
        (lambda steps: [{**steps[1], "attributes": []}], "step 0: operator must be a name and attributes an object"),
        (
            lambda steps: [
                {**steps[1], "tensors": {n: {"shape": [0], "dtype": "float16"} for n in steps[1]["tensors"]}}
            ],
            "step 0: a tensor must have a shape of positive integers and a dtype of",
        ),
    ],
)
def test_a_graph_json_of_another_form_is_refused_in_one_line(
    tmp_path: Path, change: Callable[[list[Any]], object], message: str
) -> None:
    artifact.save(network(), tmp_path, description.Description({}, "cuda", []))
    content = files.read_json(tmp_path / description.NAME)
    assert [type(step) for step in description.read(tmp_path).steps] == [Part, KernelCall, Part, KernelCall]
    files.write_json(tmp_path / description.NAME, {**content, "steps": change(content["steps"])})
    with pytest.raises(RuntimeError, match=rf"graph\.json: {message}.*; run `dvc repro`") as caught:
        description.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_attributes_are_read_with_their_types() -> None:
    attributes = Attributes({"heads": 2, "ratio": 0.5, "names": "a,b", "sizes": [1, 2]})
    assert attributes.integer("heads") == 2
    assert attributes.number("heads") == 2.0
    assert attributes.names("names") == ["a", "b"]
    assert attributes.integers("sizes", 2) == [1, 2]
    assert attributes.numbers("sizes", 2) == [1.0, 2.0]
    for read, message in (
        (lambda: attributes.integer("ratio"), "attribute ratio must be an integer, found 0.5"),
        (lambda: attributes.integer("missing"), "attribute missing must be an integer, found None"),
        (lambda: attributes.text("heads"), "attribute heads must be a string, found 2"),
        (lambda: attributes.integers("sizes", 3), r"attribute sizes must be a list of 3 integers, found \[1, 2\]"),
        (lambda: attributes.numbers("names", 3), "attribute names must be a list of 3 numbers, found 'a,b'"),
        (lambda: attributes.choice("names", ["a"]), "attribute names must be one of a, found 'a,b'"),
    ):
        with pytest.raises(ValueError, match=message):
            read()
