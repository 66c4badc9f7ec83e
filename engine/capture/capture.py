"""The capture: a rig of calibrated views with synchronized frames.

This module and the readers need numpy and the standard library only, so that Blender's own process
can import a rig. Pixels come from `images.py`, which imports OpenCV (and PyAV for video) on use.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..errors import CaptureError
from ..render.camera import Camera


@dataclass(frozen=True)
class View:
    """One physical camera of the rig.

    name: as the capture calls it. width, height: pixels of the calibration.
    distortion: OpenCV order (k1, k2, p1, p2[, k3[, k4, k5, k6]]); () for none.
    lens: "pinhole" (the OpenCV rational model) or "fisheye" (OpenCV fisheye, k1..k4).
    train: False where the source marks the view as held out.
    """

    name: str
    width: int
    height: int
    distortion: tuple[float, ...] = ()
    lens: str = "pinhole"
    train: bool = True


@dataclass(frozen=True)
class ImageFile:
    """Where one image lies. index: frame number inside a video, None for a still image.

    layer: "rgb", "alpha" (a mask taken from the image's own alpha channel) or "estimated" (a mask
        in which 128 means unknown).
    scale: factor from stored values to world units, for depth.
    """

    path: Path
    index: int | None = None
    layer: str = "rgb"
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Capture:
    """V views x F frames. Images may be missing (presence) and cameras may move.

    path, format: where it was read from and by which reader.
    views: V views. frames: F labels (the source's own frame numbers), ascending.
    K: (V, 3, 3) or (F, V, 3, 3) float64, pixels of the *stored* image, before undistortion, with
        the corner convention of `Camera`: (0, 0) is the image's top-left corner.
    R, t: (V, 3, 3), (V, 3), or with a leading F: world -> camera, OpenCV axes.
    time: (F, V) float64, seconds; sub-frame offsets are allowed.
    images, masks, depths: {(frame index, view index): ImageFile}; a capture with empty `images`
        is calibration only. Depth is camera-space z in world units times 1 / scale, 0 = unknown.
    fps: frames per second of the source. up: (3,) unit vector of the world, or None if unknown.
    bounds: (2, 3) world-space box of the subject where the source states one.
    notes: what the reader noticed and the user should know (shown by `peel4d info`).
    """

    path: Path
    format: str
    views: tuple[View, ...]
    frames: tuple[int, ...]
    K: np.ndarray
    R: np.ndarray
    t: np.ndarray
    time: np.ndarray
    images: dict[tuple[int, int], ImageFile] = field(default_factory=dict)
    masks: dict[tuple[int, int], ImageFile] = field(default_factory=dict)
    depths: dict[tuple[int, int], ImageFile] = field(default_factory=dict)
    fps: float = 30.0
    up: np.ndarray | None = None
    bounds: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    @property
    def presence(self) -> np.ndarray:
        """(F, V) bool: the image exists on disk according to the reader."""
        present = np.zeros((len(self.frames), len(self.views)), dtype=bool)
        for frame, view in self.images:
            present[frame, view] = True
        return present

    @property
    def moving(self) -> bool:
        return self.R.ndim == 4 or self.K.ndim == 4

    def camera(self, frame: int, view: int) -> Camera:
        """The undistorted pinhole camera of a view at a frame *index* (not label).

        Lens distortion is removed while keeping K and the size, so K serves the stored and the
        undistorted image alike.
        """
        K = self.K[frame, view] if self.K.ndim == 4 else self.K[view]
        R = self.R[frame, view] if self.R.ndim == 4 else self.R[view]
        t = self.t[frame, view] if self.t.ndim == 3 else self.t[view]
        return Camera(K, R, t, self.views[view].width, self.views[view].height)

    def posed(self, R: np.ndarray, t: np.ndarray) -> Capture:
        """The same footage of cameras that stand elsewhere; R, t: shaped as before."""
        return replace(self, R=np.asarray(R, np.float64), t=np.asarray(t, np.float64))

    def view_index(self, name: str) -> int:
        """Index of the view called `name`. Raises CaptureError that lists the names."""
        for index, view in enumerate(self.views):
            if view.name == name:
                return index
        names = ", ".join(view.name for view in self.views)
        raise CaptureError(
            f"no view called '{name}'", where=self.path, hint=f"The views are: {names}"
        )
