"""Numeric types of graphs, for the sections `deploy` and `targets`."""

from enum import Enum


class Precision(Enum):
    """Numeric type of most of a computation; some operators may stay in float32."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class LowerPrecision(Enum):
    """The members of Precision below fp32."""

    fp16 = "fp16"
    int8 = "int8"
