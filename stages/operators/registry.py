"""All ONNX operators of our domain, by name."""

from collections.abc import Sequence

import torch

from stages.inference.steps import Attributes, TensorSpec
from stages.operators import (
    cast,
    deformable_attention,
    group_norm,
    instance_merge,
    linear,
    masked_attention,
    panoptic_merge,
    patch_embedding,
    resize,
    semantic_merge,
    window_attention,
)
from stages.operators.schema import DOMAIN, Operator

_MODULES = (
    cast,
    deformable_attention,
    group_norm,
    instance_merge,
    linear,
    masked_attention,
    panoptic_merge,
    patch_embedding,
    resize,
    semantic_merge,
    window_attention,
)
OPERATORS: dict[str, Operator] = {module.OPERATOR.name: module.OPERATOR for module in _MODULES}


def output_specs(name: str, attributes: Attributes, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Shapes and types of a node's outputs. Raises ValueError for an unknown operator or a node that breaks a rule."""
    return _operator(name).output_specs(attributes, inputs)


def compute(name: str, attributes: Attributes, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Compute a node's outputs with PyTorch. Raises ValueError for an unknown operator."""
    return _operator(name).compute(attributes, inputs)


def _operator(name: str) -> Operator:
    if name not in OPERATORS:
        raise ValueError(f"the domain {DOMAIN} has the operators {', '.join(OPERATORS)}, found {name}")
    return OPERATORS[name]
