"""The answer of TAO's own network on a few real frames, with which every graph made from it is compared.

A .npz file holds it: frames uint8 [N, H, W, 3]; class_logits float32 [N, Q, 1 + C] and mask_logits float32 [N, Q, h, w]
of TAO's network; ids int32 [N, H, W] and category_ids int32 [N, 256] (by id, 0 where there is no such segment), the
answer of TAO's post-processing in the deployed mode, at the frame's size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stages import config
from stages.inference.description import Description
from stages.inference.frames import mask_size
from stages.inference.predictor import Predictor
from stages.inference.segments import LOGITS, Segments
from stages.metrics import agreement

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
Reference = Mapping[str, Array]
"""The arrays of a .npz file as above."""


@dataclass(frozen=True)
class Answer:
    """A graph's answer on the reference frames, by ONNX Runtime."""

    class_logits: Array
    """float32 [N, Q, 1 + C]."""
    mask_logits: Array
    """float32 [N, Q, h, w]."""
    segments: list[Segments]


def save(path: Path, frames: Array, class_logits: Array, mask_logits: Array, answers: list[Segments]) -> None:
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


def run(model: "onnx.ModelProto", frames: Array, description: Description) -> Answer:
    """Run a graph on frames uint8 [N, H, W, 3], in batches of the graph's size."""
    compute = _runner(model)
    logits: dict[str, list[Array]] = {name: [] for name in LOGITS}

    def infer(batch: Array) -> Tensors:
        found = compute(batch)
        for name in LOGITS:
            logits[name].append(found[name].astype(np.float32))
        return found

    predictor, size, segments = Predictor(infer, description), description.config.batch_size, []
    for start in range(0, len(frames), size):
        segments += predictor.segments(list(frames[start : start + size]))
    class_logits, mask_logits = (np.concatenate(logits[name])[: len(frames)] for name in LOGITS)
    if mask_logits.ndim == 3:  # [N, Q, h * w] of the operator PanopticMerge
        mask_logits = mask_logits.reshape(*mask_logits.shape[:2], *mask_size(description.config))
    return Answer(class_logits, mask_logits, segments)


def _runner(model: "onnx.ModelProto") -> Callable[[Array], Tensors]:
    """A function from a batch to a graph's outputs and logits: ONNX Runtime, and PyTorch for operators of ours."""
    import onnx

    from stages.onnx_graph import partition

    name = model.graph.input[0].name
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    shown = {output.name for output in exposed.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=hidden) for hidden in LOGITS if hidden not in shown)
    # A graph without operators of ours is one part, whose inner shapes need not be known.
    cut = partition.split(exposed) if any(map(partition.is_kernel, model.graph.node)) else [exposed]
    steps = [_kernel(step) if isinstance(step, onnx.NodeProto) else _session(step) for step in cut]
    constants = partition.constants(model, cut)
    wanted = [output.name for output in exposed.graph.output]

    def compute(batch: Array) -> Tensors:
        tensors = {name: batch, **constants}
        for step in steps:
            tensors |= step(tensors)
        return {output: tensors[output] for output in wanted}

    return compute


def _kernel(node: "onnx.NodeProto") -> Callable[[Tensors], Tensors]:
    """A function from the inputs of a node of ours, among other tensors, to its outputs, by PyTorch."""
    import torch

    from stages.onnx_graph import partition
    from stages.operators import registry

    operator, attributes = node.op_type, partition.attributes(node)

    def compute(tensors: Tensors) -> Tensors:
        found = registry.compute(operator, attributes, [torch.from_numpy(tensors[i]) for i in node.input])
        return {output: value.numpy() for output, value in zip(node.output, found, strict=True)}

    return compute


def _session(model: "onnx.ModelProto") -> Callable[[Tensors], Tensors]:
    """A function from the inputs of a model, among other tensors, to its outputs, by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = [i.name for i in session.get_inputs()]
    outputs = [o.name for o in session.get_outputs()]
    return lambda tensors: dict(zip(outputs, session.run(outputs, {i: tensors[i] for i in inputs}), strict=True))


def runs(description: Description) -> bool:
    """Whether ONNX Runtime can run a graph. It can't run one with a plugin of TensorRT."""
    return config.Variant(description.variant) not in config.PLUGIN_VARIANTS


def check(
    model: "onnx.ModelProto",
    reference_file: Path,
    description: Description,
    measure: Callable[[Reference, Answer], dict[str, Any]],
) -> dict[str, Any]:
    """Figures of `measure` on the reference and a graph's answer, for the metrics.

    Where ONNX Runtime can't run the graph there is one key instead, `compared`, which says so.
    """
    if not runs(description):
        return {"compared": "not on this host: ONNX Runtime has no plugin of TensorRT; verify@TARGET compares"}
    expected = np.load(reference_file)
    return measure(expected, run(model, expected["frames"], description))


def differences(expected: Reference, found: Answer) -> dict[str, Any]:
    """Differences to the reference: of logits, the 99th percentile and the largest, and agreement of the maps."""
    gaps = [np.abs(getattr(found, name) - expected[name]) for name in LOGITS]
    # NumPy's max and not Python's, which loses NaN.
    return {
        "logit_difference_p99": float(np.max([np.percentile(gap, 99) for gap in gaps])),
        "logit_difference_max": float(np.max([gap.max() for gap in gaps])),
        "pixel_agreement_pct": agreement_pct(expected, found.segments),
    }


def agreement_pct(expected: Reference, found: list[Segments]) -> float:
    """Pixels with the same segment in the reference's maps and in `found`, in percent of all."""
    agreeing = 0
    for wanted, ours in zip(answers(expected), found, strict=True):
        agreeing += agreement.agreeing_pixels(wanted.ids, wanted.category_ids, ours.ids, ours.category_ids)
    return float(100 * agreeing / expected["ids"].size)


def answers(expected: Reference) -> list[Segments]:
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
