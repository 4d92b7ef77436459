"""Our CUDA kernels against PyTorch's answer. Needs an NVIDIA GPU, NVRTC and torch, and no TensorRT.

Run: python3 -m pytest tests/gpu -m gpu
Code of an older GPU, such as Orin's, on this one: python3 -m pytest tests/gpu -m gpu --ptx-of 8.7
"""

import os
from typing import Any

import numpy as np
import pytest

from stages import config
from stages.engines.cuda import compiler, driver, gpu
from stages.engines.cuda.launch_plans import planner
from stages.engines.cuda.launch_plans.machine import Machine
from stages.inference.steps import Attributes, KernelCall, TensorSpec

torch = pytest.importorskip("torch")

from stages.network import linear as layers  # noqa: E402  # all of these need torch
from stages.network import merge  # noqa: E402
from stages.operators import deformable_attention as deformable  # noqa: E402
from stages.operators import registry  # noqa: E402
from stages.operators.linear import OPTIONAL_INPUTS  # noqa: E402
from tests.support import kernel_cases  # noqa: E402

pytestmark = pytest.mark.gpu


def run(name: str, attributes: dict[str, Any], inputs: list[Any]) -> list[Any]:
    """Outputs of a kernel for NumPy arrays, as NumPy arrays."""
    found = gpu.current()
    assert found is not None, "these tests need an NVIDIA GPU"
    tensors = {f"i{i}": TensorSpec(array.shape, array.dtype.name) for i, array in enumerate(inputs)}
    specs = registry.output_specs(name, Attributes(attributes), [*tensors.values()])
    outs = {f"o{i}": spec for i, spec in enumerate(specs)}
    call = KernelCall(name, Attributes(attributes), tuple(tensors), tuple(outs), tensors | outs)
    other = os.environ["PTX_OF"]
    capability = other or found.compute_capability
    count = int(os.environ["MULTIPROCESSORS"])
    plan = planner.plan(call, Machine(capability, count))
    module = driver.Module(compiler.compile_source(plan.source, plan.defines, capability, ptx=bool(other)))
    stream = driver.Stream()
    buffers = {f"i{i}": driver.Buffer(array.shape, array.dtype) for i, array in enumerate(inputs)}
    for i, array in enumerate(inputs):
        np.copyto(buffers[f"i{i}"].host, array)
        buffers[f"i{i}"].upload(stream)
    for i, spec in enumerate(specs):
        buffers[f"o{i}"] = driver.Buffer(spec.shape, spec.dtype)
        # A value that the kernel leaves out stays at this byte pattern and is seen.
        buffers[f"o{i}"].host.fill(77)
        buffers[f"o{i}"].upload(stream)
    for i, size in enumerate(plan.workspace_bytes):
        buffers[f"w{i}"] = driver.Buffer((size,), np.uint8)
    for _ in range(2):  # the second time over what the first left
        for launch in plan.launches:
            pointers = [buffers[a].address for a in launch.arguments]
            module.launch(launch, pointers, stream)
    outputs = [buffers[f"o{i}"] for i in range(len(specs))]
    for buffer in outputs:
        buffer.download(stream)
    stream.synchronize()
    return [buffer.host.copy() for buffer in outputs]


def on_gpu(arrays: Any) -> list[Any]:
    """NumPy arrays as tensors on the GPU, float32 but for bytes."""
    return [torch.from_numpy(a if a.dtype == np.uint8 else a.astype(np.float32)).cuda() for a in arrays]


def answer(name: str, attributes: dict[str, Any], inputs: Any) -> tuple[Any, ...]:
    """PyTorch's answer on the GPU, in float32, for NumPy arrays."""
    return registry.compute(name, Attributes(attributes), on_gpu(inputs))


def expect(found: Any, expected: Any, single: float, half: float) -> None:
    """Assert that a kernel's output is finite and PyTorch's within `single`, or within `half` where it is float16."""
    assert np.isfinite(found).all()
    difference = np.abs(found.astype(np.float32) - expected.cpu().numpy()).max()
    assert difference <= (single if found.dtype == np.float32 else half)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("sizes", "heads", "depth", "batch"),
    [([(23, 40), (46, 80), (92, 160)], 8, 32, 1), ([(3, 5), (6, 9), (12, 18)], 8, 8, 2), ([(4, 7)], 3, 16, 1)],
)
def test_deformable_attention(dtype: str, sizes: list[tuple[int, int]], heads: int, depth: int, batch: int) -> None:
    rng, points, levels = np.random.default_rng(0), 4, len(sizes)
    length = sum(h * w for h, w in sizes)
    value = rng.standard_normal((batch, length, heads * depth)).astype(dtype)
    # Some samples leave the picture, a few by far.
    offsets = (4 * rng.standard_normal((batch, length, heads * levels * points * 2))).astype(dtype)
    offsets[:, ::97] *= 1000
    logits = (3 * rng.standard_normal((batch, length, heads * levels * points))).astype(dtype)
    attributes = {"heads": heads, "points": points, "sizes": [axis for size in sizes for axis in size]}
    (found,) = run("DeformableAttention", attributes, [value, np.concatenate([offsets, logits], -1)])

    tensors = on_gpu((value, offsets, logits))
    expect(found, deformable.sample(deformable.GridSample(), *tensors, sizes, heads, points), 1e-4, 4e-3)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize(
    ("height", "width", "heads", "depth", "window", "batch"),
    [
        (184, 320, 3, 32, 7, 1),
        (23, 40, 24, 32, 7, 1),
        (12, 18, 2, 24, 4, 2),
        (5, 9, 3, 8, 7, 2),
        (24, 24, 2, 32, 12, 1),
    ],
)
def test_window_attention(
    dtype: str, shift: int, height: int, width: int, heads: int, depth: int, window: int, batch: int
) -> None:
    rng, channels = np.random.default_rng(0), heads * depth
    qkv = (2 * rng.standard_normal((batch, height * width, 3 * channels))).astype(dtype)
    bias = rng.standard_normal(3 * channels).astype(dtype)
    position = rng.standard_normal((heads, window**2, window**2)).astype(dtype)
    sizes = {"heads": heads, "height": height, "width": width, "window": window, "shift": shift}
    (found,) = run("WindowAttention", sizes, [qkv, bias, position])

    expect(found, *answer("WindowAttention", sizes, (qkv, bias, position)), 1e-4, 2e-2)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("queries", "length", "heads", "depth", "batch"),
    [(100, 14720, 8, 32, 1), (100, 920, 8, 32, 1), (200, 333, 4, 16, 2), (17, 54, 2, 8, 3)],
)
def test_masked_attention(dtype: str, queries: int, length: int, heads: int, depth: int, batch: int) -> None:
    rng, channels = np.random.default_rng(0), heads * depth
    arrays = [rng.standard_normal((batch, n, channels)).astype(dtype) for n in (queries, length, length)]
    mask = rng.standard_normal((batch, queries, length)).astype(dtype)
    # One query may look nowhere, and so everywhere; one at a single key; one where whole chunks are hidden.
    mask[:, 3] = -1
    mask[:, 5] = -1
    mask[:, 5, length // 2] = 0
    mask[:, 7, length // 3 :] = -1
    attributes = {"heads": heads, "channels": channels, "first_columns": [0, 0, 0]}
    (found,) = run("MaskedAttention", attributes, [*arrays, mask])
    expect_attention(found, attributes, [*arrays, mask])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("queries", "heads", "depth", "batch"), [(100, 8, 32, 1), (100, 2, 16, 3), (200, 4, 64, 1)])
def test_attention_without_a_mask_to_columns_of_wider_rows(
    dtype: str, queries: int, heads: int, depth: int, batch: int
) -> None:
    rng, channels = np.random.default_rng(0), heads * depth
    both = rng.standard_normal((batch, queries, 2 * channels)).astype(dtype)
    value = rng.standard_normal((batch, queries, 3 * channels)).astype(dtype)
    attributes = {"heads": heads, "channels": channels, "first_columns": [0, channels, 2 * channels]}
    (found,) = run("MaskedAttention", attributes, [both, both, value])
    expect_attention(found, attributes, [both, both, value])


def expect_attention(found: Any, attributes: dict[str, Any], arrays: list[Any]) -> None:
    expect(found, *answer("MaskedAttention", attributes, arrays), 1e-4, 5e-3)


# Layers of Swin-Tiny at 720p, and some that fill no tile: rows, K, N, optional inputs and activation.
LAYERS = [
    (58880, 96, 288, "bias,weight_row_sums", "none"),
    (3680, 1536, 384, "bias,residual", "none"),
    (3680, 384, 1536, "bias,weight_row_sums", "gelu"),
    (920, 768, 2304, "bias,weight_row_sums", "none"),
    (19320, 256, 256, "bias,residual,scale,shift", "none"),
    (19320, 1024, 256, "bias,residual,scale,shift,pos_embed", "none"),
    (100, 2048, 256, "bias,residual,scale,shift,pos_embed", "none"),
    (100, 256, 256, "bias,residual,scale,shift", "none"),
    (100, 256, 117, "bias,weight_row_sums", "none"),
    (333, 24, 40, "bias", "relu"),
    (77, 40, 8, "", "none"),
    (5000, 64, 72, "bias,residual,scale,shift", "none"),
    (4500, 72, 320, "bias,scale,shift,pos_embed", "relu"),
]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("rows", "depth", "columns", "optional", "activation"), LAYERS)
def test_linear(dtype: str, batch: int, rows: int, depth: int, columns: int, optional: str, activation: str) -> None:
    rng = np.random.default_rng(0)
    shapes = dict.fromkeys(OPTIONAL_INPUTS, (columns,))
    shapes |= {"residual": (batch, rows, columns), "pos_embed": (rows, columns)}
    # Not around zero, so that normalising has something to take away; some rows before and after those that are read.
    x = (rng.standard_normal((batch, rows + 50, depth)) + 1).astype(dtype)
    weight = (rng.standard_normal((columns, depth)) / depth**0.5).astype(dtype)
    names = optional.split(",") if optional else []
    given = {name: rng.standard_normal(shapes[name]).astype(dtype) for name in names}
    if "weight_row_sums" in given:
        given["weight_row_sums"] = weight.astype(np.float32).sum(-1).astype(dtype)
    options = {"activation": activation, "epsilon": 1e-5, "first_row": 20, "rows": rows, "gather": "none", "plane": []}
    attributes, inputs = {"optional_inputs": optional, **options}, [x, weight, *given.values()]
    for one, wanted in zip(run("Linear", attributes, inputs), answer("Linear", attributes, inputs), strict=True):
        expect(one, wanted, 1e-4, 2e-2)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("gather", "tokens"), [("patch_merging", 4), ("conv3x3", 9)])
@pytest.mark.parametrize(
    ("height", "width", "channels", "batch"), [(184, 320, 96, 1), (184, 320, 256, 1), (23, 41, 24, 2), (12, 17, 40, 1)]
)
def test_linear_of_gathered_tokens(
    dtype: str, gather: str, tokens: int, height: int, width: int, channels: int, batch: int
) -> None:
    rng, columns, depth = np.random.default_rng(0), 2 * channels, tokens * channels
    x = (rng.standard_normal((batch, height * width, channels)) + 1).astype(dtype)
    weight = (rng.standard_normal((columns, depth)) / depth**0.5).astype(dtype)
    bias, sums = rng.standard_normal(columns).astype(dtype), weight.astype(np.float32).sum(-1).astype(dtype)
    rows = height * width if tokens == 9 else -(-height // 2) * -(-width // 2)
    attributes = {
        "optional_inputs": "bias,weight_row_sums", "activation": "none", "epsilon": 1e-5, "first_row": 0, "rows": rows,
        "gather": gather, "plane": [height, width],
    }  # fmt: skip
    (found,) = run("Linear", attributes, [x, weight, bias, sums])
    expect(found, *answer("Linear", attributes, (x, weight, bias, sums)), 1e-4, 2e-2)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("optional", ["", "residual", "pos_embed"])
@pytest.mark.parametrize(
    ("rows", "channels", "groups", "batch"),
    [([58880], 256, 32, 1), ([920, 3680, 14720], 256, 32, 1), ([15, 54], 64, 32, 3), ([7], 24, 3, 2)],
)
def test_group_norm(dtype: str, optional: str, rows: list[int], channels: int, groups: int, batch: int) -> None:
    rng, activation = np.random.default_rng(0), "relu" if optional != "pos_embed" else "none"
    levels = [(2 * rng.standard_normal((batch, n, channels)) + 1).astype(dtype) for n in rows]
    weights = [rng.standard_normal((len(rows), channels)).astype(dtype) for _ in range(2)]
    shape = {"": (), "residual": (batch, sum(rows), channels), "pos_embed": (sum(rows), channels)}[optional]
    more = [rng.standard_normal(shape).astype(dtype)] if optional else []
    attributes = {"optional_input": optional, "groups": groups, "epsilon": 1e-5, "activation": activation}
    inputs = [*levels, *weights, *more]
    for one, wanted in zip(run("GroupNorm", attributes, inputs), answer("GroupNorm", attributes, inputs), strict=True):
        expect(one, wanted, 2e-4, 2e-2)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("first", "plane", "to", "channels", "batch"),
    [
        (4600, [92, 160], [184, 320], 256, 1),
        (0, [184, 320], [23, 40], 256, 1),
        (10, [5, 7], [11, 9], 24, 2),
        (3, [8, 6], [3, 2], 8, 3),
    ],
)
def test_resize(dtype: str, first: int, plane: list[int], to: list[int], channels: int, batch: int) -> None:
    x = np.random.default_rng(0).standard_normal((batch, first + plane[0] * plane[1] + 9, channels)).astype(dtype)
    attributes = {"first_row": first, "plane": plane, "to": to}
    (found,) = run("Resize", attributes, [x])
    expect(found, *answer("Resize", attributes, [x]), 1e-5, 5e-3)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("queries", "pixels", "channels", "batch"), [(100, 14720, 256, 1), (20, 333, 24, 3)])
def test_products_with_a_constant_for_each_row(
    dtype: str, queries: int, pixels: int, channels: int, batch: int
) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, queries, channels + 8)).astype(dtype)
    weight = (rng.standard_normal((batch, pixels, channels)) / channels**0.5).astype(dtype)
    attributes = {
        "optional_inputs": "", "activation": "none", "epsilon": 0.0, "first_row": 0, "rows": queries, "gather": "none",
        "plane": [],
    }  # fmt: skip
    (found,) = run("Linear", attributes, [x, weight])
    tensors = on_gpu((x, weight))
    expect(found, layers.products(*tensors), 1e-4, 1e-2)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("frame", "size", "batch"), [((720, 1280), (736, 1280), 1), ((100, 200), (96, 160), 2), ((96, 160), (96, 160), 1)]
)
@pytest.mark.parametrize("confident", [True, False])
def test_panoptic_merge(dtype: str, frame: tuple[int, int], size: tuple[int, int], batch: int, confident: bool) -> None:
    rng, queries, classes, things = np.random.default_rng(1), 100, 65, 37
    cfg = config.Deploy(
        frame_height_px=frame[0],
        frame_width_px=frame[1],
        height_px=size[0],
        width_px=size[1],
        batch_size=batch,
        object_mask_threshold=0.6,
        overlap_threshold=0.6,
    )
    module, by_kernel = merge.Panoptic(cfg, things), merge.PanopticKernel(cfg, things)
    class_logits = rng.standard_normal((batch, queries, 1 + classes)).astype(dtype)
    if confident:
        rows = np.arange(queries)
        class_logits[:, rows, 1 + rows // 2 % classes] += np.where(rows % 3, 9, 0).astype(dtype)
    low = (size[0] // 4, size[1] // 4)
    y, x = np.mgrid[: low[0], : low[1]]
    centres = rng.random((batch, queries, 2)) * low
    distance = np.hypot(y - centres[..., :1, None], x - centres[..., 1:, None])
    mask_logits = (low[0] / 4 - distance + rng.standard_normal((batch, queries, *low))).astype(dtype)
    names = ("mask_size", "things", "score_threshold", "overlap_threshold", "input_size", "used_size", "frame_size")
    kernel = dict(zip(names, (by_kernel.mask_size, *by_kernel.arguments), strict=True))
    flat = mask_logits.reshape(batch, queries, -1)
    query_ids, areas, scores, category_ids = run("PanopticMerge", kernel, [class_logits, flat])

    tensors = on_gpu((class_logits, mask_logits))
    expected = [a.cpu().numpy() for a in module.cuda()(*tensors)]
    assert (query_ids == expected[0]).mean() >= 0.9999
    assert np.abs(areas - expected[1]).max() <= 1e-4 * frame[0] * frame[1]
    assert (areas > 0).any() == confident
    np.testing.assert_allclose(scores, expected[2], atol=1e-5)
    np.testing.assert_array_equal(category_ids, expected[3])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", kernel_cases.PATCHES)
def test_patch_embedding(dtype: str, case: Any) -> None:
    attributes, inputs = kernel_cases.patches(*case, dtype)
    (found,) = run("PatchEmbedding", attributes, inputs)
    # On the CPU: PyTorch's convolutions on a GPU are in TF32 by default.
    on_cpu = [tensor.cpu() for tensor in on_gpu(inputs)]
    expect(found, *registry.compute("PatchEmbedding", Attributes(attributes), on_cpu), 2e-4, 1e-2)


FRAME_720P = ((720, 1280), (736, 1280), (720, 1280), 100, 116, 1)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", [FRAME_720P, *kernel_cases.MERGED])
def test_semantic_merge(dtype: str, case: Any) -> None:
    attributes, inputs = kernel_cases.merged(*case, dtype)
    (found,) = run("SemanticMerge", attributes, inputs)
    (expected,) = answer("SemanticMerge", attributes, inputs)
    assert (found == expected.cpu().numpy()).mean() >= 0.9999


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", [FRAME_720P, *kernel_cases.MERGED])
def test_instance_merge(dtype: str, case: Any) -> None:
    sizes, (class_logits, mask_logits) = kernel_cases.merged(*case, dtype)
    # No two probabilities are the same, so that there is one order of the pairs.
    class_logits += np.linspace(0, 1, class_logits.size).reshape(class_logits.shape).astype(dtype)
    attributes = {**sizes, "top_k": min(100, class_logits.shape[1] * (class_logits.shape[2] - 1))}
    mask_bits, scores, category_ids = run("InstanceMerge", attributes, [class_logits, mask_logits])
    expected = [tensor.cpu().numpy() for tensor in answer("InstanceMerge", attributes, [class_logits, mask_logits])]
    # Of the last pairs two may have probabilities that differ in the last bit.
    assert (category_ids == expected[2]).mean() >= 0.97
    np.testing.assert_allclose(np.sort(scores), np.sort(expected[1]), rtol=2e-2, atol=1e-4)
    same = category_ids == expected[2]
    assert (np.unpackbits(mask_bits[same]) == np.unpackbits(expected[0][same])).mean() >= 0.999


@pytest.mark.parametrize(("dtype", "to"), [("float32", 10), ("float16", 1)])
@pytest.mark.parametrize("shape", [(3, 5), (2, 58880, 96)])
def test_cast(dtype: str, to: int, shape: tuple[int, ...]) -> None:
    x = (100 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    (found,) = run("Cast", {"to": to}, [x])
    np.testing.assert_array_equal(found, x.astype("float16" if to == 10 else "float32"))
