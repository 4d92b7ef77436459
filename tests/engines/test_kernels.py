"""Our operators and their CUDA kernels without a GPU: checked, planned, compiled, read from a graph and packed."""

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
from stages.engines.cuda import bundle, compiler, driver, gpu, runtime
from stages.engines.cuda.launch import MAX_THREADS, Launch
from stages.engines.cuda.launch_plans import linear_tiles, planner
from stages.engines.cuda.launch_plans.machine import Machine
from stages.engines.cuda.launch_plans.plan import Plan
from stages.foundation import files
from stages.inference import description
from stages.inference.steps import Attributes, Constants, KernelCall, TensorSpec
from stages.onnx_graph import artifact, fp16
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
GPUS = config.Target(
    builder=config.Builder.cuda, builder_version="13.0", cuda_major=13, architecture="any",
    device=config.Device.cuda, compute_capabilities=["8.6", "9.0"], variant=config.Variant.cuda,
)  # fmt: skip


def a_gpu(compute_capability: str, cuda: str = "13.0", driver: str = "580.65.06") -> gpu.Gpu:
    return gpu.Gpu("a GPU", compute_capability, driver, cuda)


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
    return planner.plan(call(name, attributes, inputs), Machine(compute_capability))


def attention_inputs(dtype: str, depth: int = 8) -> list[TensorSpec]:
    samples = HEADS * POINTS * len(SIZES) // 2
    return [TensorSpec((1, LENGTH, n), dtype) for n in (HEADS * depth, 3 * samples)]


def example(name: str, dtype: str) -> tuple[dict[str, Any], list[TensorSpec]]:
    """Attributes and inputs of a small call of each operator."""
    window = {"heads": 2, "height": 12, "width": 18, "window": 7, "shift": 3}
    shapes: dict[str, tuple[Any, list[tuple[int, ...]]]] = {
        "Cast": ({"to": 10 if dtype == "float32" else 1}, [(3, 50)]),
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
    return attributes, specs


def plan(name: str, dtype: str, compute_capability: str) -> Plan:
    return plan_for(name, *example(name, dtype), compute_capability)


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
    # With what the source declares itself, and from 9.0 on 1 KiB of the driver's.
    shared_bytes, wgmma = first.shared_bytes + section_bytes(code, ".nv.shared.linear"), found.defines["WGMMA"]
    assert wgmma == (compute_capability == "9.0" and dtype == "float16" and rows > 1000 and columns != 320)
    gpu_of = Machine(compute_capability)
    most = gpu_of.shared_bytes if wgmma else gpu_of.block_shared_bytes
    assert shared_bytes * (int(found.defines["BLOCKS"]) if wgmma else 1) <= most
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
        ("Cast", {"to": 6}, [(3, 50)], "to one of 1, 10"),
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
    whole: dict[str, dict[str, Any]] = {
        "Cast": {},
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
        def launch(self, launch: Launch, pointers: list[int], stream: driver.Stream, *, overlap: bool) -> None:
            launched.append((launch, pointers, overlap))

    specs = {"both": TensorSpec((1, 100, 128), "float16"), "value": TensorSpec((1, 100, 64), "float16")}
    attributes, read = Attributes({**LOOK, "first_columns": [0, 64, 0]}), ("both", "both", "value")
    (seen,) = registry.output_specs("MaskedAttention", attributes, [specs[name] for name in read])
    found = planner.plan(
        KernelCall("MaskedAttention", attributes, read, ("seen",), {**specs, "seen": seen}), Machine("9.0")
    )
    made = bundle.KernelPlan("code", found.launches, found.workspace_bytes)
    step = bundle.Kernel("MaskedAttention", read, ("seen",), {**specs, "seen": seen}, made)
    kernel = runtime.KernelRunner(step, cast(driver.Module, Module()))
    kernel.bind({"both": 1, "value": 2, "seen": 3}, 4)
    for first in (True, False):
        kernel.enqueue(cast(driver.Stream, None), first)
    assert kernel.outputs == {"seen": TensorSpec((1, 100, 64), "float16")}
    # The first kernel of a batch waits for the copy of its frames.
    assert launched == [(found.launches[0], [1, 1, 2, 1, 4, 3], overlap) for overlap in (False, True)]
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
    with pytest.raises(
        RuntimeError, match=r"NVRTC 13\.\d can't compile for compute capability 1\.1, it knows 7\.5, .*9\.0"
    ):
        compiler.compile_source("deformable_attention.cu", defines, "1.1")


def test_tensors_that_a_kernel_cannot_serve_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a multiple of 8 channels a head in float16, found 4; set another variant"):
        plan_for("DeformableAttention", ATTENTION, attention_inputs("float16", depth=4))
    mixed = [attention_inputs("float16")[0], attention_inputs("float32")[1]]
    with pytest.raises(ValueError, match=r"float16 or float32; found \['float16', 'float32'\]"):
        call("DeformableAttention", ATTENTION, mixed)


def network() -> onnx.ModelProto:
    """frame -> patches -> attention -> class and mask logits -> merge, with a tensor that two kernels read."""
    channels, samples = HEADS * 8, HEADS * POINTS * len(SIZES) // 2
    rng = np.random.default_rng(0)
    shapes = {
        "to_patches": (48, channels), "bias": (channels,), "to_value": (channels, channels),
        "to_samples": (3 * samples, channels), "to_classes": (8, channels), "to_masks": (128, channels),
    }  # fmt: skip
    # So small that samples stay in the picture: where all fall beside it, only rounding decides on a class.
    scales = {"to_patches": 0.15, "bias": 0.1, "to_value": 0.5, "to_samples": 0.1, "to_classes": 3}
    arrays = {name: scales.get(name, 1) * rng.standard_normal(shape) for name, shape in shapes.items()}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    patches = {**PATCH, "input_size": [12, 100], "used_size": [12, 100]}
    merge = {**MERGE, "overlap_threshold": 0.02}

    def node(name: str, inputs: list[str], outputs: list[str], attributes: dict[str, Any]) -> onnx.NodeProto:
        given = {key: value for key, value in attributes.items() if value != []}
        made = helper.make_node(name, inputs, outputs, name=f"/{outputs[0]}", domain=schema.DOMAIN, **given)
        empty = [key for key, value in attributes.items() if value == []]
        made.attribute.extend(onnx.AttributeProto(name=key, type=onnx.AttributeProto.INTS) for key in empty)
        return made

    nodes = [
        node("PatchEmbedding", ["frame", "to_patches", "bias"], ["x"], patches),
        node("Linear", ["x", "to_value"], ["value"], {**LINEAR, "rows": LENGTH}),
        node("Linear", ["x", "to_samples"], ["samples"], {**LINEAR, "rows": LENGTH}),
        node("DeformableAttention", ["value", "samples"], ["sampled"], ATTENTION),
        node("Linear", ["sampled", "to_classes"], ["class_logits"], {**LINEAR, "rows": 20}),
        node("Linear", ["sampled", "to_masks"], ["mask_logits"], {**LINEAR, "rows": 20}),
        node("PanopticMerge", ["class_logits", "mask_logits"], ["query_ids", "areas", "scores", "category_ids"], merge),
    ]
    frame = helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, 12, 100, 3])
    kinds = {"query_ids": (TensorProto.UINT8, [1, 32, 64]), "areas": (TensorProto.INT32, [1, 20]),
             "scores": (TensorProto.FLOAT, [1, 20]), "category_ids": (TensorProto.INT32, [1, 20])}  # fmt: skip
    outputs = [helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()]
    graph = helper.make_graph(nodes, "g", [frame], outputs, constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(schema.DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


OPERATORS = ["PatchEmbedding", "Linear", "Linear", "DeformableAttention", "Linear", "Linear", "PanopticMerge"]


def test_a_node_that_no_kernel_computes_is_refused(tmp_path: Path) -> None:
    model = network()
    model.graph.node.insert(1, helper.make_node("Relu", ["x"], ["positive"], name="/relu"))
    with pytest.raises(
        ValueError, match=r"kernels alone, found 1 other nodes, the first of them Relu /relu; set another"
    ):
        artifact.save(model, tmp_path, description.Description({}, "cuda", []))


def test_what_stays_in_float32_is_cast_by_a_kernel(tmp_path: Path) -> None:
    """With deploy.keep_float32 for one of our operators."""
    lowered = fp16.convert(network(), ["/sampled"])
    artifact.save(lowered, tmp_path, description.Description({}, "cuda", []))
    calls = [step for step in description.read(tmp_path).steps if isinstance(step, KernelCall)]
    casts = [step for step in calls if step.operator == "Cast"]
    assert [(step.inputs, step.output_specs[0].dtype) for step in casts] == [
        (("value",), "float32"), (("samples",), "float32"), (("sampled",), "float16"),
    ]  # fmt: skip
    assert [step.operator for step in calls if step.operator != "Cast"] == OPERATORS
    assert {step.output_specs[0].dtype for step in calls if step.operator == "Linear"} == {"float16"}


def test_a_computed_weight_is_refused_as_its_kernel_would_read_it_too_early(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Linear", ["x", "weight"], ["out"], domain=schema.DOMAIN, **{**LINEAR, **CONV3X3}),
    ]
    shapes = {"x": [1, 500, 16], "weight": [8, 144], "out": [1, 500, 8]}
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    graph = helper.make_graph(nodes, "g", [values["x"], values["weight"]], [values["out"]])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(schema.DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    with pytest.raises(ValueError, match=r"out: the weight weight is computed, expected a constant"):
        artifact.save(model, tmp_path, description.Description({}, "cuda", []))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an engine of kernels."""
    folder = tmp_path_factory.mktemp("built")
    about = description.Description({}, "cuda", [{"id": 1, "name": "car", "isthing": 1}])
    (folder / "graph").mkdir()
    artifact.save(network(), folder / "graph", about)
    build(folder)
    return folder / "gpu"


def build(folder: Path) -> None:
    engine.build(folder / "graph", folder / "gpu", "gpu", GPUS, folder / "cache", folder / "metrics.json")


def engine_file(built: Path) -> Path:
    return built / str(files.read_json(built / manifest.NAME)["engine"]["file"])


def test_the_same_content_gives_the_same_bytes(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever it is built: ZIP files have times, to two seconds. The second build compiles nothing."""
    before = engine_file(built).read_bytes()

    def compile_nothing(*arguments: object, **options: object) -> bytes:
        raise AssertionError("everything is in the cache")

    monkeypatch.setattr(compiler, "compile_source", compile_nothing)
    build(built.parent)
    assert engine_file(built).read_bytes() == before
    with zipfile.ZipFile(engine_file(built)) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_damaged_cache_is_begun_anew(built: Path) -> None:
    before = engine_file(built).read_bytes()
    cache = built.parent / "cache"
    cache.write_bytes(cache.read_bytes()[:-100])
    build(built.parent)
    assert engine_file(built).read_bytes() == before


def test_an_engine_holds_planned_kernels_for_each_gpu_and_its_constants_once(built: Path) -> None:
    file = engine_file(built)
    described = [
        step
        for step in manifest.description.parse(files.read_json(built / manifest.NAME)["graph"]).steps
        if isinstance(step, KernelCall)
    ]
    found = {capability: bundle.read(file, a_gpu(capability)) for capability in ("8.6", "9.0", "8.9", "12.0")}
    # 8.9 runs the code of 8.6, and what comes after 9.0 has PTX.
    assert {name: content.compiled_for for name, content in found.items()} == {
        "8.6": "8.6", "9.0": "9.0", "8.9": "8.6", "12.0": "ptx",
    }  # fmt: skip
    for content in found.values():
        assert [kernel.operator for kernel in content.kernels] == OPERATORS
        for kernel, about in zip(content.kernels, described, strict=True):
            capability = "" if content.compiled_for == gpu.PTX else content.compiled_for
            plan = planner.plan(about, Machine(capability))
            assert (kernel.plan.launches, kernel.plan.workspace_bytes) == (plan.launches, plan.workspace_bytes)
            assert (kernel.inputs, kernel.outputs, kernel.tensors) == (about.inputs, about.outputs, about.tensors)
            code = content.code[kernel.plan.code]
            assert b".target sm_90" in code if content.compiled_for == gpu.PTX else code.startswith(b"\x7fELF")
    values = {i.name: onnx.numpy_helper.to_array(i) for i in network().graph.initializer}
    content = found["8.6"]
    assert content.constants.keys() == values.keys()
    for name, constant in content.constants.items():
        data = content.data[constant.offset : constant.offset + constant.spec.size_bytes]
        array = np.frombuffer(data, constant.spec.dtype).reshape(constant.spec.shape)
        np.testing.assert_array_equal(array, values[name])
    assert len(content.data) < 2 * sum(array.nbytes for array in values.values())


@pytest.mark.parametrize(
    ("capability", "compiled", "chosen"),
    [
        ("8.9", ["8.0", "8.6", "9.0"], "8.6"),
        ("8.0", ["8.6"], ""),
        ("8.7", ["8.6"], "ptx"),  # Orin runs no machine code of other GPUs
        ("8.7", ["8.6", "8.9"], ""),
        ("8.9", ["8.7"], "ptx"),
        ("10.3", ["10.0", "12.1"], "10.0"),
        ("11.0", ["10.0", "12.1"], ""),
        ("12.1", ["12.0"], "12.0"),
        ("13.0", ["12.1"], "ptx"),
        ("7.5", ["8.0"], ""),
    ],
)
def test_machine_code_runs_on_its_kind_and_ptx_on_what_comes_later(
    capability: str, compiled: list[str], chosen: str
) -> None:
    assert gpu.code_for(capability, compiled) == chosen


def test_an_engine_for_other_gpus_is_refused(built: Path) -> None:
    with pytest.raises(
        RuntimeError, match=r"gpu\.cuda has code for compute capability 8\.6, 9\.0, found 7\.5 \(a GPU\); name"
    ):
        bundle.read(engine_file(built), a_gpu("7.5"))


def test_a_driver_of_an_older_cuda_is_refused(built: Path) -> None:
    message = r"CUDA 13\.0 and needs a driver of CUDA 13 or later, found CUDA 12\.6 \(driver 540\.4\.0\); update"
    with pytest.raises(RuntimeError, match=f"gpu.cuda was compiled by {message}"):
        bundle.read(engine_file(built), a_gpu("8.6", "12.6", "540.4.0"))
    # Machine code needs the major version alone, PTX the whole one.
    gpu.require_driver("x", "12.6", a_gpu("8.7", "12.2"), ptx=False)
    with pytest.raises(
        RuntimeError, match=r"x was compiled by CUDA 12\.6 and needs a driver of CUDA 12\.6 or later, found CUDA 12\.2"
    ):
        gpu.require_driver("x", "12.6", a_gpu("8.9", "12.2"), ptx=True)


def test_a_capability_that_the_compiler_lacks_is_named(tmp_path: Path, built: Path) -> None:
    target = config.Target(**{**vars(GPUS), "compute_capabilities": ["8.6", "99.0"]})
    with pytest.raises(
        RuntimeError, match=r"NVRTC 13\.\d can't compile for compute capability 99\.0, it knows 7\.5, .*cuda_major"
    ):
        engine.build(built.parent / "graph", tmp_path / "gpu", "gpu", target, tmp_path / "c", tmp_path / "m.json")
    assert not (tmp_path / "gpu").exists()


def test_both_compilers_are_locked() -> None:
    """That of CUDA 12.6 for boards with JetPack 6, whose driver does not load what CUDA 13 compiled."""
    for major, knows, lacks in ((12, "8.7", "11.0"), (13, "11.0", "7.0")):
        found = compiler.nvrtc(major)
        assert found.version.startswith(f"{major}.")
        assert knows in found.compute_capabilities
        assert lacks not in found.compute_capabilities
    plan_of = plan("PatchEmbedding", "float16", "8.7")
    assert compiler.compile_source(plan_of.source, plan_of.defines, "8.7", cuda_major=12).startswith(b"\x7fELF")
    with pytest.raises(RuntimeError, match=r"NVRTC 12\.\d can't compile for compute capability 11\.0, it knows .*8\.7"):
        compiler.compile_source(plan_of.source, plan_of.defines, "11.0", cuda_major=12)


def spoil(key: str, value: object, step: int = 1) -> Callable[[dict[str, Any]], object]:
    """A change in an archive: of a step, of the plan for 8.6 there, of its first launch, or of the header."""

    def change(header: dict[str, Any]) -> object:
        plan = header["steps"][step]["plans"]["8.6"]
        place = next(part for part in (header["steps"][step], plan, plan["launches"][0], header) if key in part)
        place[key] = value
        return header

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header["steps"], "engine.json must be an object, found list"),
        (lambda header: {**header, "more": 1}, "keys must be compute_capabilities, constants, cuda, steps, found"),
        (spoil("cuda", "new"), "cuda must be a version, found 'new'"),
        (spoil("compute_capabilities", []), r"compute_capabilities must be a list of versions, found \[\]"),
        (
            spoil("constants", {"bias": {"shape": [16], "dtype": "float32", "offset": 7}}),
            "the constant bias must lie in",
        ),
        (spoil("constants", {"bias": {"shape": [0], "dtype": "float32", "offset": 0}}), "a tensor must have a shape"),
        (spoil("steps", []), "steps must be a list of steps, found list"),
        (lambda header: {**header, "steps": [*header["steps"], 7]}, "step 7: a step must be an object, found 7"),
        (
            lambda header: {**header, "steps": [{"part": "part_0.engine"}]},
            "step 0: keys must be inputs, operator, .*found part",
        ),
        (spoil("plans", {}), "step 1: plans must have 8.6, found"),
        (spoil("code", "../nowhere"), "'../nowhere' must be the name of one file in the archive"),
        (spoil("code", 3), "step 1: code must be the name of a file in the archive, found 3"),
        (spoil("tensors", {}), "step 1: tensors must have shape and dtype of each of"),
        (spoil("inputs", ["value", 3]), "step 1: inputs must be a list of names, found"),
        (spoil("launches", []), "step 1: launches must be a list of launches"),
        (spoil("workspace_bytes", [-1]), "step 1: workspace_bytes must be a list of positive integers"),
        (spoil("workspace_bytes", [2**64 + 256]), "step 1: workspace_bytes must be a list of positive integers up to"),
        (spoil("function", "a b"), "step 1: function must be a name, found 'a b'"),
        (spoil("grid", [1, 70000, 1]), r"step 1: grid must be 1 to \[2147483647, 65535, 65535\], found"),
        (spoil("block", [64, 64, 1]), "step 1: block must have at most 1024 threads"),
        (spoil("block", [True, 1, 1]), "step 1: block must be three integers"),
        (spoil("arguments", ["i0", "i9", "o0"]), "step 1: arguments must be among i0, i1, o0, found"),
        (spoil("shared_bytes", 1 << 20), "step 1: shared_bytes must be 0 to"),
    ],
)
def test_an_archive_of_another_form_is_refused_in_one_line(
    built: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with zipfile.ZipFile(engine_file(built)) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content[bundle.HEADER] = json.dumps(change(json.loads(content[bundle.HEADER]))).encode()
    spoiled = tmp_path / "spoiled.cuda"
    with zipfile.ZipFile(spoiled, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    with pytest.raises(
        RuntimeError, match=rf"spoiled\.cuda is not a whole engine of our kernels: {message}.*; copy it again, or build"
    ) as caught:
        bundle.read(spoiled, a_gpu("8.6"))
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
        found = json.loads(content[bundle.HEADER])
        change(found["steps"])
        content[bundle.HEADER] = json.dumps(found).encode()

    return edit


@pytest.mark.parametrize(
    ("change", "method", "message"),
    [
        (steps_changed(lambda steps: steps.pop()), 0, "must be a list of 7 steps"),
        (steps_changed(lambda steps: steps.reverse()), 0, "step 0 must be PatchEmbedding of the manifest, found 'Pan"),
        (steps_changed(lambda steps: steps[1].update(operator="Resize")), 0, "step 1 must be Linear"),
        (steps_changed(lambda steps: steps[1].update(more=1)), 0, "keys must be .*found .*more"),
        (
            steps_changed(lambda steps: next(iter(steps[1]["tensors"].values())).update(shape=[1, 9, 9, 9])), 0,
            "step 1 must be Linear of the manifest",
        ),
        (lambda content: content.update({"extra.so": b"code"}), 0, r"the files \['extra.so'\]"),
        (lambda content: content.pop("constants.bin"), 0, r"the files \['constants.bin'\] are missing"),
        (lambda content: None, zipfile.ZIP_DEFLATED, "must be stored as it is"),
    ],
)  # fmt: skip
def test_an_archive_that_is_not_of_the_manifests_graph_is_refused(
    built: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], object], method: int, message: str
) -> None:
    described = manifest.description.parse(files.read_json(built / manifest.NAME)["graph"]).steps
    bundle.require_described(engine_file(built), described)
    other = edited(engine_file(built), tmp_path / "other.cuda", change, method)
    with pytest.raises(
        RuntimeError, match=rf"other\.cuda is not of the graph.*{message}.*; copy it again, or build it"
    ):
        bundle.require_described(other, described)


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("packed", {}, r"'.*' must be stored as it is"),
        ("overflow", {"shape": [2**62, 4], "dtype": "float32", "offset": 0}, "a tensor must have at most"),
        ("one too many", {"shape": [1], "dtype": "float32", "offset": 10**300}, "must lie in the"),
    ],
)
def test_sizes_beyond_memory_are_refused(
    built: Path, tmp_path: Path, name: str, spec: dict[str, Any], message: str
) -> None:
    """2^62 times 4 is 0 in 64 bits."""

    def change(content: dict[str, bytes]) -> None:
        header = json.loads(content[bundle.HEADER])
        if spec:
            header["constants"]["more"] = spec
        content[bundle.HEADER] = json.dumps(header).encode()

    other = edited(engine_file(built), tmp_path / "other.cuda", change, 0 if spec else zipfile.ZIP_DEFLATED)
    with pytest.raises(RuntimeError, match=rf"other\.cuda is not a whole engine of our kernels: .*{message}"):
        bundle.read(other, a_gpu("8.6"))


@pytest.mark.parametrize("field", [42, 10])
def test_a_list_of_files_with_other_numbers_is_refused(built: Path, tmp_path: Path, field: int) -> None:
    """Of the archive's list: place of the file's header, method."""
    content = bytearray(engine_file(built).read_bytes())
    place = content.rindex(b"PK\1\2") + field
    content[place : place + 4] = b"\xf0\xff\xff\x7f"
    (tmp_path / "other.cuda").write_bytes(content)
    with pytest.raises(RuntimeError, match=r"other\.cuda is not a whole engine of our kernels: "):
        bundle.read(tmp_path / "other.cuda", a_gpu("8.6"))


def test_an_archive_with_other_bytes_or_cut_short_is_refused(built: Path, tmp_path: Path) -> None:
    whole = engine_file(built).read_bytes()
    spoiled = tmp_path / "spoiled.cuda"
    # A byte of machine code that this GPU runs, and one of the constants.
    for name, start in (("sm_86/linear", 200), ("constants.bin", 500)):
        content = bytearray(whole)
        content[content.index(name.encode(), content.index(b"PK\3\4", 100)) + start] ^= 1
        spoiled.write_bytes(content)
        with pytest.raises(RuntimeError, match=r"spoiled\.cuda is not a whole engine .*CRC.*; copy it again"):
            bundle.read(spoiled, a_gpu("8.6"))
    for size in (0, 1000, len(whole) // 2, len(whole) - 1):
        spoiled.write_bytes(whole[:size])
        with pytest.raises(
            RuntimeError, match=r"spoiled\.cuda is not a whole engine .*zip file; copy it again"
        ) as caught:
            bundle.read(spoiled, a_gpu("8.6"))
        assert "\n" not in str(caught.value)
    # Each place in the list of files is one too far on, and the first is before the beginning.
    spoiled.write_bytes(whole[1:])
    with pytest.raises(RuntimeError, match=r"spoiled\.cuda is not a whole engine .*; copy it again"):
        bundle.read(spoiled, a_gpu("8.6"))
    with pytest.raises(FileNotFoundError):
        bundle.read(tmp_path / "nowhere.cuda", a_gpu("8.6"))
    with zipfile.ZipFile(spoiled, "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(RuntimeError, match=r"'engine.json' must be the name of one file"):
        bundle.read(spoiled, a_gpu("8.6"))


@needs_no_gpu
def test_kernels_are_not_loaded_without_a_gpu(built: Path) -> None:
    with pytest.raises(RuntimeError, match="runs on a GPU, found no NVIDIA GPU"):
        engine.interface.backend(GPUS).load(engine_file(built), GPUS)
    with pytest.raises(
        RuntimeError, match=r"gpu needs a GPU of compute capability 8\.6 or 9\.0, or a later one, found no"
    ):
        manifest.verified_engine(built, "gpu", GPUS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda steps: {}, "steps must be a list, found dict"),
        (lambda steps: [{"onnx": "part_0.onnx", "sha256": "0"}], "step 0: kind must be one of constants, kernel"),
        (
            lambda steps: [{**steps[0], "file": "../constants.npz"}],
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
    assert [type(step) for step in description.read(tmp_path).steps] == [Constants, *[KernelCall] * 7]
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
