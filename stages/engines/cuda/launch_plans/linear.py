"""Launch plan of linear.cu: a block computes a tile of the product and what follows it.

If rows must be normalised, and tiles of whole rows would give too little work to each block, blocks write partial
products, split along K, and a second launch, the epilogue, does the rest.
"""

from stages.engines.cuda.launch import Launch
from stages.engines.cuda.launch_plans import linear_tiles
from stages.engines.cuda.launch_plans.machine import Machine
from stages.engines.cuda.launch_plans.plan import Choice, Plan, Specs, divide_up, is_half, require_vectors
from stages.inference.steps import Attributes

ARGUMENTS = ("bias", "weight_row_sums", "residual", "scale", "shift", "pos_embed")
"""Arguments of the functions after x and weight; the optional inputs of the operator."""
ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2}
WINDOWS = {"none": 0, "patch_merging": 2, "conv3x3": 3}
"""Ways to gather tokens -> rows and columns of the window that a row of the product is made of."""


def choices(attributes: Attributes, inputs: Specs, outputs: Specs, machine: Machine) -> list[Choice]:
    """See planner.choices. The order in which sums are formed depends on SPLIT_K and WGMMA."""
    return [tile.choice() for tile in linear_tiles.tiles(_layer(attributes, inputs, outputs), machine)]


def _layer(attributes: Attributes, inputs: Specs, outputs: Specs) -> linear_tiles.Layer:
    (x, weight, *_), names = inputs, attributes.names("optional_inputs")
    (columns, depth), rows = weight.shape[-2:], outputs[0].shape[1]
    pre_norm, post_norm = "weight_row_sums" in names, "scale" in names
    return linear_tiles.Layer(x.shape[0], rows, columns, depth, is_half(x), pre_norm, post_norm)


def plan(attributes: Attributes, inputs: Specs, outputs: Specs, machine: Machine, choice: Choice) -> Plan:
    """See planner.plan."""
    (x, weight, *_), half = inputs, is_half(inputs[0])
    names, plane = attributes.names("optional_inputs"), attributes.integers("plane")
    (images, image_rows, stride), (columns, depth) = x.shape, weight.shape[-2:]
    rows = outputs[0].shape[1]
    require_vectors("Linear", x, depth, stride)
    post_norm, pos_embed = "scale" in names, "pos_embed" in names
    tile = linear_tiles.parse(choice)
    # Whether the epilogue is a launch of its own.
    epilogue, split_k = bool(tile.split_k), max(1, tile.split_k)
    places = {name: f"i{i + 2}" for i, name in enumerate(names)}
    arguments = ("i0", "i1", *(places.get(name, "i0") for name in ARGUMENTS), "o0")
    arguments += ("o1" if pos_embed else "o0", "w0" if epilogue else "o0")
    launches = [
        Launch(
            "linear",
            (divide_up(columns, tile.columns), divide_up(rows, tile.rows), images * split_k),
            (tile.threads if half else 256, 1, 1),
            arguments,
            tile.shared_bytes if half else 0,
        )
    ]
    if epilogue:
        launches.append(Launch("epilogue", (divide_up(images * rows, 4), 1, 1), (128, 1, 1), arguments))
    return Plan(
        "linear.cu",
        {
            "HALF": half,
            "IMAGES": images,
            "IMAGE_ROWS": image_rows,
            "FIRST_ROW": attributes.integer("first_row"),
            "ROWS": rows,
            "COLUMNS": columns,
            "DEPTH": depth,
            "STRIDE": stride,
            "BATCHED": len(weight.shape) == 3,
            "ROW_CONSTANT": stride > depth,
            "GATHER": WINDOWS[attributes.choice("gather", WINDOWS)],
            "PLANE_H": plane[0] if plane else 0,
            "PLANE_W": plane[1] if plane else 0,
            "PRE_NORM": "weight_row_sums" in names,
            "BIAS": "bias" in names,
            "ACTIVATION": ACTIVATIONS[attributes.choice("activation", ACTIVATIONS)],
            "RESIDUAL": "residual" in names,
            "POST_NORM": post_norm,
            "POS_EMBED": pos_embed,
            "EPSILON": attributes.number("epsilon"),
            "TILE_M": tile.rows,
            "TILE_N": tile.columns,
            "WARPS_M": tile.warps_m,
            "WARPS_N": tile.warps_n,
            "STAGES": tile.stages,
            "BLOCKS": tile.blocks,
            "WGMMA": tile.wgmma,
            "SPLIT_K": split_k,
            "EPILOGUE": epilogue,
        },
        tuple(launches),
        workspace_bytes=(4 * split_k * images * rows * columns,) if epilogue else (),
    )
