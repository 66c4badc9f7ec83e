"""The peel as a differentiable torch function over the CPU core."""

from __future__ import annotations

import torch

from ..render import core
from ..render.camera import Camera
from ..render.settings import PeelSettings


class _Peel(torch.autograd.Function):
    @staticmethod
    def forward(context, position, radius, density, color, camera, settings):
        arrays = [t.detach().cpu().float().numpy() for t in (position, radius, density, color)]
        if any(context.needs_input_grad):
            out, frame = core.forward_with_frame(*arrays, camera, settings)
        else:
            out, frame = core.forward(*arrays, camera, settings, want=("depth",)), None
        context.save_for_backward(position, radius, density, color)
        context.arrays = (camera, settings, frame)
        context.set_materialize_grads(False)
        return torch.from_numpy(out["rgba"]), torch.from_numpy(out["depth"])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, d_rgba, d_depth):
        camera, settings, frame = context.arrays
        inputs = context.saved_tensors
        arrays = [t.detach().cpu().float().numpy() for t in inputs]
        if d_rgba is None:
            d_rgba = torch.zeros(camera.height, camera.width, 4)
        gradients = core.backward(
            *arrays,
            camera,
            settings,
            d_rgba.numpy(),
            None if d_depth is None else d_depth.numpy(),
            frame=frame,
        )
        results = [
            torch.from_numpy(gradient).to(tensor) if needed else None
            for gradient, tensor, needed in zip(
                gradients, inputs, context.needs_input_grad, strict=False
            )
        ]
        return (*results, None, None)


def peel(
    position: torch.Tensor,
    radius: torch.Tensor,
    density: torch.Tensor,
    color: torch.Tensor,
    camera: Camera,
    settings: PeelSettings,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Differentiable depth peeling.

    position (N, 3), radius (N,), density (N,), color (N, 3) rgb or (N, B, 3) harmonics; computed
    in float32 where they are, on the CPU or an NVIDIA GPU. Returns rgba (H, W, 4), premultiplied,
    and depth (H, W), the sum of T_k alpha_k z_k. Source: 4K4D (Xu et al. 2024), section 3.3. Raises
    CoreError.
    """
    if position.is_cuda:
        from .peel_cuda import peel as peel_on_gpu

        return peel_on_gpu(position, radius, density, color, camera, settings)
    return _Peel.apply(position, radius, density, color, camera, settings)
