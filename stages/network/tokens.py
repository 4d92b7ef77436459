"""GroupNorm of tokens [B, S, C]. Each call is exported as one node of our operator GroupNorm."""

import torch
from torch import nn

from stages.operators import group_norm as operator

Size = tuple[int, int]
"""(height, width)."""


def normalise(
    levels: list[torch.Tensor],
    norms: list[nn.GroupNorm],
    *,
    activation: str = "none",
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """Normalise each level [B, S_l, C] by its own GroupNorm and join them to [B, S, C]; then add residual [B, S, C].

    Raises ValueError if the norms have different groups or epsilons.
    """
    scale, shift, groups, epsilon = _weights(norms)
    result: torch.Tensor = operator.group_norm(levels, scale, shift, residual, groups, epsilon, activation)
    return result


def normalise_with_pos_embed(
    levels: list[torch.Tensor], norms: list[nn.GroupNorm], pos_embed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalise as `normalise` does; return the result, and the result plus pos_embed [S, C]."""
    scale, shift, groups, epsilon = _weights(norms)
    found: tuple[torch.Tensor, torch.Tensor] = operator.group_norm_with_pos_embed(
        levels, scale, shift, pos_embed, groups, epsilon, "none"
    )
    return found


def _weights(norms: list[nn.GroupNorm]) -> tuple[torch.Tensor, torch.Tensor, int, float]:
    kinds = {(norm.num_groups, norm.eps) for norm in norms}
    if len(kinds) > 1:
        raise ValueError(
            f"variant `cuda`: found the groups and epsilons {sorted(kinds)}, expected the same in all "
            "levels; set another variant in conf/target"
        )
    ((groups, epsilon),) = kinds
    return torch.stack([n.weight for n in norms]), torch.stack([n.bias for n in norms]), groups, epsilon
