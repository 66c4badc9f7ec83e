"""Gaussians of a group of pictures, and their fit, as differentiable torch functions on the GPU:
tensors stay where they are.

A step starts 32 operations, 24 of them torch's; with the polynomials in torch's own it would be 67.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..errors import CoreError
from ..render.window import Window
from ..video2d.cuda_gaussians import GOP_ARRAYS, CudaGaussians, rasterizer
from ..video2d.cuda_queue import DeviceGaussians
from .peel_cuda import torch_stream


def at(
    gop: Mapping[str, torch.Tensor],
    basis: Sequence[float] | None,
    *,
    on: CudaGaussians | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The Gaussians of a group at one time: position (N, 2), cholesky (N, 3) and color (N, 3).

    gop: the arrays of a `Gop` by name, contiguous float32 on one GPU. basis: the polynomials at
    that time, None for those without motion and shade, which then get no gradients. on: as of
    `fit`. Raises CoreError.
    """
    tensors = [gop[name] for name in GOP_ARRAYS]
    if any(t.dtype != torch.float32 or not t.is_contiguous() for t in tensors):
        raise CoreError("a group's tensors are not contiguous in float32")
    if basis is not None and len(basis) < max(len(gop["motion"]), len(gop["shade"])):
        raise CoreError(f"{len(basis)} polynomials for a group of more orders")
    if on is None:
        on = rasterizer(tensors[0].device.index or 0)
    return _At.apply(*tensors, basis, on)


class _At(torch.autograd.Function):
    @staticmethod
    def forward(context, position, log_scale, shear, color, motion, shade, basis, on):
        tensors = (position, log_scale, shear, color, motion, shade)
        orders = (0, 0) if basis is None else (len(motion), len(shade))
        found = [position.new_empty(len(position), columns) for columns in (2, 3, 3)]
        with torch_stream(on, position) as stream:
            on.at_pointers(
                {name: t.data_ptr() for name, t in zip(GOP_ARRAYS, tensors, strict=True)},
                len(position),
                orders,
                basis or (),
                _addresses(found),
                stream,
            )
        context.save_for_backward(*found)
        context.orders, context.basis, context.on = orders, basis or (), on
        context.shapes = [t.shape for t in tensors]
        return tuple(found)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, *d_found):
        found, on = context.saved_tensors, context.on
        d_found = [d.contiguous() for d in d_found]
        moves = (True,) * 4 + tuple(order > 0 for order in context.orders)
        results = [
            found[0].new_empty(shape) if needed and moved else None
            for shape, needed, moved in zip(
                context.shapes, context.needs_input_grad[:6], moves, strict=True
            )
        ]
        addresses = {
            name: result.data_ptr()
            for name, result in zip(GOP_ARRAYS, results, strict=True)
            if result is not None
        }
        with torch_stream(on, found[0]) as stream:
            on.at_backward_pointers(
                addresses,
                context.orders,
                context.basis,
                _addresses(found),
                _addresses(d_found),
                stream,
            )
        return (*results, None, None)


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


def _addresses(arrays: Sequence[torch.Tensor]) -> DeviceGaussians:
    return DeviceGaussians(len(arrays[0]), *(array.data_ptr() for array in arrays))


def _check(position, cholesky, color, window, target) -> None:
    count = len(position) if position.ndim == 2 else 0
    shapes = [tuple(t.shape) for t in (position, cholesky, color)]
    if shapes != [(count, 2), (count, 3), (count, 3)]:
        raise CoreError(
            f"position {shapes[0]}, cholesky {shapes[1]} and color {shapes[2]} disagree",
            hint="Expected (N, 2), (N, 3) and (N, 3)",
        )
    inside = window.lies_in(target.shape)
    if not inside or target.dtype != torch.uint8 or not target.is_contiguous():
        raise CoreError("the target is no contiguous 8-bit picture that holds the window")
    if len({t.device for t in (position, cholesky, color, target)}) != 1:
        raise CoreError("the Gaussians' tensors are on several devices", hint="Move them to one")
