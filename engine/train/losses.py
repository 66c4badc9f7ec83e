"""What training minimises, each on one crop of one image.

Source: 4K4D, section 3.4 (colour MSE, mask loss 1 - soft IoU); structural dissimilarity takes the
place of its perceptual loss where no VGG weights are installed.
"""

from __future__ import annotations

import torch


def color_loss(
    picture: torch.Tensor, truth: torch.Tensor, region: torch.Tensor, pixels: float
) -> torch.Tensor:
    """Mean squared error over the region. (H, W, 3), (H, W, 3), (H, W, 1) -> scalar."""
    return ((picture - truth).square() * region).sum() / (3 * pixels)


def mask_loss(alpha: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """1 - soft intersection over union of coverage (H, W) and mask (H, W)."""
    intersection = (alpha * mask).sum()
    return 1 - intersection / (alpha.sum() + mask.sum() - intersection).clamp_min(1e-6)


def depth_loss(
    depth: torch.Tensor, alpha: torch.Tensor, measured: torch.Tensor, spacing: float
) -> torch.Tensor:
    """Huber loss between the depth of the points and the measured one, in point spacings.

    depth: (H, W), the sum of T_k alpha_k z_k; alpha: (H, W); measured: (H, W), not above 0 = not
    known. Pixels that the points cover by less than a half do not count, and neither does what is
    less than a spacing off: the mean depth of overlapping disks lies behind their surface, and
    colours place it better. Where the measurement is noisier than a spacing the unit is its noise,
    which the residuals of the picture tell; what is off by more pulls no harder than that.
    """
    used = (measured > 0) & (alpha > 0.5)
    if not used.any():
        return depth.sum() * 0
    residual = (depth[used] / alpha[used] - measured[used]) / spacing
    scale = (1.4826 * residual.detach().abs().median()).clamp_min(1)
    excess = torch.nn.functional.softshrink(residual, 1.0) / scale
    return torch.nn.functional.huber_loss(excess, torch.zeros_like(excess))


#: Of SSIM, for values in [0, 1].
_C1, _C2 = 0.01**2, 0.03**2


def structural_dissimilarity(
    picture: torch.Tensor, truth: torch.Tensor, region: torch.Tensor, window: int = 7
) -> torch.Tensor:
    """(1 - SSIM) / 2 averaged over the region, with a box window. Differentiable in the picture.

    (H, W, 3), (H, W, 3), (H, W, 1) -> scalar. Outside the region the picture counts as true, also
    in windows that reach over its rim, as in the metric. The box costs a fraction of the Gaussian
    window of the metric and gives the same direction to go.
    """
    picture = torch.where(region > 0, picture, truth)
    weight = region / (6 * region.sum().clamp_min(1))
    statistics = torch.cat(
        [picture, truth, picture * picture, truth * truth, picture * truth], dim=2
    )
    mean_x, mean_y, xx, yy, xy = _box_mean(statistics, window).split(3, dim=2)
    product = mean_x * mean_y
    squares = mean_x.square() + mean_y.square()
    similarity = ((2 * product + _C1) * (2 * (xy - product) + _C2)) / (
        (squares + _C1) * (xx + yy - squares + _C2)
    )
    return ((1 - similarity) * weight).sum()


def _box_mean(image: torch.Tensor, window: int) -> torch.Tensor:
    """Means over windows of an image (H, W, C), which end at its edges."""
    planes = image.permute(2, 0, 1)[None]
    # Rows, then columns: 2 x 7 additions per value instead of 49.
    for kernel in ((window, 1), (1, window)):
        planes = torch.nn.functional.avg_pool2d(
            planes,
            kernel,
            stride=1,
            padding=(kernel[0] // 2, kernel[1] // 2),
            count_include_pad=False,
        )
    return planes[0].permute(1, 2, 0)
