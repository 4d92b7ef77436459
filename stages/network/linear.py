"""Linear layers of the network with our kernels. Each is exported as one node of our operator Linear."""

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
        """Take weight [N, K] and bias [N]. Scale and shift of pre_norm are folded into them."""
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
        """Apply the layer to `rows` rows of x from first_row on, by default all: [B, S, K] -> [B, rows, N]."""
        return self._apply(x, residual, first_row, int(x.shape[1]) if rows is None else rows, "none", [])

    def patch_merging(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Apply the layer to each 2 x 2 tokens.

        [B, height * width, K / 4] -> [B, ceil(height / 2) * ceil(width / 2), N].
        """
        return self._apply(x, None, 0, -(-height // 2) * -(-width // 2), "patch_merging", [height, width])

    def conv3x3(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Apply the layer to the 3 x 3 tokens around each: [B, height * width, K / 9] -> [B, height * width, N]."""
        return self._apply(x, None, 0, height * width, "conv3x3", [height, width])

    def with_pos_embed(
        self, x: torch.Tensor, pos_embed: torch.Tensor, residual: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply the layer, [B, S, K] -> [B, S, N]; return the result, and the result plus pos_embed [S, N]."""
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
        """Return the optional inputs in order, without the last one, pos_embed."""
        given = {**self.optional, "residual": residual}
        return [given.get(name) for name in operator.OPTIONAL_INPUTS[:-1]]


def products(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Multiply rows of x, [B, R, K + 8], by rows of weight, [B, N, K]: [B, R, N].

    Column K of x is added to each value of its row. The seven columns after it are padding.
    """
    nothing = [None] * len(operator.OPTIONAL_INPUTS)
    result: torch.Tensor = operator.linear(x, weight, *nothing, "none", 0.0, 0, int(x.shape[1]), "none", [])
    return result
