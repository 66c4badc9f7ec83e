"""What a depth camera makes of a perfect depth map: noise, steps, ragged edges and holes.

`degrade` takes the exact z of every pixel and the colour picture and returns what a sensor would
have measured, registered to that picture. Arrays are (H, W), z along the optical axis in metres,
0 = not measured. Two kinds of sensor:

KINECT (structured light, the first Kinect). Axial and lateral noise after Nguyen, Izadi, Lovell,
    "Modeling Kinect Sensor Noise for Improved 3D Reconstruction and Tracking", 3DIMPVT 2012:
        sigma_z = 0.0012 + 0.0019 (z - 0.4)^2 + 0.0001 / sqrt(z) * t^2 / (pi/2 - t)^2   metres
        sigma_l = 0.8 + 0.035 t / (pi/2 - t)                                         sensor pixels
    with t the angle between surface and line of sight (the term with sqrt(z) from 60 degrees on).
    Disparity comes in eighths of a pixel and depth in steps that grow with z^2 (Khoshelham,
    Elberink, "Accuracy and Resolution of Kinect Depth Data", Sensors 12(2), 2012). The projector
    stands 75 mm beside the camera: what only the camera sees is not measured.
TIME_OF_FLIGHT (as the Azure Kinect). Fine noise, no steps, no second line of sight, but pixels that
    fly between two surfaces. Its noise is ours to choose: 2 mm at 1 m and growing with z^2, which
    keeps within the 17 mm that Microsoft states for the working range.

Both lose what sends too little light back (dark or grazing) and what dazzles (highlights). The
infrared reflectance is not known; the luminance of the picture stands for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class DepthSensor:
    """focal: of the sensor, in its own pixels: noise is as coarse as these.

    axial: (constant, quadratic, nearest) of sigma = constant + quadratic (z - nearest)^2, metres.
    lateral: standard deviation of where an edge is seen, sensor pixels, at normal incidence.
    baseline: from camera to projector along +x, metres; 0: both look along the same line.
    steps: of disparity per sensor pixel; 0: depth is not quantized.
    flying: share of the pixels at an edge that lie between both surfaces; lost: that see nothing.
    weakest: signal (luminance times cosine) under which more and more pixels are lost.
    reach: (nearest, farthest) depth, metres.
    """

    focal: float
    axial: tuple[float, float, float]
    lateral: float
    baseline: float
    steps: float
    flying: float
    lost: float
    weakest: float
    reach: tuple[float, float]


KINECT = DepthSensor(580.0, (0.0012, 0.0019, 0.4), 0.8, 0.075, 8.0, 0.0, 0.25, 0.03, (0.4, 6.0))
TIME_OF_FLIGHT = DepthSensor(
    504.0, (0.0015, 0.0005, 0.0), 0.3, 0.0, 0.0, 0.4, 0.1, 0.02, (0.25, 5.5)
)
SENSORS = {"kinect": KINECT, "tof": TIME_OF_FLIGHT}

#: Neighbours that differ by more than this share of their depth belong to different surfaces.
EDGE = 0.02
#: How far behind a silhouette the next surface is where the depth map has none, metres.
BACKDROP = 1.0
#: Every channel (of 255) of a highlight that dazzles; white paint in the sun stays below.
DAZZLING = 252


def degrade(
    depth: np.ndarray,
    image: np.ndarray,
    K: np.ndarray,
    sensor: DepthSensor,
    rng: np.random.Generator,
) -> np.ndarray:
    """What the sensor measures: (H, W) float32 metres, 0 = nothing.

    depth: (H, W) exact z, 0 = nothing there. image: (H, W, 3) uint8 sRGB. K: (3, 3) of both.
    """
    depth = np.asarray(depth, dtype=np.float32)
    grain = max(1.0, K[0, 0] / sensor.focal)  # picture pixels per sensor pixel
    cosine = incidence(depth, K)
    loss = np.maximum(signal_loss(luminance(image), cosine, sensor), dazzled(image))
    edge = discontinuity(depth)
    shadow = projector_shadow(depth, K, sensor.baseline)

    measured = _edges_moved(depth, cosine, sensor, grain, rng)
    measured = _edges_flown(measured, depth, edge, sensor, rng)
    sigma = axial_sigma(depth, np.arccos(cosine), sensor)
    measured = measured + np.where(measured > 0, sigma * _grain(depth.shape, grain, rng), 0)
    measured = quantized(measured, sensor)

    gone = (measured < sensor.reach[0]) | (measured > sensor.reach[1]) | shadow
    gone |= _patches(depth.shape, grain, rng) < loss
    gone |= edge & (rng.random(depth.shape) < sensor.lost)
    return np.where(gone, 0, measured).astype(np.float32)


def luminance(image: np.ndarray) -> np.ndarray:
    """Linear luminance (H, W) in [0, 1] of an sRGB picture (H, W, 3) uint8."""
    linear = np.power(image.astype(np.float32) / 255, 2.2)
    return linear @ np.float32([0.2126, 0.7152, 0.0722])


def incidence(depth: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Cosine (H, W) in (0, 1] between the line of sight and the surface's normal; 1 where unknown.

    Of both neighbours along an axis the flatter one counts, so an edge is not taken for a slope.
    """
    z = np.where(depth > 0, depth, np.nan).astype(np.float64)
    v, u = np.mgrid[: z.shape[0], : z.shape[1]] + 0.5
    ray = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(z)], axis=-1)
    slopes = []
    for axis in (1, 0):
        step = np.diff(z, axis=axis)
        pad = [(0, 0), (0, 0)]
        pad[axis] = (1, 1)
        step = np.pad(step, pad, constant_values=np.nan)
        size = step.shape[axis] - 1
        before, after = np.take(step, range(size), axis), np.take(step, range(1, size + 1), axis)
        flatter = np.fmin(np.abs(before), np.abs(after)) == np.abs(after)
        slopes.append(np.where(flatter, after, np.where(np.isnan(before), after, before)))
    # z = z(u, v): the normal of the surface, up to its length, in camera axes.
    a, b = (slope / z * focal for slope, focal in zip(slopes, (K[0, 0], K[1, 1]), strict=True))
    normal = np.stack([a, b, -(1 + a * ray[..., 0] + b * ray[..., 1])], axis=-1)
    lengths = np.linalg.norm(normal, axis=-1) * np.linalg.norm(ray, axis=-1)
    cosine = np.abs((normal * ray).sum(axis=-1)) / lengths
    return np.nan_to_num(cosine, nan=1.0).clip(0.02, 1.0)


def axial_sigma(z: np.ndarray, angle: np.ndarray, sensor: DepthSensor) -> np.ndarray:
    """Standard deviation (H, W) of depth, metres. angle: of incidence, radians."""
    constant, quadratic, nearest = sensor.axial
    slanted = 1e-4 / np.sqrt(np.maximum(z, 0.1)) * (angle / (np.pi / 2 - angle)) ** 2
    return constant + quadratic * (z - nearest) ** 2 + np.where(angle > np.pi / 3, slanted, 0)


def signal_loss(light: np.ndarray, cosine: np.ndarray, sensor: DepthSensor) -> np.ndarray:
    """Probability (H, W) that a pixel is lost because it is dark or seen at a grazing angle."""
    weak = (1 - light * cosine / sensor.weakest).clip(0, 1)
    # 75 degrees and flatter: the spot of light is smeared over too much of the surface.
    grazing = ((0.26 - cosine) / 0.16).clip(0, 1)
    return np.maximum(weak, grazing)


def dazzled(image: np.ndarray) -> np.ndarray:
    """Where highlights blind the sensor, and around them: (H, W), 0 or 1."""
    highlight = (image.min(axis=2) >= DAZZLING).astype(np.uint8)
    return cv2.dilate(highlight, np.ones((3, 3), np.uint8)).astype(float)


def discontinuity(depth: np.ndarray) -> np.ndarray:
    """Pixels (H, W) of the nearer side of a step, one pixel wide."""
    far = np.where(depth > 0, depth, depth.max() + BACKDROP).astype(np.float32)
    behind = cv2.dilate(far, np.ones((3, 3), np.uint8))
    return (depth > 0) & (behind > far * (1 + EDGE))


def projector_shadow(depth: np.ndarray, K: np.ndarray, baseline: float) -> np.ndarray:
    """Surfaces (H, W) that a projector at (baseline, 0, 0) in camera axes does not reach."""
    if baseline == 0:
        return np.zeros(depth.shape, dtype=bool)
    height, width = depth.shape
    row, column = np.nonzero(depth > 0)
    z = depth[row, column]
    reach = int(np.ceil(K[0, 0] * baseline / z.min())) + 2 if len(z) else 2
    place = np.rint(column - K[0, 0] * baseline / z).astype(int) + reach
    nearest = np.full((height, width + reach + 1), np.inf, dtype=np.float32)
    np.minimum.at(nearest, (row, place), z)
    # Columns that rounding leaves empty between two of the same surface are closed.
    nearest = np.minimum(nearest, cv2.morphologyEx(nearest, cv2.MORPH_CLOSE, np.ones((1, 3))))
    shadow = np.zeros(depth.shape, dtype=bool)
    shadow[row, column] = z > nearest[row, place] * (1 + EDGE)
    return shadow


def quantized(z: np.ndarray, sensor: DepthSensor) -> np.ndarray:
    """Depth as disparity in whole steps has it: (H, W), 0 stays 0."""
    if not sensor.steps:
        return z
    scale = sensor.focal * sensor.baseline * sensor.steps
    code = np.rint(scale / np.maximum(z, 0.05))
    return np.where(z > 0, scale / np.maximum(code, 1), 0)


def _edges_moved(depth, cosine, sensor, grain, rng):
    """Every pixel looks a little beside itself: edges become ragged, and smooth surfaces stay."""
    angle = np.arccos(cosine)
    sigma = grain * (sensor.lateral + 0.035 * angle / (np.pi / 2 - angle))
    height, width = depth.shape
    v, u = np.mgrid[:height, :width]
    # Beside an edge the far side looks aside as well, so the edge may grow as it may shrink.
    sigma = cv2.dilate(np.minimum(sigma, 1.5 * grain).astype(np.float32), np.ones((3, 3), np.uint8))
    row = np.rint(v + sigma * _grain(depth.shape, grain, rng)).astype(int).clip(0, height - 1)
    column = np.rint(u + sigma * _grain(depth.shape, grain, rng)).astype(int).clip(0, width - 1)
    moved = depth[row, column]
    # Within one surface the axial noise is all there is.
    same = (depth > 0) & (moved > 0) & (np.abs(moved - depth) < EDGE * depth)
    return np.where(same, depth, moved)


def _edges_flown(measured, depth, edge, sensor, rng):
    """Some pixels of an edge mix the light of both sides into a depth between them."""
    if not sensor.flying:
        return measured
    far = np.where(depth > 0, depth, depth.max() + BACKDROP).astype(np.float32)
    behind = cv2.dilate(far, np.ones((3, 3), np.uint8))
    share = rng.random(depth.shape) ** 2  # mostly the nearer side, which covers the pixel
    flies = edge & (rng.random(depth.shape) < sensor.flying)
    return np.where(flies, depth + share * (behind - depth), measured)


def _grain(shape, grain, rng):
    """Normal noise (H, W) in squares of one sensor pixel."""
    height, width = (int(np.ceil(side / grain)) + 1 for side in shape)
    coarse = rng.standard_normal((height, width))
    row, column = (np.floor(np.arange(side) / grain).astype(int) for side in shape)
    return coarse[row[:, None], column[None]]


def _patches(shape, grain, rng):
    """Uniform numbers (H, W) in [0, 1] that change slowly: holes are patches, not dust."""
    smooth = cv2.GaussianBlur(rng.standard_normal(shape), (0, 0), 1.2 * grain)
    # The standard deviation of white noise after a Gaussian of sigma s is 1 / (2 s sqrt(pi)).
    normal = smooth * (2 * 1.2 * grain * np.sqrt(np.pi))
    return 1 / (1 + np.exp(-1.702 * normal))  # the normal distribution, to 1 %
