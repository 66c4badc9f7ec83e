"""LPIPS where its weights are installed, nothing where they are not.

The trained VGG weights come from a download that a studio or a farm may not reach. Peel4D never
downloads them by itself: it uses them when torchvision's own cache already holds them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

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
