"""Per-camera colour: the cameras of a rig never agree about it."""

from __future__ import annotations

import weakref

import numpy as np
import torch

from ..render.camera import Camera


class CameraColor(torch.nn.Module):
    """What a camera makes of the scene's colours.

    seen = vignetting * (gain * colour + offset * coverage), with gain and offset per camera and
    channel and one vignetting, 1 + a r^2 + b r^4 per channel, that all cameras share; r is the
    tangent of the angle to the optical axis. The mean camera is the identity (log gains and offsets
    sum to zero over the cameras), so that a view the training never saw is rendered with the
    colours of the rig's average.
    """

    def __init__(self, view_count: int):
        super().__init__()
        self.log_gain = torch.nn.Parameter(torch.zeros(view_count, 3))
        self.offset = torch.nn.Parameter(torch.zeros(view_count, 3))
        self.vignetting = torch.nn.Parameter(torch.zeros(2, 3))
        # Kept as long as the cameras are, which training uses often.
        self._squares: weakref.WeakKeyDictionary[Camera, torch.Tensor] = weakref.WeakKeyDictionary()
        self._falloffs: weakref.WeakKeyDictionary[Camera, tuple[object, torch.Tensor]] = (
            weakref.WeakKeyDictionary()
        )

    @torch.no_grad()
    def center(self, used: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the mean over the views that were trained out; the others stay the identity.

        Returns what was taken out: log gain (3,) and offset (3,).
        """
        taken = []
        for parameter in (self.log_gain, self.offset):
            mean = parameter[used].mean(dim=0)
            parameter[used] -= mean
            taken.append(mean)
        return taken[0], taken[1]

    def forward(
        self, view: int | None, rgb: torch.Tensor, alpha: torch.Tensor, camera: Camera
    ) -> torch.Tensor:
        """Apply to a premultiplied picture: rgb (H, W, 3), alpha (H, W, 1) -> (H, W, 3).

        view: index of the camera, None for the mean camera. camera: that of the picture.
        """
        if view is not None:
            gain, offset = self.tone(view)
            rgb = rgb * gain + alpha * offset
        return rgb * self.falloff(camera)

    def tone(self, view: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Gain and offset of a camera, (3,) each."""
        return torch.exp(self.log_gain[view]), self.offset[view]

    def falloff(self, camera: Camera) -> torch.Tensor:
        """The vignetting of a picture, (H, W, 3)."""
        if self.vignetting.requires_grad:
            square = self._squares.get(camera)
            if square is None or square.device != self.vignetting.device:
                square = self._squares[camera] = self._square(camera)
            return self._falloff(square)
        state = self.vignetting.data_ptr(), self.vignetting._version
        known, falloff = self._falloffs.get(camera, (None, None))
        if known != state:
            falloff = self._falloff(self._square(camera))
            self._falloffs[camera] = state, falloff
        return falloff

    def _falloff(self, square: torch.Tensor) -> torch.Tensor:
        return 1 + square * (self.vignetting[0] + square * self.vignetting[1])

    def _square(self, camera: Camera) -> torch.Tensor:
        """r^2 of every pixel, (H, W, 1)."""
        x = (np.arange(camera.width) + 0.5 - camera.K[0, 2]) / camera.K[0, 0]
        y = (np.arange(camera.height) + 0.5 - camera.K[1, 2]) / camera.K[1, 1]
        square = np.float32(y[:, None] ** 2 + x**2)[..., None]
        return torch.from_numpy(square).to(self.vignetting.device)
