"""Reads tensors from PyTorch files, pickles and safetensors without running code from the file.

Files of torch.save are read by foundation/torch_file. Files of safetensors hold tensors only. Pickles go through an
unpickler that builds NumPy arrays and refuses every other class. The first bytes of a file show its type; the suffix is
used only if they don't.
"""

import os
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from stages.foundation import text, torch_file
from stages.weights.messages import first_line
from stages.weights.state_dict import StateDict

EXPECTED = "expected a .pth or .pkl of Mask2Former or TAO, or a folder of Hugging Face with config.json"
_ALLOWED = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"{core}.numeric", "_frombuffer") for core in ("numpy.core", "numpy._core")),
    *((f"{core}.multiarray", name) for core in ("numpy.core", "numpy._core") for name in ("_reconstruct", "scalar")),
}
"""The only classes and functions that a pickle may name: those that NumPy arrays need."""


def read(path: Path) -> object:
    """Return the content of a file of tensors, on the CPU.

    Raises ValueError if the file is empty, a placeholder, damaged, or holds anything but tensors and arrays.
    """
    start = torch_file.read_start(path)
    header_bytes = int.from_bytes(start[:8], "little")
    # safetensors: the length of a JSON header in 8 bytes, then the header (huggingface.co/docs/safetensors).
    if path.suffix == ".safetensors" or (start[8:9] == b"{" and header_bytes < path.stat().st_size):
        return _read_safetensors(path)
    if start.startswith(torch_file.STARTS):
        return torch_file.read(path)
    if path.suffix == ".pkl" or (start[:1] == b"\x80" and start[1:2] <= b"\x05"):
        return _read_pickle(path)
    raise ValueError(
        f"{path} (model.weights): found a file of type {path.suffix!r}, {EXPECTED}; it starts with {start[:16]!r}: "
        "download it again, or set model.weights to another file"
    )


def read_json_object(path: Path) -> dict[str, object]:
    """Return the object in a JSON file that came with weights. Raises ValueError if it holds anything else."""
    torch_file.read_start(path)
    content = text.read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: found {type(content).__name__}, expected an object; download the file again")
    return content


def to_float32(path: Path, values: Mapping[str, object]) -> StateDict:
    """Convert floating-point tensors and arrays to float32 tensors. `path` is for messages.

    Raises ValueError naming a value that is not a dense floating-point tensor, or that holds NaN or infinity.
    """
    import numpy as np
    import torch

    result = {}
    for name, value in values.items():
        found = value
        if isinstance(found, np.ndarray):
            try:
                found = torch.from_numpy(found.copy())
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}: {name!r} is an array of {found.dtype}, expected float32") from error
        if not isinstance(found, torch.Tensor):
            raise ValueError(f"{path}: {name!r} is {type(found).__name__}, expected a tensor; download the file again")
        dense = found.layout is torch.strided and not found.is_meta
        if not dense or not found.is_floating_point():
            kind = str(found.dtype).removeprefix("torch.") if dense else "a tensor without values in the file"
            raise ValueError(
                f"{path}: {name!r} is {kind}, expected float32; save the network in the precision it was trained in"
            )
        result[name] = found.detach().float()
        if not bool(torch.isfinite(result[name]).all()):
            count = int((~torch.isfinite(result[name])).sum())
            raise ValueError(
                f"{path}: {name!r} has {count} values that are NaN or infinite, expected finite float32; use an "
                "earlier checkpoint"
            )
    return result


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: can't be read ({first_line(error)}); download it again") from error


class _OtherObjectError(Exception):
    """A pickle names a class or function that is not in _ALLOWED."""


class _ArrayUnpickler(pickle.Unpickler):
    """Refuses every class and function but those in _ALLOWED, so that a pickle can't run code."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _ALLOWED:
            raise _OtherObjectError(f"{module}.{name}")
        return super().find_class(module, name)


def _require_small_memo(file: BinaryIO) -> None:
    """Raise ValueError for a pickle that numbers more objects than it has bytes, and go back to its start.

    Python takes memory up to the highest number: 32 GiB for five bytes.
    """
    size = os.fstat(file.fileno()).st_size
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > size:
            raise ValueError(f"it numbers an object {argument}, in {size} bytes")
    file.seek(0)


def _read_pickle(path: Path) -> object:
    try:
        with path.open("rb") as file:
            _require_small_memo(file)
            # latin1: NumPy arrays that were pickled by Python 2.
            return _ArrayUnpickler(file, encoding="latin1").load()
    except _OtherObjectError as error:
        raise ValueError(
            f"{path}: can't be read: it holds objects other than arrays, which could run code ({error}); use a file of "
            "the model zoo, or save the state dict as .pth"
        ) from error
    except Exception as error:  # A damaged pickle raises exceptions of many types.
        raise ValueError(
            f"{path}: can't be read: it is cut short, damaged, or not a pickle ({first_line(error)}); download it again"
        ) from error
