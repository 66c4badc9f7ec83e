"""Integer codes <-> byte planes that compress well.

Along the Morton curve neighbours resemble each other, so differences of successive codes are
small; red and blue resemble green. Both are undone exactly, in arithmetic modulo the word size.
"""

from __future__ import annotations

import numpy as np

#: Bytes of a code -> its little-endian word.
_WORDS = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4")}


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


def join(planes: list[bytes], count: int, nbytes: int, *, delta: bool, color: bool) -> np.ndarray:
    """The inverse of `split`: planes -> codes (C, N) in a word of `nbytes`, N = count."""
    components = len(planes) // nbytes
    octets = np.empty((components, count, nbytes), dtype=np.uint8)
    for index, plane in enumerate(planes):
        octets[index // nbytes, :, index % nbytes] = np.frombuffer(plane, dtype=np.uint8)
    words = octets.view(_WORDS[nbytes])[..., 0]
    if _zigzagged(nbytes, delta, color):
        one = words.dtype.type(1)
        words = (words >> one) ^ -(words & one)
    if delta:
        np.cumsum(words, axis=1, dtype=words.dtype, out=words)
    if color:
        words[0::3] += words[1::3]
        words[2::3] += words[1::3]
    return words


def split_sorted(codes: np.ndarray) -> list[bytes]:
    """Ascending uint64 codes (N,) -> planes of their differences, lowest byte first, at least 1."""
    differences = codes.copy()
    differences[1:] -= codes[:-1]
    used = max(-(-int(differences.max(initial=0)).bit_length() // 8), 1)
    octets = differences.astype("<u8").view(np.uint8).reshape(-1, 8)
    return [octets[:, k].tobytes() for k in range(used)]


def join_sorted(planes: list[bytes], count: int) -> np.ndarray:
    """The inverse of `split_sorted`: up to 8 planes -> uint64 codes (N,), N = count."""
    octets = np.zeros((count, 8), dtype=np.uint8)
    for index, plane in enumerate(planes):
        octets[:, index] = np.frombuffer(plane, dtype=np.uint8)
    return np.cumsum(octets.view("<u8")[:, 0], dtype=np.uint64)


def _zigzagged(nbytes: int, delta: bool, color: bool) -> bool:
    """Whether signed numbers are mapped to 0, -1, 1, -2, ... so that high bytes become zero."""
    return nbytes > 1 and (delta or color)
