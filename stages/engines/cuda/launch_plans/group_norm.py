"""Launch plan of group_norm.cu: sums of chunks of rows, sums of those, and the normalisation."""

from stages.engines.cuda.launch import Launch
from stages.engines.cuda.launch_plans.machine import Machine
from stages.engines.cuda.launch_plans.plan import Choice, Plan, Specs, divide_up, is_half, vector_size
from stages.inference.steps import Attributes

CHUNKS = (128, 64, 32)
"""Chunks of a level's rows that are summed at the same time, the best on a large GPU first."""
MAX_LEVELS = 4
"""Levels that the functions have arguments for."""
THREADS = 256


def choices(attributes: Attributes, inputs: Specs, outputs: Specs, machine: Machine) -> list[Choice]:
    """See planner.choices. The order in which sums are formed depends on it."""
    return [{"CHUNKS": chunks} for chunks in CHUNKS]


def plan(attributes: Attributes, inputs: Specs, outputs: Specs, machine: Machine, choice: Choice) -> Plan:
    """See planner.plan."""
    optional, groups = attributes.text("optional_input"), attributes.integer("groups")
    levels = inputs[: len(inputs) - 2 - bool(optional)]
    half = is_half(inputs[0])
    (batch, _, channels), vector = levels[0].shape, vector_size(half)
    if len(levels) > MAX_LEVELS or channels % vector or channels // vector > THREADS:
        raise ValueError(
            f"GroupNorm takes up to {MAX_LEVELS} levels and a multiple of {vector} channels, found {len(levels)} and "
            f"{channels}; set another variant than `cuda` in conf/target"
        )
    rows, pos_embed = [level.shape[1] for level in levels], optional == "pos_embed"
    last = f"i{len(levels) + 2}"
    arguments = (
        *(f"i{min(k, len(levels) - 1)}" for k in range(MAX_LEVELS)),
        f"i{len(levels)}",
        f"i{len(levels) + 1}",
        last if optional == "residual" else "i0",
        last if pos_embed else "i0",
        "o0",
        "o1" if pos_embed else "o0",
        "w0",
        "w1",
    )
    chunks = choice["CHUNKS"]
    rows_at_once = THREADS * vector // channels
    blocks = min(8 * machine.multiprocessors, divide_up(max(rows), rows_at_once))
    return Plan(
        "group_norm.cu",
        {
            "HALF": half,
            "LEVELS": len(levels),
            "LEVEL_ROWS": ",".join(map(str, rows)),
            "ROWS": sum(rows),
            "CHANNELS": channels,
            "GROUPS": groups,
            "CHUNKS": chunks,
            "THREADS": THREADS,
            "EPSILON": attributes.number("epsilon"),
            "RELU": attributes.text("activation") == "relu",
            "RESIDUAL": optional == "residual",
            "POS_EMBED": pos_embed,
        },
        (
            Launch("sum_chunks", (chunks, len(levels), batch), (THREADS, 1, 1), arguments),
            Launch("reduce_sums", (groups, len(levels), batch), (32, 1, 1), arguments),
            Launch("normalise", (blocks, len(levels), batch), (THREADS, 1, 1), arguments),
        ),
        # Pairs of float32, the struct Sums of the source.
        workspace_bytes=tuple(8 * batch * len(levels) * groups * count for count in (chunks, 1)),
    )
