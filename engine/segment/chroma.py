"""Keying: a green or blue screen, or any even backdrop, found in the images themselves.

A key needs no motion and, for a screen, no static camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .background import NOISE_FLOOR, Background, Samples, image_noise, largest

#: A screen is that much more of its colour than of the others, as a share of it.
_SATURATION = 0.2
#: It fills at least so much of the pictures, and of their rim.
_AREA, _RIM_AREA = 0.2, 0.35
#: Its hue varies by less (standard deviation of the ratio of its two lesser channels' excess).
_HUE = 0.09
#: Below this many levels colours are noise.
_DARK = 24.0
#: An even backdrop: share of the rim that fits a quadratic, and how well, in multiples of the noise
#: of its images: a wall with panels and lamps is nothing of the kind.
_EVEN_RIM, _EVEN_NOISE = 0.9, 2.5
#: With more noise than this, levels, no surface is even.
_MOST_NOISE = 16.0
#: The rim of the image, relative to its longer side.
_RIM = 0.03
#: The neighbourhood in which the screen's light is levelled, relative to the longer side.
_LIGHT = 0.08


@dataclass(frozen=True)
class Key:
    """A screen. channel: 1 green, 2 blue. saturation: its typical one, see `saturation`."""

    channel: int
    saturation: float

    @property
    def name(self) -> str:
        return ("red", "green", "blue")[self.channel]


def saturation(image: np.ndarray, channel: int) -> np.ndarray:
    """By how much one channel exceeds the two others, as a share of itself: (H, W) float32.

    A ratio, so that shadows on the screen keep it. image: (H, W, 3) uint8 or float, 0..255.
    """
    image = image.astype(np.float32)
    others = np.maximum(*(image[..., c] for c in range(3) if c != channel))
    return (image[..., channel] - others) / np.maximum(image[..., channel], _DARK)


def find_key(images: np.ndarray) -> Key | None:
    """The screen in images (N, H, W, 3) uint8 of one view; None where there is none.

    It must be saturated, fill much of the pictures and of their rim, and have one hue, which
    tells it from a lawn or the sky.
    """
    some = images[np.linspace(0, len(images) - 1, min(len(images), 5)).round().astype(int)]
    step = max(1, round(max(some.shape[1:3]) / 320))
    some = some[:, ::step, ::step]
    rim = rim_mask(some.shape[1:3])
    for channel in (1, 2):
        s = np.stack([saturation(image, channel) for image in some])
        screen = s > _SATURATION
        if screen.mean() < _AREA or screen[:, rim].mean() < _RIM_AREA:
            continue
        typical = float(np.median(s[screen]))
        lit = some[screen].astype(np.float32)
        lesser = [c for c in range(3) if c != channel]
        hue = (lit[:, lesser[0]] - lit[:, lesser[1]]) / np.maximum(lit[:, channel], _DARK)
        spread = 1.4826 * float(np.median(np.abs(hue - np.median(hue))))
        if spread < _HUE:
            return Key(channel, typical)
    return None


def rim_mask(shape: tuple[int, int]) -> np.ndarray:
    """The pixels along the border of an image (H, W), bool."""
    width = max(1, round(_RIM * max(shape)))
    rim = np.ones(shape, bool)
    rim[width:-width, width:-width] = False
    return rim


def key_likelihood(image: np.ndarray, key: Key) -> np.ndarray:
    """Likelihood in [0, 1] that a pixel is not the screen, (H, W) float32.

    The excess of the screen's channel, relative to the screen's around it: 0 on the screen, 1
    without any of it. A neutral subject that the screen lights (spill) has little and stays above
    a half. Source: the colour-difference key (Vlahos), as a ratio.
    """
    import cv2

    s = cv2.GaussianBlur(saturation(image, key.channel), (3, 3), 0)
    screen = (s > 0.6 * key.saturation).astype(np.float32)
    side = 2 * max(1, round(_LIGHT * max(image.shape[:2]))) + 1
    weight = cv2.blur(screen, (side, side), borderType=cv2.BORDER_REFLECT)
    level = cv2.blur(s * screen, (side, side), borderType=cv2.BORDER_REFLECT)
    # Far from the screen its typical saturation stands in.
    level = (level + 0.02 * key.saturation) / (weight + 0.02)
    ratio = s / np.maximum(level, _SATURATION / 2)
    return np.clip((1 - ratio) * 1.25 - 0.125, 0, 1).astype(np.float32)


def screen_color(image: np.ndarray, key: Key) -> np.ndarray:
    """The colour (H, W, 3) float32 of the screen around every pixel of an image (H, W, 3) uint8.

    Black where there is none far around, as behind the middle of a large subject.
    """
    import cv2

    screen = (saturation(image, key.channel) > 0.6 * key.saturation).astype(np.float32)
    side = 2 * max(1, round(_LIGHT * max(image.shape[:2]) / 4)) + 1
    weight = cv2.blur(screen, (side, side)) + 1e-3
    return cv2.blur(image * screen[..., None], (side, side)) / weight[..., None]


def even_backdrop(samples: Samples) -> Background | None:
    """The backdrop of a view before an even wall of any colour; None where it is not even.

    A quadratic in the image's coordinates is fitted to the rim of the images (reweighted least
    squares) and continued inwards; where pixels agree with it in some images, their median counts.
    So a subject that never moves is told from its background too.
    """
    images = samples.images
    height, width = images.shape[1:3]
    rim = rim_mask((height, width))
    y, x = np.mgrid[:height, :width]
    y, x = (y + 0.5) / height * 2 - 1, (x + 0.5) / width * 2 - 1
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)
    rows = basis[rim]
    target = np.median(images[:, rim], axis=0).astype(np.float64)
    weight = np.ones(len(rows))
    for _ in range(8):
        weighted = rows * weight[:, None]
        ridge = np.diag([0.0, *[1e-3 * weight.sum()] * 5])
        fit = np.linalg.solve(rows.T @ weighted + ridge, weighted.T @ target)
        off = np.abs(target - rows @ fit).max(axis=1)
        scale = max(2 * float(np.median(off)), 1.0)
        weight = 1 / (1 + (off / scale) ** 2)
    noise = max(NOISE_FLOOR, 1.4826 * float(np.median(np.abs(images[:, rim] - rows @ fit))))
    fits = np.abs(images[:, rim] - rows @ fit).max(axis=2) < 4 * noise
    if noise > min(_MOST_NOISE, _EVEN_NOISE * image_noise(images)) or fits.mean() < _EVEN_RIM:
        return None
    smooth = (basis @ fit).clip(0, 255).astype(np.float32)
    total, count = np.zeros_like(smooth), np.zeros((height, width), np.float32)
    for image in images:
        change = image - smooth
        near = (largest(np.abs(change)) < 4 * noise).astype(np.float32)
        total += change * near[..., None]
        count += near
    color = smooth + total / (count + 1)[..., None]
    scale = np.full((height, width), noise, np.float32)
    share = count / len(images)
    return Background(color, scale, share, np.zeros_like(share), samples, False)
