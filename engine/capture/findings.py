"""What a health check found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """severity: "error" (cannot be reconstructed like this), "warning" (probably wrong) or "note".

    text: what was found, and what to do about it. where: view, frame or file, "" for the whole.
    """

    severity: str
    text: str
    where: str = ""


def enumeration(names: Sequence[str], limit: int = 8) -> str:
    """ "a, b, c, ... (27 in all)"."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown}, ... ({len(names)} in all)"
