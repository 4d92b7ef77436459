"""Compares an exported graph with TAO's own network on a few real frames.

The reference is a .npz file of N frames and TAO's predictions on them:
- frames: uint8 [N, H, W, 3], RGB
- class_logits: float32 [N, Q, 1 + C], and mask_logits: float32 [N, Q, h, w], of TAO's network
- ids: int32 [N, H, W], the segment ids of TAO's post-processing in deploy.mode, at the frame's size
- category_ids: int32 [N, 256], category_id by segment id, 0 for ids without a segment
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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

Array = npt.NDArray[np.generic]
Tensors = dict[str, Array]
Reference = Mapping[str, Array]
"""Arrays of a reference file by name; see the module."""
Metrics = dict[str, float | str]
"""Metrics of a stage by name: numbers, and `compared`, which says why there is no comparison."""


@dataclass(frozen=True)
class Answer:
    """Predictions of a graph on the reference frames."""

    class_logits: Array
    """float32 [N, Q, 1 + C]."""
    mask_logits: Array
    """float32 [N, Q, h, w]."""
    segments: list[Segments]


def save(path: Path, frames: Array, class_logits: Array, mask_logits: Array, answers: list[Segments]) -> None:
    """Write a reference file. `answers` are TAO's maps of the frames, in order."""
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
    """Run a graph on frames, uint8 [N, H, W, 3], in batches of the graph's size, with ONNX Runtime on the CPU.

    PyTorch computes the nodes of our own operators.
    """
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
    if mask_logits.ndim == 3:  # [N, Q, h * w] of the variant `cuda`
        mask_logits = mask_logits.reshape(*mask_logits.shape[:2], *mask_size(description.config))
    return Answer(class_logits, mask_logits, segments)


def _runner(model: "onnx.ModelProto") -> Callable[[Array], Tensors]:
    """Return a function that computes a graph's outputs and logits by name from a batch."""
    import onnx

    from stages.onnx_graph import kernels

    name = model.graph.input[0].name
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    shown = {output.name for output in exposed.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=hidden) for hidden in LOGITS if hidden not in shown)
    steps = [_kernel(node) for node in kernels.calls(model)] or [_session(exposed)]
    constants = kernels.constants(model)
    wanted = [output.name for output in exposed.graph.output]

    def compute(batch: Array) -> Tensors:
        tensors = {name: batch, **constants}
        for step in steps:
            tensors |= step(tensors)
        return {output: tensors[output] for output in wanted}

    return compute


def _kernel(node: "onnx.NodeProto") -> Callable[[Tensors], Tensors]:
    """Return a function that computes the outputs of a node of our operators with PyTorch.

    It takes tensors by name, those that the node reads among them.
    """
    import torch

    from stages.onnx_graph import kernels
    from stages.operators import registry

    operator, attributes = node.op_type, kernels.attributes(node)

    def compute(tensors: Tensors) -> Tensors:
        found = registry.compute(operator, attributes, [torch.from_numpy(tensors[i]) for i in node.input])
        return {output: value.numpy() for output, value in zip(node.output, found, strict=True)}

    return compute


def _session(model: "onnx.ModelProto") -> Callable[[Tensors], Tensors]:
    """Return a function that computes the outputs of a model with ONNX Runtime.

    It takes tensors by name, the model's inputs among them.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = [i.name for i in session.get_inputs()]
    outputs = [o.name for o in session.get_outputs()]
    return lambda tensors: dict(zip(outputs, session.run(outputs, {i: tensors[i] for i in inputs}), strict=True))


def runs(description: Description) -> bool:
    """Return whether ONNX Runtime can run a graph. It can't run TensorRT's plugins."""
    return config.Variant(description.variant) not in config.PLUGIN_VARIANTS


def check(
    model: "onnx.ModelProto",
    reference_file: Path,
    description: Description,
    measure: Callable[[Reference, Answer], Metrics],
) -> Metrics:
    """Run a graph on the reference frames and return the metrics that `measure` computes from both predictions.

    If ONNX Runtime can't run the graph, the result has the key `compared` only, which says so.
    """
    if not runs(description):
        return {"compared": "not on this host: ONNX Runtime has no plugin of TensorRT; verify@TARGET compares"}
    expected = np.load(reference_file)
    return measure(expected, run(model, expected["frames"], description))


def differences(expected: Reference, found: Answer) -> Metrics:
    """Return 99th percentile and maximum of the logits' differences, and the agreement of the maps in percent."""
    gaps = [np.abs(getattr(found, name) - expected[name]) for name in LOGITS]
    # NumPy's max propagates NaN, Python's does not.
    return {
        "logit_difference_p99": float(np.max([np.percentile(gap, 99) for gap in gaps])),
        "logit_difference_max": float(np.max([gap.max() for gap in gaps])),
        "pixel_agreement_pct": agreement_pct(expected, found.segments),
    }


def agreement_pct(expected: Reference, found: list[Segments]) -> float:
    """Return the share of pixels that have the same segment in the reference's maps and in `found`, in percent."""
    agreeing = 0
    for wanted, ours in zip(reference_maps(expected), found, strict=True):
        agreeing += agreement.agreeing_pixels(wanted.ids, wanted.category_ids, ours.ids, ours.category_ids)
    return float(100 * agreeing / expected["ids"].size)


def reference_maps(expected: Reference) -> list[Segments]:
    """Return the maps of a reference."""
    rows = zip(expected["ids"], expected["category_ids"], strict=True)
    return [Segments(ids, {i: int(c) for i, c in enumerate(row) if c}) for ids, row in rows]


def require_equal(folder: Path, found: Metrics, cfg: config.Deploy) -> None:
    """Raise RuntimeError, naming the parameter, unless `found`, from `check`, is within deploy's limits. NaN is not."""
    if "compared" in found:
        return
    difference, agreed = float(found["logit_difference_p99"]), float(found["pixel_agreement_pct"])
    fix = (
        "restore the locked versions of torch, onnxsim and onnxruntime (`make env`), or change the limit in conf/deploy"
    )
    if not difference <= cfg.max_logit_difference:
        raise RuntimeError(
            f"{folder} differs from TAO's network by {difference} in logits at the 99th percentile, expected at most "
            f"deploy.max_logit_difference {cfg.max_logit_difference}; {fix}"
        )
    if not agreed >= cfg.min_pixel_agreement_pct:
        raise RuntimeError(
            f"{folder} agrees with TAO's post-processing on {agreed:.4f} % of pixels, expected at least "
            f"deploy.min_pixel_agreement_pct {cfg.min_pixel_agreement_pct}; {fix}"
        )
