"""What goes wrong for lack of memory or space, as errors that say how much and what to do."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path

from ..errors import OutputError, PeelError
from ..machine import machine_bytes
from .memory import gigabytes, peak_bytes

#: torch raises RuntimeError for the CPU and a subclass of it for a GPU; numpy and OpenCV their own.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate|insufficient memory|bad_alloc|"
    r"failed to map segment",  # of a library that is being loaded
    re.I,
)
_NO_SPACE = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class OutOfMemory(PeelError):
    """The machine, the GPU or the limit that was set has no more memory."""

    code = "memory"


def explain(error: BaseException, output: Path | None) -> PeelError | None:
    """The error to show for an exception; None when it is a bug of ours.

    output: where results go, for the space that is left there.
    """
    if isinstance(error, OutOfMemory):
        return error
    if is_out_of_memory(error):
        return out_of_memory(f"not enough memory ({_first_line(error)})", gpu="CUDA" in str(error))
    cause = error.__cause__ if isinstance(error, OutputError) else error
    if isinstance(cause, OSError) and cause.errno in _NO_SPACE:
        where = getattr(error, "where", None) or cause.filename or output
        return OutputError(
            f"cannot write ({cause.strerror or cause}{_free(output)})",
            where=where,
            hint="Free some space, then resume; everything up to the last checkpoint is kept",
        )
    if isinstance(error, PeelError):
        return error
    if isinstance(error, OSError):
        return OutputError(str(error.strerror or error), where=error.filename)
    return None


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # cv2.error and RuntimeError; a PeelError has said what it means already.
    return not isinstance(error, PeelError) and bool(_OUT_OF_MEMORY.search(str(error)))


def out_of_memory(what: str, *, gpu: bool = False) -> OutOfMemory:
    held = f"{what}; the reconstruction held up to {gigabytes(peak_bytes())}"
    if (machine := machine_bytes()) is not None:
        held += f" of this machine's {gigabytes(machine)}"
    device = "on the GPU, raise --max-vram where it is set, " if gpu else ""
    return OutOfMemory(
        held,
        hint=f"Close other programs that use memory {device}or take fewer or smaller views, "
        "then resume; everything up to the last checkpoint is kept",
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


def _free(output: Path | None) -> str:
    folder = output
    while folder is not None and not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    if folder is None:
        return ""
    try:
        return f", {shutil.disk_usage(folder).free / 1e6:.1f} MB free"
    except OSError:
        return ""
