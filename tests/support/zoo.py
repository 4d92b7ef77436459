"""Pictures of every kind that may lie in a set, of 40x60 pixels, made by Pillow, imagecodecs and by hand."""

import io
import struct
import zlib
from typing import Any

import cv2
import imagecodecs
import numpy as np
from PIL import Image, ImageCms

from stages.coco import png

RNG = np.random.default_rng(5)
RGB = cv2.resize(RNG.integers(0, 256, (5, 7, 3), np.uint8), (60, 40), interpolation=cv2.INTER_CUBIC)
RGB = cv2.add(RGB, RNG.integers(0, 20, RGB.shape, np.uint8))
GREY = RGB[..., 0]
ALPHA = RNG.integers(0, 256, GREY.shape, np.uint8)
RGBA = np.dstack([RGB, ALPHA])
GREY16 = GREY * np.uint16(257) ^ ALPHA
RGB16 = RGB * np.uint16(257) ^ ALPHA[..., None]
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Left, top and steps of the passes of an interlaced PNG (W3C PNG, 8.2)."""


def chunk(kind: bytes, *values: int, code: str = "B") -> bytes:
    """A chunk of a PNG with big-endian numbers."""
    content = kind + struct.pack(f">{len(values)}{code}", *values)
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


def write_png(pixels: Any, kind: int, depth: int, extra: bytes = b"", interlaced: bool = False, cut: int = 0) -> bytes:
    """A PNG of a colour type and depth with more chunks before its pixels, of whose stream `cut` bytes are left out."""

    def packed(row: Any) -> bytes:
        if depth >= 8:
            return bytes(row.astype(f">u{depth // 8}").tobytes())
        return np.packbits((row[:, None] >> np.arange(depth)[::-1]) & 1).tobytes()

    passes = [pixels[y::down, x::right] for x, y, right, down in _ADAM7] if interlaced else [pixels]
    rows = b"".join(b"\0" + packed(row) for part in passes if part.size for row in part)
    stream = zlib.compress(rows)
    header = struct.pack(">II5B", pixels.shape[1], pixels.shape[0], depth, kind, 0, 0, interlaced)
    return png.SIGNATURE + b"".join(
        (chunk(b"IHDR", *header), extra, chunk(b"IDAT", *stream[: len(stream) - cut]), chunk(b"IEND"))
    )


def save(kind: str, pixels: Any = RGB, mode: str | None = None, **options: Any) -> bytes:
    """A picture written by Pillow."""
    out = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(out, kind, **options)
    return out.getvalue()


def turned(kind: str, orientation: int, **options: Any) -> bytes:
    """A picture with an EXIF orientation (1 to 8; others are undefined)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(kind, exif=exif, **options)


def _pngs() -> dict[str, bytes]:
    colours = {depth: chunk(b"PLTE", *RNG.integers(0, 256, 3 << depth).tolist()) for depth in (1, 2, 4, 8)}
    found = {
        "grey 16": write_png(GREY16, 0, 16),
        "grey 16 with tRNS": write_png(GREY16, 0, 16, chunk(b"tRNS", int(GREY16[0, 0]), code="H")),
        "grey 16 interlaced": write_png(GREY16, 0, 16, interlaced=True),
        "grey with alpha": write_png(RGBA[..., [0, 3]], 4, 8),
        "grey 16 with alpha": write_png(np.dstack([GREY16, GREY16.T.reshape(GREY16.shape)]), 4, 16),
        "RGB": write_png(RGB, 2, 8),
        "RGB interlaced": write_png(RGB, 2, 8, interlaced=True),
        "RGB with tRNS": write_png(RGB, 2, 8, chunk(b"tRNS", *RGB[0, 0].tolist(), code="H")),
        "RGB 16": write_png(RGB16, 2, 16),
        "RGBA": write_png(RGBA, 6, 8, chunk(b"bKGD", 9, 200, 9, code="H")),
        "RGBA interlaced": write_png(RGBA, 6, 8, interlaced=True),
        "RGBA 16": write_png(np.dstack([RGB16, GREY16]), 6, 16),
        "gamma": write_png(RGB, 2, 8, chunk(b"gAMA", 100000, code="I")),
        "primaries": write_png(RGB, 2, 8, chunk(b"gAMA", 30000, code="I") + chunk(b"cICP", 9, 16, 0, 1)),
        "fewer bits": write_png(RGB, 2, 8, chunk(b"sBIT", 5, 5, 5)),
        "texts": save("PNG", dpi=(300, 200)),
        "animated": save("PNG", save_all=True, append_images=[Image.fromarray(RGB[::-1])]),
        "animated palette": save("PNG", mode="P", save_all=True, append_images=[Image.fromarray(GREY).convert("P")]),
    }
    for depth, table in colours.items():
        found[f"grey {depth}"] = write_png(GREY >> (8 - depth), 0, depth)
        found[f"grey {depth} with tRNS"] = write_png(GREY >> (8 - depth), 0, depth, chunk(b"tRNS", 1, code="H"))
        found[f"palette {depth}"] = write_png(GREY >> (8 - depth), 3, depth, table)
        found[f"palette {depth} with tRNS"] = write_png(GREY >> (8 - depth), 3, depth, table + chunk(b"tRNS", 0, 128))
    return {f"PNG {name}": content for name, content in found.items()}


def _jpegs() -> dict[str, bytes]:
    tiff = "http://ns.adobe.com/tiff/1.0/"
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:tiff="{tiff}" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    cmyk = save("JPEG", mode="CMYK")
    adobe = cmyk.index(b"\xff\xee")
    found = {
        "grey": save("JPEG", mode="L"),
        "grey progressive": save("JPEG", mode="L", progressive=True),
        "CMYK": cmyk,
        "CMYK not said to be Adobe's": cmyk[:adobe] + cmyk[adobe + 16 :],
        "YCCK": imagecodecs.jpeg8_encode(RGBA, colorspace="CMYK", outcolorspace="YCCK"),
        "RGB": save("JPEG", keep_rgb=True),
        "restarts": save("JPEG", restart_marker_blocks=3),
        "lossless": imagecodecs.jpeg8_encode(RGB, lossless=True),
        "XMP orientation": save("JPEG", xmp=xmp.encode()),
        "MPO": save("MPO", save_all=True, append_images=[Image.fromarray(RGB[::-1])]),
        "MPO turned": turned("MPO", 3, save_all=True, append_images=[Image.fromarray(RGB)]),
        "with more behind": save("JPEG") + bytes(range(256)),
    }
    for sampling in ("444", "422", "420", "411", "440"):
        found[sampling] = imagecodecs.jpeg8_encode(RGB, level=90, subsampling=sampling)
    for quality in (1, 50, 100):
        for sampling in (0, 1, 2):
            for progressive in (False, True):
                options = {"quality": quality, "subsampling": sampling, "progressive": progressive}
                found[" ".join(map(str, options.values()))] = save("JPEG", **options)
    return {f"JPEG {name}": content for name, content in found.items()}


def _others() -> dict[str, bytes]:
    kinds = {kind: save(kind) for kind in ("WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM")}
    return kinds | {
        "WEBP animated": save("WEBP", save_all=True, append_images=[Image.fromarray(RGB[::-1])]),
        "WEBP RGBA": save("WEBP", RGBA),
        "WEBP turned": turned("WEBP", 3),
        "AVIF turned": turned("AVIF", 3),
        "TIFF turned": turned("TIFF", 3),
        "TIFF grey 16": save("TIFF", GREY16),
        "TIFF RGBA": save("TIFF", RGBA),
        "TIFF CMYK": save("TIFF", mode="CMYK"),
        "TIFF of two pages": save("TIFF", save_all=True, append_images=[Image.fromarray(RGB[::-1])]),
        "GIF transparent": save("GIF", RGBA),
        "BMP 1": save("BMP", mode="1"),
        "BMP palette": save("BMP", mode="P"),
    }


_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PICTURES = (
    _pngs()
    | _jpegs()
    | _others()
    | {f"{kind} profile": save(kind, icc_profile=_PROFILE) for kind in ("PNG", "JPEG")}
    | {f"{kind} EXIF {number}": turned(kind, number) for kind in ("PNG", "JPEG") for number in range(10)}
)
"""Complete picture files by kind. Only those with an EXIF orientation are shown rotated or mirrored."""

_PLAIN = save("JPEG")
UNREADABLE = {
    "JPEG 12": imagecodecs.jpeg8_encode(RGB16 >> 4, level=90, bitspersample=12),
    "JPEG lossless 16": imagecodecs.jpeg8_encode(GREY16, lossless=True, bitspersample=16),
    "TGA": save("TGA"),
    "TIFF float": save("TIFF", GREY.astype(np.float32)),
    "JPEG broken EXIF": _PLAIN[:2] + b"\xff\xe1\x00\x10Exif\0\0garbage!" + _PLAIN[2:],
    "nothing": b"",
    "text": b"no picture at all",
}
"""Files that at least one of the two readers can't read."""


def _cut() -> dict[str, bytes]:
    found = {}
    noise = RNG.integers(0, 256, (200, 300, 3), np.uint8)
    rows = write_png(RGB[:30], 2, 8)
    for name, content in (
        ("JPEG", save("JPEG", noise)),
        ("JPEG progressive", save("JPEG", noise, progressive=True)),
        ("PNG", save("PNG", noise)),
        ("PNG interlaced", write_png(noise, 2, 8, interlaced=True)),
        *((kind, save(kind, noise)) for kind in ("WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF")),
    ):
        half = len(content) // 2
        found |= {f"{name} without its last {size}": content[:-size] for size in (1, 2, 4, 11, 12, 13, 20, half)}
        if name.startswith("JPEG") and "2000" not in name:
            found[f"{name} ended early"] = content[:half] + b"\xff\xd9"
            found[f"{name} with a hole"] = content[:half] + bytes(2048) + content[half + 2048 :]
            found[f"{name} then zeros"] = content[:half] + bytes(half)
    phone = save("MPO", noise, save_all=True, append_images=[Image.fromarray(noise)])
    second = phone.index(b"\xff\xd9\xff\xd8") + 2
    found |= {f"MPO without {size} of its first picture": phone[: second - size] for size in (1, 2, 500)}
    wrong = bytearray(rows)
    wrong[-14] ^= 1
    found["PNG with a wrong checksum"] = bytes(wrong)
    found["PNG of a short stream"] = write_png(RGB, 2, 8, cut=40)
    found["PNG of a stream without end"] = write_png(RGB, 2, 8, cut=4)
    short = struct.pack(">II", 60, 40) + rows[24:29]
    found["PNG of fewer rows"] = png.SIGNATURE + chunk(b"IHDR", *short) + rows[33:]
    return found


CUT = _cut()
"""Pictures that are cut short or damaged."""
