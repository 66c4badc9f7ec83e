"""What people see, as numbers: FLIP, and LPIPS where its weights are installed.

The trained VGG weights of LPIPS come from a download that a studio or a farm may not reach. Peel4D
never downloads them by itself: it uses them when torchvision's own cache already holds them. FLIP
(Andersson et al. 2020) has no weights: it is the difference that is noticed when two pictures
alternate in one place, 0 for none and 1 for black against white.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

#: Pixels around a difference that FLIP's filters spread it to, at its 67 pixels per degree.
_FLIP_REACH = 10
VGG_FILE = "vgg16-397923af.pth"
log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def load_lpips() -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None:
    """LPIPS-VGG over (1, 3, H, W) pictures in [0, 1], or None, with one notice that says why."""
    weights = Path(torch.hub.get_dir()) / "checkpoints" / VGG_FILE
    if not weights.is_file():
        log.info("LPIPS is off: %s is not in %s", VGG_FILE, weights.parent)
        return None
    try:
        import lpips
    except ImportError:
        log.info("LPIPS is off: pip install lpips to use the VGG weights that are here")
        return None
    network = lpips.LPIPS(net="vgg", verbose=False).eval().requires_grad_(False)
    return lambda picture, truth: network(picture, truth, normalize=True).mean()


def flip_error(
    picture: np.ndarray, truth: np.ndarray, region: np.ndarray | None = None
) -> float | None:
    """Mean FLIP error in [0, 1], over the region if one is given; None without flip-evaluator.

    Pictures (H, W, 3) sRGB in [0, 1], region (H, W) bool. Seen as on a 0.7 m wide 4K screen from
    0.7 m away (67 pixels per degree, the package's default). Takes 0.4 s for 640 x 360 pixels.
    """
    try:
        from flip_evaluator import evaluate
    except ImportError:
        log.info("FLIP is off: pip install flip-evaluator")
        return None
    window = np.s_[:, :]
    if region is not None:
        picture = np.where(region[..., None], picture, truth)
        rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
        window = tuple(
            slice(max(0, i[0] - _FLIP_REACH), i[-1] + _FLIP_REACH + 1) for i in (rows, columns)
        )
    pair = (np.ascontiguousarray(image[window], dtype=np.float32) for image in (truth, picture))
    error = evaluate(*pair, "LDR", applyMagma=False, computeMeanError=False)[0][..., 0]
    return float(error.mean() if region is None else error[region[window]].mean())
