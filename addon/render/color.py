# SPDX-License-Identifier: GPL-3.0-or-later
"""From a clip's colours to what Blender expects from a RenderEngine."""

from __future__ import annotations

import numpy as np


def srgb_to_linear(srgb: np.ndarray) -> np.ndarray:
    """Decode sRGB (IEC 61966-2-1) to linear Rec. 709, same shape and dtype."""
    low = srgb * (1.0 / 12.92)
    high = ((np.maximum(srgb, 0.0) + 0.055) * (1.0 / 1.055)) ** 2.4
    return np.where(srgb <= 0.04045, low, high).astype(srgb.dtype, copy=False)


def scene_linear_from_clip(
    rgba: np.ndarray, rec709_to_scene_linear: np.ndarray | None = None
) -> np.ndarray:
    """Premultiplied display-referred sRGB -> premultiplied scene-linear.

    rgba: (H, W, 4) float32, as the renderer composites it. Un-premultiplied, decoded, premultiplied
        again, once per pixel: decoding each point instead would change the trained picture.
    rec709_to_scene_linear: (3, 3) when the scene's working space is not linear Rec. 709.
    Returns a new (H, W, 4) float32 array; alpha is unchanged.
    """
    result = np.zeros_like(rgba)
    covered = rgba[..., 3] > 0.0
    pixels = rgba[covered]
    alpha = pixels[:, 3:]
    linear = srgb_to_linear(pixels[:, :3] / alpha)
    if rec709_to_scene_linear is not None:
        linear = linear @ rec709_to_scene_linear.T.astype(linear.dtype)
    pixels[:, :3] = linear * alpha
    result[covered] = pixels
    return result


def over_background(rgba: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Scene-linear premultiplied (H, W, 4) over an opaque scene-linear colour (3,)."""
    result = np.empty_like(rgba)
    result[..., :3] = rgba[..., :3] + (1.0 - rgba[..., 3:]) * background.astype(rgba.dtype)
    result[..., 3] = 1.0
    return result
