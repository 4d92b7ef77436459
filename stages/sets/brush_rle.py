"""Encodes and decodes the masks of Label Studio's brush: run lengths of RGBA pixels as a stream of bits.

Format: thi.ng/umbrella, packages/rle-pack, which Label Studio uses with bytes as words (labelstud.io/tags/brushlabels).

    32 bits   number of words, here 4 x height x width: red, green, blue and alpha of each pixel, row by row
    5 bits    bits of a word - 1
    4 x 4     bits - 1 of the numbers in each of four size classes
    then      1 bit: 1 for a run of one word, 0 for different words; 2 bits: size class; a number n, in so many bits;
              one word, or n + 1 words

A pixel belongs to the mask where its alpha is above 0, as in Label Studio's own export to COCO.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

_Bits = npt.NDArray[np.uint8]
_WORD_BITS: Final = 8
_SIZES: Final = (3, 4, 8, 16)
"""Bits of the numbers in the four size classes, as Label Studio writes them."""
_HEADER_BITS: Final = 32 + 5 + 4 * 4
_LONGEST: Final = 1 << 16
"""Words of the longest run."""


def encode(mask: npt.NDArray[np.bool_]) -> list[int]:
    """Return the bytes, 0 to 255, of a mask, bool [H, W]."""
    flat = mask.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = 4 * np.diff(starts, append=flat.size)
    parts = -(-lengths // _LONGEST)
    words = np.repeat(np.where(flat[starts], 255, 0), parts)
    # All parts of a run are as long as possible but for its last one.
    counts = np.full(int(parts.sum()), _LONGEST)
    counts[np.cumsum(parts) - 1] = lengths - _LONGEST * (parts - 1)
    kinds = np.searchsorted([1 << bits for bits in _SIZES], counts)
    sizes = np.array(_SIZES)[kinds]
    values = (((0b100 | kinds) << sizes | (counts - 1)) << _WORD_BITS) | words
    header = [(4 * flat.size, 32), (_WORD_BITS - 1, 5), *((bits - 1, 4) for bits in _SIZES)]
    head = np.concatenate([_bits(np.array([value]), np.array([bits])) for value, bits in header])
    # Label Studio's own encoder adds at least one bit too.
    body = np.concatenate([head, _bits(values, 3 + sizes + _WORD_BITS), np.zeros(1, np.uint8)])
    return np.packbits(body).tolist()


def _bits(values: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> _Bits:
    """Return the lowest bits of each value, the highest of them first, one after another."""
    places = sizes[:, None] - 1 - np.arange(int(sizes.max()))
    bits = (values[:, None] >> np.maximum(places, 0)) & 1
    result: _Bits = bits[places >= 0].astype(np.uint8)
    return result


def decode(content: list[int], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Return the mask of height x width pixels. Raises ValueError for other bytes than those of such a mask."""
    try:
        packed = bytes(content)
    except (TypeError, ValueError) as error:
        raise ValueError(f"rle that is no list of bytes ({error})") from error
    padded, end = packed + bytes(8), 8 * len(packed)
    if end < _HEADER_BITS:
        raise ValueError(f"rle of {len(packed)} bytes")
    at = 0

    def read(bits: int) -> int:
        nonlocal at
        first = at // 8
        number = int.from_bytes(padded[first : first + 8], "big") >> (64 - at % 8 - bits)
        at += bits
        if at > end:
            raise ValueError("rle that ends within a run")
        return number & ((1 << bits) - 1)

    count, word_bits = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    if count != 4 * height * width or word_bits != _WORD_BITS:
        raise ValueError(f"rle of {count} words of {word_bits} bits, expected {4 * height * width} of {_WORD_BITS}")
    words, place, bits = np.zeros(count, np.uint8), 0, np.unpackbits(np.frombuffer(packed, np.uint8))
    while place < count:
        same = read(1)
        stop = place + 1 + read(sizes[read(2)])
        if stop > count:
            raise ValueError("rle with a run beyond the picture")
        if same:
            words[place:stop] = read(_WORD_BITS)
        else:
            length = _WORD_BITS * (stop - place)
            if at + length > end:
                raise ValueError("rle that ends within a run")
            words[place:stop] = np.packbits(bits[at : at + length])
            at += length
        place = stop
    return words.reshape(height, width, 4)[..., 3] > 0
