"""Whether a series of measurements grows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def growth(values: Sequence[float]) -> float:
    """Relative change from the first fifth of a series to its last, medians of both."""
    fifth = max(len(values) // 5, 1)
    return statistics.median(values[-fifth:]) / statistics.median(values[:fifth]) - 1.0
