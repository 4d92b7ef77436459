"""Tells TAO's weights from those of the original Mask2Former.

Both give their parameters the same names, but TAO has the class no-object in the first row of the class head and the
original has it in the last. The format is detected from the content, or else taken from model.weights_format. The
file's name and the dicts around its tensors are ignored.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stages.foundation import text
from stages.weights import state_dict
from stages.weights.state_dict import StateDict

if TYPE_CHECKING:
    from stages.foundation.files import Json

TAO, ORIGINAL, HUGGING_FACE = "tao", "original", "hugging_face"
"""Values of model.weights_format."""
SPEC_NAMES = ("spec.yaml", "experiment.yaml")
"""Names of TAO's experiment spec beside a checkpoint."""
EMPTY_WEIGHT = "criterion.empty_weight"
"""Buffer of the loss, float [1 + C]: 1 for each class and less for no-object.

No-object is first in TAO (nvidia_tao_pytorch 7.3, cv/mask2former/utils/criterion.py), and last in the original
(facebookresearch/Mask2Former, mask2former/modeling/criterion.py), as in the rows of the class head.
"""


class Spec(NamedTuple):
    """An experiment spec of TAO."""

    path: Path
    content: "dict[str, Json]"


def detect(
    path: Path, has_tao_mark: bool, state: StateDict, criterion: Mapping[str, object], spec: Spec | None, stated: str
) -> str:
    """Return the format of a file's parameters, TAO or ORIGINAL, or an empty string if it can't be detected.

    has_tao_mark: whether the file says `tao_model: mask2former`. state: parameters by their own names. criterion:
    buffers of the loss. spec: TAO's spec beside the file. stated: model.weights_format, or an empty string. Raises
    ValueError if the content contradicts itself or `stated`.
    """
    rows = len(state.get(f"{state_dict.CLASS_HEAD}.bias", ()))
    if not rows:
        return ORIGINAL  # There is no row to move. The importer names all missing parameters later.
    found = _reasons(rows, has_tao_mark, state, criterion)
    # A folder can hold several files, so the spec is used only if the file itself shows no format.
    if not found and spec:
        found[TAO] = f"{spec.path} is TAO's spec of a network with its {rows - 1} classes"
    if len(found) > 1:
        raise ValueError(
            f"{path}: {found[TAO]}, as in TAO, but {found[ORIGINAL]}, as in the original Mask2Former; save it again "
            "with the program that trained it"
        )
    kind = next(iter(found), stated if stated in (TAO, ORIGINAL) else "")
    if stated not in ("", kind):
        reason = found.get(kind, "its parameters have the names of TAO and the original")
        raise ValueError(
            f"{path}: model.weights_format is {stated}, but {reason}; set model.weights_format={kind or TAO}, or "
            "model.weights to another file"
        )
    return kind


def _reasons(rows: int, has_tao_mark: bool, state: StateDict, criterion: Mapping[str, object]) -> dict[str, str]:
    """Return the marks of TAO and of ORIGINAL that the file has: format -> mark, as the reason in a message."""
    import numpy as np
    import torch

    found: dict[str, str] = {}
    for name, value in criterion.items():
        if not name.endswith(EMPTY_WEIGHT):
            continue
        numbers = value.tolist() if isinstance(value, torch.Tensor | np.ndarray) else None
        if isinstance(numbers, list) and len(numbers) == rows:
            if numbers[0] != 1 and set(numbers[1:]) == {1.0}:
                found[TAO] = f"its {EMPTY_WEIGHT} has no-object first"
            elif numbers[-1] != 1 and set(numbers[:-1]) == {1.0}:
                found[ORIGINAL] = f"its {EMPTY_WEIGHT} has no-object last"
    if any(state_dict.STATIC_QUERY in name for name in state):
        found.setdefault(ORIGINAL, f"its queries are called {state_dict.STATIC_QUERY}")
    if has_tao_mark:
        found.setdefault(TAO, "it says tao_model: mask2former")
    return found


def find_spec(path: Path, classes: int) -> Spec | None:
    """Return TAO's Mask2Former spec beside a file if it is for the same number of classes, else None."""
    for name in SPEC_NAMES:
        if not (found := path.parent / name).is_file():
            continue
        try:
            content: Json = text.read_yaml(found)
        except (OSError, ValueError):
            continue  # It is not TAO's.
        model = content.get("model") if isinstance(content, dict) else None
        head, decoder = (model.get(k) if isinstance(model, dict) else None for k in ("sem_seg_head", "mask_former"))
        # 200 is TAO's default.
        if isinstance(head, dict) and isinstance(decoder, dict) and head.get("num_classes", 200) == classes:
            return Spec(found, content)
    return None
