"""Launch plan of deformable_attention.cu: a block computes PAIRS pairs of a position and a head."""

from stages.engines.cuda.launch import MAX_THREADS, Launch
from stages.engines.cuda.launch_plans.plan import (
    Plan,
    Specs,
    divide_up,
    head_channels,
    is_half,
    require_fit,
    vector_size,
)
from stages.inference.steps import Attributes


def plan(attributes: Attributes, inputs: Specs, outputs: Specs, compute_capability: str) -> Plan:
    """See planner.plan."""
    (value, _), half = inputs, is_half(inputs[0])
    heads, points, sizes = attributes.integer("heads"), attributes.integer("points"), attributes.integers("sizes")
    batch, length, channels = value.shape
    depth, levels = head_channels(channels, heads, half), len(sizes) // 2
    lanes = depth // vector_size(half)
    # A multiple of four, as four threads share the samples of a pair.
    pairs = max(4, min(64, MAX_THREADS * vector_size(half) // depth // 4 * 4))
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
