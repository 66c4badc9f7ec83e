"""One small callback type for progress: the command line draws a bar, the worker prints JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """One report: `step` counts from 0 to `total` inside `stage`; `metrics` as {"psnr": 27.1}."""

    stage: str
    step: int
    total: int
    eta_seconds: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


ProgressCallback = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The callback of callers who do not want to hear anything."""
