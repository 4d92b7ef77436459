"""The kernels that graphs of the form `kernels` name between TensorRT's parts: constants, outputs and launches of each.

A kernel is an ONNX node of our own domain. Its attributes and the tensors that it reads fix everything else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

DOMAIN = "stages"
"""ONNX domain of the nodes."""

Attributes = Mapping[str, Any]

MAX_SHARED_BYTES, MAX_THREADS = 48 << 10, 1024
"""Of a block, on every GPU there is."""


@dataclass(frozen=True)
class Tensor:
    """Shape and type of a tensor between steps."""

    shape: tuple[int, ...]
    dtype: str
    """As NumPy names it: float16, float32, uint8, int32."""

    @classmethod
    def of(cls, array: npt.NDArray[Any]) -> "Tensor":
        """That of an array."""
        return cls(array.shape, array.dtype.name)

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """Its type."""
        return np.dtype(self.dtype)

    @property
    def bytes(self) -> int:
        """Its size in memory."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.numpy_dtype.itemsize


@dataclass(frozen=True)
class Launch:
    """One launch of a function of a kernel's source."""

    function: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: tuple[str, ...]
    """Its pointers: i0, i1, ... for inputs, o0, ... for outputs, w0, ... for workspaces."""


@dataclass(frozen=True)
class Plan:
    """A kernel for tensors of given shapes and types."""

    source: str
    """File in this folder."""
    defines: Mapping[str, object]
    """Preprocessor constants."""
    outputs: tuple[Tensor, ...]
    launches: tuple[Launch, ...]
    workspace_bytes: tuple[int, ...] = ()
    """Of memory that only the kernel uses, one for each w."""


class Kernel(Protocol):
    """Plans a kernel."""

    def __call__(self, attributes: Attributes, inputs: list[Tensor]) -> Plan:
        """Raises ValueError where the kernel can't serve such tensors, saying what it needs."""
        ...


def deformable_attention(attributes: Attributes, inputs: list[Tensor]) -> Plan:
    """From value [B, S, M * D], offsets [B, S, M * L * P * 2], logits [B, S, M * L * P] to [B, S, M * D].

    Attributes: heads M, points P and sizes, height and width of each of L levels.
    """
    value, offsets, logits = inputs
    half = _is_half("DeformableAttention", value, offsets, logits)
    heads, points, sizes = attributes["heads"], attributes["points"], attributes["sizes"]
    batch, length, channels = value.shape
    depth, levels = _depth(channels, heads, half), len(sizes) // 2
    vector = _vector(half)
    pairs = min(64, MAX_THREADS * vector // depth)
    return Plan(
        "deformable_attention.cu",
        {
            "HALF": half,
            "HEADS": heads,
            "DEPTH": depth,
            "LEVELS": levels,
            "POINTS": points,
            "LENGTH": length,
            "PAIRS": pairs,
            "SIZES": ",".join(f"{{{h},{w}}}" for h, w in zip(sizes[::2], sizes[1::2], strict=True)),
        },
        (value,),
        (
            Launch(
                "deformable_attention",
                (-(-length * heads // pairs), batch, 1),
                (pairs * depth // vector, 1, 1),
                ("i0", "i1", "i2", "o0"),
            ),
        ),
    )


def panoptic_merge(attributes: Attributes, inputs: list[Tensor]) -> Plan:
    """From class_logits [B, Q, 1 + C] and mask_logits [B, Q, h, w] to the outputs of stages/graph/merge.py's Panoptic.

    Attributes: things, score_threshold, overlap_threshold, and as height and width the sizes input, used and frame.
    """
    class_logits, mask_logits = inputs
    half = _is_half("PanopticMerge", class_logits, mask_logits)
    batch, queries, low_h, low_w = mask_logits.shape
    names = ("IN", attributes["input"]), ("USED", attributes["used"])
    height, width = attributes["frame"]
    outputs = (
        Tensor((batch, height, width), "uint8"),
        Tensor((batch, queries), "int32"),
        Tensor((batch, queries), "float32"),
        Tensor((batch, queries), "int32"),
    )
    rows = 8
    return Plan(
        "panoptic_merge.cu",
        {
            "HALF": half,
            "QUERIES": queries,
            "CLASSES": class_logits.shape[2] - 1,
            "THINGS": attributes["things"],
            "LOW_H": low_h,
            "LOW_W": low_w,
            **{f"{name}_{axis}": size for name, pair in names for axis, size in zip("HW", pair, strict=True)},
            "H": height,
            "W": width,
            "SCORE_THRESHOLD": float(attributes["score_threshold"]),
            "OVERLAP_THRESHOLD": float(attributes["overlap_threshold"]),
        },
        outputs,
        (
            Launch("select_queries", (batch, 1, 1), (1024, 1, 1), ("i0", "w0", "o2", "o3")),
            Launch("vote", (-(-width // 32), -(-height // rows), batch), (32, rows, 1), ("i1", "o2", "w0", "o0")),
            Launch("label", (-(-height * width // (256 * 16)), batch, 1), (256, 1, 1), ("w0", "o3", "o0", "o1")),
        ),
        workspace_bytes=(4 * (4 * queries + 1) * batch,),
    )


def window_attention(attributes: Attributes, inputs: list[Tensor]) -> Plan:
    """From qkv [B, S, 3 * M * D], its bias [3 * M * D] and position bias [M, N, N], N = window^2, to [B, S, M * D].

    Attributes: heads M, height and width, of which S is the product, window and shift.
    """
    qkv, bias, position = inputs
    half = _is_half("WindowAttention", qkv, bias, position)
    heads, height, width, window = (attributes[name] for name in ("heads", "height", "width", "window"))
    batch, length, channels = qkv.shape
    depth = _depth(channels // 3, heads, half)
    windows = -(-height // window) * -(-width // window)
    keys, deep = _tiles(window * window), _tiles(depth)
    shared = 2 * (2 * keys * (deep + 8) + deep * (keys + 8)) + 8 * keys
    _require_fit(f"windows of {window}", shared if half else 8 * window * window * (depth + 1), 2 * keys)
    return Plan(
        "window_attention.cu",
        {
            "HALF": half,
            "HEIGHT": height,
            "WIDTH": width,
            "HEADS": heads,
            "DEPTH": depth,
            "WINDOW": window,
            "SHIFT": attributes["shift"],
        },
        (Tensor((batch, length, channels // 3), qkv.dtype),),
        (
            Launch(
                "window_attention",
                (windows, heads, batch),
                (32 * -(-window * window // 16), 1, 1),
                ("i0", "i1", "i2", "o0"),
            ),
        ),
    )


def masked_attention(attributes: Attributes, inputs: list[Tensor]) -> Plan:
    """From query [B, Q, M * D], key and value [B, S, M * D] and mask logits [B, Q, S] to [B, Q, M * D].

    Attribute: heads M.
    """
    query, key, value, mask = inputs
    half = _is_half("MaskedAttention", query, key, value, mask)
    heads = attributes["heads"]
    batch, queries, channels = query.shape
    length, depth = key.shape[1], _depth(channels, heads, half)
    rows, deep = _tiles(queries), _tiles(depth)

    def shared(chunk: int) -> int:
        return 2 * ((rows + chunk) * (deep + 8) + deep * (chunk + 8)) if half else 8 * chunk * depth

    chunk = next((size for size in (128, 64) if size < 128 or half if shared(size) <= MAX_SHARED_BYTES), 32)
    _require_fit(f"{queries} queries and {depth} channels a head", shared(chunk), 2 * rows)
    chunks = -(-length // chunk)
    return Plan(
        "masked_attention.cu",
        {
            "HALF": half,
            "QUERIES": queries,
            "HEADS": heads,
            "DEPTH": depth,
            "LENGTH": length,
            "CHUNK_SIZE": chunk,
        },
        (query,),
        (
            Launch("read_mask", (queries, batch, 1), (256, 1, 1), ("i3", "w0")),
            Launch("attend", (chunks, heads, batch), (32 * -(-queries // 16), 1, 1), ("i0", "i1", "i2", "w0", "w1")),
            Launch("add_chunks", (queries, heads, batch), (256, 1, 1), ("w1", "o0")),
        ),
        workspace_bytes=(16 * batch * queries * chunks, 4 * batch * heads * chunks * queries * (2 + depth)),
    )


KERNELS: dict[str, Kernel] = {
    "DeformableAttention": deformable_attention,
    "MaskedAttention": masked_attention,
    "PanopticMerge": panoptic_merge,
    "WindowAttention": window_attention,
}
"""By operator of the node."""


def _tiles(count: int) -> int:
    """Filled up to whole tiles of the tensor cores."""
    return -(-count // 16) * 16


def _require_fit(what: str, shared_bytes: int, threads: int) -> None:
    if shared_bytes > MAX_SHARED_BYTES or threads > MAX_THREADS:
        raise ValueError(
            f"deformable_attention `kernels` can't serve {what}: a block would need {shared_bytes} bytes of shared "
            f"memory and {threads} threads, there are {MAX_SHARED_BYTES} and {MAX_THREADS}; choose another form in "
            "conf/target"
        )


def _vector(half: bool) -> int:
    """Channels in 16 bytes."""
    return 8 if half else 4


def _depth(channels: int, heads: int, half: bool) -> int:
    depth = channels // heads
    if depth % _vector(half):
        raise ValueError(
            f"deformable_attention `kernels` needs a multiple of {_vector(half)} channels a head in "
            f"{'float16' if half else 'float32'}, found {depth}; choose another form in conf/target"
        )
    return depth


def _is_half(name: str, *tensors: Tensor) -> bool:
    found = sorted({tensor.dtype for tensor in tensors})
    if found not in (["float16"], ["float32"]):
        raise ValueError(f"{name} takes tensors of one type, float16 or float32; found {found}")
    return found == ["float16"]
