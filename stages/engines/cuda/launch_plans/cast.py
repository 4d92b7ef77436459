"""Launch plan of cast.cu."""

import math

from stages.engines.cuda.launch import Launch
from stages.engines.cuda.launch_plans.machine import Machine
from stages.engines.cuda.launch_plans.plan import Choice, Plan, Specs, divide_up, is_half
from stages.inference.steps import Attributes

THREADS, MAX_BLOCKS = 256, 4096


def plan(attributes: Attributes, inputs: Specs, outputs: Specs, machine: Machine, choice: Choice) -> Plan:
    """See planner.plan."""
    count = math.prod(inputs[0].shape)
    return Plan(
        "cast.cu",
        {"TO_HALF": is_half(outputs[0]), "COUNT": count},
        (Launch("cast", (min(MAX_BLOCKS, divide_up(count, THREADS)), 1, 1), (THREADS, 1, 1), ("i0", "o0")),),
    )
