"""Pictures of every kind, read by picture_decoding with both libraries."""

import io
import os
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from stages.conversion import picture_decoding
from stages.foundation import picture_files
from tests.conftest import REPO
from tests.support import zoo

# Pillow's, to developers, of palettes with tRNS.
pytestmark = pytest.mark.filterwarnings("ignore:Palette images with Transparency")


def write(folder: Path, content: bytes) -> Path:
    path = folder / "p.jpg"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", zoo.PICTURES)
def test_pillow_differs_where_it_is_said(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, zoo.PICTURES[name])
    seen = picture_decoding.read(path)
    assert np.array_equal(seen.rgb, picture_files.read_rgb(path))
    with Image.open(path) as picture:
        picture.load()
        same = np.array_equal(np.asarray(picture.convert("RGB")), seen.rgb)
        assert seen.alike == (same and picture.format in picture_decoding.FORMATS)
    expected = 6 if "XMP" in name else int(name[-1]) if "EXIF" in name else 3 if "turned" in name else 1
    # The pixels of a TIFF are turned as it is read; 0 and 9 are no orientations.
    assert seen.orientation == (1 if expected in (0, 9) or "TIFF" in name else expected)


def test_where_the_readers_differ() -> None:
    """Among the pictures that both libraries can read, in the locked versions."""
    differ = set()
    for name, content in zoo.PICTURES.items():
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            if not np.array_equal(np.asarray(picture.convert("RGB")), picture_files.decode(content)):
                differ.add(name)
    grey = {f"PNG grey 16{more}" for more in ("", " with tRNS", " interlaced")}
    cmyk = {"JPEG CMYK", "JPEG CMYK not said to be Adobe's", "JPEG YCCK"}
    assert differ == grey | cmyk | {"TIFF grey 16", "TIFF RGBA", "GIF transparent"}


@pytest.mark.parametrize("name", [*zoo.UNREADABLE, *zoo.CUT])
def test_what_is_not_read_to_its_end_is_named(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, (zoo.UNREADABLE | zoo.CUT)[name])
    with pytest.raises(
        ValueError, match=r"p\.jpg: (\d+ bytes that are not a complete picture|damaged) \(.*restore the file"
    ) as e:
        picture_decoding.read(path)
    # The same text each time, as statistics.json lists it.
    assert " at 0x" not in str(e.value)
    assert "\n" not in str(e.value)
    assert capfd.readouterr().err == ""


def test_every_reader_refuses_what_convert_refuses(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """OpenCV alone fills half a JPEG with made-up pixels."""
    for content in zoo.CUT.values():
        path = write(tmp_path, content)
        with pytest.raises(ValueError, match=r"p\.jpg: can't be read as a picture: .*restore the file"):
            picture_files.read_rgb(path)
    assert capfd.readouterr().err == ""
    for content in zoo.PICTURES.values():
        assert picture_files.read_rgb(write(tmp_path, content)).shape == zoo.RGB.shape


def scans(content: bytes) -> list[int]:
    """Places of the scans' markers in a JPEG file."""
    return [match.start() for match in re.finditer(rb"\xff\xda", content)]


@pytest.mark.parametrize("reader", [picture_decoding.read, picture_files.read_rgb])
@pytest.mark.parametrize("kind", ["progressive", "scan by scan"])
def test_a_jpeg_of_which_whole_scans_are_missing(kind: str, reader: Callable[[Path], Any], tmp_path: Path) -> None:
    """libjpeg decodes it without a warning: blurred, or without its colours."""
    content = zoo.save("JPEG", progressive=True) if kind == "progressive" else planes()
    reader(write(tmp_path, content))
    assert len(scans(content)) > 2
    for place in scans(content)[1:]:
        path = write(tmp_path, content[:place] + b"\xff\xd9")
        with pytest.raises(ValueError, match=r"p\.jpg: .*not a complete picture \(scans are missing\); restore"):
            reader(path)


def planes() -> bytes:
    """A sequential JPEG with a scan for each of three components, by ITU-T T.81, B.2: the scan of a grey one thrice."""
    grey = zoo.save("JPEG", mode="L")
    frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    size = grey[frame + 4 : frame + 9]
    tables = grey[frame + 13 : scan]
    coded = grey[scan + 10 : -2]
    header = b"\xff\xc0\x00\x11" + size + b"\x03" + b"".join(bytes([c, 0x11, 0]) for c in (1, 2, 3))
    parts = b"".join(b"\xff\xda\x00\x08\x01" + bytes([c, 0, 0, 63, 0]) + coded for c in (1, 2, 3))
    return grey[:frame] + header + tables + parts + b"\xff\xd9"


OTHER_THREAD = """
import os, threading, time
from stages.foundation import picture_files
from tests.support import zoo

def speak():
    for number in range(300):
        os.write(2, b"frame.jpg: damaged (Corrupt JPEG data: as logged) %d\\n" % number)
        time.sleep(1e-4)

thread = threading.Thread(target=speak)
thread.start()
while thread.is_alive():
    assert picture_files.decode(zoo.save("JPEG")).shape == zoo.RGB.shape
    try:
        picture_files.decode(zoo.CUT["JPEG ended early"])
    except ValueError as error:
        assert "damaged" in str(error)
    else:
        raise AssertionError("not found to be damaged")
"""


def test_what_other_threads_say_is_not_taken_for_the_codecs() -> None:
    done = subprocess.run([sys.executable, "-c", OTHER_THREAD], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("frame.jpg: damaged") for line in done.stderr.splitlines())


def test_what_other_threads_say_while_a_picture_is_decoded_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    with picture_files._standard_error():
        thread = threading.Thread(target=os.write, args=(2, b"a camera is lost\nCorrupt JPEG data: of the codec\n"))
        thread.start()
        thread.join()
    assert capfd.readouterr().err == "a camera is lost\n"


def test_pictures_are_read_where_standard_error_is_closed(tmp_path: Path) -> None:
    path = write(tmp_path, zoo.save("JPEG"))
    code = (
        f"from pathlib import Path; from stages.foundation import picture_files as p; p.read_rgb(Path({str(path)!r}))"
    )
    command = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code]
    assert subprocess.run(command, cwd=REPO, check=False).returncode == 0


def test_a_second_picture_that_nobody_reads_may_be_cut(tmp_path: Path) -> None:
    seen = picture_decoding.read(write(tmp_path, zoo.PICTURES["JPEG MPO"][:-200]))
    assert seen.alike
    assert np.array_equal(seen.rgb, picture_files.decode(zoo.save("JPEG")))


def test_sixteen_bits_are_seen_as_their_upper_eight(tmp_path: Path) -> None:
    seen = picture_decoding.read(write(tmp_path, zoo.PICTURES["PNG grey 16"]))
    assert np.array_equal(seen.rgb, np.repeat(zoo.GREY16[..., None] >> 8, 3, axis=2))
    seen = picture_decoding.read(write(tmp_path, zoo.PICTURES["JPEG CMYK"]))
    assert np.abs(seen.rgb.astype(int) - zoo.RGB).mean() < 12


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9\n.png")
    path.write_bytes(zoo.PICTURES["PNG RGB"])
    assert np.array_equal(picture_files.read_rgb(path), zoo.RGB)
    for content in (b"", b"text", zoo.PICTURES["PNG RGB"][:-1]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"caf\\xe9\\n\.png: can't be read as a picture"):
            picture_files.read_rgb(path)
    with pytest.raises(ValueError, match=r"gone\.png: can't be read \(No such file or directory\)"):
        picture_files.read_rgb(tmp_path / "gone.png")


def test_more_pixels_than_opencv_takes(tmp_path: Path) -> None:
    content = bytearray(cv2.imencode(".bmp", zoo.RGB)[1].tobytes())
    content[18:26] = struct.pack("<ii", 1 << 20, 1 << 20)
    with pytest.raises(ValueError, match="can't be read as a picture"):
        picture_files.read_rgb(write(tmp_path, bytes(content)))
