"""Launch plan of patch_embedding.cu: a block computes TILE neighbouring patches of a row."""

from stages.engines.cuda.launch import MAX_THREADS, Launch
from stages.engines.cuda.launch_plans.machine import Machine
from stages.engines.cuda.launch_plans.plan import (
    MAX_DYNAMIC_SHARED_BYTES,
    Choice,
    Plan,
    Specs,
    divide_up,
    is_half,
    require_vectors,
    vector_size,
)
from stages.inference.steps import Attributes

TILES = (64, 32, 16, 8)
"""Patches of a block, the fastest first: as many as shared memory and threads allow."""
OWN = 8
"""Patches of which a thread computes some channels."""


def choices(attributes: Attributes, inputs: Specs, outputs: Specs, machine: Machine) -> list[Choice]:
    """See planner.choices."""
    values, channels = inputs[1].shape
    groups = channels // vector_size(is_half(inputs[1]))
    fitting = [tile for tile in TILES if _fits(tile, values, channels, groups)]
    return [{"TILE": tile} for tile in fitting or [0]]


def plan(attributes: Attributes, inputs: Specs, outputs: Specs, machine: Machine, choice: Choice) -> Plan:
    """See planner.plan."""
    (frame, weight, *others), half = inputs, is_half(inputs[1])
    (values, channels), patch = weight.shape, attributes.integer("patch")
    require_vectors("PatchEmbedding", weight, channels)
    groups = channels // vector_size(half)
    tile = choice["TILE"]
    if not tile or groups > values:
        raise ValueError(
            f"variant `cuda` can't serve patches of {patch} with {channels} channels in {weight.dtype}: shared memory "
            "is too small; set another variant in conf/target"
        )
    batch, frame_h, frame_w, _ = frame.shape
    (height, width), used = attributes.integers("input_size", 2), attributes.integers("used_size", 2)
    colours = {name: attributes.numbers(name.lower(), 3) for name in ("MEAN", "STD")}
    optional = ("i3", "i4") if len(others) == 3 else ("i2", "i2")
    return Plan(
        "patch_embedding.cu",
        {
            "HALF": half,
            "CHANNELS": channels,
            "PATCH": patch,
            "FRAME_H": frame_h,
            "FRAME_W": frame_w,
            "USED_H": used[0],
            "USED_W": used[1],
            "INPUT_H": height,
            "INPUT_W": width,
            **{name: ",".join(f"{number!r}f" for number in numbers) for name, numbers in colours.items()},
            "NORM": len(others) == 3,
            "EPSILON": attributes.number("epsilon"),
            "TILE": tile,
        },
        (
            Launch(
                "patch_embedding",
                (divide_up(width // patch, tile), height // patch, batch),
                (groups * tile // OWN, 1, 1),
                ("i0", "i1", "i2", *optional, "o0"),
                _shared_bytes(tile, values, channels),
            ),
        ),
    )


def _shared_bytes(tile: int, values: int, channels: int) -> int:
    """The weights and the pixels of a tile, as float32."""
    return 4 * values * (channels + tile + 4)


def _fits(tile: int, values: int, channels: int, groups: int) -> bool:
    return _shared_bytes(tile, values, channels) <= MAX_DYNAMIC_SHARED_BYTES and groups * tile // OWN <= MAX_THREADS
