"""A linear layer with what stands before and after it, as a node of our own kernel, linear.cu."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.onnx import symbolic_helper

from stages.engines.cuda import catalog

ACTIVATIONS = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}


class Linear:
    """A linear layer: out = [normalise after] of activation(weight * [normalise before](x) + bias) + residual."""

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        before: nn.LayerNorm | None = None,
        activation: str = "none",
        after: nn.LayerNorm | None = None,
    ) -> None:
        """Take weight [N, K] and bias [N]; `before` goes into both, but for its means and deviations."""
        self.weight, self.activation = weight, activation
        self.extras: dict[str, torch.Tensor] = {} if bias is None else {"bias": bias}
        norm = before or after
        self.epsilon = norm.eps if norm else 0.0
        if before:
            shifted = weight @ before.bias
            self.weight = weight * before.weight
            self.extras = {"bias": shifted if bias is None else bias + shifted, "sums": self.weight.sum(-1)}
        if after:
            self.extras |= {"scale": after.weight, "shift": after.bias}
        # A constant of a traced graph has no gradient.
        self.weight = self.weight.detach()
        self.extras = {name: tensor.detach() for name, tensor in self.extras.items()}

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor | None = None, first: int = 0, rows: int | None = None
    ) -> torch.Tensor:
        """[B, S, K] -> [B, rows, N] of the rows from `first` on, all unless said otherwise."""
        result: torch.Tensor = linear(x, *self._arguments(x, {"residual": residual}, first, rows))
        return result

    def of_patches(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """[B, height * width, K / 4] -> [B, ceil(height / 2) * ceil(width / 2), N], of 2 x 2 tokens each."""
        rows = -(-height // 2) * -(-width // 2)
        result: torch.Tensor = linear(x, *self._arguments(x, {}, 0, rows, [height, width, 2]))
        return result

    def of_neighbours(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """[B, height * width, K / 9] -> [B, height * width, N], of the 3 x 3 tokens around each."""
        result: torch.Tensor = linear(x, *self._arguments(x, {}, 0, None, [height, width, 3]))
        return result

    def moved(
        self, x: torch.Tensor, position: torch.Tensor, residual: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, S, K] -> [B, S, N], and the same with position [S, N] added."""
        extras = {"residual": residual, "position": position}
        out, moved = linear_and_moved(x, *self._arguments(x, extras, 0, None))
        return out, moved

    def _arguments(
        self,
        x: torch.Tensor,
        more: dict[str, torch.Tensor | None],
        first: int,
        rows: int | None,
        plane: Sequence[int] = (),
    ) -> Any:
        given = self.extras | more
        options = self.activation, self.epsilon, first, int(x.shape[1]) if rows is None else rows, list(plane)
        return self.weight, *(given.get(name) for name in catalog.EXTRAS), *options


def patches(x: torch.Tensor, height: int, width: int, window: int) -> torch.Tensor:
    """[B, height * width, C] -> [B, patches, window * window * C]; see `linear`."""
    plane = x.view(x.shape[0], height, width, -1)
    if window == 2:
        plane = F.pad(plane, (0, 0, 0, width % 2, 0, height % 2))
        found = [plane[:, down::2, right::2] for right in (0, 1) for down in (0, 1)]
    else:
        assert window == 3, window
        plane = F.pad(plane, (0, 0, 1, 1, 1, 1))
        found = [plane[:, down : down + height, right : right + width] for down in range(3) for right in range(3)]
    return torch.cat(found, -1).flatten(1, 2)


def products(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[B, R, K + 8] and [B, N, K] -> [B, R, N]: products of rows, with column K of x added to each of its row."""
    nothing = [None] * len(catalog.EXTRAS)
    result: torch.Tensor = linear(x, weight, *nothing, "none", 0.0, 0, int(x.shape[1]), [])
    return result


@torch.library.custom_op("stages::linear", mutates_args=())
def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    sums: torch.Tensor | None,
    residual: torch.Tensor | None,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    position: torch.Tensor | None,
    activation: str,
    epsilon: float,
    first: int,
    rows: int,
    plane: list[int],
) -> torch.Tensor:
    """Rows of x [B, S, W] times weight [N, K] or [B, N, K], with what stands before and after -> [B, rows, N].

    bias [N]; sums [N] of weight's rows, if x is to be normalised over its channels; residual [B, rows, N]; scale and
    shift [N], if the sum is to be normalised; position is not used here. Where W > K, column K of x is added to its
    row. With `plane`, height and width of a picture and 2 or 3, x is its tokens, and a row is made of neighbours, with
    zeros beyond the picture: of 2, the upper left, lower left, upper right and lower right of each 2 x 2; of 3, the
    3 x 3 around each token, row by row. In float32, rounded to x's type.
    """
    if plane:
        x = patches(x, *plane)
    depth, seen = weight.shape[-1], x[:, first : first + rows].float()
    used = seen[..., :depth]
    if sums is not None:
        used = F.layer_norm(used, (depth,), eps=epsilon)
    found = used @ weight.float().transpose(-2, -1)
    if bias is not None:
        found = found + bias.float()
    if seen.shape[-1] > depth:
        found = found + seen[..., depth : depth + 1]
    found = ACTIVATIONS[activation](found)
    if residual is not None:
        found = found + residual.float()
    if scale is not None and shift is not None:
        found = F.layer_norm(found, found.shape[-1:], scale.float(), shift.float(), epsilon)
    return found.to(x.dtype)


@torch.library.custom_op("stages::linear_and_moved", mutates_args=())
def linear_and_moved(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    sums: torch.Tensor | None,
    residual: torch.Tensor | None,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    position: torch.Tensor,
    activation: str,
    epsilon: float,
    first: int,
    rows: int,
    plane: list[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `linear`, and the same with position [rows, N] added."""
    found = linear(x, weight, bias, sums, residual, scale, shift, None, activation, epsilon, first, rows, plane)
    return found, (found.float() + position.float()).to(x.dtype)


def _symbolic(outputs: int) -> Any:
    def symbolic(g: Any, x: Any, weight: Any, *arguments: Any) -> Any:
        count = len(catalog.EXTRAS)
        given = {
            name: value
            for name, value in zip(catalog.EXTRAS, arguments[:count], strict=True)
            if not symbolic_helper._is_none(value)
        }
        const = symbolic_helper._maybe_get_const
        activation, epsilon, first, rows, plane = arguments[count:]
        attributes = {
            "extras_s": ",".join(given),
            "activation_s": const(activation, "s"),
            "epsilon_f": const(epsilon, "f"),
            "first_i": const(first, "i"),
            "rows_i": const(rows, "i"),
            "plane_i": const(plane, "is"),
        }
        inputs = x, weight, *given.values()
        found = g.op(f"{catalog.DOMAIN}::Linear", *inputs, outputs=outputs, **attributes)
        for output, traced in zip([found] if outputs == 1 else found, g.original_node.outputs(), strict=True):
            output.setType(traced.type())
        return found

    return symbolic


for _name, _outputs in (("linear", 1), ("linear_and_moved", 2)):
    torch.onnx.register_custom_op_symbolic(  # type: ignore[attr-defined]  # public in its documentation
        f"stages::{_name}", _symbolic(_outputs), 17
    )
