"""Image files to arrays; whether the file or the memory is to blame where that fails.

OpenCV is imported on use: reading a calibration does not need it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CaptureError
from .image_header import is_truncated, size_in_header

_INSTALL = 'Install it with: pip install "peel4d[train]"'
# OpenCV's CV_IO_MAX_IMAGE_PIXELS.
_MOST_PIXELS = 1 << 30


def opencv() -> Any:
    """The module cv2. Raises CaptureError where it is not installed."""
    # OpenCV reads EXR only when asked to before its first image.
    os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")
    try:
        import cv2
    except ImportError as error:
        raise CaptureError("OpenCV is needed to read images", hint=_INSTALL) from error
    return cv2


def opencv_available() -> bool:
    try:
        opencv()
    except CaptureError:
        return False
    return True


def decode_image(path: Path) -> np.ndarray:
    """The stored pixels of an image file: (H, W) or (H, W, 3 or 4), RGB order, uint8/16/float32.

    EXIF orientation is ignored, as in calibration tools. Raises CaptureError for a file that is
    missing, unreadable or cut off; MemoryError, naming the file, where the file is not to blame.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CaptureError("the image is missing", where=path) from error
    except OSError as error:
        raise CaptureError(f"cannot read ({error.strerror or error})", where=path) from error
    damaged = "The file is damaged or not an image: replace it, or leave out this frame"
    if is_truncated(data):
        raise CaptureError("the image file is cut off", where=path, hint=damaged)
    if path.suffix.lower() == ".npy":
        return _decode_npy(path)
    cv2 = opencv()
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(f"{path}: no memory to decode the image") from error
        image = None
    if image is None:
        _require_memory(data, path)
        raise CaptureError("is not a readable image", where=path, hint=damaged)
    if image.ndim == 3 and image.shape[2] == 3:
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if image.ndim == 3 and image.shape[2] == 4:
        return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
    return image


def _require_memory(data: bytes, path: Path) -> None:
    """Raise MemoryError where decoding could not have worked for lack of memory: decoders of other
    libraries inside OpenCV do not say why they fail."""
    width, height = size_in_header(data) or (0, 0)
    if width * height > _MOST_PIXELS:
        return  # OpenCV refuses these whatever memory there is
    try:
        np.empty((height, width, 4), np.uint16)
    except MemoryError as error:
        raise MemoryError(f"{path}: no memory to decode {width}x{height} pixels") from error


def _decode_npy(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise CaptureError("is not a readable .npy array", where=path) from error
    array = array.squeeze()
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise CaptureError("is not a table of numbers (height x width)", where=path)
    return array
