"""The kernels that graphs of the form `kernels` name between TensorRT's parts: constants, outputs and launches of each.

A kernel is an ONNX node of our own domain. Its attributes and the tensors that it reads fix everything else.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

DOMAIN = "stages"
"""ONNX domain of the nodes."""

Attributes = Mapping[str, Any]

HOPPER = "9.0"
"""Compute capability with instructions of its own, which its successors lack."""

MAX_SHARED_BYTES, MAX_THREADS = 48 << 10, 1024
"""Of a block, on every GPU there is."""
MAX_DYNAMIC_SHARED_BYTES = 64 << 10
"""Of a block that asks for it; compute capability 7.5 has no more."""


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
    shared_bytes: int = 0
    """Shared memory of a block beside what the source declares."""


@dataclass(frozen=True)
class Plan:
    """A kernel for tensors of given shapes and types."""

    source: str
    """File in the folder kernels."""
    defines: Mapping[str, object]
    """Preprocessor constants."""
    outputs: tuple[Tensor, ...]
    launches: tuple[Launch, ...]
    workspace_bytes: tuple[int, ...] = ()
    """Of memory that only the kernel uses, one for each w."""

    def digest(self) -> str:
        """Of what machine code and those who launch it must agree on; the source's text is not in it."""
        about = self.source, sorted(self.defines.items()), self.launches, self.workspace_bytes
        return hashlib.sha256(repr(about).encode()).hexdigest()[:16]


class Kernel(Protocol):
    """Plans a kernel."""

    def __call__(self, attributes: Attributes, inputs: list[Tensor]) -> Plan:
        """Raises ValueError where the kernel can't serve such tensors, saying what it needs."""
        ...


def deformable_attention(attributes: Attributes, inputs: list[Tensor]) -> Plan:
    """From value [B, S, M * D] and samples [B, S, M * L * P * 3], offsets and then logits, to [B, S, M * D].

    Attributes: heads M, points P and sizes, height and width of each of L levels.
    """
    value, samples = inputs
    half = _is_half("DeformableAttention", value, samples)
    heads, points, sizes = attributes["heads"], attributes["points"], attributes["sizes"]
    batch, length, channels = value.shape
    depth, levels = _depth(channels, heads, half), len(sizes) // 2
    vector = _vector(half)
    # Four at a time, as threads by fours work on one.
    pairs = max(4, min(64, MAX_THREADS * vector // depth // 4 * 4))
    what = f"{levels} levels of {points} points and {depth} channels a head"
    _require_fit(what, 32 * levels * points * pairs, pairs * depth // vector)
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
                ("i0", "i1", "o0"),
            ),
        ),
    )


def panoptic_merge(attributes: Attributes, inputs: list[Tensor]) -> Plan:
    """From class_logits [B, Q, 1 + C] and mask_logits [B, Q, h * w] to what stages/network/merge.py's Panoptic gives.

    Attributes: things, score_threshold, overlap_threshold, and as height and width the sizes low, of which the mask
    logits are, input, used and frame.
    """
    class_logits, mask_logits = inputs
    half = _is_half("PanopticMerge", class_logits, mask_logits)
    batch, queries, _ = mask_logits.shape
    names = ("LOW", attributes["low"]), ("IN", attributes["input"]), ("USED", attributes["used"])
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
    shared = 2 * 3 * keys * (deep + 8) + 8 * keys
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
    """From query [B, Q, >= M * D], key and value [B, S, >= M * D] and, if any, mask logits [B, Q, S] to [B, Q, M * D].

    Attributes: heads M, channels M * D, and firsts, where these begin in rows of query, key and value.
    """
    query, key, _, *mask = inputs
    half = _is_half("MaskedAttention", *inputs)
    heads, channels = attributes["heads"], attributes["channels"]
    batch, queries, _ = query.shape
    length, depth = key.shape[1], _depth(channels, heads, half)
    rows, deep = _tiles(queries), _tiles(depth)
    wide = {
        f"{name}_{what}": number
        for name, tensor, first in zip(("QUERY", "KEY", "VALUE"), inputs, attributes["firsts"], strict=False)
        for what, number in (("STRIDE", tensor.shape[2]), ("FIRST", first))
    }
    tensors = zip(inputs, attributes["firsts"], strict=False)
    _require(
        "MaskedAttention",
        {
            "whole heads": channels == heads * depth,
            "columns that rows have": all(first + channels <= tensor.shape[2] for tensor, first in tensors),
            "as many values as keys, and as columns of the mask": {length}
            == {inputs[2].shape[1], *(m.shape[2] for m in mask)},
        },
        attributes,
        inputs,
    )
    if misfits := {name: number for name, number in wide.items() if number % _vector(half)}:
        raise ValueError(
            f"MaskedAttention takes rows in multiples of {_vector(half)} channels, found {misfits}; choose another "
            "form than `kernels` in conf/target"
        )

    def shared(chunk: int) -> int:
        return 2 * (rows + 2 * chunk) * (deep + 8) if half else 8 * chunk * depth

    chunk = next((size for size in (128, 64) if size < 128 or half if shared(size) <= MAX_SHARED_BYTES), 32)
    _require_fit(f"{queries} queries and {depth} channels a head", shared(chunk), 2 * rows)
    chunks = -(-length // chunk)
    pointers = "i0", "i1", "i2", "w0" if mask else "i0", "w1" if mask else "w0", "o0"
    launches = [Launch("attend", (chunks, heads, batch), (32 * -(-queries // 16), 1, 1), pointers)]
    if mask:
        launches.insert(0, Launch("read_mask", (queries, batch, 1), (256, 1, 1), ("i3", "w0")))
    if chunks > 1:
        launches.append(Launch("add_chunks", (queries, heads, batch), (256, 1, 1), (pointers[4], "o0")))
    seen_bytes, found_bytes = 16 * batch * queries * chunks, 4 * batch * heads * chunks * queries * (2 + depth)
    return Plan(
        "masked_attention.cu",
        {
            "HALF": half,
            "MASKED": bool(mask),
            "QUERIES": queries,
            "HEADS": heads,
            "DEPTH": depth,
            "LENGTH": length,
            "CHUNK_SIZE": chunk,
            **wide,
        },
        (Tensor((batch, queries, channels), query.dtype),),
        tuple(launches),
        workspace_bytes=(seen_bytes, found_bytes) if mask else (found_bytes,),
    )


EXTRAS = ("bias", "sums", "residual", "scale", "shift", "position")
"""Inputs of a linear layer that may be there, in this order after x and weight."""
ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2}


def linear(attributes: Attributes, inputs: list[Tensor], wgmma: bool = False) -> Plan:
    """From x [B, S, W] and weight [N, K] or [B, N, K] to out [B, R, N] and, with `position`, out + position.

    Attributes: extras, which of EXTRAS there are, with commas between them; activation; epsilon of the normalisations
    before (with sums) and after (with scale and shift); first, the row of x to begin with, and rows R; plane, empty or
    height and width of the picture whose patches are the rows, and which: 2 or 3 (stages/network/linear.py). `wgmma`:
    with Hopper's instructions where they are worth it.
    """
    x, weight, *others = inputs
    extras = dict(zip(filter(None, attributes["extras"].split(",")), others, strict=True))
    half = _is_half("Linear", *inputs)
    (images, image_rows, stride), rows, plane = x.shape, attributes["rows"], attributes["plane"]
    if plane and (len(plane) != 3 or plane[2] not in (2, 3)):
        what = "empty, or height, width and 2 or 3"
        raise ValueError(f"Linear's plane must be {what}, found {plane}; export the graph again, `dvc repro`")
    columns, depth = weight.shape[-2:]
    last_row = attributes["first"] + rows
    _require(
        "Linear",
        {
            "one normalisation, before or after": not ("sums" in extras and "scale" in extras),
            "scale and shift together": ("scale" in extras) == ("shift" in extras),
            "a weight for each image or for all": len(weight.shape) == 2 or weight.shape[0] == images,
            "rows and columns that x has": bool(plane) or (last_row <= image_rows and depth <= stride),
            "all of a plane's patches": not plane
            or (
                (last_row, depth, image_rows, attributes["first"]) == (*_patches(plane, stride), plane[0] * plane[1], 0)
            ),
        },
        attributes,
        inputs,
    )
    if depth % _vector(half) or stride % _vector(half):
        raise ValueError(
            f"Linear takes a multiple of {_vector(half)} channels in {x.dtype}, found {depth} of {stride}; choose "
            "another form than `kernels` in conf/target"
        )
    after = "scale" in extras
    finish = after and not (half and columns <= 256 and images * rows >= 4096)
    wgmma = wgmma and half and not finish and images * rows * columns >= MANY_OUTPUTS
    if not half:
        tile = Tile(64, 64, 16, 16, 1)
    elif wgmma:
        tile = _wgmma_tile(rows, columns, images, whole=after)
    elif after and not finish:
        tile = _whole_rows(images * rows, columns)
    else:
        tile = _tile(rows, columns, images)
    blocks = -(-rows // tile.rows) * -(-columns // tile.columns) * images
    split = min(8, max(1, WAVE // blocks), -(-depth // 128)) if finish else 1
    # Beside stages are two numbers for each row of the tile: its moments, or parts of its sums.
    static_bytes = 8 * tile.rows * (tile.warps_n if after else 1) + 16
    if wgmma:
        # Where all of K fits, all is loaded at once. The finished tile must fit too. A block has 1 KiB of the driver's,
        # and tiles begin at multiples of 1 KiB.
        stage_bytes, extra_bytes = 2 * (tile.rows + tile.columns) * 64, 1024
        room = HOPPER_SHARED_BYTES // tile.blocks - 1024 - extra_bytes - static_bytes
        needed = -(-2 * tile.rows * (tile.columns + 8) // stage_bytes)
        stages = max(needed, min(-(-depth // 64), room // stage_bytes))
    else:
        stage_bytes, extra_bytes = 2 * (tile.rows + tile.columns) * (32 + 8), 0
        stages = min(4, (MAX_DYNAMIC_SHARED_BYTES - static_bytes) // stage_bytes)
    out = Tensor((images, rows, columns), x.dtype)
    places = {name: f"i{i + 2}" for i, name in enumerate(extras)}
    arguments = ("i0", "i1", *(places.get(name, "i0") for name in EXTRAS), "o0")
    arguments += ("o1" if "position" in extras else "o0", "w0" if finish else "o0")
    launches = [
        Launch(
            "linear",
            (-(-columns // tile.columns), -(-rows // tile.rows), images * split),
            (32 * tile.warps_m * tile.warps_n if half else 256, 1, 1),
            arguments,
            stages * stage_bytes + extra_bytes if half else 0,
        )
    ]
    if finish:
        launches.append(Launch("finish", (-(-images * rows // 4), 1, 1), (128, 1, 1), arguments))
    return Plan(
        "linear.cu",
        {
            "HALF": half,
            "IMAGES": images,
            "IMAGE_ROWS": image_rows,
            "FIRST": attributes["first"],
            "ROWS": rows,
            "COLUMNS": columns,
            "DEPTH": depth,
            "STRIDE": stride,
            "BATCHED": len(weight.shape) == 3,
            "ROW_CONSTANT": stride > depth,
            "PATCHES": plane[2] if plane else 0,
            "PLANE_H": plane[0] if plane else 0,
            "PLANE_W": plane[1] if plane else 0,
            "NORMALIZE": "sums" in extras,
            "BIAS": "bias" in extras,
            "ACTIVATION": ACTIVATIONS[attributes["activation"]],
            "RESIDUAL": "residual" in extras,
            "NORM": after,
            "POSITION": "position" in extras,
            "EPSILON": float(attributes["epsilon"]),
            "TILE_M": tile.rows,
            "TILE_N": tile.columns,
            "WARPS_M": tile.warps_m,
            "WARPS_N": tile.warps_n,
            "STAGES": stages,
            "BLOCKS": tile.blocks,
            "WGMMA": wgmma,
            "SPLIT": split,
            "FINISH": finish,
        },
        (out, out) if "position" in extras else (out,),
        tuple(launches),
        workspace_bytes=(4 * split * images * rows * columns,) if finish else (),
    )


def _patches(plane: Sequence[int], channels: int) -> tuple[int, int]:
    """How many patches a picture's tokens have, and how many channels each."""
    height, width, window = plane
    apart = {2: 2, 3: 1}[window]
    return -(-height // apart) * -(-width // apart), window**2 * channels


@dataclass(frozen=True)
class Tile:
    """What a block of a linear layer makes, and how its warps share it."""

    rows: int
    columns: int
    warps_m: int
    warps_n: int
    blocks_at_once: int = 0

    @property
    def blocks(self) -> int:
        """That a multiprocessor has at once: as many as 512 threads are, unless said otherwise."""
        return self.blocks_at_once or 512 // (32 * self.warps_m * self.warps_n)


TILES = (
    Tile(128, 128, 4, 2),
    Tile(128, 96, 4, 2),
    Tile(128, 64, 4, 2),
    Tile(64, 128, 2, 4),
    Tile(64, 96, 2, 2),
    Tile(64, 64, 2, 4),
    Tile(32, 64, 2, 4),
    Tile(32, 32, 2, 2),
)
MANY_OUTPUTS = 1 << 16
"""Values of a layer that fills a GPU; with fewer, wgmma's large tiles leave most of it idle."""
HOPPER_SHARED_BYTES = 228 << 10
"""Of a multiprocessor of compute capability 9.0."""
WGMMA_TILES = (
    Tile(128, 256, 8, 2, 1),
    Tile(128, 192, 8, 1, 1),
    Tile(128, 128, 8, 1, 1),
    Tile(128, 128, 8, 1, 2),
    Tile(128, 96, 8, 1, 2),
    Tile(128, 64, 8, 1, 2),
)
WAVE = 132
"""Blocks that a large GPU runs at once, one on each multiprocessor: those of an H100."""


def _whole_rows(rows: int, columns: int) -> Tile:
    """The tile of a block that has all columns, and as many rows as let blocks fill waves of two a multiprocessor."""
    wide = -(-columns // 128) * 128
    return min(
        (Tile(high, wide, 1, 8) for high in (64, 80, 96)), key=lambda t: -(-rows // t.rows // (2 * WAVE)) * t.rows
    )


def _tile(rows: int, columns: int, images: int) -> Tile:
    """The tile for which waves of blocks, each as long as its products and what it reads, take the shortest."""

    def cost(tile: Tile) -> float:
        blocks = -(-rows // tile.rows) * -(-columns // tile.columns) * images
        return -(-blocks // WAVE) * (tile.rows * tile.columns + 64 * (tile.rows + tile.columns))

    return min(TILES, key=cost)


def _wgmma_tile(rows: int, columns: int, images: int, whole: bool) -> Tile:
    """The tile for which blocks come in the fewest waves, and of those the one that gives a multiprocessor the least.

    `whole`: of a block that has all columns. On an H100 it is 4 % slower than the fastest tile of each layer.
    """
    if whole:
        return Tile(128, 128, 8, 1, 2) if columns <= 128 else Tile(192, 256, 12, 1, 1)

    def cost(tile: Tile) -> tuple[int, int]:
        blocks = -(-rows // tile.rows) * -(-columns // tile.columns) * images
        at_once = min(tile.blocks, -(-blocks // WAVE))
        return -(-blocks // (WAVE * tile.blocks)), at_once * tile.rows * tile.columns

    return min(WGMMA_TILES, key=cost)


MAX_LEVELS = 4


def group_norm(attributes: Attributes, inputs: list[Tensor]) -> Plan:
    """From x_l [B, S_l, C] of up to 4 levels, scale and shift [L, C] to all rows [B, S, C], and those with position.

    Attributes: extras, which is residual [B, S, C], position [S, C] or empty; groups; epsilon; activation.
    """
    names = [attributes["extras"]] if attributes["extras"] else []
    levels = inputs[: len(inputs) - 2 - len(names)]
    half = _is_half("GroupNorm", *inputs)
    (images, _, channels), vector, threads = levels[0].shape, _vector(half), 256
    if len(levels) > MAX_LEVELS or channels % vector or channels // vector > threads:
        raise ValueError(
            f"GroupNorm takes up to {MAX_LEVELS} levels and a multiple of {vector} channels, found {len(levels)} of "
            f"{channels}; choose another form than `kernels` in conf/target"
        )
    _require(
        "GroupNorm",
        {
            "whole groups": channels % attributes["groups"] == 0,
            "levels of one width and batch": {level.shape[::2] for level in levels} == {(images, channels)},
            "activation none or relu": attributes["activation"] in ("none", "relu"),
        },
        attributes,
        inputs,
    )
    rows = [level.shape[1] for level in levels]
    pointers = [f"i{min(k, len(levels) - 1)}" for k in range(MAX_LEVELS)]
    pointers += [f"i{len(levels)}", f"i{len(levels) + 1}"]
    pointers += [f"i{len(levels) + 2 + names.index(n)}" if n in names else "i0" for n in ("residual", "position")]
    moved = "position" in names
    arguments = (*pointers, "o0", "o1" if moved else "o0", "w0", "w1")
    out = Tensor((images, sum(rows), channels), levels[0].dtype)
    at_once = threads * vector // channels
    blocks = min(8 * WAVE, -(-max(rows) // at_once))
    return Plan(
        "group_norm.cu",
        {
            "HALF": half,
            "LEVELS": len(levels),
            "ROWS_OF": ",".join(map(str, rows)),
            "ROWS": sum(rows),
            "CHANNELS": channels,
            "GROUPS": attributes["groups"],
            "CHUNKS": CHUNKS,
            "THREADS": threads,
            "EPSILON": float(attributes["epsilon"]),
            "RELU": attributes["activation"] == "relu",
            "RESIDUAL": "residual" in names,
            "POSITION": moved,
        },
        (out, out) if moved else (out,),
        (
            Launch("add_up", (CHUNKS, len(levels), images), (threads, 1, 1), arguments),
            Launch("total_up", (attributes["groups"], len(levels), images), (32, 1, 1), arguments),
            Launch("normalise", (blocks, len(levels), images), (threads, 1, 1), arguments),
        ),
        workspace_bytes=tuple(8 * images * len(levels) * attributes["groups"] * shares for shares in (CHUNKS, 1)),
    )


CHUNKS = 128
"""Shares of a level's rows whose sums are added up first."""


def resize(attributes: Attributes, inputs: list[Tensor]) -> Plan:
    """From x [B, S, C] to [B, H * W, C], bilinearly.

    Attributes: first, the row of x that the picture begins with; plane, its height and width; to, H and W.
    """
    (x,) = inputs
    half = _is_half("Resize", x)
    images, image_rows, channels = x.shape
    if channels % _vector(half):
        raise ValueError(
            f"Resize takes a multiple of {_vector(half)} channels in {x.dtype}, found {channels}; choose another form "
            "than `kernels` in conf/target"
        )
    (low_h, low_w), (height, width) = attributes["plane"], attributes["to"]
    holds = attributes["first"] + low_h * low_w <= image_rows
    _require("Resize", {"rows that x has": holds}, attributes, inputs)
    names = ("FIRST", attributes["first"]), ("IN_H", low_h), ("IN_W", low_w), ("OUT_H", height), ("OUT_W", width)
    blocks = -(-(height * width * (channels // _vector(half))) // 256)
    return Plan(
        "resize.cu",
        {"HALF": half, "IMAGE_ROWS": image_rows, "CHANNELS": channels, **dict(names)},
        (Tensor((images, height * width, channels), x.dtype),),
        (Launch("resize", (blocks, images, 1), (256, 1, 1), ("i0", "o0")),),
    )


KERNELS: dict[str, Kernel] = {
    "DeformableAttention": deformable_attention,
    "GroupNorm": group_norm,
    "Linear": linear,
    "MaskedAttention": masked_attention,
    "PanopticMerge": panoptic_merge,
    "Resize": resize,
    "WindowAttention": window_attention,
}
"""By operator of the node."""


def plan(operator: str, attributes: Attributes, inputs: list[Tensor], compute_capability: str = "") -> Plan:
    """The kernel of a node for GPUs of one compute capability; its outputs are the same for all, and with none.

    Raises ValueError as Kernel does.
    """
    if operator == "Linear":
        return linear(attributes, inputs, wgmma=compute_capability == HOPPER)
    return KERNELS[operator](attributes, inputs)


def _tiles(count: int) -> int:
    """Filled up to whole tiles of the tensor cores."""
    return -(-count // 16) * 16


def _require(name: str, rules: Mapping[str, bool], attributes: Attributes, inputs: list[Tensor]) -> None:
    """Raise ValueError naming the rules that a node breaks: a fault of the graph, and none of its user's."""
    if broken := [rule for rule, holds in rules.items() if not holds]:
        shapes = [list(tensor.shape) for tensor in inputs]
        raise ValueError(f"{name} needs {' and '.join(broken)}; found {dict(attributes)} and shapes {shapes}")


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
