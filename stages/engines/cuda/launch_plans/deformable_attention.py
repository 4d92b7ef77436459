"""Launch plan of deformable_attention.cu: a block computes PAIRS pairs of a position and a head."""

from stages.engines.cuda.launch import MAX_THREADS, Launch
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
    vector_size,
)
from stages.inference.steps import Attributes


def choices(attributes: Attributes, inputs: Specs, outputs: Specs, machine: Machine) -> list[Choice]:
    """See planner.choices."""
    half, sizes = is_half(inputs[0]), attributes.integers("sizes")
    depth = head_channels(inputs[0].shape[2], attributes.integer("heads"), half)
    # A multiple of four, as four threads share the samples of a pair.
    most = max(4, min(64, MAX_THREADS * vector_size(half) // depth // 4 * 4))
    samples = len(sizes) // 2 * attributes.integer("points")
    others = [pairs for pairs in (32, 16, 128) if pairs * depth // vector_size(half) <= MAX_THREADS]
    fitting = [pairs for pairs in others if pairs != most and 32 * samples * pairs <= MAX_SHARED_BYTES]
    return [{"PAIRS": pairs} for pairs in (most, *fitting)]


def plan(attributes: Attributes, inputs: Specs, outputs: Specs, machine: Machine, choice: Choice) -> Plan:
    """See planner.plan."""
    (value, _), half = inputs, is_half(inputs[0])
    heads, points, sizes = attributes.integer("heads"), attributes.integer("points"), attributes.integers("sizes")
    batch, length, channels = value.shape
    depth, levels = head_channels(channels, heads, half), len(sizes) // 2
    lanes, pairs = depth // vector_size(half), choice["PAIRS"]
    what = f"{levels} levels of {points} points and {depth} channels a head"
    require_fit(what, 32 * levels * points * pairs, pairs * lanes)
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
        (
            Launch(
                "deformable_attention",
                (divide_up(length * heads, pairs), batch, 1),
                (pairs * lanes, 1, 1),
                ("i0", "i1", "o0"),
            ),
        ),
    )
