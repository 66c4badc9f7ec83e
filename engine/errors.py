"""The errors that Peel4D raises on purpose.

Every one of them says what is wrong, where (file, view, frame) and what to do. The command line
prints the text on one line and exits with `exit_code`; Blender's operators pass it to
`self.report({'ERROR'}, ...)`. Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

from pathlib import Path


class PeelError(Exception):
    """Base of the family.

    what: the fault in one clause. where: file, view and frame, as far as known.
    hint: what the user can do about it. code: stable machine-readable name (worker protocol).
    """

    code = "error"
    exit_code = 2

    def __init__(self, what: str, *, where: str | Path | None = None, hint: str | None = None):
        self.what = what
        self.where = str(where) if where is not None else None
        self.hint = hint
        text = f"{self.where}: {what}" if self.where else what
        super().__init__(f"{text}. {hint}" if hint else text)

    def __reduce__(self):
        # Exceptions are made anew by their text alone; these have named parts.
        return _same_error, (type(self), self.args, self.__dict__)


def _same_error(kind: type[PeelError], arguments: tuple, state: dict) -> PeelError:
    """An error as another process raised it."""
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


class CaptureError(PeelError):
    """A capture cannot be read: missing, unsupported, inconsistent calibration or images."""

    code = "capture"


class ClipError(PeelError):
    """A `.p4d` file is missing, foreign, truncated, corrupt or of another schema version."""

    code = "clip"


class ReconstructionError(PeelError):
    """Training cannot start or go on: nothing to reconstruct, bad checkpoint, out of memory."""

    code = "reconstruction"


class CoreError(PeelError):
    """The splat core is missing, of another ABI version, or was given invalid arrays."""

    code = "core"


class OutputError(PeelError):
    """A result cannot be written: no space, no permission, folder missing."""

    code = "output"
