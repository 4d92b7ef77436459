"""Encodings of labels and objects in 16 bits in masks of other sets. plausibility.py compares masks with them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.int64]
"""Values of a mask, or labels or instance numbers of these values."""


@dataclass(frozen=True)
class Coding:
    """An encoding of labels and objects in the masks of another set."""

    name: str
    split: Callable[[Values], tuple[Values, Values]]
    """Function that splits values into labels and instance numbers."""
    fix: str
    """Advice on how to convert such masks."""


CODINGS = (
    Coding(
        "label ids only",
        lambda v: (v, 0 * v),
        "write id * 256, which makes all objects of a label in a picture one, or use the set's instance masks",
    ),
    Coding(
        "Cityscapes' instanceIds (label * 1000 + instance, or only the label)",
        lambda v: (np.where(v < 1000, v, v // 1000), np.where(v < 1000, 0, v % 1000)),
        "write label * 256 + instance",
    ),
    Coding("labels that count from 1", lambda v: ((v >> 8) - 1, v & 255), "write v - 256, or add a first label"),
    Coding(
        "label + 256 * instance, or swapped bytes",
        lambda v: (v & 255, v >> 8),
        "write (v % 256) * 256 + v // 256",
    ),
    Coding("label ids scaled from 8 to 16 bits", lambda v: (v // 257, v % 257), "write v // 257 * 256"),
)
