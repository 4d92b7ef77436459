"""Launch plan of masked_attention.cu: a block computes all queries of a head for a chunk of the keys.

With several chunks a last launch adds their results up. With a mask a first launch packs it into bits.
"""

from stages.engines.cuda.launch import Launch
from stages.engines.cuda.launch_plans.machine import Machine
from stages.engines.cuda.launch_plans.plan import (
    MAX_SHARED_BYTES,
    Choice,
    Plan,
    Specs,
    divide_up,
    head_channels,
    is_half,
    require_fit,
    round_to_tiles,
    vector_size,
)
from stages.inference.steps import Attributes


def choices(attributes: Attributes, inputs: Specs, outputs: Specs, machine: Machine) -> list[Choice]:
    """See planner.choices. The order in which sums are formed depends on it."""
    half, queries = is_half(inputs[0]), inputs[0].shape[1]
    depth = head_channels(attributes.integer("channels"), attributes.integer("heads"), half)
    # 128 keys are for half precision only.
    sizes = (128, 64, 32) if half else (64, 32)
    fitting = [size for size in sizes if _shared_bytes(size, queries, depth, half) <= MAX_SHARED_BYTES]
    return [{"CHUNK_SIZE": size} for size in fitting or [32]]


def plan(attributes: Attributes, inputs: Specs, outputs: Specs, machine: Machine, choice: Choice) -> Plan:
    """See planner.plan."""
    (query, key, _, *mask), half = inputs, is_half(inputs[0])
    heads, channels = attributes.integer("heads"), attributes.integer("channels")
    batch, queries, _ = query.shape
    length, depth = key.shape[1], head_channels(channels, heads, half)
    first_columns = attributes.integers("first_columns", 3)
    rows = {
        f"{name}_{what}": number
        for name, spec, first in zip(("QUERY", "KEY", "VALUE"), inputs, first_columns, strict=False)
        for what, number in (("STRIDE", spec.shape[2]), ("FIRST", first))
    }
    if misfits := {name: number for name, number in rows.items() if number % vector_size(half)}:
        raise ValueError(
            f"MaskedAttention takes rows of a multiple of {vector_size(half)} channels, found {misfits}; set another "
            "variant than `cuda` in conf/target"
        )
    chunk = choice["CHUNK_SIZE"]
    require_fit(
        f"{queries} queries and {depth} channels a head",
        _shared_bytes(chunk, queries, depth, half),
        2 * round_to_tiles(queries),
    )
    chunks = divide_up(length, chunk)
    bits, partial = ("w0", "w1") if mask else ("i0", "w0")
    launches = [Launch("pack_mask", (queries, batch, 1), (256, 1, 1), ("i3", "w0"))] if mask else []
    pointers = "i0", "i1", "i2", bits, partial, "o0"
    launches.append(Launch("attend", (chunks, heads, batch), (32 * divide_up(queries, 16), 1, 1), pointers))
    if chunks > 1:
        launches.append(Launch("reduce_chunks", (queries, heads, batch), (256, 1, 1), (partial, "o0")))
    # 16 bytes hold the bits of the largest chunk.
    bits_bytes, partial_bytes = 16 * batch * queries * chunks, 4 * batch * heads * chunks * queries * (2 + depth)
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
            **rows,
        },
        tuple(launches),
        workspace_bytes=(bits_bytes, partial_bytes) if mask else (partial_bytes,),
    )


def _shared_bytes(chunk: int, queries: int, depth: int, half: bool) -> int:
    """Shared memory that the source declares."""
    if half:
        return 2 * (round_to_tiles(queries) + 2 * chunk) * (round_to_tiles(depth) + 8)
    return 8 * chunk * depth
