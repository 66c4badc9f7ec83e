"""Training images: crops around the subject, held in bounded memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np
import torch

from ..capture.capture import Capture
from ..capture.images import ImageReader
from ..render.camera import Camera
from .metrics import dilate
from .plates import surely_subject

#: Pixels around the mask whose colour counts, and the crop's margin, relative to the image's
#: longer side (5 and 16 px at 640).
REGION_MARGIN = 0.008
CROP_MARGIN = 0.025
#: A mask with fewer pixels teaches nothing; its camera abstains in this frame.
MINIMUM_MASK_PX = 40

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class TrainingImage:
    """One crop. camera: of the crop. All tensors are (h, w, ...).

    truth, background: uint8 (h, w, 3), what the camera saw and what lies behind the points.
    mask_known: bool (h, w, 1), where the mask can be believed; None: everywhere.
    mask, region: bool (h, w, 1), the subject, and where colour counts. mask: None where nothing is
    known about the outline. depth: float32 (h, w), the measured z in world units, 0 = not known;
    None where nothing was measured.
    """

    camera: Camera
    truth: torch.Tensor
    background: torch.Tensor
    mask: torch.Tensor | None
    region: torch.Tensor
    region_pixels: float
    mask_known: torch.Tensor | None = None
    depth: torch.Tensor | None = None

    @property
    def nbytes(self) -> int:
        """With the vignetting that `CameraColor` keeps for the camera, 12 bytes a pixel."""
        depth = 0 if self.depth is None else self.depth.numel()
        return 2 * self.truth.numel() + 15 * self.region.numel() + 4 * depth

    def to(self, device: torch.device) -> TrainingImage:
        """The same with its tensors on a device."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {n: t.to(device) for n, t in tensors.items() if isinstance(t, torch.Tensor)}
        return replace(self, **moved)


class ImageSource(Protocol):
    """Where training finds its images by (frame, view)."""

    def get(self, frame: int, view: int) -> TrainingImage | None: ...


def without_outline(camera: Camera, rgb: np.ndarray, region: np.ndarray | None) -> TrainingImage:
    """A whole image whose points are all that it shows: rgb (H, W, 3) uint8, region (H, W) bool
    where colour counts, None for everywhere."""
    truth = torch.from_numpy(np.array(rgb))
    counts = _as_tensor(np.ones(rgb.shape[:2], bool) if region is None else region)
    return TrainingImage(
        camera=camera,
        truth=truth,
        background=torch.zeros_like(truth),
        mask=None,
        region=counts,
        region_pixels=float(max(1, counts.sum())),
    )


class PlateImages:
    """Whole clean plates, by view, as images of a scene without a subject, on a device."""

    def __init__(
        self, capture: Capture, plates: Mapping[int, np.ndarray], device: torch.device = CPU
    ):
        self._images = {}
        for view, plate in plates.items():
            image = without_outline(capture.camera(0, view), plate[..., :3], plate[..., 3] > 0)
            self._images[view] = image.to(device)

    def get(self, frame: int, view: int) -> TrainingImage | None:
        """The plate of a view, in every frame."""
        return self._images.get(view)


class TrainingImages:
    """The crops of a capture by (frame, view), made on demand and kept up to `max_bytes`.

    depth: with the measured depth of the subject, where the capture has it. untrusted: views whose
    masks say where to look, but not where the subject ends. device: where the tensors are.
    """

    def __init__(
        self,
        capture: Capture,
        reader: ImageReader,
        plates: Mapping[int, np.ndarray],
        *,
        max_bytes: int,
        untrusted: Collection[int] = (),
        depth: bool = False,
        device: torch.device = CPU,
    ):
        self._capture = capture
        self._reader = reader
        self._plates = plates
        self._max_bytes = max_bytes
        self._untrusted = frozenset(untrusted)
        self._depth = depth
        self._device = device
        self._cache: OrderedDict[tuple[int, int], TrainingImage | None] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def stand(self, capture: Capture) -> None:
        """Go on with the same footage of cameras that stand elsewhere."""
        with self._lock:
            self._capture = capture
            self._cache.clear()
            self._bytes = 0

    def usable(self, frame: int, views: list[int]) -> list[int]:
        """The views that can teach something about a frame."""
        return [view for view in views if self.get(frame, view) is not None]

    def get(self, frame: int, view: int) -> TrainingImage | None:
        """One crop; None where image or mask is missing or the mask is all but empty."""
        key = (frame, view)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        image = self._make(frame, view)
        with self._lock:
            self._cache[key] = image
            self._bytes += image.nbytes if image else 0
            while self._bytes > self._max_bytes and len(self._cache) > 1:
                _, old = self._cache.popitem(last=False)
                self._bytes -= old.nbytes if old else 0
        return image

    def _make(self, frame: int, view: int) -> TrainingImage | None:
        if (frame, view) not in self._capture.images:
            return None
        mask = self._reader.mask(frame, view)
        if mask is None or int(mask.sum()) < MINIMUM_MASK_PX:
            return None
        rgb = self._reader.image(frame, view)
        height, width = mask.shape
        longer = max(height, width)
        margin = max(2, round(CROP_MARGIN * longer))
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        top, bottom = max(0, rows[0] - margin), min(height, rows[-1] + 1 + margin)
        left, right = max(0, columns[0] - margin), min(width, columns[-1] + 1 + margin)
        window = np.s_[top:bottom, left:right]
        mask, rgb = mask[window], rgb[window]
        depth = self._reader.depth(frame, view) if self._depth else None
        if depth is not None:
            depth = torch.from_numpy(np.where(mask, depth[window], np.float32(0)))
        region = dilate(mask, max(1, round(REGION_MARGIN * longer)))

        plate = self._plates.get(view)
        sure = surely_subject(mask, rgb, None if plate is None else plate[window])
        known = self._reader.mask_known(frame, view)
        if known is not None:
            known = known[window]
            # What may be the subject or not teaches its colour over a background that was seen.
            region &= known if plate is None else known | (plate[window][..., 3] > 0)
        doubtful = mask & ~sure
        if doubtful.any():
            known = ~doubtful if known is None else known & ~doubtful
        if plate is None:
            # Nothing is known behind the subject: teach it against black, cut out by its mask.
            background = np.zeros_like(rgb)
            truth = np.where(mask[..., None], rgb, 0).astype(np.uint8)
        else:
            background = plate[window][..., :3]
            truth = rgb
        return TrainingImage(
            camera=self._capture.camera(frame, view).crop(left, top, right - left, bottom - top),
            truth=torch.from_numpy(truth.copy()),
            background=torch.from_numpy(background.copy()),
            mask=None if view in self._untrusted else _as_tensor(mask),
            region=_as_tensor(region),
            region_pixels=float(max(1, region.sum())),
            mask_known=None if known is None else _as_tensor(known),
            depth=depth,
        ).to(self._device)


def _as_tensor(pixels: np.ndarray) -> torch.Tensor:
    """(h, w) bool as (h, w, 1)."""
    return torch.from_numpy(pixels[..., None].copy())
