"""Launch plans of all kernels: from a call's attributes and tensors and a GPU to launches."""

from collections.abc import Callable
from dataclasses import dataclass

from stages.engines.cuda.launch_plans import (
    cast,
    deformable_attention,
    group_norm,
    linear,
    masked_attention,
    merges,
    patch_embedding,
    resize,
    window_attention,
)
from stages.engines.cuda.launch_plans.machine import Machine
from stages.engines.cuda.launch_plans.plan import Choice, Plan, Specs
from stages.inference.steps import Attributes, KernelCall


def _nothing(attributes: Attributes, inputs: Specs, outputs: Specs, machine: Machine) -> list[Choice]:
    return [{}]


@dataclass(frozen=True)
class Planner:
    """Plans one operator, from its attributes, the specs of its inputs and outputs, and a GPU."""

    plan: Callable[[Attributes, Specs, Specs, Machine, Choice], Plan]
    choices: Callable[[Attributes, Specs, Specs, Machine], list[Choice]] = _nothing


PLANNERS = {
    "Cast": Planner(cast.plan),
    "DeformableAttention": Planner(deformable_attention.plan, deformable_attention.choices),
    "GroupNorm": Planner(group_norm.plan, group_norm.choices),
    "InstanceMerge": Planner(merges.instance),
    "Linear": Planner(linear.plan, linear.choices),
    "MaskedAttention": Planner(masked_attention.plan, masked_attention.choices),
    "PanopticMerge": Planner(merges.panoptic),
    "PatchEmbedding": Planner(patch_embedding.plan, patch_embedding.choices),
    "Resize": Planner(resize.plan),
    "SemanticMerge": Planner(merges.semantic),
    "WindowAttention": Planner(window_attention.plan),
}
"""Operator -> its planner."""


def choices(call: KernelCall, machine: Machine) -> list[Choice]:
    """What a plan of a call may choose: the default first, then what `make tune` measures. Raises as `plan`."""
    return _planner(call).choices(call.attributes, call.input_specs, call.output_specs, machine)


def plan(call: KernelCall, machine: Machine, choice: Choice | None = None) -> Plan:
    """The launch plan of a call on GPUs, with one of its `choices` or the default.

    Raises ValueError where there is no kernel for the operator, or where it can't serve these tensors.
    """
    chosen = choices(call, machine)[0] if choice is None else choice
    return _planner(call).plan(call.attributes, call.input_specs, call.output_specs, machine, chosen)


def _planner(call: KernelCall) -> Planner:
    if call.operator not in PLANNERS:
        raise ValueError(f"found {call.operator}, expected one of {', '.join(PLANNERS)}; run `dvc repro` again")
    return PLANNERS[call.operator]
