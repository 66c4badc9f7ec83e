"""How likely a pixel is the subject, given what its camera sees without one."""

from __future__ import annotations

import numpy as np

from .background import channel_sum

#: Distance from the background in standard deviations: below the first a pixel is background,
#: above the second the subject. Residuals are smoothed first, so noise alone stays below 2.
LOW, HIGH = 3.0, 8.0
#: A shadow leaves this share of the light; deeper ones have no chromaticity left to judge by.
_SHADOW = 0.45
#: A reflection may add so much.
_GLEAM = 1.1
#: A shadow dims its neighbourhood evenly: the dimming varies by less than this share of itself
#: (beyond what noise explains), within this share of the image's longer side.
_EVEN, _EVEN_WINDOW = 0.05, 0.012
#: Chromaticity says nothing near black: this much grey is added to both colours, levels.
_DARK = 8.0


def foreground_likelihood(
    image: np.ndarray, background: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """Likelihood in [0, 1] that a pixel does not show its background, (H, W) float32.

    image: (H, W, 3) uint8. background: (H, W, 3) float32, 0..255, in the image's light.
    noise: (H, W) float32, the background's standard deviation per channel.
    A colour is split into brightness (its multiple of the background) and what is left,
    chromaticity. Display encoding is a power, so dimmed light stays a multiple. A pixel that is
    only dimmed, and as evenly as its neighbours, is in a shadow and belongs to the background.
    Source: Horprasert, Harwood, Davis, 1999 (brightness and chromaticity distortion).
    """
    import cv2

    size = max(image.shape[:2])
    # Neighbours share their surface: averaging the residual, not the image, keeps edges.
    residual = cv2.GaussianBlur(image.astype(np.float32) - background, (3, 3), 0)
    base = background + _DARK
    here = base + residual
    energy = channel_sum(np.square(base))
    gain = channel_sum(here * base) / energy
    chroma = np.sqrt(channel_sum(np.square(here - gain[..., None] * base)) / 2) / noise
    bright = np.abs(gain - 1) * np.sqrt(energy / 3) / noise
    distance = np.hypot(chroma, bright)

    side = 2 * max(1, round(_EVEN_WINDOW * size / 2)) + 1
    mean = cv2.blur(gain, (side, side))
    variance = np.maximum(cv2.blur(gain * gain, (side, side)) - mean * mean, 0)
    own = np.square(noise) / (energy / 3) * 0.2  # what the noise leaves after smoothing
    even = np.sqrt(np.maximum(variance - own, 0)) < _EVEN * mean
    # The smoothed chroma of a shadow is noise only, but tinted: the sky lights it, not the sun.
    tint = 4 + 24 * np.clip(1 - gain, 0, 1)
    dimmed = (gain > _SHADOW) & (gain < _GLEAM) & (chroma < tint)
    # The rim of a shadow is not even; it is what lies beside an even part.
    core = (dimmed & even).astype(np.uint8)
    core = cv2.morphologyEx(core, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    shadow = dimmed & (cv2.dilate(core, np.ones((side, side), np.uint8)) > 0)
    likelihood = np.clip((distance - LOW) / (HIGH - LOW), 0, 1)
    excused = np.clip((chroma - LOW) / (2 * tint - LOW), 0, 0.45)
    return np.where(shadow, np.minimum(likelihood, excused), likelihood).astype(np.float32)
