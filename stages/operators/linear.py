"""Linear: a linear layer together with the normalisations, the activation and the sums before and after it.

out = post_norm(activation(pre_norm(x) @ weight.T + bias) + residual). The inputs are x [B, S, W], weight [N, K], or
[B, N, K] for a weight of each image, and those of OPTIONAL_INPUTS that the attribute `optional_inputs` names:
- bias [N].
- weight_row_sums [N]: with it x is normalised over its channels before the product. Gains and shifts of that
  LayerNorm are already in weight and bias; the sums of weight's rows let a kernel apply mean and deviation afterwards.
- residual [B, R, N].
- scale and shift [N]: gains and shifts of a LayerNorm after all of that.
- pos_embed [R, N]: with it there is a second output, the first with pos_embed added.
Where W > K, column K of x is added to each value of its row.

Attributes: optional_inputs, names with commas between them; activation; epsilon of the LayerNorm; first_row, the row of
x to begin with; rows R; gather, and with it plane, height and width of a picture whose tokens x has:
- none: a row of the product is a row of x.
- patch_merging: a row is made of 2 x 2 tokens, the upper left, lower left, upper right and lower right, K = 4 * W.
- conv3x3: a row is made of the 3 x 3 tokens around each token, row by row, K = 9 * W.
Tokens beyond the picture are zeros. Output: [B, R, N].
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from stages.inference.steps import Attributes, TensorSpec
from stages.operators import schema

NAME = "Linear"
OPTIONAL_INPUTS = ("bias", "weight_row_sums", "residual", "scale", "shift", "pos_embed")
"""In the order in which they follow x and weight."""
GATHERS = ("none", "patch_merging", "conv3x3")


def gather_tokens(x: torch.Tensor, gather: str, height: int, width: int) -> torch.Tensor:
    """[B, height * width, C] -> [B, rows, 4 * C or 9 * C], by patch_merging or conv3x3; see the module."""
    plane = x.view(x.shape[0], height, width, -1)
    if gather == "patch_merging":
        plane = F.pad(plane, (0, 0, 0, width % 2, 0, height % 2))
        found = [plane[:, down::2, right::2] for right in (0, 1) for down in (0, 1)]
    else:
        plane = F.pad(plane, (0, 0, 1, 1, 1, 1))
        found = [plane[:, down : down + height, right : right + width] for down in range(3) for right in range(3)]
    return torch.cat(found, -1).flatten(1, 2)


@torch.library.custom_op(f"{schema.DOMAIN}::linear", mutates_args=())
def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    weight_row_sums: torch.Tensor | None,
    residual: torch.Tensor | None,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    pos_embed: torch.Tensor | None,
    activation: str,
    epsilon: float,
    first_row: int,
    rows: int,
    gather: str,
    plane: list[int],
) -> torch.Tensor:
    """Compute the operator's first output in float32 and round to the type of x. pos_embed is not used here."""
    if gather != "none":
        x = gather_tokens(x, gather, *plane)
    depth, taken = weight.shape[-1], x[:, first_row : first_row + rows].float()
    used = taken[..., :depth]
    if weight_row_sums is not None:
        used = F.layer_norm(used, (depth,), eps=epsilon)
    found = used @ weight.float().transpose(-2, -1)
    if bias is not None:
        found = found + bias.float()
    if taken.shape[-1] > depth:
        found = found + taken[..., depth : depth + 1]
    found = schema.ACTIVATIONS[activation](found)
    if residual is not None:
        found = found + residual.float()
    if scale is not None and shift is not None:
        found = F.layer_norm(found, found.shape[-1:], scale.float(), shift.float(), epsilon)
    return found.to(x.dtype)


@torch.library.custom_op(f"{schema.DOMAIN}::linear_with_pos_embed", mutates_args=())
def linear_with_pos_embed(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    weight_row_sums: torch.Tensor | None,
    residual: torch.Tensor | None,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    pos_embed: torch.Tensor,
    activation: str,
    epsilon: float,
    first_row: int,
    rows: int,
    gather: str,
    plane: list[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute both outputs of the operator with pos_embed."""
    inputs = x, weight, bias, weight_row_sums, residual, scale, shift, None
    found = linear(*inputs, activation, epsilon, first_row, rows, gather, plane)
    return found, (found.float() + pos_embed.float()).to(x.dtype)


def output_specs(attributes: Attributes, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """See Operator.output_specs."""
    names, gather, plane = attributes.names("optional_inputs"), attributes.text("gather"), attributes.integers("plane")
    rules = {
        f"optional_inputs among {', '.join(OPTIONAL_INPUTS)}, in this order": names
        == [name for name in OPTIONAL_INPUTS if name in names],
        f"gather one of {', '.join(GATHERS)}": gather in GATHERS,
        "a plane of height and width if gather is not none, else no plane": len(plane)
        == (0 if gather == "none" else 2),
        "x, weight and the optional inputs": len(inputs) == 2 + len(names),
        f"activation one of {', '.join(schema.ACTIVATIONS)}": attributes.text("activation") in schema.ACTIVATIONS,
    }
    schema.require(NAME, rules, attributes, inputs)
    (x, weight, *others), ranks = inputs, {"residual": 3, "pos_embed": 2}
    schema.require_inputs(NAME, inputs, [3, 3 if len(weight.shape) == 3 else 2, *(ranks.get(n, 1) for n in names)])
    (batch, image_rows, stride), (columns, depth) = x.shape, weight.shape[-2:]
    first_row, rows = attributes.integer("first_row"), attributes.integer("rows")
    shapes = {"residual": (batch, rows, columns), "pos_embed": (rows, columns)}
    rules = {
        "one normalisation, before or after": not ("weight_row_sums" in names and "scale" in names),
        "scale and shift together": ("scale" in names) == ("shift" in names),
        "a weight for each image or for all": len(weight.shape) == 2 or weight.shape[0] == batch,
        "rows and columns that x has": gather != "none"
        or (first_row >= 0 and first_row + rows <= image_rows and depth <= stride),
        "all of a plane's tokens": gather == "none"
        or [first_row, rows, depth, image_rows] == [0, *_gathered(gather, plane, stride), plane[0] * plane[1]],
        "optional inputs of the output's columns and rows": all(
            spec.shape == shapes.get(name, (columns,)) for name, spec in zip(names, others, strict=True)
        ),
    }
    schema.require(NAME, rules, attributes, inputs)
    return (TensorSpec((batch, rows, columns), x.dtype),) * (2 if "pos_embed" in names else 1)


def _gathered(gather: str, plane: Sequence[int], channels: int) -> tuple[int, int]:
    """Rows and columns of the tokens that `gather_tokens` makes."""
    height, width = plane
    if gather == "patch_merging":
        return -(-height // 2) * -(-width // 2), 4 * channels
    return height * width, 9 * channels


def _compute(attributes: Attributes, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    x, weight, *others = inputs
    given = dict(zip(attributes.names("optional_inputs"), others, strict=True))
    first = [given.get(name) for name in OPTIONAL_INPUTS[:-1]]
    options = (
        attributes.text("activation"),
        attributes.number("epsilon"),
        attributes.integer("first_row"),
        attributes.integer("rows"),
        attributes.text("gather"),
        attributes.integers("plane"),
    )
    if "pos_embed" in given:
        out, with_pos_embed = linear_with_pos_embed(x, weight, *first, given["pos_embed"], *options)
        return out, with_pos_embed
    return (linear(x, weight, *first, None, *options),)


def _to_node(x: torch.Value, weight: torch.Value, *arguments: torch.Value) -> schema.NodeParts:
    count = len(OPTIONAL_INPUTS)
    given = {
        name: value for name, value in zip(OPTIONAL_INPUTS, arguments[:count], strict=True) if not schema.is_none(value)
    }
    activation, epsilon, first_row, rows, gather, plane = arguments[count:]
    attributes = {
        "optional_inputs_s": ",".join(given),
        "activation_s": schema.constant(activation, "s"),
        "epsilon_f": schema.constant(epsilon, "f"),
        "first_row_i": schema.constant(first_row, "i"),
        "rows_i": schema.constant(rows, "i"),
        "gather_s": schema.constant(gather, "s"),
        "plane_i": schema.constant(plane, "is"),
    }
    return [x, weight, *given.values()], attributes


schema.export_as(NAME, "linear", _to_node)
schema.export_as(NAME, "linear_with_pos_embed", _to_node, outputs=2)
OPERATOR = schema.Operator(NAME, output_specs, _compute)
