"""Linear layers of the network with kernels of ours, each exported as one node of the operator Linear."""

import torch
from torch import nn

from stages.operators import linear as operator


class Linear:
    """A linear layer: post_norm(activation(pre_norm(x) @ weight.T + bias) + residual)."""

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        pre_norm: nn.LayerNorm | None = None,
        activation: str = "none",
        post_norm: nn.LayerNorm | None = None,
    ) -> None:
        """Take weight [N, K] and bias [N]. Gains and shifts of pre_norm are folded into both."""
        self.weight, self.activation = weight, activation
        self.optional: dict[str, torch.Tensor] = {} if bias is None else {"bias": bias}
        norm = pre_norm or post_norm
        self.epsilon = norm.eps if norm else 0.0
        if pre_norm:
            shifted = weight @ pre_norm.bias
            self.weight = weight * pre_norm.weight
            folded = shifted if bias is None else bias + shifted
            self.optional = {"bias": folded, "weight_row_sums": self.weight.sum(-1)}
        if post_norm:
            self.optional |= {"scale": post_norm.weight, "shift": post_norm.bias}
        # A constant of a traced graph has no gradient.
        self.weight = self.weight.detach()
        self.optional = {name: tensor.detach() for name, tensor in self.optional.items()}

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor | None = None, first_row: int = 0, rows: int | None = None
    ) -> torch.Tensor:
        """[B, S, K] -> [B, rows, N], from the rows of x that begin at first_row; all rows unless given."""
        return self._apply(x, residual, first_row, int(x.shape[1]) if rows is None else rows, "none", [])

    def patch_merging(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """[B, height * width, K / 4] -> [B, ceil(height / 2) * ceil(width / 2), N], from 2 x 2 tokens each."""
        return self._apply(x, None, 0, -(-height // 2) * -(-width // 2), "patch_merging", [height, width])

    def conv3x3(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """[B, height * width, K / 9] -> [B, height * width, N], from the 3 x 3 tokens around each."""
        return self._apply(x, None, 0, height * width, "conv3x3", [height, width])

    def with_pos_embed(
        self, x: torch.Tensor, pos_embed: torch.Tensor, residual: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, S, K] -> [B, S, N], and the same with pos_embed [S, N] added."""
        options = self.activation, self.epsilon, 0, int(x.shape[1]), "none", list[int]()
        found: tuple[torch.Tensor, torch.Tensor] = operator.linear_with_pos_embed(
            x, self.weight, *self._optional(residual), pos_embed, *options
        )
        return found

    def _apply(
        self, x: torch.Tensor, residual: torch.Tensor | None, first_row: int, rows: int, gather: str, plane: list[int]
    ) -> torch.Tensor:
        options = self.activation, self.epsilon, first_row, rows, gather, plane
        result: torch.Tensor = operator.linear(x, self.weight, *self._optional(residual), None, *options)
        return result

    def _optional(self, residual: torch.Tensor | None) -> list[torch.Tensor | None]:
        """The optional inputs but for pos_embed, which is the last."""
        given = {**self.optional, "residual": residual}
        return [given.get(name) for name in operator.OPTIONAL_INPUTS[:-1]]


def products(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[B, R, K + 8] and [B, N, K] -> [B, R, N]: products of rows, with column K of x added to each value of its row."""
    nothing = [None] * len(operator.OPTIONAL_INPUTS)
    result: torch.Tensor = operator.linear(x, weight, *nothing, "none", 0.0, 0, int(x.shape[1]), "none", [])
    return result
