"""What TAO's own network answers on a few real frames: the yardstick of every graph made from it.

A .npz file: frames uint8 [N, H, W, 3]; class_logits float32 [N, Q, 1 + C] and mask_logits float32 [N, Q, h, w] of
TAO's network; ids int32 [N, H, W] and category_ids int32 [N, 256] (by id, 0 where there is no such segment), the
answer of TAO's post-processing in the deployed mode, at the frame's size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages import config
from stages.engines.cuda import catalog
from stages.inference.description import Description
from stages.inference.predictor import Predictor
from stages.inference.segments import LOGITS, Segments
from stages.metrics import agreement

INPUT, TAO_INPUT = "frame", "inputs"
"""Names of the input of the fused graph, and of the graph of TAO's exporter."""


@dataclass(frozen=True)
class Answer:
    """A graph's answer on the reference frames, by ONNX Runtime."""

    class_logits: Any
    """float32 [N, Q, 1 + C]."""
    mask_logits: Any
    """float32 [N, Q, h, w]."""
    segments: list[Segments]


def save(path: Path, frames: Any, class_logits: Any, mask_logits: Any, answers: list[Segments]) -> None:
    """Write the .npz."""
    categories = np.zeros((len(answers), 256), np.int32)
    for row, answer in zip(categories, answers, strict=True):
        for segment, category in answer.category_ids.items():
            row[segment] = category
    ids = np.stack([answer.ids for answer in answers])
    with path.open("wb") as file:
        np.savez(
            file, frames=frames, class_logits=class_logits, mask_logits=mask_logits, ids=ids, category_ids=categories
        )


def run(model: Any, frames: Any, description: Description) -> Answer:
    """Answer of an onnx.ModelProto, on frames uint8 [N, H, W, 3], in batches of the graph's size."""
    compute = _runner(model)
    logits: dict[str, list[Any]] = {name: [] for name in LOGITS}

    def infer(batch: Any) -> dict[str, Any]:
        found = compute(batch)
        for name in LOGITS:
            logits[name].append(found[name].astype(np.float32))
        return found

    predictor, size, segments = Predictor(infer, description), description.config.batch_size, []
    for start in range(0, len(frames), size):
        segments += predictor.segments(list(frames[start : start + size]))
    class_logits, mask_logits = (np.concatenate(logits[name])[: len(frames)] for name in LOGITS)
    if mask_logits.ndim == 3:  # as our kernels have them
        mask_logits = mask_logits.reshape(*mask_logits.shape[:2], *description.config.mask_size)
    return Answer(class_logits, mask_logits, segments)


def _runner(model: Any) -> Callable[[Any], dict[str, Any]]:
    """A function from a batch to a graph's outputs and logits: ONNX Runtime, and PyTorch for our kernels."""
    import onnx
    import torch

    from stages.network import attention, deformable, linear, merge, tokens
    from stages.onnx_graph import partition

    def rows(inputs: list[Any], of: dict[str, Any]) -> Any:
        x, weight, *others = inputs
        given = dict(zip(filter(None, of["extras"].split(",")), others, strict=True))
        operator = linear.linear_and_moved if "position" in given else linear.linear
        options = (of[name] for name in ("activation", "epsilon", "first", "rows", "plane"))
        return operator(x, weight, *(given.get(name) for name in catalog.EXTRAS), *options)

    def look(inputs: list[Any], of: dict[str, Any]) -> Any:
        mask = inputs[3] if len(inputs) > 3 else None
        return attention.masked_attention(*inputs[:3], mask, of["heads"], of["channels"], of["firsts"])

    def norm(inputs: list[Any], of: dict[str, Any]) -> Any:
        more = 1 if of["extras"] else 0
        count = len(inputs) - 2 - more
        last = inputs[-1] if more else None
        operator = tokens.group_norm_and_moved if of["extras"] == "position" else tokens.group_norm
        return operator(inputs[:count], *inputs[count : count + 2], last, of["groups"], of["epsilon"], of["activation"])

    def plain(operator: Any, *names: str) -> Callable[[list[Any], dict[str, Any]], Any]:
        return lambda inputs, of: operator(*inputs, *(of[name] for name in names))

    sizes = ("low", "things", "score_threshold", "overlap_threshold", "input", "used", "frame")
    operators = {
        "DeformableAttention": plain(deformable.kernel_node, "sizes", "heads", "points"),
        "GroupNorm": norm,
        "Linear": rows,
        "MaskedAttention": look,
        "PanopticMerge": plain(merge.panoptic_node, *sizes),
        "Resize": plain(tokens.resize, "first", "plane", "to"),
        "WindowAttention": plain(attention.window_attention, "heads", "height", "width", "window", "shift"),
    }
    name = model.graph.input[0].name
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    shown = {output.name for output in exposed.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=hidden) for hidden in LOGITS if hidden not in shown)
    # A graph without kernels is one part, whose inner shapes need not be known.
    cut = partition.split(exposed) if any(map(partition.is_kernel, model.graph.node)) else [exposed]
    steps = [step if isinstance(step, onnx.NodeProto) else _session(step) for step in cut]
    constants = partition.constants(model, cut)
    wanted = [output.name for output in exposed.graph.output]

    def compute(batch: Any) -> dict[str, Any]:
        tensors = {name: batch, **constants}
        for step in steps:
            if not isinstance(step, onnx.NodeProto):
                tensors |= step(tensors)
                continue
            inputs, of = [torch.from_numpy(tensors[i]) for i in step.input], partition.attributes(step)
            found = operators[step.op_type](inputs, of)
            found = found if isinstance(found, tuple) else (found,)
            tensors |= {output: value.numpy() for output, value in zip(step.output, found, strict=True)}
        return {output: tensors[output] for output in wanted}

    return compute


def _session(model: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function from the inputs of an onnx.ModelProto, or more, to its outputs, by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = [i.name for i in session.get_inputs()]
    outputs = [o.name for o in session.get_outputs()]
    return lambda tensors: dict(zip(outputs, session.run(outputs, {i: tensors[i] for i in inputs}), strict=True))


def runs(description: Description) -> bool:
    """Whether ONNX Runtime can run a graph: it has no plugin of TensorRT."""
    return config.Sampler(description.deformable_attention) not in config.PLUGINS


def check(
    model: Any, reference_file: Path, description: Description, measure: Callable[[Any, Answer], dict[str, Any]]
) -> dict[str, Any]:
    """Figures of `measure` on the reference and a graph's answer, for the metrics, or why there are none."""
    if not runs(description):
        return {"compared": "not on this host: ONNX Runtime has no plugin of TensorRT; verify@TARGET compares"}
    expected = np.load(reference_file)
    return measure(expected, run(model, expected["frames"], description))


def differences(expected: Any, found: Answer) -> dict[str, Any]:
    """How far an answer is from the reference: logits, at the 99th percentile and at most, and pixels of the maps."""
    gaps = [np.abs(getattr(found, name) - expected[name]) for name in LOGITS]
    # NumPy's max and not Python's, which loses NaN.
    return {
        "logit_difference_p99": float(np.max([np.percentile(gap, 99) for gap in gaps])),
        "logit_difference_max": float(np.max([gap.max() for gap in gaps])),
        "pixel_agreement_pct": agreement_pct(expected, found.segments),
    }


def agreement_pct(expected: Any, found: list[Segments]) -> float:
    """Pixels with the same segment in the reference's maps and in `found`, in percent of all."""
    agreeing = 0
    for wanted, ours in zip(answers(expected), found, strict=True):
        agreeing += agreement.agreeing_pixels(wanted.ids, wanted.category_ids, ours.ids, ours.category_ids)
    return float(100 * agreeing / expected["ids"].size)


def answers(expected: Any) -> list[Segments]:
    """The maps of a reference."""
    rows = zip(expected["ids"], expected["category_ids"], strict=True)
    return [Segments(ids, {i: int(c) for i, c in enumerate(row) if c}) for ids, row in rows]


def require_equal(folder: Path, found: dict[str, Any], cfg: config.Deploy) -> None:
    """Raise RuntimeError naming the key unless the figures of `check` are within deploy's limits; NaN is not."""
    if "compared" in found:
        return
    difference, agreed = found["logit_difference_p99"], found["pixel_agreement_pct"]
    mend = "another version of torch, onnx-simplifier or onnxruntime may compute something else"
    if not difference <= cfg.max_logit_difference:
        raise RuntimeError(
            f"{folder} differs from TAO's network by {difference} in logits at the 99th percentile, allowed: "
            f"deploy.max_logit_difference {cfg.max_logit_difference}; {mend}"
        )
    if not agreed >= cfg.min_pixel_agreement_pct:
        raise RuntimeError(
            f"{folder} agrees with TAO's post-processing on {agreed:.4f} % of pixels, required: "
            f"deploy.min_pixel_agreement_pct {cfg.min_pixel_agreement_pct}; {mend}"
        )
