"""Unknown pixels that look like the subject around them."""

from __future__ import annotations

import numpy as np

from .cleanup import BACKGROUND, SUBJECT, UNKNOWN

#: The cut is made in images of this longer side: its time grows with the pixels.
_SIDE = 480
_ROUNDS = 3
#: A colour model needs so many certain pixels of the subject.
_ENOUGH = 60


def claim_unknown(mask: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The mask (H, W) uint8 with those UNKNOWN pixels as SUBJECT that look like it.

    image: (H, W, 3) uint8. A cut along the image's edges between the colours of the subject and of
    the background; what it leaves to the background stays unknown, because a part of the subject
    that is nowhere certain, such as dark trousers, is not in its colours.
    Source: GrabCut (Rother, Kolmogorov, Blake, 2004).
    """
    import cv2

    scale = min(1.0, _SIDE / max(mask.shape))
    size = (max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale)))
    certain = cv2.erode((mask == SUBJECT).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    label = np.full(mask.shape, cv2.GC_PR_BGD, np.uint8)
    label[mask == BACKGROUND] = cv2.GC_BGD
    label[mask == SUBJECT] = cv2.GC_PR_FGD
    label[certain] = cv2.GC_FGD
    label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
    if min((label == cv2.GC_FGD).sum(), (label == cv2.GC_BGD).sum()) < _ENOUGH:
        return mask
    if not (label == cv2.GC_PR_BGD).any():
        return mask
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # its k-means starts at random, and a resumed run must not differ
    cv2.grabCut(small, label, None, *models, _ROUNDS, cv2.GC_INIT_WITH_MASK)
    subject = ((label == cv2.GC_FGD) | (label == cv2.GC_PR_FGD)).astype(np.uint8)
    whole = cv2.resize(subject, mask.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    return np.where((mask == UNKNOWN) & whole, SUBJECT, mask).astype(np.uint8)
