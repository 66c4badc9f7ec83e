# SPDX-License-Identifier: GPL-3.0-or-later
"""From a clip's colours to what Blender expects from a RenderEngine."""

from __future__ import annotations

import numpy as np

#: Pixels that are converted at a time: the steps between stay in the processor's cache.
_BLOCK = 1 << 15
#: Where there is less alpha than this there is nothing to divide.
_NO_ALPHA = np.float32(1e-30)


def srgb_to_linear(srgb: np.ndarray) -> np.ndarray:
    """Decode sRGB (IEC 61966-2-1) to linear Rec. 709, same shape and dtype."""
    # x^2.4 by logarithm, which numpy computes four times as fast; the error is 1e-6 of the value.
    high = np.maximum(srgb, 0.0)
    high += srgb.dtype.type(0.055)
    high *= srgb.dtype.type(1.0 / 1.055)
    np.log(high, out=high)
    high *= srgb.dtype.type(2.4)
    np.exp(high, out=high)
    np.multiply(srgb, srgb.dtype.type(1.0 / 12.92), out=high, where=srgb <= 0.04045)
    return high


def scene_linear_from_clip(
    rgba: np.ndarray, rec709_to_scene_linear: np.ndarray | None = None
) -> np.ndarray:
    """Premultiplied display-referred sRGB -> premultiplied scene-linear.

    rgba: (H, W, 4) float32, as the renderer composites it. Un-premultiplied, decoded, premultiplied
        again, once per pixel: decoding each point instead would change the trained picture.
    rec709_to_scene_linear: (3, 3) when the scene's working space is not linear Rec. 709.
    Returns a new (H, W, 4) float32 array; alpha is unchanged.
    """
    pixels = rgba.reshape(-1, 4)
    result = np.empty_like(pixels)
    for start in range(0, len(pixels), _BLOCK):
        part, block = pixels[start : start + _BLOCK], result[start : start + _BLOCK]
        alpha = part[:, 3:]
        if not alpha.any():
            block[:] = 0.0
            continue
        linear = srgb_to_linear(part[:, :3] / np.maximum(alpha, _NO_ALPHA))
        if rec709_to_scene_linear is not None:
            linear = linear @ rec709_to_scene_linear.T.astype(linear.dtype)
        np.multiply(linear, alpha, out=block[:, :3])
        block[:, 3:] = alpha
    return result.reshape(rgba.shape)


def over_background(rgba: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Scene-linear premultiplied (H, W, 4) over an opaque scene-linear colour (3,)."""
    result = np.empty_like(rgba)
    result[..., :3] = rgba[..., :3] + (1.0 - rgba[..., 3:]) * background.astype(rgba.dtype)
    result[..., 3] = 1.0
    return result
