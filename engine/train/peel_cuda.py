"""The peel as a differentiable torch function on the GPU: tensors stay where they are.

Kernels run on torch's current stream, or on one that waits for it and that it waits for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ..errors import CoreError
from ..render import core
from ..render.camera import Camera
from ..render.cuda import CudaRenderer, device_clip, renderer
from ..render.cuda_frame import DeviceScene, PixelGradients
from ..render.settings import PeelSettings
from ..render.splats import SH_COUNTS

if TYPE_CHECKING:
    from ..video2d.cuda_gaussians import CudaGaussians

_NAMES = ("position", "radius", "density", "color")


def peel(
    position: torch.Tensor,
    radius: torch.Tensor,
    density: torch.Tensor,
    color: torch.Tensor,
    camera: Camera,
    settings: PeelSettings,
    *,
    on: CudaRenderer | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Differentiable depth peeling, the same function as `peel_autograd.peel`.

    position (N, 3), radius (N,), density (N,), color (N, 3) rgb or (N, B, 3) harmonics, on one GPU;
    computed in float32. Returns rgba (H, W, 4), premultiplied, and depth (H, W) there. on: the
    renderer, None for that of the tensors' GPU. Gradients are sums of atomic additions: their last
    bits differ from run to run. Source: 4K4D (Xu et al. 2024), section 3.3. Raises CoreError.
    """
    _check_shapes(position, radius, density, color)
    if on is None:
        on = renderer(position.device.index or 0)
    return _Peel.apply(position, radius, density, color, camera, settings, on)


class _Peel(torch.autograd.Function):
    @staticmethod
    def forward(context, position, radius, density, color, camera, settings, on):
        inputs = (position, radius, density, color)
        arrays = [t.detach().to(torch.float32).contiguous() for t in inputs]
        shape = (camera.height, camera.width)
        rgba = torch.empty((*shape, 4), dtype=torch.float32, device=position.device)
        depth = torch.empty(shape, dtype=torch.float32, device=position.device)
        addresses = dict(zip(_NAMES, map(torch.Tensor.data_ptr, arrays), strict=True))
        sh_count = color.shape[1] if color.ndim == 3 else 0
        scene = DeviceScene(
            core.camera_struct(camera),
            core.settings_struct(settings, 1, 0),
            [device_clip(addresses, len(position), sh_count, camera)],
        )
        outputs = {"rgba": rgba.data_ptr(), "depth": depth.data_ptr()}
        with torch_stream(on, position) as stream:
            context.job = on.forward_pointers(scene, outputs, stream)
        context.save_for_backward(*arrays)  # also keeps their memory
        context.dtypes = [t.dtype for t in inputs]
        context.renderer = on
        context.set_materialize_grads(False)
        return rgba, depth

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, d_rgba, d_depth):
        arrays = context.saved_tensors
        if d_rgba is None:
            shape = (*d_depth.shape, 4)
            d_rgba = torch.zeros(shape, dtype=torch.float32, device=arrays[0].device)
        d_rgba = d_rgba.to(torch.float32).contiguous()
        d_depth = None if d_depth is None else d_depth.to(torch.float32).contiguous()
        gradients = [torch.empty_like(array) for array in arrays]
        addresses = dict(zip(_NAMES, map(torch.Tensor.data_ptr, gradients), strict=True))
        pixels = PixelGradients(d_rgba.data_ptr(), None if d_depth is None else d_depth.data_ptr())
        with torch_stream(context.renderer, arrays[0]) as stream:
            context.renderer.backward_pointers(context.job, pixels, addresses, stream)
        wanted = context.needs_input_grad
        results = [
            gradient.to(dtype) if needed else None
            for gradient, dtype, needed in zip(gradients, context.dtypes, wanted, strict=False)
        ]
        return (*results, None, None, None)


@contextmanager
def torch_stream(on: CudaRenderer | CudaGaussians, tensor: torch.Tensor) -> Iterator[object]:
    """Where to queue, in the order of torch's current stream."""
    current = torch.cuda.current_stream(tensor.device) if tensor.is_cuda else None
    if current is None or current.cuda_stream == 0:
        yield None  # pycuda's default stream is torch's
        return
    # pycuda cannot be given a foreign stream, but torch can.
    own = torch.cuda.ExternalStream(on.stream.handle, device=tensor.device)
    own.wait_stream(current)
    yield on.stream
    current.wait_stream(own)


def _check_shapes(position, radius, density, color) -> None:
    count = len(position) if position.ndim == 2 else 0
    basis = color.shape[1] if color.ndim == 3 else 0
    if (
        position.shape != (count, 3)
        or radius.shape != (count,)
        or density.shape != (count,)
        or color.shape not in ((count, 3), (count, basis, 3))
        or basis not in (0, *SH_COUNTS)
    ):
        raise CoreError(
            f"position {tuple(position.shape)}, radius {tuple(radius.shape)}, "
            f"density {tuple(density.shape)} and color {tuple(color.shape)} disagree",
            hint="Expected (N, 3), (N,), (N,) and (N, 3) or (N, 1 | 4 | 9 | 16, 3)",
        )
    if len({t.device for t in (position, radius, density, color)}) != 1:
        raise CoreError("the points' tensors are on several devices", hint="Move them to one")
