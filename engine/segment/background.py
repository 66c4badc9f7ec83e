"""What a static camera sees behind its subject: colour and noise per pixel, over the whole clip.

The background is what a pixel shows most often, not what it shows on average: a subject in motion
brings ever other colours, the background the same one again and again. So the densest of the
samples is taken, which holds where a subject covers a pixel for most of the clip, and where the
median does not.
"""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass

import numpy as np

from ..capture.capture import Capture
from ..capture.images import ImageReader, UnreadableImage

logger = logging.getLogger(__name__)

#: Samples of the clip, at most; the time to compare them grows with the square of their number.
SAMPLES = 24
#: The standard deviation that 8-bit rounding and compression leave in any pixel, levels.
NOISE_FLOOR = 1.2
#: Two samples show the same surface when no channel differs by more standard deviations.
_SAME = 4.0
#: Edges wander by this many pixels (vibration, compression), which is noise where they are steep.
_JITTER = 0.3
#: A second surface that is seen at least this often, relative to the first, is a rival for the
#: name of background.
RIVAL = 0.75
#: Light that changes by less than this share is left alone.
_STEADY = 0.004
#: How far a background may wander from its mean over the clip, levels, and by how many standard
#: deviations it must before the local model is worth its time.
_WANDER, _WANDERS = 40.0, 1.0
#: Samples around a frame that the local model looks at.
_NEAREST = 7


@dataclass(frozen=True, eq=False)
class Samples:
    """Images of one view from all over the clip. frames: (N,) frame indices, ascending.

    images: (N, H, W, 3) uint8, RGB.
    """

    frames: np.ndarray
    images: np.ndarray


@dataclass(frozen=True, eq=False)
class Background:
    """The background of one view.

    color: (H, W, 3) float32, 0..255. noise: (H, W) float32, standard deviation of a channel.
    share: (H, W) float32, the share of the samples that show it. rival: (H, W) float32, how many
    samples the next most frequent surface has, relative to the first; near 1 nobody can say
    which of the two is the background. samples: those it was made of, in its own light.
    drifts: whether the background wanders more than smooth changes of light explain.
    """

    color: np.ndarray
    noise: np.ndarray
    share: np.ndarray
    rival: np.ndarray
    samples: Samples
    drifts: bool

    def at(self, frame: int) -> np.ndarray:
        """The colour (H, W, 3) float32 around a frame index: a moving model where light drifts.

        It follows the nearest samples only as far as they stay near the clip's background, so that
        a subject who lingers is not learned.
        """
        if not self.drifts:
            return self.color
        nearest = np.argsort(np.abs(self.samples.frames - frame), kind="stable")[:_NEAREST]
        bound = np.maximum(_WANDER, _SAME * self.noise)
        total = np.zeros_like(self.color)
        count = np.zeros(self.noise.shape, np.float32)
        for index in nearest:
            change = self.samples.images[index] - self.color
            near = (largest(np.abs(change)) <= bound).astype(np.float32)
            total += change * near[..., None]
            count += near
        # One sample may be half a shadow; weigh the clip's own background in as one more.
        return self.color + total / (count + 1)[..., None]


def read_samples(
    capture: Capture, reader: ImageReader, view: int, *, max_bytes: int = 400 << 20
) -> Samples:
    """Evenly spaced images of a view, at most SAMPLES and `max_bytes` (but 3) of them.

    Files that cannot be read are left out, with a warning; the result may be empty.
    """
    frames = sorted(f for f, v in capture.images if v == view)
    if not frames:
        return Samples(np.zeros(0, np.int64), np.zeros((0, 1, 1, 3), np.uint8))
    size = capture.views[view].width * capture.views[view].height * 3
    count = int(np.clip(max_bytes // size, 3, SAMPLES))
    chosen = sorted({frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)})
    images = np.empty((len(chosen), *_shape(capture, view), 3), np.uint8)
    read = []
    for frame in chosen:
        try:
            images[len(read)] = reader.image(frame, view)
        except UnreadableImage as error:
            logger.warning("left out of the background: %s", error)
        else:
            read.append(frame)
    return Samples(np.array(read, dtype=np.int64), images[: len(read)])


def _shape(capture: Capture, view: int) -> tuple[int, int]:
    return capture.views[view].height, capture.views[view].width


def model_background(samples: Samples) -> Background:
    """The background of at least three samples of a static view.

    The samples are brought to one light first, in place, because they are large: by a gain per
    channel that changes smoothly across the image (`light_change`), against the clip's median.
    """
    import cv2

    images = samples.images
    reference = _median(images[:: -(-len(images) // 9)])  # good enough for the light
    for image in images:
        gain = light_change(image, reference)
        if gain is not None:
            cv2.multiply(image, gain, dst=image, dtype=cv2.CV_8U)
    noise = image_noise(images)
    radius = max(_SAME * noise, 3.0)
    color, share, rival = _densest(images, radius)
    color, spread, wander = _refine(images, color, radius)
    scale = np.sqrt(
        np.maximum(spread, max(noise, NOISE_FLOOR)) ** 2 + (_JITTER * _slope(color)) ** 2
    )
    seen = share > 0.5
    drifts = bool(seen.any() and np.median(wander[seen]) > _WANDERS * max(noise, NOISE_FLOOR))
    return Background(color, scale.astype(np.float32), share, rival, samples, drifts)


def light_change(image: np.ndarray, background: np.ndarray) -> np.ndarray | None:
    """The gain (H, W, 3) float32 that brings an image to the background's light.

    A quadratic in the image's coordinates per channel, fitted to the ratio of the two with weights
    that leave the subject out (iteratively reweighted least squares, Cauchy). None where the light
    is the same, and where too little of the background is seen to tell.
    """
    import cv2

    height, width = image.shape[:2]
    step = max(1, round(np.sqrt(height * width / 6000)))
    rows, columns = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    y, x = (rows.ravel() / height - 0.5) * 2, (columns.ravel() / width - 0.5) * 2
    basis = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    there = background[rows, columns].reshape(-1, 3).astype(np.float64)
    here = image[rows, columns].reshape(-1, 3).astype(np.float64)
    # Neither black nor clipped pixels tell a ratio.
    usable = ((there > 12) & (there < 250) & (here > 4) & (here < 250)).all(axis=1)
    if usable.sum() < 60:
        return None
    basis, ratio = basis[usable], np.log(there[usable] / here[usable])
    middle = np.median(ratio, axis=0)
    distance = np.abs(ratio - middle).max(axis=1)
    gain = np.zeros((6, 3))
    gain[0] = middle
    for _ in range(6):
        scale = max(2 * float(np.median(distance)), 0.01)
        weight = 1 / (1 + (distance / scale) ** 2)
        weighted = basis * weight[:, None]
        # A light ridge keeps the corners tame where a subject hides them.
        gain = np.linalg.solve(
            basis.T @ weighted + np.diag([0.0, *[0.02 * weight.sum()] * 5]), weighted.T @ ratio
        )
        distance = np.abs(ratio - basis @ gain).max(axis=1)
    if (distance < 0.05).mean() < 0.3 or np.abs(basis @ gain).max() < _STEADY:
        return None
    # Smooth as it is, the field needs few values; the rest is interpolated.
    rows, columns = (max(2, round(side / 16)) for side in (height, width))
    y = (((np.arange(rows) + 0.5) / rows - 0.5) * 2)[:, None, None]
    x = (((np.arange(columns) + 0.5) / columns - 0.5) * 2)[None, :, None]
    field = (
        gain[0] + gain[1] * x + gain[2] * y + gain[3] * x * x + gain[4] * x * y + gain[5] * y * y
    )
    coarse = np.exp(np.clip(field, -1, 1)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


def _median(images: np.ndarray) -> np.ndarray:
    """The median (H, W, 3) uint8 over the samples, in bands of rows: sorting copies its input."""
    result = np.empty(images.shape[1:], np.uint8)
    band = max(1, (32 << 20) // (images.shape[0] * images.shape[2] * 3))
    middle = (len(images) - 1) // 2
    for top in range(0, images.shape[1], band):
        part = np.s_[top : top + band]
        result[part] = np.partition(images[:, part], middle, axis=0)[middle]
    return result


def image_noise(images: np.ndarray) -> float:
    """The standard deviation of a channel's noise in (N, H, W, 3) uint8 images, levels.

    Two estimates, both too large where something else than noise is seen, so the smaller one
    counts: differences from image to image (motion), and the finest detail within an image
    (texture).
    """
    import cv2

    # E|a - b| of two normal variables is 2 sigma / sqrt(pi).
    step = max(1, round(max(images.shape[1:3]) / 640))
    between = [
        cv2.absdiff(a, b).mean(axis=2, dtype=np.float32)
        for a, b in itertools.pairwise(images[:, ::step, ::step])
    ]
    in_time = np.inf
    if between:
        # The lower quartile over the image: where a subject passes, differences are larger.
        in_time = float(np.quantile(np.median(between, axis=0), 0.25)) * np.sqrt(np.pi) / 2
    # The median of |x| of a normal variable is 0.6745 sigma (Donoho, Johnstone, 1994).
    checks = np.array([[0.5, -0.5], [-0.5, 0.5]], np.float32)
    some = images[np.linspace(0, len(images) - 1, min(len(images), 4)).round().astype(int)]
    detail = [np.median(np.abs(cv2.filter2D(image, cv2.CV_32F, checks))) for image in some]
    in_space = float(np.median(detail)) / 0.6745
    return max(NOISE_FLOOR, min(in_time, in_space))


def _densest(images: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sample with the most others within `radius` of it, per pixel.

    Returns its colour (H, W, 3) uint8, the share of the samples near it (H, W) float32, and the
    largest number of samples around a sample far from it, relative to its own.
    """
    import cv2

    n, height, width = images.shape[:3]
    counts = np.ones((n, height, width), np.uint8)
    limit = int(min(radius, 254))
    for i in range(n):
        for j in range(i + 1, n):
            near = largest(cv2.absdiff(images[i], images[j])) <= limit
            counts[i] += near
            counts[j] += near
    best = counts.argmax(axis=0)[None]
    color = np.take_along_axis(images, best[..., None], axis=0)[0]
    most = counts.max(axis=0).astype(np.float32)
    other = np.zeros((height, width), np.float32)
    for i in range(n):
        far = largest(cv2.absdiff(images[i], color)) > min(2 * limit, 254)
        np.maximum(other, np.where(far, counts[i], 0), out=other)
    return color, most / n, other / most


def largest(difference: np.ndarray) -> np.ndarray:
    """max over the channels of (H, W, 3); numpy's reduction over so short an axis is slow."""
    return np.maximum(np.maximum(difference[..., 0], difference[..., 1]), difference[..., 2])


def channel_sum(values: np.ndarray) -> np.ndarray:
    """The sum over the channels of (H, W, 3), for the same reason."""
    return values[..., 0] + values[..., 1] + values[..., 2]


def _refine(images: np.ndarray, color: np.ndarray, radius: float) -> tuple[np.ndarray, ...]:
    """Mean (H, W, 3) and standard deviation (H, W) of the samples within radius of a colour, and
    how far the first and the second half of these samples are apart (H, W), all levels."""
    mean = color.astype(np.float32)
    total, square = np.zeros_like(mean), np.zeros(mean.shape[:2], np.float32)
    halves = np.zeros((2, *mean.shape[:2]), np.float32)
    counts = np.zeros((2, *mean.shape[:2]), np.float32)
    for index, image in enumerate(images):
        change = image - mean
        near = (largest(np.abs(change)) <= radius).astype(np.float32)
        change *= near[..., None]
        total += change
        square += channel_sum(np.square(change))
        half = int(2 * index >= len(images))
        halves[half] += channel_sum(change) / 3
        counts[half] += near
    count = np.maximum(counts.sum(axis=0), 1)
    offset = total / count[..., None]
    variance = np.maximum(square / count - channel_sum(np.square(offset)), 0) / 3
    # A deviation from few samples is too small on average, and 0 from one.
    variance *= count / np.maximum(count - 1, 1)
    both = counts.min(axis=0) >= 2
    first, second = halves / np.maximum(counts, 1)
    return mean + offset, np.sqrt(variance), np.where(both, np.abs(first - second), 0)


def _slope(color: np.ndarray) -> np.ndarray:
    """The steepest change per pixel over the channels, (H, W), levels."""
    import cv2

    across = np.abs(cv2.Sobel(color, cv2.CV_32F, 1, 0, ksize=3, scale=0.125))
    down = np.abs(cv2.Sobel(color, cv2.CV_32F, 0, 1, ksize=3, scale=0.125))
    return largest(np.maximum(across, down))
