"""Noise of depth maps: measured, smoothed and averaged over views of planes."""

import numpy as np
import pytest

from peel4d.engine.geometry.depth_noise import averaged, disagreement, smoothed
from peel4d.engine.render.camera import Camera

SIZE = 64
SIGMA = 0.02


def row_of_cameras(count: int = 5, **options) -> list[Camera]:
    """Cameras beside each other, all looking along +z at the plane z = 2."""
    focal = 20.0 if options else 60.0
    K = np.array([[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1]])
    centres = [[0.1 * i, 0, 0] for i in range(count)]
    return [Camera(K, np.eye(3), -np.array(c), SIZE, SIZE, **options) for c in centres]


def plane_depths(cameras, z=2.0, sigma=SIGMA):
    random = np.random.default_rng(0)
    shape = (SIZE, SIZE)
    return [(z + sigma * random.normal(size=shape)).astype(np.float32) for _ in cameras]


def clouds_of(cameras, depths):
    """Every pixel of every view as a point, in the world."""
    v, u = np.mgrid[:SIZE, :SIZE] + 0.5
    clouds = []
    for camera, depth in zip(cameras, depths, strict=True):
        ray = np.stack([(u - SIZE / 2), (v - SIZE / 2)], axis=-1) / camera.K[0, 0]
        scale = 1.0 if camera.orthographic else depth[..., None]
        p = np.concatenate([ray * scale, depth[..., None]], axis=-1)
        clouds.append(p.reshape(-1, 3).astype(np.float64) - camera.t)
    return clouds


@pytest.mark.parametrize("scale", [0.001, 1.0, 1000.0])
def test_disagreement_is_that_of_two_noisy_measurements(scale):
    """Whatever the unit, and though half of what each view sees is another surface."""
    cameras = row_of_cameras()
    depths = plane_depths(cameras)
    for depth in depths[::2]:
        depth[::2] += 0.7
    clouds = clouds_of(cameras, depths)
    cameras = [Camera(c.K, c.R, scale * c.t, SIZE, SIZE, near=0, far=1e9) for c in cameras]
    found = disagreement(cameras, [scale * d for d in depths], [scale * c for c in clouds])
    # Two views of deviation SIGMA each; the cut at 3 sigma takes 1 % off, the other surface adds.
    assert found == pytest.approx(np.sqrt(2) * SIGMA * scale, rel=0.1)


def test_without_a_second_view_there_is_no_disagreement():
    cameras = row_of_cameras(1)
    depths = plane_depths(cameras)
    assert disagreement(cameras, depths, clouds_of(cameras, depths)) == 0
    assert disagreement([], [], []) == 0


def test_smoothing_averages_49_pixels_and_keeps_edges():
    depth = plane_depths(row_of_cameras(1))[0]
    depth[:, 32:] += 1.0
    result = smoothed(depth, SIGMA)
    assert result.dtype == np.float32
    error = result - np.where(np.arange(SIZE) < 32, 2.0, 3.0)
    # The cut at 3 sigma around a pixel that strayed itself leaves more than SIGMA / 7.
    assert error[8:24, 8:24].std() < SIGMA / 4
    assert error[:, 28:36].std() < SIGMA / 2 and abs(error).max() < 3 * SIGMA


def test_smoothing_leaves_the_unknown_alone_and_does_not_wrap():
    depth = np.full((20, 30), 2.0, np.float32)
    depth[:, -3:] = 2.01  # the far border is within 3 sigma
    depth[5, 5], depth[6, 6] = np.nan, np.inf
    result = smoothed(depth, 0.01)
    assert np.isnan(result[5, 5]) and result[6, 6] == np.inf
    assert (result[:, :20][np.isfinite(depth[:, :20])] == 2).all()


@pytest.mark.parametrize("orthographic", [False, True])
def test_averaging_moves_points_along_the_rays_of_the_views_that_agree(orthographic):
    cameras = row_of_cameras(orthographic=True) if orthographic else row_of_cameras()
    depths = plane_depths(cameras, sigma=0)
    depths[1] += np.float32(0.05)
    depths[2] += np.float32(0.5)  # another surface
    depths[3][:] = np.nan
    depths[4][:] = np.inf
    points = clouds_of(cameras, depths)[0]
    centre = abs(points[:, :2]).max(axis=1) < 0.5
    points = points[centre]
    owner = np.zeros(len(points), dtype=int)
    moved = averaged(points, owner, cameras, depths, 0.1)
    np.testing.assert_allclose(moved[:, 2], 2.025, atol=1e-6)
    if orthographic:
        np.testing.assert_allclose(moved[:, :2], points[:, :2], atol=1e-12)
    else:
        ray = points - cameras[1].centre
        expected = points + ray * (0.05 / 2) / 2
        np.testing.assert_allclose(moved, expected, atol=1e-6)
    np.testing.assert_array_equal(averaged(points, owner, cameras, depths, 0.01), points)
