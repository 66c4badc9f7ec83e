"""How masks were made and how far to trust them: masks.json beside them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..atomic import write_text
from ..errors import ReconstructionError

SCHEMA, VERSION = "peel4d-masks", 1
_STATE = "masks.json"
#: Confidence before doubts, by method: a key knows its background, a plate infers it.
_BASE = {
    "green screen": 0.95,
    "blue screen": 0.95,
    "even backdrop": 0.9,
    "plate": 0.85,
    "none": 0.0,
}
#: Below this agreement with the other views' masks a mask is not trustworthy.
TRUSTED_AGREEMENT = 0.5


@dataclass(frozen=True)
class MaskReport:
    """How one view's masks were made and how far to trust them.

    view: its name. method: "plate", "green screen", "blue screen", "even backdrop" or "none".
    unknown: share of its pixels marked unknown (128), over all frames. agreement: mean
    intersection over union of the mask and the hull of all views' masks, None where not known.
    confidence: 0 (nothing is known) to 1. reason: a sentence for people.
    """

    view: str
    method: str
    unknown: float
    agreement: float | None
    confidence: float
    reason: str

    @property
    def trustworthy(self) -> bool:
        """Whether a loss on the mask does more good than harm."""
        return self.confidence >= 0.5


def mask_reports(folder: Path) -> dict[str, MaskReport]:
    """The reports that `estimate_masks` left in a folder, by the view's name.

    Raises ReconstructionError where there are none.
    """
    state = State.load(Path(folder))
    return {name: _report(name, entry) for name, entry in state.views.items()}


def _report(name: str, entry: dict) -> MaskReport:
    files = list(entry["frames"].values())
    unknown = float(np.mean([f["unknown"] for f in files])) if files else 1.0
    compared = [f["agreement"] for f in files if f["agreement"] is not None]
    agreement = float(np.mean(compared)) if compared else None
    confidence, reason = _BASE[entry["method"]] * (1 - entry["doubt"]), entry["reason"]
    confidence *= 1 - unknown
    if agreement is not None:
        # Even exact masks agree with a hull of few cameras to about 0.8 only.
        confidence *= min(1.0, agreement / 0.8)
        if agreement < TRUSTED_AGREEMENT:
            reason += f"; but the other views' masks contradict it (agreement {agreement:.2f})"
    return MaskReport(name, entry["method"], unknown, agreement, confidence, reason)


@dataclass
class State:
    """masks.json: {"method", "views": {name: {"method", "reason", "doubt", "frames": {label:
    {"unknown", "agreement"}}}}}."""

    path: Path
    method: str
    views: dict[str, dict]

    @classmethod
    def begin(cls, folder: Path, method: str) -> State:
        if not (folder / _STATE).is_file():
            return cls(folder / _STATE, method, {})
        state = cls.load(folder)
        if state.method != method:
            raise ReconstructionError(
                f"holds masks of method '{state.method}', not '{method}'",
                where=folder,
                hint="Choose another folder or delete this one",
            )
        return state

    @classmethod
    def load(cls, folder: Path) -> State:
        path = folder / _STATE
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            if value["schema"] != SCHEMA or value["version"] != VERSION:
                raise ValueError("another schema or version")
            return cls(path, value["method"], value["views"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ReconstructionError(
                f"cannot be read as the record of estimated masks ({error})",
                where=path,
                hint="Delete the folder; its masks will be made again",
            ) from error

    def save(self) -> None:
        value = {"schema": SCHEMA, "version": VERSION, "method": self.method, "views": self.views}
        write_text(self.path, json.dumps(value, indent=1))
