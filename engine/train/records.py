"""The JSON files of a reconstruction's folder; without torch, for `peel4d info`."""

from __future__ import annotations

import json
from pathlib import Path

from ..atomic import write_text
from ..errors import ReconstructionError


def read_json(path: Path) -> dict:
    """Read a JSON object of ours. Raises ReconstructionError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReconstructionError(
            f"unreadable ({error})", where=path, hint="Is this a folder made by `reconstruct`?"
        ) from error
    if not isinstance(value, dict):
        raise ReconstructionError(
            "not a JSON object", where=path, hint="Is this a folder made by `reconstruct`?"
        )
    return value


def write_json(path: Path, value: dict) -> None:
    """Write a JSON object, atomically and readable."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
