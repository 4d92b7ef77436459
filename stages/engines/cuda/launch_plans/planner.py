"""Launch plans of all kernels: from a call's attributes and tensors and a compute capability to launches on a GPU."""

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
from stages.engines.cuda.launch_plans.plan import Plan
from stages.inference.steps import KernelCall

PLANNERS = {
    "Cast": cast.plan,
    "DeformableAttention": deformable_attention.plan,
    "GroupNorm": group_norm.plan,
    "InstanceMerge": merges.instance,
    "Linear": linear.plan,
    "MaskedAttention": masked_attention.plan,
    "PanopticMerge": merges.panoptic,
    "PatchEmbedding": patch_embedding.plan,
    "Resize": resize.plan,
    "SemanticMerge": merges.semantic,
    "WindowAttention": window_attention.plan,
}
"""Operator -> function from attributes, input and output specs, and a compute capability such as 8.6 to a Plan."""


def plan(call: KernelCall, compute_capability: str) -> Plan:
    """The launch plan of a call on GPUs of one compute capability; "" for PTX, which runs on several.

    Raises ValueError where there is no kernel for the operator, or where it can't serve these tensors.
    """
    if call.operator not in PLANNERS:
        raise ValueError(f"found {call.operator}, expected one of {', '.join(PLANNERS)}; run `dvc repro` again")
    return PLANNERS[call.operator](call.attributes, call.input_specs, call.output_specs, compute_capability)
