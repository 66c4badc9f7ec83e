"""Pixels of a capture: images, masks and depth, undistorted, decoded when asked for.

OpenCV (and PyAV for videos) are imported on use: reading a calibration needs neither.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CaptureError
from .capture import Capture, ImageFile, View
from .decode import decode_image, opencv
from .video import VideoFrames

_DEFAULT_CACHE_BYTES = 512 << 20
# Pixel values above this are foreground in 8-bit masks.
_MASK_THRESHOLD = 127
# In estimated masks.
_UNKNOWN = 128


class UnreadableImage(CaptureError):
    """An image file, of which nothing could be used. file: its path."""

    def __init__(self, what: str, *, where: str, hint: str | None, file: Path):
        super().__init__(what, where=where, hint=hint)
        self.file = file


class _Cache:
    """Least-recently-used arrays, bounded in bytes. Thread-safe; two threads that miss the same
    key at once both compute it, which is harmless."""

    def __init__(self, limit: int):
        self._limit = limit
        self._used = 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple, tuple[Any, int]] = OrderedDict()

    def get(self, key: tuple, compute: Callable[[], Any]) -> Any:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key][0]
        value = compute()
        arrays = value if isinstance(value, tuple) else (value,)
        size = sum(array.nbytes for array in arrays if array is not None)
        with self._lock:
            if key not in self._entries and size <= self._limit:
                self._entries[key] = value, size
                self._used += size
                while self._used > self._limit:
                    _, (_, freed) = self._entries.popitem(last=False)
                    self._used -= freed
        return value

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._used = 0


def _to_uint8(image: np.ndarray, path: Path) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return ((image.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    raise CaptureError(
        f"has pixels of type {image.dtype}",
        where=path,
        hint="Captures are 8- or 16-bit display-referred images (sRGB)",
    )


def rgb_over_black(image: np.ndarray, path: Path) -> np.ndarray:
    """Stored pixels -> (H, W, 3) uint8, over black where they have an alpha channel."""
    image = _to_uint8(image, path)
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    if image.shape[2] == 4:
        alpha = image[..., 3:].astype(np.uint16)
        return ((image[..., :3] * alpha + 127) // 255).astype(np.uint8)
    return image


def _foreground(image: np.ndarray, path: Path) -> np.ndarray:
    """Mask pixels -> (H, W) bool. Files that hold only 0 and 1 mean 1; else > 127 of 255."""
    if image.ndim == 3 and image.shape[2] == 4:
        alpha = image[..., 3]
        image = alpha if alpha.min() != alpha.max() else image[..., :3]
    if image.ndim == 3:
        image = image.max(axis=2)
    if image.dtype == bool or image.max(initial=0) <= 1:
        return image > 0
    return _to_uint8(image, path) > _MASK_THRESHOLD


def bends(view: View) -> bool:
    """Whether straight lines come out bent: a fisheye lens does that without coefficients too."""
    return bool(view.distortion) or view.lens == "fisheye"


class ImageReader:
    """Images of a capture by frame and view *index*, undistorted to the camera's own K and size.

    Thread-safe and lazy. Decoded results stay in a cache of at most `cache_bytes`; the returned
    arrays are shared and read-only. Every error is a CaptureError that names file, view and frame.
    """

    def __init__(self, capture: Capture, *, cache_bytes: int = _DEFAULT_CACHE_BYTES):
        self.capture = capture
        self._cache = _Cache(cache_bytes)
        self._videos = VideoFrames()

    def image(self, frame: int, view: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB. Alpha is composited over black, 16 bit becomes 8, grey RGB."""
        source = self.capture.images.get((frame, view))
        if source is None:
            raise CaptureError(
                "the image is missing",
                where=f"{self.capture.path}, {self._place(frame, view)}",
                hint="Add the file, or leave out this view or frame",
            )
        return self._cache.get(
            ("image", frame, view),
            lambda: self._read(source, frame, view, rgb_over_black, "image", "linear"),
        )

    def mask(self, frame: int, view: int) -> np.ndarray | None:
        """(H, W) bool, True is foreground; None where the capture has no mask."""
        source = self.capture.masks.get((frame, view))
        if source is None:
            return None

        def convert(pixels: np.ndarray, path: Path) -> np.ndarray:
            if source.layer == "alpha":
                if pixels.ndim != 3 or pixels.shape[2] != 4:
                    return np.ones(pixels.shape[:2], dtype=bool)
                return _to_uint8(pixels[..., 3], path) > _MASK_THRESHOLD
            return _foreground(pixels, path)

        return self._cache.get(
            ("mask", frame, view),
            lambda: self._read(source, frame, view, convert, "mask", "nearest"),
        )

    def mask_known(self, frame: int, view: int) -> np.ndarray | None:
        """(H, W) bool: the mask can be believed there; None where it can everywhere.

        Estimated masks know what they do not know; `mask` calls that foreground.
        """
        source = self.capture.masks.get((frame, view))
        if source is None or source.layer != "estimated":
            return None

        def convert(pixels: np.ndarray, _path: Path) -> np.ndarray:
            return pixels != _UNKNOWN

        return self._cache.get(
            ("known", frame, view),
            lambda: self._read(source, frame, view, convert, "mask", "nearest"),
        )

    def depth(self, frame: int, view: int) -> np.ndarray | None:
        """(H, W) float32 camera-space z in world units, 0 = unknown; None where there is none."""
        source = self.capture.depths.get((frame, view))
        if source is None:
            return None

        def convert(pixels: np.ndarray, path: Path) -> np.ndarray:
            if pixels.ndim == 3:
                pixels = pixels[..., 0]
            if pixels.dtype == np.uint8:
                raise CaptureError("has 8-bit depth", where=path, hint="16-bit or float is needed")
            depth = pixels.astype(np.float32) * np.float32(source.scale)
            return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))

        return self._cache.get(
            ("depth", frame, view),
            lambda: self._read(source, frame, view, convert, "depth map", "nearest"),
        )

    def valid(self, frame: int, view: int) -> np.ndarray | None:
        """(H, W) bool: the undistorted pixel comes from inside the stored image.

        None where all do (a view without distortion). Elsewhere images are black, masks False.
        """
        v = self.capture.views[view]
        if not bends(v):
            return None

        def compute() -> np.ndarray:
            ones = np.ones((v.height, v.width), dtype=np.uint8)
            inside = self._undistorted(ones, frame, view, "nearest") > 0
            inside.setflags(write=False)
            return inside

        return self._cache.get(("valid", *self._map_key(frame, view)), compute)

    def close(self) -> None:
        """Close videos and drop the cache; the reader can still be used."""
        self._videos.close()
        self._cache.clear()

    def __enter__(self) -> ImageReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _place(self, frame: int, view: int) -> str:
        return f"view '{self.capture.views[view].name}', frame {self.capture.frames[frame]}"

    def _read(
        self,
        source: ImageFile,
        frame: int,
        view: int,
        convert: Callable[[np.ndarray, Path], np.ndarray],
        kind: str,
        interpolation: str,
    ) -> np.ndarray:
        v = self.capture.views[view]
        where = f"{source.path}, {self._place(frame, view)}"
        try:
            if source.index is None:
                pixels = decode_image(source.path)
            else:
                pixels = self._videos.frame(source.path, source.index)
            if pixels.shape[:2] != (v.height, v.width):
                raise CaptureError(
                    f"the {kind} is {pixels.shape[1]}x{pixels.shape[0]}, "
                    f"the calibration says {v.width}x{v.height}",
                    hint="Calibrate at this size, or scale the files to the calibration's size",
                )
            result = convert(pixels, source.path)
        except CaptureError as error:
            if source.index is not None:  # other frames of a video may be in use
                raise CaptureError(error.what, where=where, hint=error.hint) from error
            raise UnreadableImage(
                error.what, where=where, hint=error.hint, file=source.path
            ) from error
        if bends(v):
            as_bytes = result.view(np.uint8) if result.dtype == bool else result
            result = self._undistorted(as_bytes, frame, view, interpolation).view(result.dtype)
        result = np.ascontiguousarray(result)
        result.setflags(write=False)
        return result

    def _map_key(self, frame: int, view: int) -> tuple:
        """The maps of a view are the same for all frames with the same K."""
        return view, self.capture.camera(frame, view).K.tobytes()

    def _undistorted(
        self, pixels: np.ndarray, frame: int, view: int, interpolation: str
    ) -> np.ndarray:
        cv2 = opencv()
        coordinates, fractions = self._cache.get(
            ("map", *self._map_key(frame, view)), lambda: self._maps(frame, view)
        )
        if interpolation == "nearest":
            # Nearest rounds the sampling position; convertMaps' integer part alone would floor it.
            coordinates, fractions = self._cache.get(
                ("nearest map", *self._map_key(frame, view)),
                lambda: (*self._nearest_maps(coordinates, fractions),),
            )
        method = cv2.INTER_LINEAR if interpolation == "linear" else cv2.INTER_NEAREST
        return cv2.remap(pixels, coordinates, fractions, method, borderMode=cv2.BORDER_CONSTANT)

    def _maps(self, frame: int, view: int) -> tuple[np.ndarray, np.ndarray]:
        """Where each undistorted pixel lies in the stored image, in OpenCV's fixed point."""
        cv2 = opencv()
        v = self.capture.views[view]
        # Our (0, 0) is the image's corner, OpenCV's is the centre of the first pixel.
        K = self.capture.camera(frame, view).K.copy()
        K[:2, 2] -= 0.5
        coefficients = np.array(v.distortion or (0.0,) * 4, dtype=np.float64)
        size = (v.width, v.height)
        if v.lens == "fisheye":
            return cv2.fisheye.initUndistortRectifyMap(
                K, coefficients[:4], np.eye(3), K, size, cv2.CV_16SC2
            )
        return cv2.initUndistortRectifyMap(K, coefficients, None, K, size, cv2.CV_16SC2)

    @staticmethod
    def _nearest_maps(coordinates: np.ndarray, fractions: np.ndarray) -> tuple[np.ndarray, None]:
        cv2 = opencv()
        x, y = cv2.convertMaps(coordinates, fractions, cv2.CV_32FC1)
        rounded = np.rint(np.stack([x, y], axis=-1)).clip(-32768, 32767)
        return rounded.astype(np.int16), None
