"""Text and numbers of calibration files, with errors that name the file and the place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..errors import CaptureError

# A calibration of a thousand cameras over ten thousand frames stays far below this.
_MAX_TEXT_BYTES = 1 << 30
# Beyond any pixel or distance; keeps the arithmetic on calibrations from overflowing.
_MAX_NUMBER = 1e12


def read_text(path: Path) -> str:
    """The file as text (UTF-8, a byte order mark is dropped). Raises CaptureError."""
    try:
        if path.stat().st_size > _MAX_TEXT_BYTES:
            raise CaptureError("too large for a calibration file", where=path)
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CaptureError(f"cannot read ({error.strerror or error})", where=path) from error
    except UnicodeDecodeError as error:
        raise CaptureError(
            "is not a text file",
            where=path,
            hint="Calibrations are JSON (.json) or OpenCV YAML (.yml)",
        ) from error


def read_json(path: Path) -> dict:
    """The JSON object that `path` holds. Raises CaptureError with line and column."""
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise CaptureError(
            f"is not valid JSON ({error.msg}, line {error.lineno} column {error.colno})",
            where=path,
            hint="The file may be truncated or not a calibration",
        ) from error
    except RecursionError as error:
        raise CaptureError("is nested too deeply for a calibration", where=path) from error
    if not isinstance(value, dict):
        raise CaptureError("is JSON, but not an object with named fields", where=path)
    return value


def matrix(value: object, shape: tuple[int, ...], what: str, where: str | Path) -> np.ndarray:
    """`value` as finite float64 of `shape`. Raises CaptureError: `what` names it ("K of ...")."""
    if value is None:
        raise CaptureError(f"{what} is missing", where=where)
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise CaptureError(f"{what} is not a table of numbers", where=where) from error
    # A vector may come as a column, a matrix as one flat list.
    is_flat = array.size == max(array.shape, default=1)
    if array.size != int(np.prod(shape)) or not (is_flat or array.shape == shape):
        found = " x ".join(map(str, array.shape)) or "one number"
        wanted = " x ".join(map(str, shape)) or "one number"
        raise CaptureError(f"{what} is {found} instead of {wanted}", where=where)
    if not np.isfinite(array).all():
        raise CaptureError(
            f"{what} contains NaN or infinite values",
            where=where,
            hint="Calibrate this camera again or remove it from the file",
        )
    if np.abs(array).max(initial=0) > _MAX_NUMBER:
        raise CaptureError(f"{what} contains absurdly large values", where=where)
    return array.reshape(shape)


def number(value: object, what: str, where: str | Path) -> float:
    """`value` as a finite float. Raises CaptureError."""
    if isinstance(value, bool):
        raise CaptureError(f"{what} is not a number", where=where)
    return float(matrix(value, (), what, where))


def pixels(value: object, what: str, where: str | Path) -> int:
    """`value` as a whole, positive number of pixels. Raises CaptureError."""
    result = number(value, what, where)
    if result != round(result) or not 1 <= result <= 1 << 20:
        raise CaptureError(f"{what} is {result:g}, not a number of pixels", where=where)
    return int(result)


def distortion(values: object, what: str, where: str | Path) -> tuple[float, ...]:
    """OpenCV distortion coefficients, trailing zeros dropped to the next length OpenCV knows.

    Returns () where all are zero, else 4, 5, 8, 12 or 14 numbers. Raises CaptureError.
    """
    count = np.size(values)  # type: ignore[arg-type]
    array = matrix(values, (count,), what, where)
    if count > 14:
        raise CaptureError(f"{what} has {count} coefficients, OpenCV knows 14", where=where)
    used = int(np.flatnonzero(array).max(initial=-1)) + 1
    if used == 0:
        return ()
    length = next(length for length in (4, 5, 8, 12, 14) if length >= used)
    return tuple(np.pad(array[:used], (0, length - used)).tolist())
