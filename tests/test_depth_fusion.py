"""Depth fusion against exact depth maps of a sphere, with noise, errors and gaps."""

from dataclasses import replace

import numpy as np
import pytest

from peel4d.engine.errors import ReconstructionError
from peel4d.engine.geometry import depth_fusion
from peel4d.engine.geometry.depth_fusion import FusionSettings, fuse_depth
from peel4d.engine.render.camera import Camera

RADIUS = 0.5


def sphere_rig(count=16, distance=3.0, focal=240.0, size=128, **options) -> list[Camera]:
    """Cameras spread evenly over a sphere (Fibonacci lattice), all looking at the origin."""
    i = np.arange(count) + 0.5
    height, angle = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    ring = np.sqrt(1 - height**2)
    cameras = []
    for direction in np.stack([ring * np.cos(angle), height, ring * np.sin(angle)], axis=1):
        forward = -direction
        right = np.cross([0, 1, 0], forward)
        right /= np.linalg.norm(right)
        R = np.stack([right, np.cross(forward, right), forward])
        K = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
        cameras.append(Camera(K, R, -R @ (distance * direction), size, size, **options))
    return cameras


def sphere_depth(camera: Camera, centre=(0.0, 0.0, 0.0), radius=RADIUS) -> np.ndarray:
    """Exact camera-space z at the pixel centres, 0 beside the sphere."""
    u, v = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    x, y = (u - camera.K[0, 2]) / camera.K[0, 0], (v - camera.K[1, 2]) / camera.K[1, 1]
    c = camera.to_camera(np.array(centre))
    if camera.orthographic:
        under = radius**2 - (x - c[0]) ** 2 - (y - c[1]) ** 2
        return np.where(under > 0, c[2] - np.sqrt(np.maximum(under, 0)), 0)
    ray = np.stack([x, y, np.ones_like(x)], axis=-1)
    a, b = (ray**2).sum(-1), ray @ c
    under = b**2 - a * (c @ c - radius**2)
    return np.where(under > 0, (b - np.sqrt(np.maximum(under, 0))) / a, 0)


def measurements(cameras):
    depths = [sphere_depth(camera) for camera in cameras]
    return depths, [depth > 0 for depth in depths]


def coverage(position: np.ndarray) -> float:
    """Largest distance from the sphere's surface to its nearest point."""
    probe = np.random.default_rng(0).normal(size=(2000, 3))
    probe *= RADIUS / np.linalg.norm(probe, axis=1, keepdims=True)
    return np.sqrt(((probe[:, None] - position[None]) ** 2).sum(-1)).min(axis=1).max()


@pytest.mark.parametrize("orthographic", [False, True])
def test_sphere_is_recovered(orthographic):
    cameras = sphere_rig(focal=80.0 if orthographic else 240.0, orthographic=orthographic)
    points = fuse_depth(cameras, *measurements(cameras))
    radius = np.linalg.norm(points.position, axis=1)
    # A voxel's mean lies below the curved surface by up to spacing^2 / (8 R) * 3 (its diagonal).
    assert abs(radius - RADIUS).max() < 3 * points.spacing**2 / (8 * RADIUS)
    assert coverage(points.position) < 1.5 * points.spacing
    outward = points.position / radius[:, None]
    assert (points.normal * outward).sum(axis=1).min() > 0.97
    area = 4 * np.pi * RADIUS**2 / points.spacing**2
    # A surface cuts about 1.5 voxels per spacing^2; those it only grazes hold no sample.
    assert area < len(points) < 1.7 * area
    assert points.view_count.min() >= 3


def test_spacing_is_that_of_the_pixels_or_the_argument():
    cameras = sphere_rig()
    depths, masks = measurements(cameras)
    pixel = np.median([np.median(d[d > 0]) for d in depths]) / 240
    assert fuse_depth(cameras, depths, masks).spacing == pytest.approx(1.8 * pixel, rel=1e-3)
    assert fuse_depth(cameras, depths, masks, spacing=0.1).spacing == 0.1
    few = fuse_depth(cameras, depths, masks, FusionSettings(max_points=200))
    assert 100 < len(few) <= 200 and few.spacing > 0.1


def test_noise_is_averaged():
    cameras = sphere_rig()
    depths, masks = measurements(cameras)
    random = np.random.default_rng(0)
    sigma = 0.01
    noisy = [d + (d > 0) * random.normal(0, sigma, d.shape) for d in depths]
    points = fuse_depth(cameras, noisy, masks)
    error = np.linalg.norm(points.position, axis=1) - RADIUS
    # Not sigma / sqrt(samples): a voxel beside the surface holds few samples, strayed ones.
    assert np.sqrt(np.mean(error**2)) < 0.7 * sigma
    assert np.median(abs(error)) < 0.5 * sigma


def test_noise_far_above_the_spacing_is_averaged():
    """A sensor of 48 mm on a sphere of 1 m, points 19 mm apart."""
    cameras = sphere_rig(24)
    depths, masks = measurements(cameras)
    random = np.random.default_rng(0)
    sigma = 0.048
    noisy = [d + (d > 0) * random.normal(0, sigma, d.shape) for d in depths]
    points = fuse_depth(cameras, noisy, masks)
    error = abs(np.linalg.norm(points.position, axis=1) - RADIUS)
    # The mean of 49 pixels in each of several views: what is left is under a sixth of the noise.
    assert np.median(error) < sigma / 6
    assert np.percentile(error, 90) < sigma / 2
    assert coverage(points.position) < 2.5 * points.spacing


def test_exact_depth_is_left_as_it_is(monkeypatch):
    cameras = sphere_rig()
    exact = measurements(cameras)
    monkeypatch.setattr(depth_fusion, "smoothed", lambda *_: pytest.fail("exact depth smoothed"))
    points = fuse_depth(cameras, *exact)
    monkeypatch.setattr(depth_fusion, "_NOISY", np.inf)
    np.testing.assert_array_equal(points.position, fuse_depth(cameras, *exact).position)


def test_floating_points_and_wrong_depths_fall_away():
    """One camera believes in a second sphere in front of it, another is off by 10 %."""
    cameras = sphere_rig()
    depths, masks = measurements(cameras)
    towards = cameras[0].centre / 3.0
    ghost = sphere_depth(cameras[0], centre=towards, radius=0.2)
    depths[0] = np.where(ghost > 0, ghost, depths[0])
    depths[5] = depths[5] * 1.1
    for given in (masks, None):
        points = fuse_depth(cameras, depths, given)
        radius = np.linalg.norm(points.position, axis=1)
        assert abs(radius - RADIUS).max() < 1.5 * points.spacing  # the tolerance
        assert coverage(points.position) < 1.6 * points.spacing


def test_holes_in_a_measurement_are_no_evidence():
    """Unknown depth (0, NaN, infinity) neither agrees nor objects; a missing map is left out."""
    cameras = sphere_rig(24)
    depths, masks = measurements(cameras)
    depths = [depth.copy() for depth in depths]
    depths[1][:] = 0
    depths[2][40:90] = np.nan
    depths[3][40:90] = np.inf
    depths[4] = None
    masks[6] = None
    points = fuse_depth(cameras, depths, masks)
    assert np.isfinite(points.position).all() and np.isfinite(points.normal).all()
    assert coverage(points.position) < 1.6 * points.spacing


def test_mask_decides_what_is_the_subject():
    """Behind the sphere there is a wall in every depth map; the masks leave it out."""
    cameras = sphere_rig()
    depths, masks = measurements(cameras)
    walled = [np.where(d > 0, d, 5.0) for d in depths]
    points = fuse_depth(cameras, walled, masks)
    assert np.linalg.norm(points.position, axis=1).max() < RADIUS + points.spacing


def test_scale_of_the_world_does_not_matter():
    cameras = sphere_rig()
    depths, masks = measurements(cameras)
    small = fuse_depth(cameras, depths, masks)
    large = fuse_depth(
        [replace(c, t=1000 * c.t) for c in cameras], [1000 * d for d in depths], masks
    )
    assert large.spacing == pytest.approx(1000 * small.spacing)
    # Samples that sit on a voxel's face may fall to either side after rounding.
    assert len(large) == pytest.approx(len(small), rel=2e-3)


def test_two_cameras_are_enough():
    cameras = sphere_rig(40)[:2]
    points = fuse_depth(cameras, *measurements(cameras))
    assert len(points) > 100
    assert abs(np.linalg.norm(points.position, axis=1) - RADIUS).max() < 0.1 * RADIUS


def no_depth(cameras, depths, masks):
    return cameras, [None] * len(depths), masks, {}


def all_unknown(cameras, depths, masks):
    return cameras, [np.zeros_like(d) for d in depths], masks, {}


def empty_masks(cameras, depths, masks):
    return cameras, depths, [np.zeros_like(m) for m in masks], {}


def wrong_size(cameras, depths, masks):
    return cameras, [depths[0][:9], *depths[1:]], masks, {}


def wrong_mask_size(cameras, depths, masks):
    return cameras, depths, [masks[0][:9], *masks[1:]], {}


def wrong_unit(cameras, depths, masks):
    return cameras, [d * 1000 for d in depths], masks, {"spacing": 0.03}


def nan_calibration(cameras, depths, masks):
    return [replace(cameras[0], R=np.full((3, 3), np.nan)), *cameras[1:]], depths, masks, {}


def zero_spacing(cameras, depths, masks):
    return cameras, depths, masks, {"spacing": 0.0}


def fewer_depths(cameras, depths, masks):
    return cameras, depths[1:], masks, {}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_depth, "no measurement"),
        (all_unknown, "no measurement"),
        (empty_masks, "no measurement"),
        (wrong_size, "camera 0: the depth map is"),
        (wrong_mask_size, "camera 0: the mask is"),
        (wrong_unit, "do not agree on any point"),
        (nan_calibration, "camera 0: the calibration"),
        (zero_spacing, "spacing must be above 0"),
        (fewer_depths, "15 depth maps"),
    ],
)
def test_bad_input_is_explained(spoil, message):
    cameras = sphere_rig()
    cameras, depths, masks, options = spoil(cameras, *measurements(cameras))
    with pytest.raises(ReconstructionError, match=message):
        fuse_depth(cameras, depths, masks, **options)


@pytest.mark.parametrize(
    "change", [{"tolerance": 0}, {"max_conflict": 2}, {"pixels_per_point": -1}]
)
def test_settings_are_checked(change):
    with pytest.raises(ReconstructionError, match="out of range"):
        FusionSettings(**change)
