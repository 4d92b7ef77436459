"""Reads picture files with OpenCV, and refuses those that are cut short or damaged.

libjpeg invents the pixels that a damaged JPEG lacks, and reports that only on standard error.
"""

import fcntl
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from stages.foundation import files, picture_limit

Rgb = npt.NDArray[np.uint8]
"""A picture: uint8 [H, W, 3], RGB."""
FIX = "restore the file, or save it as an 8-bit JPEG or PNG"

_JPEG = b"\xff\xd8\xff"
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])", re.DOTALL)
"""A marker of a JPEG file, without those inside coded data. A 2-byte length follows each but SOI and EOI."""
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers that start a frame, SOF (ITU-T T.81, table B.1)."""
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_DAMAGE = re.compile(r"^(?:Corrupt JPEG data|Premature end of JPEG file).*", re.MULTILINE)
"""The warnings of libjpeg (jerror.h) that mean missing or invented pixels."""
_CODECS = re.compile(
    r"\s*$|\[ *[A-Z]+:\d+@|libpng |(Corrupt|Unsupported) JPEG|Premature end|Invalid (SOS|progressive)|Inconsistent prog"
)
"""Starts of the lines that OpenCV, libpng and libjpeg write. Other lines are from other threads."""
_capturing = threading.Lock()


def read_rgb(path: Path, *, turn: bool = False) -> Rgb:
    """Read a picture as its pixels are stored, or with `turn` upright by its EXIF orientation.

    Pictures of a data set must not be turned, since their masks are not. Raises ValueError, naming the file, if it
    can't be read or is damaged.
    """
    try:
        return decode(picture_limit.read(path), turn=turn)
    except OSError as error:
        raise ValueError(f"{files.printable(path)}: can't be read ({error.strerror}); restore the file") from error
    except ValueError as error:
        raise ValueError(f"{files.printable(path)}: can't be read as a picture: {error}") from error


def decode(content: bytes, *, turn: bool = False) -> Rgb:
    """Decode the bytes of a picture file.

    Grey values are repeated in all three channels, 16-bit values are reduced to their upper 8 bits, and alpha is
    dropped. Raises ValueError, without the file's name, if the bytes are not a whole picture, or have too many pixels.
    """
    picture_limit.check(content)
    # Decoded from memory: OpenCV 5.0 aborts the process where imread gets a name that is not UTF-8.
    flags = cv2.IMREAD_COLOR if turn else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    with _standard_error() as written:
        try:
            bgr = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
        except cv2.error:
            # The content is empty, or the picture has more pixels than OpenCV accepts.
            bgr = None
    text = written.decode(errors="replace")
    if bgr is None:
        # OpenCV's own log lines begin with a bracket. They are left out, as they hold the time of day.
        lines = [line for line in text.splitlines() if _CODECS.match(line) and line.strip() and line[0] != "["]
        reason = f"OpenCV: {lines[-1]}" if lines else "OpenCV can't read it"
        raise ValueError(f"{len(content)} bytes that are not a complete picture ({reason}); {FIX}")
    if content.startswith(_JPEG):
        if missing := _missing_in_jpeg(content):
            raise ValueError(f"{len(content)} bytes that are not a complete picture ({missing}); restore the file")
        if damage := _DAMAGE.search(text):
            raise ValueError(f"damaged ({damage[0]}); restore the file, or save it again if it looks right")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _missing_in_jpeg(content: bytes) -> str | None:
    """Return what the first picture of a JPEG file lacks: its end marker or some of its scans; None if it is whole.

    libjpeg decodes a file without them and gives no warning: for example a file whose rest was allocated but never
    written, or a progressive one whose later scans are lost. Segments: ITU-T T.81, B.1.1, B.2.2 and B.2.3.
    """
    low_bits: dict[int, list[int]] = {}
    """Component -> the lowest bit that the scans gave of each of its 64 coefficients, 0 once it is complete."""
    progressive, place = False, 2
    while found := _MARKER.search(content, place):
        marker, start = found[1][0], found.end()
        if marker == _SOI:
            break
        if marker == _EOI:
            return "scans are missing" if any(map(any, low_bits.values())) else None
        place = start + int.from_bytes(content[start : start + 2], "big")
        body = content[start + 2 : place]
        if marker in _FRAMES:
            progressive = marker in _PROGRESSIVE
            low_bits = {component: [16] * 64 for component in body[6::3]}
        elif marker == _SOS and body:
            components, spectrum = body[1 : 1 + 2 * body[0] : 2], body[1 + 2 * body[0] :]
            # The other kinds of JPEG code all coefficients of a component in one scan.
            first, last, bits = spectrum[:3] if progressive and len(spectrum) >= 3 else (0, 63, 0)
            for component in components:
                for coefficient in range(first, min(last, 63) + 1):
                    low_bits.setdefault(component, [16] * 64)[coefficient] = bits & 15
    return "no end marker"


@contextmanager
def _standard_error() -> Iterator[bytearray]:
    """Yield a buffer that holds, after the block, what was written to standard error in the block.

    The codecs report warnings nowhere else. Lines from other threads, which share standard error,
    are written to it after the block. Only one thread at a time is in the block. A line that another thread is writing
    when the block ends may be lost, because waiting for its end could take forever.
    """
    written = bytearray()
    with _capturing:
        buffer = os.memfd_create("stderr")
        # Each write goes to the end, also where two threads write at once.
        fcntl.fcntl(buffer, fcntl.F_SETFL, os.O_APPEND)
        try:
            saved = os.dup(2)
        except OSError:  # Standard error is closed.
            saved = None
        try:
            os.dup2(buffer, 2)
            yield written
        finally:
            if saved is None:
                os.close(2)
            else:
                os.dup2(saved, 2)
                os.close(saved)
            written += os.pread(buffer, os.fstat(buffer).st_size, 0)
            os.close(buffer)
    others = [
        line for line in bytes(written).splitlines(keepends=True) if not _CODECS.match(line.decode(errors="replace"))
    ]
    if others and saved is not None:
        os.write(2, b"".join(others))
