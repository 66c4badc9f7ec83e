"""Picture quality, defined once and used everywhere (evaluation, training, demo, tests).

The region "mask" is the view's mask dilated by 3 px; pixels outside it do not count, views with
fewer than 100 px in it are skipped. Source of SSIM: Wang et al. 2004, Gaussian window 11 x 11,
sigma 1.5, K = (0.01, 0.03), per channel, population statistics; the score is the mean of its map
over the region, and outside the region both pictures are made equal first, so that what lies
beyond cannot leak in through the window.

PSNR likes blur, so detail has measures of its own: the energy of the picture's gradients relative
to the truth's (below 1: blurred; above 1: noise or ringing) and how far the two go together (1:
the same edges in the same places). Gradients are forward differences, which see the finest detail
there is; a pixel counts where all three pixels that they need are in the region.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

REGIONS = ("full", "mask")
REGION_DILATION_PX = 3
REGION_MINIMUM_PX = 100
#: Identical pictures have no finite PSNR; JSON has no infinity.
PSNR_LIMIT = 100.0


@dataclass(frozen=True)
class Score:
    """One picture's scores, see `MEASURES`; None for what was not or cannot be measured.

    lpips: None where its weights are not installed. flip: mean error in [0, 1], None where its
    package is not installed. The gradients have none where the truth is flat.
    """

    view: str
    frame: int
    psnr: float
    ssim: float
    lpips: float | None = None
    flip: float | None = None
    gradient_energy: float | None = None
    gradient_correlation: float | None = None


#: The measures of a score by name, in the order in which people read them.
MEASURES = ("psnr", "ssim", "lpips", "flip", "gradient_energy", "gradient_correlation")


def dilate(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Dilate a (H, W) bool mask by a disk of the given radius."""
    import cv2

    if pixels <= 0:
        return mask
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return cv2.dilate(mask.astype(np.uint8), kernel).astype(bool)


#: How far from a pixel the scores look: SSIM's window is 11 pixels wide.
SCORE_REACH_PX = 5


def region_of(mask: np.ndarray) -> np.ndarray | None:
    """The pixels that count for a mask, or None where the view is to be skipped."""
    region = dilate(mask, REGION_DILATION_PX)
    return region if int(region.sum()) >= REGION_MINIMUM_PX else None


def psnr(picture: np.ndarray, truth: np.ndarray, region: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB. Pictures (H, W, 3) in [0, 1], region (H, W) bool."""
    difference = picture.astype(np.float64) - truth.astype(np.float64)
    if region is not None:
        difference = difference[region]
    error = float(np.mean(difference**2))
    return PSNR_LIMIT if error <= 10 ** (-PSNR_LIMIT / 10) else float(-10 * np.log10(error))


def ssim_map(picture: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """SSIM per pixel, averaged over channels: (H, W, 3) in [0, 1] twice -> (H, W)."""
    import cv2

    def blur(image: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(image, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT)

    x, y = picture.astype(np.float64), truth.astype(np.float64)
    mean_x, mean_y = blur(x), blur(y)
    variance_x = blur(x * x) - mean_x**2
    variance_y = blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return similarity.mean(axis=2)


def ssim(picture: np.ndarray, truth: np.ndarray, region: np.ndarray | None = None) -> float:
    """Mean structural similarity, over the region if one is given."""
    if region is None:
        return float(ssim_map(picture, truth).mean())
    picture = np.where(region[..., None], picture, truth)
    return float(ssim_map(picture, truth)[region].mean())


def gradients(
    picture: np.ndarray, truth: np.ndarray, region: np.ndarray | None = None
) -> tuple[float | None, float | None]:
    """Energy of a picture's gradients relative to the truth's, and the correlation of both.

    Pictures (H, W, 3) in [0, 1], region (H, W) bool. energy = sum |grad p|^2 / sum |grad t|^2,
    correlation = sum (grad p . grad t) / sqrt(sum |grad p|^2 sum |grad t|^2), in [-1, 1] and 0 for
    a flat picture. (None, None) where the truth is flat.
    """
    if region is None:
        region = np.ones(truth.shape[:2], dtype=bool)
    inside = region[:-1, :-1] & region[1:, :-1] & region[:-1, 1:]

    def gradient(image: np.ndarray) -> np.ndarray:
        image = image.astype(np.float64)
        corner = image[:-1, :-1]
        return np.stack([image[:-1, 1:] - corner, image[1:, :-1] - corner])[:, inside]

    ours, real = gradient(picture), gradient(truth)
    energy, true_energy = float((ours**2).sum()), float((real**2).sum())
    if true_energy == 0:
        return None, None
    together = float((ours * real).sum())
    correlation = together / np.sqrt(energy * true_energy) if energy else 0.0
    return energy / true_energy, float(correlation)


def summarize(scores: list[Score], region: str, **extra: object) -> dict:
    """The stable JSON form of `evaluate --json` and of the demo's metrics.json."""

    def mean(name: str) -> float | None:
        values = [getattr(score, name) for score in scores]
        return float(np.mean(values)) if values and None not in values else None

    return {
        "region": region,
        "views": [asdict(score) for score in scores],
        "mean": {name: mean(name) for name in MEASURES},
        **extra,
    }
