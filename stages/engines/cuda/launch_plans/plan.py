"""The launch plan of a kernel for given tensors, and the limits of GPUs that plans keep to."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stages.engines.cuda.launch import MAX_THREADS, Launch
from stages.inference.steps import TensorSpec

Specs = Sequence[TensorSpec]
"""Shapes and types of a kernel's inputs or outputs, in order."""

MAX_SHARED_BYTES = 48 << 10
"""Static shared memory of a block, on every GPU."""
MAX_DYNAMIC_SHARED_BYTES = 64 << 10
"""Shared memory that a block may ask for on every GPU; compute capability 7.5 has no more than this."""
Choice = Mapping[str, int]
"""What a plan is free to choose, such as the size of a tile: constants of the source. Empty: nothing."""


@dataclass(frozen=True)
class Plan:
    """The source, launches and memory with which a GPU computes a kernel for tensors of given shapes and types."""

    source: str
    """File in the folder kernels."""
    defines: Mapping[str, int | float | str]
    """Preprocessor constants; a bool is 0 or 1."""
    launches: tuple[Launch, ...]
    workspace_bytes: tuple[int, ...] = ()
    """Sizes of the memory that only the kernel uses, for the arguments w0, w1, ..."""

    def code_digest(self) -> str:
        """Digest of everything that determines the machine code, except the text of the source and the compiler."""
        return hashlib.sha256(repr((self.source, sorted(self.defines.items()))).encode()).hexdigest()[:16]


def divide_up(dividend: int, divisor: int) -> int:
    """A quotient, rounded up."""
    return -(-dividend // divisor)


def round_to_tiles(count: int) -> int:
    """A count, rounded up to whole tiles of the tensor cores: a multiple of 16."""
    return divide_up(count, 16) * 16


def is_half(spec: TensorSpec) -> bool:
    """Return whether a kernel's tensors are float16 rather than float32. Raises ValueError for another type."""
    if spec.dtype not in ("float16", "float32"):
        raise ValueError(f"our kernels take float16 or float32, found {spec.dtype}")
    return spec.dtype == "float16"


def vector_size(half: bool) -> int:
    """Values in 16 bytes, which kernels read and write at once."""
    return 8 if half else 4


def head_channels(channels: int, heads: int, half: bool) -> int:
    """Channels of a head. Raises ValueError where they don't fill vectors of 16 bytes."""
    depth = channels // heads
    if depth % vector_size(half):
        raise ValueError(
            f"variant `cuda` needs a multiple of {vector_size(half)} channels a head in "
            f"{'float16' if half else 'float32'}, found {depth}; set another variant in conf/target"
        )
    return depth


def require_vectors(name: str, spec: TensorSpec, *channels: int) -> None:
    """Raise ValueError where numbers of channels don't fill vectors of 16 bytes."""
    vector = vector_size(is_half(spec))
    if any(count % vector for count in channels):
        raise ValueError(
            f"{name} takes a multiple of {vector} channels in {spec.dtype}, found {', '.join(map(str, channels))}; "
            "set another variant than `cuda` in conf/target"
        )


def require_fit(what: str, shared_bytes: int, threads: int) -> None:
    """Raise ValueError where a block would need more static shared memory or threads than every GPU has."""
    if shared_bytes > MAX_SHARED_BYTES or threads > MAX_THREADS:
        raise ValueError(
            f"variant `cuda` can't serve {what}: a block would need {shared_bytes} bytes of shared "
            f"memory and {threads} threads, expected at most {MAX_SHARED_BYTES} and {MAX_THREADS}; set another "
            "variant in conf/target"
        )
