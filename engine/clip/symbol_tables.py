"""Integer probability tables of numbers around zero, from three bytes each.

A discrete Laplace density with a zero of its own: P(0) = zero / 256, and every further step away
from zero is ratio / 256 times as likely. Integers only, so both ends have the same table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Frequencies of a table add up to this.
TOTAL_BITS = 14
TOTAL = 1 << TOTAL_BITS


@dataclass(frozen=True)
class SymbolTable:
    """zero: 1..255. ratio: 0..255. highest: the largest magnitude, 0..255."""

    zero: int
    ratio: int
    highest: int

    @classmethod
    def from_bytes(cls, data: bytes) -> SymbolTable:
        """The inverse of `to_bytes`, for any three bytes."""
        zero, ratio, highest = data
        return cls(max(zero, 1), ratio, highest)

    def to_bytes(self) -> bytes:
        return bytes((self.zero, self.ratio, self.highest))

    @property
    def frequencies(self) -> np.ndarray:
        """Of -highest..highest, (2 highest + 1,) uint32, none of them 0; their sum is TOTAL."""
        highest = self.highest
        if highest == 0:
            return np.array([TOTAL], dtype=np.uint32)
        side = (TOTAL - (self.zero << (TOTAL_BITS - 8))) // 2
        weights, weight = [], 1 << 20
        for _ in range(highest):
            weights.append(max(weight, 1))
            weight = weight * self.ratio >> 8
        total, left = sum(weights), side - highest
        if left < 0:  # a table of next to nothing but zeros
            side, left = highest, 0
        tail = [1 + left * weight // total for weight in weights]
        tail[0] += side - sum(tail)
        return np.array([*tail[::-1], TOTAL - 2 * side, *tail], dtype=np.uint32)

    def bits(self, values: np.ndarray) -> float:
        """What integers (any shape) take with this table."""
        used = self.frequencies[values.ravel() + self.highest]
        return float((TOTAL_BITS - np.log2(used)).sum())


def fitted_table(values: np.ndarray) -> SymbolTable:
    """The table for integers (any shape) of magnitudes up to 255."""
    size = np.abs(values.ravel().astype(np.int64))
    highest = int(size.max(initial=0))
    if highest == 0:
        return SymbolTable(255, 0, 0)
    others = size[size > 0]
    zero = int(np.clip(round(256 * (1 - len(others) / len(size))), 1, 255))
    mean = float(others.mean())
    first = round(256 * (1 - 1 / mean))
    # Near the closed form of an endless tail lies the best one of a tail that ends.
    choices = {int(np.clip(first + d, 0, 255)) for d in (-24, -12, -6, -3, 0, 3, 6, 12, 24)}
    return min(
        (SymbolTable(zero, ratio, highest) for ratio in sorted(choices)),
        key=lambda table: table.bits(values),
    )
