"""Launch plan of window_attention.cu: a block computes a window and a head."""

from stages.engines.cuda.launch import Launch
from stages.engines.cuda.launch_plans.machine import Machine
from stages.engines.cuda.launch_plans.plan import (
    Choice,
    Plan,
    Specs,
    divide_up,
    head_channels,
    is_half,
    require_fit,
    round_to_tiles,
)
from stages.inference.steps import Attributes


def plan(attributes: Attributes, inputs: Specs, outputs: Specs, machine: Machine, choice: Choice) -> Plan:
    """See planner.plan."""
    qkv, half = inputs[0], is_half(inputs[0])
    heads, height, width, window = (attributes.integer(name) for name in ("heads", "height", "width", "window"))
    batch, _, channels = qkv.shape
    depth, tokens = head_channels(channels // 3, heads, half), window * window
    windows = divide_up(height, window) * divide_up(width, window)
    keys = round_to_tiles(tokens)
    shared_bytes = 2 * 3 * keys * (round_to_tiles(depth) + 8) + 8 * keys if half else 8 * tokens * (depth + 1)
    require_fit(f"windows of {window}", shared_bytes, 2 * keys)
    return Plan(
        "window_attention.cu",
        {
            "HALF": half,
            "HEIGHT": height,
            "WIDTH": width,
            "HEADS": heads,
            "DEPTH": depth,
            "WINDOW": window,
            "SHIFT": attributes.integer("shift"),
        },
        (
            Launch(
                "window_attention",
                (windows, heads, batch),
                (32 * divide_up(tokens, 16), 1, 1),
                ("i0", "i1", "i2", "o0"),
            ),
        ),
    )
