"""The fit of two-dimensional Gaussians as a differentiable torch function on the GPU: tensors stay
where they are."""

from __future__ import annotations

import torch

from ..errors import CoreError
from ..render.window import Window
from ..video2d.cuda_gaussians import CudaGaussians, rasterizer
from ..video2d.cuda_queue import DeviceGaussians
from .peel_cuda import torch_stream


def fit(
    position: torch.Tensor,
    cholesky: torch.Tensor,
    color: torch.Tensor,
    window: Window,
    target: torch.Tensor,
    *,
    on: CudaGaussians | None = None,
) -> torch.Tensor:
    """Mean squared error of a window of a picture, with the kernels' own derivative.

    position (N, 2), cholesky (N, 3) and color (N, 3), see `Gaussians2D`, and target (H, W, 3)
    uint8, the whole picture, on one GPU. Returns a scalar float32 there, without waiting for it.
    on: the rasterizer, None for that of the tensors' GPU. Gradients repeat bit by bit. Raises
    CoreError.
    """
    _check(position, cholesky, color, window, target)
    if on is None:
        on = rasterizer(position.device.index or 0)
    return _Fit.apply(position, cholesky, color, window, target, on)


class _Fit(torch.autograd.Function):
    @staticmethod
    def forward(context, position, cholesky, color, window, target, on):
        arrays = [t.detach().to(torch.float32).contiguous() for t in (position, cholesky, color)]
        gradients = [torch.empty_like(array) for array in arrays]
        error = torch.empty((), dtype=torch.float32, device=position.device)
        with torch_stream(on, position) as stream:
            on.fit_pointers(
                _addresses(arrays),
                window,
                target.data_ptr(),
                target.shape[1],
                _addresses(gradients),
                error.data_ptr(),
                stream,
            )
        context.gradients = gradients
        context.dtypes = [t.dtype for t in (position, cholesky, color)]
        return error

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, d_error):
        wanted = context.needs_input_grad
        results = [
            (gradient * d_error).to(dtype) if needed else None
            for gradient, dtype, needed in zip(
                context.gradients, context.dtypes, wanted, strict=False
            )
        ]
        return (*results, None, None, None)


def _addresses(arrays: list[torch.Tensor]) -> DeviceGaussians:
    return DeviceGaussians(len(arrays[0]), *(array.data_ptr() for array in arrays))


def _check(position, cholesky, color, window, target) -> None:
    count = len(position) if position.ndim == 2 else 0
    shapes = [tuple(t.shape) for t in (position, cholesky, color)]
    if shapes != [(count, 2), (count, 3), (count, 3)]:
        raise CoreError(
            f"position {shapes[0]}, cholesky {shapes[1]} and color {shapes[2]} disagree",
            hint="Expected (N, 2), (N, 3) and (N, 3)",
        )
    height, width = target.shape[:2] if target.ndim == 3 and target.shape[2] == 3 else (0, 0)
    inside = 0 <= window.x <= width - window.width and 0 <= window.y <= height - window.height
    if not inside or target.dtype != torch.uint8 or not target.is_contiguous():
        raise CoreError("the target is no contiguous 8-bit picture that holds the window")
    if len({t.device for t in (position, cholesky, color, target)}) != 1:
        raise CoreError("the Gaussians' tensors are on several devices", hint="Move them to one")
