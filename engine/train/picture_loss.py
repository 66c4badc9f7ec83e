"""What one image teaches: the loss of points as its camera sees them.

On the CPU the splat core forms it with its derivative (cuda/cpu/kernels_picture.h): the same in
torch's operations takes longer than the peel. Those are what a GPU has, and what the core
is tested against.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch

from ..errors import CoreError
from ..model.camera_color import CameraColor
from ..render.camera import Camera
from ..render.core_library import CTone, CTruth, check, library
from .images import TrainingImage
from .losses import color_loss, depth_loss, mask_loss, structural_dissimilarity
from .peel_autograd import peel
from .perceptual import load_lpips
from .settings import TrainSettings


def picture_loss(
    points: Sequence[torch.Tensor],
    spacing: float,
    image: TrainingImage,
    view: int,
    color: CameraColor,
    settings: TrainSettings,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of points in one image, and its colour error (mean square) without a gradient.

    points: position, radius, density and colour as `peel` takes them. spacing: of the points, world
    units. view: whose colour the image has. Raises CoreError.
    """
    samples, camera = settings.samples, image.camera
    if samples > 1:
        camera = camera.scaled(samples * camera.width, samples * camera.height)
    rgba, depth = peel(*points, camera, settings.peel)
    loss, error = compared(rgba, image, view, color, settings)
    if image.depth is not None and settings.depth_weight:
        alpha = _pooled(rgba[..., 3], samples)
        measured = depth_loss(_pooled(depth, samples), alpha, image.depth, spacing)
        loss = loss + settings.depth_weight * measured
    lpips = load_lpips() if settings.lpips_weight else None
    if lpips is not None:
        picture = _picture(_pooled(rgba, samples), image, view, color)
        region = image.region.float()
        pair = [(p * region).permute(2, 0, 1)[None] for p in (picture, image.truth.float() / 255)]
        loss = loss + settings.lpips_weight * lpips(*pair)
    return loss, error


def compared(
    rgba: torch.Tensor,
    image: TrainingImage,
    view: int,
    color: CameraColor,
    settings: TrainSettings,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Colour, mask and D-SSIM of a picture (samples h, samples w, 4) beside an image (h, w): the
    loss, and the colours' mean square without a gradient."""
    if rgba.device.type != "cpu":
        return compared_in_torch(rgba, image, view, color, settings)
    gain, offset = color.tone(view)
    return _PictureLoss.apply(rgba, gain, offset, color.vignetting, image, settings)


def compared_in_torch(
    rgba: torch.Tensor,
    image: TrainingImage,
    view: int,
    color: CameraColor,
    settings: TrainSettings,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`compared` in torch's operations, on any device."""
    rgba = _pooled(rgba, settings.samples)
    truth, region = image.truth.float() / 255, image.region.float()
    picture = _picture(rgba, image, view, color)
    error = color_loss(picture, truth, region, image.region_pixels)
    loss = error
    if image.mask is not None and settings.mask_weight:
        known = 1.0 if image.mask_known is None else image.mask_known.float()
        covered = mask_loss(rgba[..., 3:] * known, image.mask.float() * known)
        loss = loss + settings.mask_weight * covered
    if settings.dssim_weight:
        loss = loss + settings.dssim_weight * structural_dissimilarity(picture, truth, region)
    return loss, error.detach()


def _picture(
    rgba: torch.Tensor, image: TrainingImage, view: int, color: CameraColor
) -> torch.Tensor:
    """What the camera makes of a premultiplied picture, over what is behind it: (h, w, 3)."""
    alpha = rgba[..., 3:]
    seen = color(view, rgba[..., :3], alpha, image.camera)
    return seen + (1 - alpha) * (image.background.float() / 255)


def _pooled(samples: torch.Tensor, count: int) -> torch.Tensor:
    """The pixels (h, w, ...) of count x count samples each."""
    if count == 1:
        return samples
    height, width = samples.shape[0] // count, samples.shape[1] // count
    return samples.view(height, count, width, count, *samples.shape[2:]).mean((1, 3))


class _PictureLoss(torch.autograd.Function):
    @staticmethod
    def forward(context, rgba, gain, offset, vignetting, image, settings):
        height, width = image.camera.height, image.camera.width
        shape = (settings.samples * height, settings.samples * width, 4)
        rgba = rgba.detach().contiguous()
        _check("picture", rgba, shape, torch.float32)
        truth = _truth(image, settings)
        tone, by_tone = CTone(), CTone()
        for name, values in (("gain", gain), ("offset", offset), ("vignetting", vignetting)):
            setattr(tone, name, type(getattr(tone, name))(*values.detach().flatten().tolist()))
        by_rgba = torch.empty_like(rgba)
        loss, error = ctypes.c_double(), ctypes.c_double()
        learned = any(context.needs_input_grad[1:4])
        check(
            library().peel4d_picture_loss(
                ctypes.byref(truth),
                rgba.data_ptr(),
                ctypes.byref(tone),
                by_rgba.data_ptr(),
                ctypes.byref(by_tone) if learned else None,
                ctypes.byref(loss),
                ctypes.byref(error),
            )
        )
        gradients = [None] * 3
        if learned:
            gradients = [torch.tensor(list(values)) for values in (by_tone.gain, by_tone.offset)]
            gradients.append(torch.tensor(list(by_tone.vignetting)).view(2, 3))
        context.save_for_backward(by_rgba, *gradients)
        error = torch.tensor(error.value)
        context.mark_non_differentiable(error)
        return torch.tensor(loss.value), error

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, upstream, _):
        gradients = [
            saved * upstream if needed else None
            for saved, needed in zip(context.saved_tensors, context.needs_input_grad, strict=False)
        ]
        return (*gradients, None, None)


def _check(name: str, tensor: torch.Tensor, shape: tuple[int, ...], *types: torch.dtype) -> None:
    """The core reads what it is pointed at. Raises CoreError for anything else."""
    given = tuple(tensor.shape), tensor.dtype, tensor.device.type, tensor.is_contiguous()
    if given[0] != shape or given[1] not in types or given[2:] != ("cpu", True):
        raise CoreError(
            f"the {name} of a loss is {given[0]}, {given[1]}, on the {given[2]}"
            + ("" if given[3] else ", not contiguous"),
            hint=f"Expected {shape}, {types[0]}, contiguous, on the cpu",
        )


def _truth(image: TrainingImage, settings: TrainSettings) -> CTruth:
    """The struct of an image; it points into its tensors."""
    camera: Camera = image.camera
    (fx, _, cx), (_, fy, cy) = camera.K[0], camera.K[1]
    known, mask = image.mask_known, image.mask
    size = (camera.height, camera.width)
    for name, colors in (("image", image.truth), ("background", image.background)):
        _check(name, colors, (*size, 3), torch.uint8)
    for name, pixels in (("region", image.region), ("mask", mask), ("known mask", known)):
        if pixels is not None:
            _check(name, pixels, (*size, 1), torch.bool, torch.uint8)
    return CTruth(
        width=camera.width,
        height=camera.height,
        samples=settings.samples,
        mask_weight=settings.mask_weight,
        dssim_weight=settings.dssim_weight,
        pixels=image.region_pixels,
        x=(0.5 - cx) / fx,
        dx=1 / fx,
        y=(0.5 - cy) / fy,
        dy=1 / fy,
        rgb=image.truth.data_ptr(),
        background=image.background.data_ptr(),
        region=image.region.data_ptr(),
        mask=None if mask is None else mask.data_ptr(),
        known=None if known is None else known.data_ptr(),
    )
