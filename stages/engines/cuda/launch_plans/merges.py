"""Launch plans of the three merges: panoptic_merge.cu, semantic_merge.cu and instance_merge.cu."""

from stages.engines.cuda.launch import MAX_THREADS, Launch
from stages.engines.cuda.launch_plans.machine import Machine
from stages.engines.cuda.launch_plans.plan import Choice, Plan, Specs, divide_up, is_half, require_fit
from stages.inference.steps import Attributes

VOTE_ROWS = 8
"""Rows of the 32 x VOTE_ROWS pixels of a block that votes."""
LABEL_PIXELS = 16
"""Pixels of each thread that writes ids."""
CLASSIFY_ROWS, CLASSIFY_QUERIES, OWN = 4, 16, 8
"""Of semantic_merge.cu: rows of a block's 32 pixels, queries in shared memory at once, and the pixels and classes of
which a thread forms the sums."""
MASK_THREADS = 256
"""Threads of a block that writes masks, each a byte of eight pixels."""


def panoptic(attributes: Attributes, inputs: Specs, outputs: Specs, machine: Machine, choice: Choice) -> Plan:
    """Select queries, let each pixel vote for one, write the segments' ids; see planner.plan."""
    batch, queries, _ = inputs[1].shape
    height, width = attributes.integers("frame_size", 2)
    return Plan(
        "panoptic_merge.cu",
        {
            **_defines(attributes, inputs),
            "THINGS": attributes.integer("things"),
            "SCORE_THRESHOLD": attributes.number("score_threshold"),
            "OVERLAP_THRESHOLD": attributes.number("overlap_threshold"),
        },
        (
            Launch("select_queries", (batch, 1, 1), (MAX_THREADS, 1, 1), ("i0", "w0", "o2", "o3")),
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


def semantic(attributes: Attributes, inputs: Specs, outputs: Specs, machine: Machine, choice: Choice) -> Plan:
    """Compute the classes' probabilities, then the best class of each pixel; see planner.plan."""
    batch, queries, _ = inputs[1].shape
    height, width = attributes.integers("frame_size", 2)
    defines, pixels = _defines(attributes, inputs), 32 * CLASSIFY_ROWS
    groups = divide_up(int(defines["CLASSES"]), OWN)
    threads = divide_up(groups * pixels // OWN, pixels) * pixels
    shared_bytes = 4 * CLASSIFY_QUERIES * (pixels + groups * OWN) + 5 * groups * pixels
    require_fit(f"{defines['CLASSES']} classes", shared_bytes, threads)
    return Plan(
        "semantic_merge.cu",
        {**defines, "THREADS": threads},
        (
            Launch("class_probabilities", (divide_up(queries, 8), batch, 1), (256, 1, 1), ("i0", "w0")),
            Launch(
                "classify",
                (divide_up(width, 32), divide_up(height, CLASSIFY_ROWS), batch),
                (threads, 1, 1),
                ("i1", "w0", "o0"),
            ),
        ),
        workspace_bytes=(4 * batch * queries * groups * OWN,),
    )


def instance(attributes: Attributes, inputs: Specs, outputs: Specs, machine: Machine, choice: Choice) -> Plan:
    """Select pairs of query and class, write their masks, compute their scores; see planner.plan."""
    batch, queries, columns = inputs[0].shape
    top_k, (height, width) = attributes.integer("top_k"), attributes.integers("frame_size", 2)
    blocks = divide_up(height * divide_up(width, 8), MASK_THREADS)
    return Plan(
        "instance_merge.cu",
        {**_defines(attributes, inputs), "TOP_K": top_k, "THREADS": MASK_THREADS},
        (
            Launch("select_pairs", (batch, 1, 1), (MAX_THREADS, 1, 1), ("i0", "w0", "w1", "w2", "o2")),
            Launch("write_masks", (blocks, top_k, batch), (MASK_THREADS, 1, 1), ("i1", "w2", "o0", "w3")),
            Launch("score_masks", (top_k, batch, 1), (32, 1, 1), ("w2", "w3", "o1")),
        ),
        # Keys of all pairs, and twice of the best; the struct Part of the source.
        workspace_bytes=(
            8 * batch * queries * (columns - 1),
            8 * batch * top_k,
            8 * batch * top_k,
            8 * batch * top_k * blocks,
        ),
    )


def _defines(attributes: Attributes, inputs: Specs) -> dict[str, int | float | str]:
    """Constants of masks.cuh and of the logits."""
    class_logits, _ = inputs
    names = {"LOW": "mask_size", "IN": "input_size", "USED": "used_size", "": "frame_size"}
    sizes = {
        f"{name}_{axis}".removeprefix("_"): size
        for name, attribute in names.items()
        for axis, size in zip("HW", attributes.integers(attribute, 2), strict=True)
    }
    counts = {"QUERIES": class_logits.shape[1], "CLASSES": class_logits.shape[2] - 1}
    return {"HALF": is_half(class_logits), **counts, **sizes}
