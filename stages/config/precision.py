"""Numeric types, for the sections `train`, `deploy` and `targets`."""

from enum import Enum


class Precision(Enum):
    """Numeric type of most of a computation; some operators may stay in float32."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"
