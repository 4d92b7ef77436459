"""Launch plan of resize.cu: a thread computes 16 bytes of a token."""

from stages.engines.cuda.launch import Launch
from stages.engines.cuda.launch_plans.machine import Machine
from stages.engines.cuda.launch_plans.plan import Choice, Plan, Specs, divide_up, is_half, require_vectors, vector_size
from stages.inference.steps import Attributes

THREADS = 256


def plan(attributes: Attributes, inputs: Specs, outputs: Specs, machine: Machine, choice: Choice) -> Plan:
    """See planner.plan."""
    (x,), half = inputs, is_half(inputs[0])
    batch, image_rows, channels = x.shape
    require_vectors("Resize", x, channels)
    (in_h, in_w), (out_h, out_w) = attributes.integers("plane", 2), attributes.integers("to", 2)
    return Plan(
        "resize.cu",
        {
            "HALF": half,
            "IMAGE_ROWS": image_rows,
            "CHANNELS": channels,
            "FIRST_ROW": attributes.integer("first_row"),
            "IN_H": in_h,
            "IN_W": in_w,
            "OUT_H": out_h,
            "OUT_W": out_w,
        },
        (
            Launch(
                "resize",
                (divide_up(out_h * out_w * (channels // vector_size(half)), THREADS), batch, 1),
                (THREADS, 1, 1),
                ("i0", "o0"),
            ),
        ),
    )
