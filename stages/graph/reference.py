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
from stages.graph.description import Description
from stages.metrics import agreement
from stages.runtime.predictor import Predictor
from stages.runtime.segments import Segments

INPUT, TAO_INPUT = "frame", "inputs"
"""Names of the input of the fused graph, and of the graph of TAO's exporter."""
LOGITS = ("class_logits", "mask_logits")
"""Tensors inside each graph that are compared with TAO's."""


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
    import onnx
    import onnxruntime

    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    outputs = [output.name for output in exposed.graph.output]
    hidden = [name for name in LOGITS if name not in outputs]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in hidden)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(exposed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    logits: dict[str, list[Any]] = {name: [] for name in LOGITS}

    def infer(batch: Any) -> dict[str, Any]:
        names = [*outputs, *hidden]
        found = dict(zip(names, session.run(names, {session.get_inputs()[0].name: batch}), strict=True))
        for name in LOGITS:
            logits[name].append(found[name].astype(np.float32))
        return found

    predictor, size, segments = Predictor(infer, description), description.config.batch_size, []
    for start in range(0, len(frames), size):
        segments += predictor.segments(list(frames[start : start + size]))
    class_logits, mask_logits = (np.concatenate(logits[name])[: len(frames)] for name in LOGITS)
    return Answer(class_logits, mask_logits, segments)


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
    """How far an answer is from the reference: max_logit_difference, and pixel_agreement_pct of the maps."""
    # NumPy's max and not Python's, which loses NaN.
    difference = np.max([np.abs(getattr(found, name) - expected[name]).max() for name in LOGITS])
    return {
        "max_logit_difference": float(difference),
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
    difference, agreed = found["max_logit_difference"], found["pixel_agreement_pct"]
    mend = "another version of torch, onnx-simplifier or onnxruntime may compute something else"
    if not difference <= cfg.max_logit_difference:
        raise RuntimeError(
            f"{folder} differs from TAO's network by {difference} in a logit, allowed: deploy.max_logit_difference "
            f"{cfg.max_logit_difference}; {mend}"
        )
    if not agreed >= cfg.min_pixel_agreement_pct:
        raise RuntimeError(
            f"{folder} agrees with TAO's post-processing on {agreed:.4f} % of pixels, required: "
            f"deploy.min_pixel_agreement_pct {cfg.min_pixel_agreement_pct}; {mend}"
        )
