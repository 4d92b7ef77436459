"""GroupNorm and resizing of pictures as tokens [B, S, C], as nodes of our own kernels; stages/kernels."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.onnx import symbolic_helper

from stages.engines.cuda import catalog
from stages.network.linear import ACTIVATIONS

Size = tuple[int, int]
"""(height, width)."""


def normalise(
    levels: list[torch.Tensor],
    norms: list[nn.GroupNorm],
    *,
    activation: str = "none",
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """Levels [B, S_l, C], each by its own GroupNorm, in one [B, S, C], with `residual` [B, S, C] added at the end.

    Raises ValueError where the norms have different groups.
    """
    scale, shift, groups, epsilon = _weights(norms)
    result: torch.Tensor = group_norm(levels, scale, shift, residual, groups, epsilon, activation)
    return result


def normalise_and_move(
    levels: list[torch.Tensor], norms: list[nn.GroupNorm], position: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `normalise`, and the same with position [S, C] added."""
    scale, shift, groups, epsilon = _weights(norms)
    out, moved = group_norm_and_moved(levels, scale, shift, position, groups, epsilon, "none")
    return out, moved


def _weights(norms: list[nn.GroupNorm]) -> tuple[torch.Tensor, torch.Tensor, int, float]:
    kinds = {(norm.num_groups, norm.eps) for norm in norms}
    if len(kinds) > 1:
        raise ValueError(
            f"deformable_attention `kernels` normalises levels in one, found groups and epsilons {sorted(kinds)}; take "
            "another form in conf/target"
        )
    ((groups, epsilon),) = kinds
    return torch.stack([n.weight for n in norms]), torch.stack([n.bias for n in norms]), groups, epsilon


@torch.library.custom_op("stages::group_norm", mutates_args=())
def group_norm(
    levels: list[torch.Tensor],
    scale: torch.Tensor,
    shift: torch.Tensor,
    residual: torch.Tensor | None,
    groups: int,
    epsilon: float,
    activation: str,
) -> torch.Tensor:
    """See `normalise`; scale and shift [L, C]. In float32, rounded to the levels' type."""
    found = [
        F.group_norm(level.float().transpose(1, 2), groups, scale[i].float(), shift[i].float(), epsilon)
        for i, level in enumerate(levels)
    ]
    result: torch.Tensor = ACTIVATIONS[activation](torch.cat(found, 2).transpose(1, 2))
    if residual is not None:
        result = result + residual.float()
    return result.to(levels[0].dtype).contiguous()


@torch.library.custom_op("stages::group_norm_and_moved", mutates_args=())
def group_norm_and_moved(
    levels: list[torch.Tensor],
    scale: torch.Tensor,
    shift: torch.Tensor,
    position: torch.Tensor,
    groups: int,
    epsilon: float,
    activation: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `group_norm`, and the same with position [S, C] added."""
    found = group_norm(levels, scale, shift, None, groups, epsilon, activation)
    return found, (found.float() + position.float()).to(found.dtype)


@torch.library.custom_op("stages::resize", mutates_args=())
def resize(x: torch.Tensor, first: int, plane: list[int], to: list[int]) -> torch.Tensor:
    """A picture of size `plane` in rows of x [B, S, C] from `first` on, bilinearly to size `to`: [B, H * W, C]."""
    picture = x[:, first : first + plane[0] * plane[1]].float().transpose(1, 2)
    resized = F.interpolate(torch.unflatten(picture, 2, plane), size=to, mode="bilinear", align_corners=False)
    return resized.flatten(2).transpose(1, 2).to(x.dtype).contiguous()


def _group_norm_symbolic(outputs: int) -> Any:
    def symbolic(
        g: Any, levels: Any, scale: Any, shift: Any, more: Any, groups: Any, epsilon: Any, activation: Any
    ) -> Any:
        const = symbolic_helper._maybe_get_const
        extra = "position" if outputs == 2 else "" if symbolic_helper._is_none(more) else "residual"
        attributes = {
            "extras_s": extra,
            "groups_i": const(groups, "i"),
            "epsilon_f": const(epsilon, "f"),
            "activation_s": const(activation, "s"),
        }
        inputs = *symbolic_helper._unpack_list(levels), scale, shift, *([more] if extra else [])
        found = g.op(f"{catalog.DOMAIN}::GroupNorm", *inputs, outputs=outputs, **attributes)
        for output, traced in zip([found] if outputs == 1 else found, g.original_node.outputs(), strict=True):
            output.setType(traced.type())
        return found

    return symbolic


def _resize_symbolic(g: Any, x: Any, first: Any, plane: Any, to: Any) -> Any:
    const = symbolic_helper._maybe_get_const
    attributes = {"first_i": const(first, "i"), "plane_i": const(plane, "is"), "to_i": const(to, "is")}
    output = g.op(f"{catalog.DOMAIN}::Resize", x, **attributes)
    output.setType(g.original_node.output().type())
    return output


for _name, _symbolic in (
    ("group_norm", _group_norm_symbolic(1)),
    ("group_norm_and_moved", _group_norm_symbolic(2)),
    ("resize", _resize_symbolic),
):
    torch.onnx.register_custom_op_symbolic(  # type: ignore[attr-defined]  # public in its documentation
        f"stages::{_name}", _symbolic, 17
    )
