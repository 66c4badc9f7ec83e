"""Integer codes <-> byte planes that compress well.

Along the Morton curve neighbours resemble each other, so differences of successive codes are
small; red and blue resemble green. Both are undone exactly, in arithmetic modulo the word size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

#: Bytes of a code -> its little-endian word.
_WORDS = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4")}
#: Codes that are worked on at a time: half a megabyte stays in the processor's cache.
_PIECE = 1 << 16


def word_bytes(levels: int) -> int:
    """Bytes that hold the codes 0..levels: 1, 2 or 4."""
    return 1 if levels < 1 << 8 else 2 if levels < 1 << 16 else 4


def split(codes: np.ndarray, nbytes: int, *, delta: bool, color: bool) -> list[bytes]:
    """Codes (C, N) -> C * nbytes planes of N bytes, component by component, lowest byte first.

    delta: store differences along N. color: store the components (r, g, b, r, g, b, ...) as
    (r - g, g, b - g, ...); C is then a multiple of 3.
    """
    words = codes.astype(_WORDS[nbytes], order="C")
    if color:
        words[0::3] -= words[1::3]
        words[2::3] -= words[1::3]
    if delta:
        words[:, 1:] = words[:, 1:] - words[:, :-1]
    if _zigzagged(nbytes, delta, color):
        sign = -(words >> words.dtype.type(8 * nbytes - 1))
        words = (words << words.dtype.type(1)) ^ sign
    octets = words.view(np.uint8).reshape(*words.shape, nbytes)
    return [octets[c, :, k].tobytes() for c in range(len(octets)) for k in range(nbytes)]


def join(
    planes: Iterable[bytes], nbytes: int, codes: np.ndarray, *, delta: bool, color: bool
) -> None:
    """The inverse of `split`: planes -> `codes` (C, N), written in place.

    codes: of words that hold at least `nbytes`. Planes are taken one at a time, so that they may be
    decompressed on the way.
    """
    octets = (np.frombuffer(plane, dtype=np.uint8) for plane in planes)
    group = 3 if color else 1
    in_place = codes.dtype == _WORDS[nbytes]
    # Fresh memory costs more than the arithmetic: everything happens in these rows.
    scratch = None if in_place else np.empty((group, codes.shape[1]), _WORDS[nbytes])
    sign = np.empty(codes.shape[1], _WORDS[nbytes]) if _zigzagged(nbytes, delta, color) else None
    for first in range(0, len(codes), group):
        rows = codes[first : first + group]
        words = rows if scratch is None else scratch
        for word in words:
            _join_bytes([next(octets) for _ in range(nbytes)], word)
            if sign is not None:
                np.bitwise_and(word, 1, out=sign)
                np.negative(sign, out=sign)
                word >>= 1
                word ^= sign
            if delta:
                np.cumsum(word, dtype=word.dtype, out=word)
        if color:
            words[0] += words[1]
            words[2] += words[1]
        if words is not rows:
            rows[...] = words


def _join_bytes(octets: list[np.ndarray], words: np.ndarray) -> None:
    """Bytes (N,), lowest first -> `words` (N,) of as many bytes, written in place."""
    words[...] = octets[-1]
    for lower in octets[-2::-1]:
        words <<= 8
        words |= lower


def split_sorted(codes: np.ndarray) -> list[bytes]:
    """Ascending uint64 codes (N,) -> planes of their differences, lowest byte first, at least 1."""
    differences = codes.copy()
    differences[1:] -= codes[:-1]
    used = max(-(-int(differences.max(initial=0)).bit_length() // 8), 1)
    octets = differences.astype("<u8").view(np.uint8).reshape(-1, 8)
    return [octets[:, k].tobytes() for k in range(used)]


def join_sorted(planes: list[bytes], count: int) -> Iterator[np.ndarray]:
    """The inverse of `split_sorted`: up to 8 planes -> uint64 codes, N = count in consecutive
    pieces."""
    rows = [np.frombuffer(plane, dtype=np.uint8) for plane in planes]
    octets = np.zeros((min(count, _PIECE), 8), dtype=np.uint8)
    last = np.zeros(1, dtype="<u8")
    for start in range(0, count, _PIECE):
        piece = octets[: count - start]
        for index, row in enumerate(rows):
            piece[:, index] = row[start : start + _PIECE]
        codes = piece.view("<u8")[:, 0]
        codes[:1] += last
        codes = np.cumsum(codes, dtype="<u8")
        last = codes[-1:]
        yield codes


def _zigzagged(nbytes: int, delta: bool, color: bool) -> bool:
    """Whether signed numbers are mapped to 0, -1, 1, -2, ... so that high bytes become zero."""
    return nbytes > 1 and (delta or color)
