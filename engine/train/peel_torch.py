"""The peel in plain torch operations: what the core's gradients are compared with.

Dense, every point against every pixel, so for small scenes only; differentiable by autograd in any
floating dtype. The rules are those of `engine.render.reference`.
"""

from __future__ import annotations

import torch

from ..render.camera import Camera
from ..render.reference import depth_key, drawn_points, spherical_harmonics
from ..render.settings import PeelSettings


def peel(
    position: torch.Tensor,
    radius: torch.Tensor,
    density: torch.Tensor,
    color: torch.Tensor,
    camera: Camera,
    settings: PeelSettings,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Differentiable depth peeling, the same function as `peel_autograd.peel`.

    position (N, 3), radius (N,), density (N,), color (N, 3) rgb or (N, B, 3) harmonics, of one
    floating dtype. Returns rgba (H, W, 4), premultiplied, and depth (H, W), the sum of
    T_k alpha_k z_k. Which points are layers of a pixel is not differentiated, and neither is the
    depth order. Source: 4K4D (Xu et al. 2024), section 3.3.
    """
    arrays = [t.detach().cpu().double().numpy() for t in (position, radius, density, color)]
    drawn = drawn_points(*arrays, camera)
    order = drawn[depth_key(arrays[0][drawn], camera).argsort(kind="stable")]
    order = torch.from_numpy(order).to(position.device)
    position, radius, density, color = (t[order] for t in (position, radius, density, color))

    R, t, K = (torch.tensor(m, dtype=position.dtype) for m in (camera.R, camera.t, camera.K))
    x, y, z = (position @ R.T + t).unbind(1)
    divisor = torch.ones_like(z) if camera.orthographic else z
    u = (K[0, 0] * x + K[0, 1] * y) / divisor + K[0, 2]
    v = K[1, 1] * y / divisor + K[1, 2]
    a, b = K[0, 0].abs() * radius / divisor, K[1, 1].abs() * radius / divisor
    drawn_a, drawn_b = a.clamp(min=settings.min_radius_px), b.clamp(min=settings.min_radius_px)
    weight = density.clamp(max=1) * (a / drawn_a) * (b / drawn_b)

    pixel_x = torch.arange(camera.width, dtype=position.dtype) + 0.5
    pixel_y = torch.arange(camera.height, dtype=position.dtype) + 0.5
    q_x = ((pixel_x[:, None] - u) / drawn_a) ** 2  # (W, N)
    q_y = ((pixel_y[:, None] - v) / drawn_b) ** 2  # (H, N)
    q = q_y[:, None] + q_x[None]  # (H, W, N), nearest point first
    layer = q < 1
    layer = layer & (layer.cumsum(2) <= settings.layers)
    alpha = torch.where(layer, weight * (1 - q), 0)
    passing = torch.cumprod(1 - alpha, dim=2)
    transmittance = torch.cat([torch.ones_like(passing[..., :1]), passing[..., :-1]], dim=2)
    finished = transmittance.detach() < settings.min_transmittance
    contribution = torch.where(finished, 0, transmittance * alpha)  # (H, W, N)

    rgb = _view_color(position, color, camera).clamp(0, 1)
    rgba = torch.cat([contribution @ rgb, contribution.sum(2, keepdim=True)], dim=2)
    return rgba, contribution @ z


def _view_color(position: torch.Tensor, color: torch.Tensor, camera: Camera) -> torch.Tensor:
    """Colours before the clip, (N, 3)."""
    if color.ndim == 2:
        return color
    if camera.orthographic:
        direction = torch.tensor(camera.forward, dtype=position.dtype).expand_as(position)
    else:
        offset = position - torch.tensor(camera.centre, dtype=position.dtype)
        direction = offset / offset.norm(dim=1, keepdim=True)
    basis = torch.stack(spherical_harmonics(*direction.unbind(1), color.shape[1]), dim=1)
    return torch.einsum("nb,nbc->nc", basis, color)
