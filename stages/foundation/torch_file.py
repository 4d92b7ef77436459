"""Reads files of torch.save without running code from them, and only if they are whole.

PyTorch itself does not compare the CRC-32 of a file's parts: it loads damaged weights without an error.
"""

import re
from pathlib import Path

from stages.foundation import file_kinds

STARTS = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""First bytes of PyTorch's zip files, and of its files before version 1.6: a pickle of its magic number."""


def read_start(path: Path) -> bytes:
    """Return the first bytes of a file. Raises ValueError if it is empty, zeros only, or another kind of file."""
    with path.open("rb") as file:
        start = file.read(file_kinds.START_BYTES)
    if not start:
        raise ValueError(f"{path} is empty; download or copy it again")
    if not start.strip(b"\0"):
        raise ValueError(
            f"{path} starts with {len(start)} zero bytes, so it is not complete; download or copy it again"
        )
    if not start.startswith(STARTS) and (kind := file_kinds.recognise(start)):
        raise ValueError(f"{path} is {kind.name}; {kind.step.format(path)}")
    return start


def read(path: Path) -> object:
    """Return the content of a file of torch.save, on the CPU.

    Costs one more pass over the file, without holding it in memory, for its CRC-32. Files of PyTorch before 1.6, and
    those that were saved with `set_crc32_options(False)`, have none. Raises OSError if the file can't be opened,
    ValueError if it is damaged, was not written by torch.save, or has objects other than tensors.
    """
    import torch

    start = read_start(path)
    if not start.startswith(STARTS):
        raise ValueError(f"{path} starts with {start[:16]!r}, expected a file of torch.save; download or copy it again")
    if start.startswith(STARTS[0]):
        _check_zip(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch raises exceptions of many types on a damaged file.
        # PyTorch's own text recommends weights_only=False, which would run code from the file.
        found = re.search(r"WeightsUnpickler error:\s*(.*?)(?: was not an allowed|\. |\n|$)", str(error))
        reason = found[1] if found else str(error).strip().partition("\n")[0] or type(error).__name__
        is_zip = start.startswith(STARTS[0])
        if found and (is_zip or "GLOBAL" in reason):
            hint = "" if is_zip else ", or download it again: a file cut short looks the same"
            raise ValueError(
                f"{path}: can't be read: it holds objects other than tensors ({reason}); save its state dict only, "
                f"torch.save(network.state_dict(), file){hint}"
            ) from error
        raise ValueError(f"{path} is cut short or damaged ({reason}); download or copy it again") from error


def _check_zip(path: Path) -> None:
    """Raise ValueError unless each part of a zip file has the CRC-32 that the file states for it."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            stated = any(part.CRC for part in archive.infolist())  # All are 0 if torch.save left them out.
            damaged = archive.testzip() if stated else None
    except Exception as error:  # zipfile raises exceptions of many types on a damaged file.
        reason = str(error) if "not a zip file" not in str(error) else "its end is missing"
        raise ValueError(f"{path} is cut short or damaged ({reason}); download or copy it again") from error
    if damaged is not None:
        raise ValueError(f"{path} is damaged (the CRC-32 of {damaged} differs); download or copy it again")
