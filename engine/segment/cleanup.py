"""From a likelihood to a mask: edges that follow the image, no specks, no holes."""

from __future__ import annotations

import numpy as np

from .background import channel_sum

BACKGROUND, UNKNOWN, SUBJECT = 0, 128, 255
#: Between them while the views have not been compared: what was decided in doubt.
PERHAPS_BACKGROUND, PERHAPS_SUBJECT = 64, 192
#: Radius of the guided filter, relative to the image's longer side, and its eps: changes of
#: brightness above sqrt(eps) (of 1) are edges.
_RADIUS, _EPS = 0.006, 1e-3
#: Half the width of the rim in which a lens and compression mix subject and background, relative
#: to the longer side.
_RIM = 1 / 400
#: A colour that differs from a mixture by more than this share of its contrast is none.
_OWN = 0.3
#: Components below this share of the image are noise (40 px of 640 x 360), and so are holes.
MIN_AREA = 40 / (640 * 360)
#: A larger hole is one only when it does not look like the background: its mean likelihood.
_HOLE = 0.15


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """Smooth `values` (H, W) float32 along the edges of `guide` (H, W) float32 in [0, 1].

    radius: pixels. eps: variance of the guide below which it has no edges.
    Source: He, Sun, Tang, 2010, equations 5 to 8.
    """
    import cv2

    box = (2 * radius + 1, 2 * radius + 1)
    mean_g, mean_v = cv2.blur(guide, box), cv2.blur(values, box)
    covariance = cv2.blur(guide * values, box) - mean_g * mean_v
    variance = cv2.blur(guide * guide, box) - mean_g * mean_g
    slope = covariance / (variance + eps)
    offset = mean_v - slope * mean_g
    return cv2.blur(slope, box) * guide + cv2.blur(offset, box)


def grade(
    likelihood: np.ndarray,
    image: np.ndarray,
    *,
    background: np.ndarray | None = None,
    unknown: np.ndarray | None = None,
) -> np.ndarray:
    """The graded mask (H, W) uint8 of a likelihood (H, W): the five values above.

    image: (H, W, 3) uint8, whose edges the mask's follow. background: (H, W, 3), 0..255, what lies
    behind the subject, where it is known: then the rim is where the subject covers half a pixel.
    unknown: (H, W) bool, pixels of which nothing can be said, or None.
    """
    import cv2

    radius = max(1, round(_RADIUS * max(likelihood.shape)))
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    smooth = guided_filter(grey, likelihood, radius, _EPS)
    # The filter decides what is in doubt; thin parts that are certain stay.
    doubtful = (likelihood > 0.1) & (likelihood < 0.9)
    smooth = np.where(doubtful, smooth, 0.5 * smooth + 0.5 * likelihood)
    subject = fill_holes(remove_specks(smooth > 0.5, likelihood), likelihood)
    certain = np.where(subject, likelihood > 0.9, likelihood < 0.1)
    if background is not None:
        trimmed = trim_rim(subject, image, background)
        certain |= subject & ~trimmed  # other views' rims are no better
        subject = trimmed
    graded = np.where(
        subject,
        np.where(certain, SUBJECT, PERHAPS_SUBJECT),
        np.where(certain, BACKGROUND, PERHAPS_BACKGROUND),
    ).astype(np.uint8)
    if unknown is not None:
        graded[unknown] = UNKNOWN
    return graded


def decide(graded: np.ndarray) -> np.ndarray:
    """A graded mask without its doubts: BACKGROUND, UNKNOWN or SUBJECT."""
    decided = np.where(graded > UNKNOWN, SUBJECT, BACKGROUND)
    return np.where(graded == UNKNOWN, UNKNOWN, decided).astype(np.uint8)


def trim_rim(subject: np.ndarray, image: np.ndarray, background: np.ndarray) -> np.ndarray:
    """The mask (H, W) bool without rim pixels of which the subject covers less than half.

    A difference is seen where a subject covers a tenth of a pixel, so masks come out too wide.
    The coverage is that of the compositing equation, I = a F + (1 - a) B, with F the colour of the
    pixels around, weighted by their difference from the background.
    """
    import cv2

    reach = max(2, round(_RIM * max(subject.shape)))
    box = (2 * reach + 1, 2 * reach + 1)
    base = background.astype(np.float32)
    residual = cv2.GaussianBlur(image.astype(np.float32), (3, 3), 0.5) - base
    weight = channel_sum(np.square(residual)) * subject
    around = cv2.blur(residual * weight[..., None], box) / (cv2.blur(weight, box) + 1e-3)[..., None]
    strength = channel_sum(np.square(around)) + 1e-3
    coverage = channel_sum(residual * around) / strength
    # A pixel with a colour of its own is no mixture.
    own = channel_sum(np.square(residual - coverage[..., None] * around)) > _OWN**2 * strength
    kernel = cv2.getStructuringElement(cv2.MORPH_RECT, (2 * reach + 1, 2 * reach + 1))
    inside = cv2.erode(subject.astype(np.uint8), kernel, borderValue=1) > 0
    return subject & (inside | own | (coverage > 0.5))


def remove_specks(subject: np.ndarray, likelihood: np.ndarray | None = None) -> np.ndarray:
    """The mask (H, W) bool without components below MIN_AREA of it (8-neighbours).

    With a likelihood, components that are nowhere certain go too.
    """
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(subject.astype(np.uint8))
    keep = stats[:, cv2.CC_STAT_AREA] >= MIN_AREA * subject.size
    if likelihood is not None and count > 1:
        certain = np.bincount(labels.ravel(), (likelihood.ravel() > 0.9), count)
        keep &= certain > 0.1 * stats[:, cv2.CC_STAT_AREA]
    keep[0] = False
    return keep[labels]


def fill_holes(subject: np.ndarray, likelihood: np.ndarray) -> np.ndarray:
    """The mask (H, W) bool with its holes closed.

    Small ones always; larger ones when they do not look like background, because the gap between
    an arm and a body is no hole.
    """
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        (~subject).astype(np.uint8), connectivity=4
    )
    if count == 1:
        return subject
    area = stats[:, cv2.CC_STAT_AREA]
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    inside = (left > 0) & (top > 0) & (right < subject.shape[1]) & (bottom < subject.shape[0])
    mean = np.bincount(labels.ravel(), likelihood.ravel(), count) / np.maximum(area, 1)
    fill = inside & ((area < MIN_AREA * subject.size) | (mean > _HOLE))
    fill[0] = False
    return subject | fill[labels]
