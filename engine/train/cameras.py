"""What a reconstruction has learned of its cameras: their colours, and where they look."""

from __future__ import annotations

import torch

from ..capture.capture import Capture
from ..model.camera_color import CameraColor
from ..model.camera_rotation import CameraRotation
from .checkpoint import load_tensors, save_tensors
from .plan import Folder

#: Names of the tensors that are not the colours'.
_EXTRINSICS = ("R", "t")


def save_cameras(
    folder: Folder, color: CameraColor, rotation: CameraRotation | None, *, spacing: float
) -> None:
    """Write what frames share, beside the background: learned cameras and the spacing of the
    points, world units. rotation: None where the cameras are what the capture says."""
    tensors = dict(color.state_dict())
    if rotation is not None:
        R, t = rotation.extrinsics()
        tensors |= {"R": torch.from_numpy(R), "t": torch.from_numpy(t)}
    save_tensors(folder.shared, tensors, spacing=spacing)


def load_spacing(folder: Folder) -> float:
    """Of the points of all frames, world units. Raises ReconstructionError."""
    return float(load_tensors(folder.shared)[1]["spacing"])


def load_color(folder: Folder, capture: Capture) -> CameraColor:
    """The cameras' colours of a reconstruction. Raises ReconstructionError."""
    color = CameraColor(len(capture.views))
    color.requires_grad_(False)
    if folder.shared.is_file():
        tensors, _ = load_tensors(folder.shared)
        color.load_state_dict({n: t for n, t in tensors.items() if n not in _EXTRINSICS})
    return color


def corrected(capture: Capture, folder: Folder) -> Capture:
    """The capture with the cameras as the reconstruction has corrected them. Raises
    ReconstructionError."""
    if not folder.shared.is_file():
        return capture
    tensors, _ = load_tensors(folder.shared)
    if "R" not in tensors:
        return capture
    return capture.posed(tensors["R"].numpy(), tensors["t"].numpy())
