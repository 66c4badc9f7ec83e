"""Per-camera colour: the cameras of a rig never agree about it."""

from __future__ import annotations

import torch


class CameraColor(torch.nn.Module):
    """A gain and an offset per camera and channel: seen = gain * colour + offset * coverage.

    The mean camera is the identity (log gains and offsets sum to zero over the cameras), so that a
    view the training never saw is rendered with the colours of the rig's average.
    """

    def __init__(self, view_count: int):
        super().__init__()
        self.log_gain = torch.nn.Parameter(torch.zeros(view_count, 3))
        self.offset = torch.nn.Parameter(torch.zeros(view_count, 3))

    @torch.no_grad()
    def center(self, used: list[int]) -> None:
        """Take the mean over the views that were trained out; the others stay the identity."""
        for parameter in (self.log_gain, self.offset):
            parameter[used] -= parameter[used].mean(dim=0)

    def forward(self, view: int, rgb: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        """Apply to a premultiplied picture: rgb (H, W, 3), alpha (H, W, 1) -> (H, W, 3)."""
        return rgb * torch.exp(self.log_gain[view]) + alpha * self.offset[view]
