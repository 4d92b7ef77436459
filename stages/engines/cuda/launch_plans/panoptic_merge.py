"""Launch plan of panoptic_merge.cu: select queries, let each pixel vote for one, write the segments' ids."""

from stages.engines.cuda.launch import Launch
from stages.engines.cuda.launch_plans.plan import Plan, Specs, divide_up, is_half
from stages.inference.steps import Attributes

VOTE_ROWS = 8
"""Rows of the 32 x VOTE_ROWS pixels of a block that votes."""
LABEL_PIXELS = 16
"""Pixels of each thread that writes ids."""


def plan(attributes: Attributes, inputs: Specs, outputs: Specs, compute_capability: str) -> Plan:
    """See planner.plan."""
    class_logits, mask_logits = inputs
    batch, queries, _ = mask_logits.shape
    sizes = {"LOW": "mask_size", "IN": "input_size", "USED": "used_size"}
    height, width = attributes.integers("frame_size", 2)
    return Plan(
        "panoptic_merge.cu",
        {
            "HALF": is_half(class_logits),
            "QUERIES": queries,
            "CLASSES": class_logits.shape[2] - 1,
            "THINGS": attributes.integer("things"),
            **{
                f"{name}_{axis}": size
                for name, attribute in sizes.items()
                for axis, size in zip("HW", attributes.integers(attribute, 2), strict=True)
            },
            "H": height,
            "W": width,
            "SCORE_THRESHOLD": attributes.number("score_threshold"),
            "OVERLAP_THRESHOLD": attributes.number("overlap_threshold"),
        },
        (
            Launch("select_queries", (batch, 1, 1), (1024, 1, 1), ("i0", "w0", "o2", "o3")),
            Launch(
                "vote",
                (divide_up(width, 32), divide_up(height, VOTE_ROWS), batch),
                (32, VOTE_ROWS, 1),
                ("i1", "o2", "w0", "o0"),
            ),
            Launch(
                "label",
                (divide_up(height * width, 256 * LABEL_PIXELS), batch, 1),
                (256, 1, 1),
                ("w0", "o3", "o0", "o1"),
            ),
        ),
        # The struct Counts of the source.
        workspace_bytes=(4 * (4 * queries + 1) * batch,),
    )
